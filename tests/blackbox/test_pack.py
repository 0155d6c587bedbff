"""Packs: a member trains as it would alone, and as plain transformers and PEFT would, whatever its companions do."""

import copy
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from bbo.errors import InputError
from bbo.store import Result
from benchmarks.peer import token_loss
from blackbox import pack as packs
from blackbox import train
from blackbox.data import Example
from blackbox.fit import optimizer_step
from blackbox.layout import lay_out
from blackbox.model import load_model
from blackbox.pack import Pack
from blackbox.settings import ModelSettings, Training
from blackbox.setup import Setup

pytestmark = pytest.mark.usefixtures("on_cpu")

CPU = torch.device("cpu")
POINT = {"lora_rank": 4, "lora_alpha": 16}

MIXED: list[dict[str, Any]] = [
    {**POINT, "adam_beta1": 0.8},
    {"lora_rank": 2, "lora_alpha": 3.5, "lora_dropout": 0.3, "use_rslora": True, "target_modules": "all-linear",
     "learning_rate": 2e-3, "weight_decay": 0.1, "adam_epsilon": 1e-6},
    {"lora_rank": 8, "lora_dropout": 0.1, "target_modules": ["down_proj", "o_proj"], "lr_scheduler_type": "cosine",
     "warmup_steps": 2, "label_smoothing_factor": 0.1, "max_grad_norm": 0.05},
    {"lora_rank": 1, "target_modules": ["lm_head", "k_proj"], "max_grad_norm": 0, "adam_beta2": 0.95},
]  # fmt: skip
"""Points that differ in all that companions may differ in; the seed is added where it should differ too."""


@dataclass(frozen=True)
class Trained:
    """What became of a point."""

    result: Result | None
    losses: list[float]
    """The sum of its step losses in this epoch, after each step."""
    weights: dict[str, Tensor]
    folder: Path


def assert_same(one: Trained, other: Trained) -> None:
    """The same bits."""
    assert one.result is not None and other.result is not None
    assert one.result.status == other.result.status == "ok", (one.result.reason, other.result.reason)
    assert one.losses == other.losses
    for name in ("eval_loss", "train_loss"):
        assert one.result.metrics[name] == other.result.metrics[name], name
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def assert_close(one: Trained, other: Trained) -> None:
    """Equal but for rounding."""
    assert one.result is not None and other.result is not None
    assert one.result.status == other.result.status == "ok", (one.result.reason, other.result.reason)
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    for name in ("eval_loss", "train_loss"):
        assert one.result.metrics[name] == pytest.approx(other.result.metrics[name], rel=1e-5), name


@pytest.fixture
def trained(
    tmp_path: Path, experiment: Callable[..., Path], write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Trained]]:
    """Train points as one job: trained("name", {...}, {...}, num_train_epochs=2)."""
    losses: dict[str, list[float]] = defaultdict(list)
    loaded: dict[Path | None, Setup] = {}

    def noting(setup: Setup, pack: Pack, members: Any, rows: Any) -> None:
        optimizer_step(setup, pack, members, rows)
        for member in members:
            losses[member.evaluation.key].append(float(member.loss))

    monkeypatch.setattr("blackbox.fit.optimizer_step", noting)

    def run(name: str, *points: dict[str, Any], model: Path | None = None, **training: Any) -> list[Trained]:
        sections = None if model is None else {"model": {"path": str(model)}}
        job = write_job(experiment(sections=sections, **training), *points, name=name)
        loaded[model] = train.run(job, loaded.get(model))
        return [look(tmp_path / name / f"{name}{number}") for number in range(len(points))]

    def look(folder: Path) -> Trained:
        file, adapter = folder / "result.json", folder / "adapter" / "adapter_model.safetensors"
        result = Result(**json.loads(file.read_text())) if file.is_file() else None
        return Trained(result, losses[folder.name], load_file(adapter) if adapter.is_file() else {}, folder)

    return run


LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 7},
    "qwen2": {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2},
    "qwen2 window": {
        **LLAMA, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1,
    },
    "qwen3": {**LLAMA, "model_type": "qwen3"},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.2},
}  # fmt: skip
"""Configurations of small models. GPT-2 and BLOOM are padded, and have dropout of their own."""

TARGETS = {"gpt2": ("c_attn", "c_fc", "c_proj"), "bloom": ("query_key_value", "dense_4h_to_h")}


def targets(kind: str) -> tuple[str, ...]:
    return TARGETS.get(kind, ("k_proj", "o_proj", "down_proj", "lm_head"))


@pytest.fixture
def model_of(tmp_path: Path, small_model: Path) -> Callable[[str], Path]:
    """Write a small random model of this kind."""

    def write(kind: str) -> Path:
        folder = tmp_path / f"model {kind}"
        torch.manual_seed(3)
        content = {"vocab_size": 260, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **KINDS[kind]}
        config = AutoConfig.for_model(**content, initializer_range=0.2, tie_word_embeddings=False)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():  # biases begin as 0
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        for file in small_model.glob("tokenizer*"):
            shutil.copy(file, folder)
        return folder

    return write


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "gradient_checkpointing": True},
    ],
)
def test_a_mixed_packs_members_train_as_alone(how: dict[str, Any], trained: Callable[..., list[Trained]]) -> None:
    """16, 16 and 8 rows an epoch, and the last epoch is half a one."""
    common = {"num_train_epochs": 1.5, "global_batch_size": 16, **how}
    for member, together in zip(MIXED, trained("all", *MIXED, **common), strict=True):
        (alone,) = trained(f"alone{member['lora_rank']}", member, **common)
        assert len(alone.losses) == 5
        assert_same(together, alone)


def test_the_order_in_a_pack_does_not_matter(trained: Callable[..., list[Trained]]) -> None:
    for one, other in zip(trained("there", *MIXED), reversed(trained("back", *reversed(MIXED))), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
def test_members_with_other_seeds_train_as_alone(
    kind: str, trained: Callable[..., list[Trained]], model_of: Callable[[str], Path]
) -> None:
    """Other seeds, other rows in every pass: what is computed with them must leave dropout as it is."""
    common = {"model": model_of(kind), "per_device_train_batch_size": 4, "target_modules": list(targets(kind))}
    points = [{"lora_rank": rank, "lora_dropout": 0.2, "seed": rank} for rank in (1, 2, 4)]
    for point, together in zip(points, trained("all", *points, **common), strict=True):
        (alone,) = trained(f"alone{point['seed']}", point, **common)
        assert_close(together, alone)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_checkpointing_draws_the_same_dropout_twice(
    kind: str, trained: Callable[..., list[Trained]], model_of: Callable[[str], Path]
) -> None:
    points = [{"lora_rank": rank, "lora_dropout": 0.3, "seed": rank} for rank in (1, 2)]
    common = {"model": model_of(kind), "target_modules": list(targets(kind))}
    plain = trained("plain", *points, **common)
    for one, other in zip(plain, trained("twice", *points, gradient_checkpointing=True, **common), strict=True):
        assert_same(one, other)


def test_who_leaves_is_not_computed_any_more(
    trained: Callable[..., list[Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of 10 steps: one member diverges in the first, another is asked to stop after it."""
    rows: list[tuple[bool, int]] = []

    def counting(self: Pack, examples: Any, members: Sequence[Sequence[int]], _: Sequence[str]) -> Any:
        rows.append((self.model.training, len(members)))
        assert len(set(map(len, members))) == 1
        return lay_out(examples, members, self.device, True)

    monkeypatch.setattr(Pack, "lay_out", counting)
    good = [{"lora_rank": 4, "lora_dropout": 0.1}, {"lora_rank": 2, "learning_rate": 1e-2}]
    others = [{"lora_rank": 3, "learning_rate": 1e30, "target_modules": "all-linear"}, {"lora_rank": 5}]
    common = {"num_train_epochs": 2, "global_batch_size": 4}
    alone = [trained(f"alone{number}", point, **common)[0] for number, point in enumerate(good)]
    rows.clear()

    begin = train._begin

    def asking(setup: Any, pack: Any, entry: Any, member: Any) -> None:
        begin(setup, pack, entry, member)
        if member.training.lora_rank == 5:
            entry.evaluation.stop_file.touch()

    monkeypatch.setattr(train, "_begin", asking)
    first, nan, stopped, last = trained("all", good[0], others[0], others[1], good[1], **common)
    training = [members for learning, members in rows if learning]
    assert training == [4] * 10 + [2] * 10
    assert {members for learning, members in rows if not learning} == {3, 2}
    assert nan.result is not None and nan.result.status == "failed" and "training loss is nan" in str(nan.result.reason)
    assert stopped.result is None and not stopped.weights and (stopped.folder / "state.safetensors").is_file()
    assert_same(first, alone[0])
    assert_same(last, alone[1])


def test_a_members_dropout_is_its_own(trained: Callable[..., list[Trained]], monkeypatch: pytest.MonkeyPatch) -> None:
    masks: dict[int, list[Tensor]] = defaultdict(list)
    draw = packs._mask

    def noting(x: Tensor, dropout: float, generator: torch.Generator, *more: Any) -> Tensor:
        mask = draw(x, dropout, generator, *more)
        masks[generator.initial_seed()].append(mask)
        return mask

    monkeypatch.setattr(packs, "_mask", noting)
    points = [{"lora_rank": 2, "lora_dropout": rate, "seed": seed} for seed, rate in ((1, 0.1), (2, 0.5), (3, 0.1))]
    trained("all", *points)
    together = dict(masks)
    masks.clear()
    trained("alone", points[1])
    assert set(together) == {1, 2, 3} and set(masks) == {2}
    assert len(masks[2]) == 5 * 2 * 2  # steps, layers, modules
    assert all(torch.equal(one, other) for one, other in zip(together[2], masks[2], strict=True))
    assert len({tuple(mask.flatten()[:64].tolist()) for mask in masks[2]}) == len(masks[2])


EXAMPLES = [
    Example(tuple((7 * row + 3 * place) % 250 + 3 for place in range(4 + 5 * row)), 1 + 2 * row) for row in range(5)
]
"""Rows of 4 to 24 tokens."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_computes_what_transformers_and_peft_compute(kind: str, model_of: Callable[[str], Path]) -> None:
    """Logits, losses and gradients, row by row and without padding over there."""
    base = load_model(model_of(kind), ModelSettings(path="unused"))
    theirs, frozen = copy.deepcopy(base), {name: value.clone() for name, value in base.state_dict().items()}
    trainings = [
        Training(lora_rank=4, lora_alpha=16, target_modules=targets(kind)),
        Training(lora_rank=2, lora_alpha=3, use_rslora=True, target_modules=targets(kind)[:2]),
        Training(lora_rank=3, target_modules="all-linear"),
    ]
    rows = [[1, 4], [0, 3], [2, 2]]  # in the order of their tokens; the last two share their beginning
    pack = Pack(base, trainings, CPU)
    assert pack._flat == (kind not in TARGETS)
    torch.manual_seed(5)
    for name, parameter in pack.adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    pack.model.train()
    layout = pack.lay_out(EXAMPLES, rows, pack.names)
    parts = pack.logits(layout, pack.names).split([end - first for first, end in layout.labels])
    targeted = [layout.targets[first:end] for first, end in layout.labels]
    losses = [torch.nn.functional.cross_entropy(*both, reduction="sum") for both in zip(parts, targeted, strict=True)]
    torch.stack(losses).sum().backward()
    for name, training, mine, part, loss in zip(pack.names, trainings, rows, parts, losses, strict=True):
        wanted = training.target_modules
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=training.lora_rank, lora_alpha=int(training.lora_alpha),
            use_rslora=training.use_rslora, target_modules=wanted if isinstance(wanted, str) else list(wanted or ()),
        )  # fmt: skip
        plain = get_peft_model(copy.deepcopy(theirs), lora)
        parameters = {key.replace(".default.", "."): parameter for key, parameter in plain.named_parameters()}
        with torch.no_grad():
            for key, parameter in pack.parameters(name).items():
                parameters[key].copy_(parameter)
        logits, total = [], torch.zeros(())
        for example in (EXAMPLES[row] for row in mine):
            ids = torch.tensor(example.tokens)
            said = plain.eval()(input_ids=ids[None]).logits[0, example.first - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(said, ids[example.first :], reduction="sum")
            logits.append(said)
        total.backward()
        assert torch.allclose(part, torch.cat(logits), rtol=1e-5, atol=1e-5)
        assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
        for key, parameter in pack.parameters(name).items():
            assert parameter.grad is not None and parameters[key].grad is not None, key
            size = float(parameters[key].grad.abs().max())
            assert torch.allclose(parameter.grad, parameters[key].grad, rtol=1e-4, atol=1e-5 * size), key
    assert pack.close() is base
    after = base.state_dict()
    assert after.keys() == frozen.keys() and all(torch.equal(after[name], value) for name, value in frozen.items())


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3", "gpt2", "bloom"])
def test_a_packs_adapters_are_pefts(
    kind: str, trained: Callable[..., list[Trained]], model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded by PeftModel.from_pretrained, each gives the loss that was recorded for it."""
    seen: list[Setup] = []
    monkeypatch.setattr(train, "load", lambda experiment, load=train.load: seen.append(load(experiment)) or seen[0])
    folder = model_of(kind)
    points = [{"lora_rank": 2, "use_rslora": True}, {"lora_rank": 4, "target_modules": "all-linear"}]
    for one in trained("job", *points, model=folder, target_modules=list(targets(kind)), learning_rate=1e-2):
        assert one.result is not None and one.result.status == "ok", one.result
        fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        loss = token_loss(PeftModel.from_pretrained(fresh, one.folder / "adapter"), seen[0].data.valid, 1)
        assert one.result.metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)


def products(*rates: float | None) -> tuple[list[Any], list[Tensor]]:
    """Products of members with these dropouts on two rows each (None: the member lacks the layer), and weights."""
    generator = torch.Generator().manual_seed(1)
    made: list[Any] = []
    weights: list[Tensor] = []
    for place, rate in enumerate(rates):
        if rate is not None:
            span = (2 * place, 2 * place + 2)
            made.append(packs._Product(*span, 0.5 + place, rate, torch.Generator()))
            weights += [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 4), (3, 2))]
    return made, [weight.requires_grad_() for weight in weights]


@pytest.mark.parametrize("x_learns", [True, False])
@pytest.mark.parametrize("rates", [(0, 0), (0.4, 0, 0.7), (1.0, 0.5), (None, 0.5, None, 0)])
def test_the_gradients_of_the_products(rates: tuple[float | None, ...], x_learns: bool) -> None:
    made, weights = products(*rates)
    torch.manual_seed(2)
    result = torch.randn(1, 2 * len(rates), 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2 * len(rates), 4, dtype=torch.float64, requires_grad=x_learns)

    def added(result: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
        for number, product in enumerate(made):
            product.generator.manual_seed(number)
        return packs._AddProducts.apply(result.clone(), x, made, *weights)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(added, (result, x, *weights))


def test_the_products_are_the_formula() -> None:
    made, weights = products(None, 0.0, 1.0)
    x, result = torch.ones(1, 6, 4, dtype=torch.float64), torch.zeros(1, 6, 3, dtype=torch.float64)
    added = packs._AddProducts.apply(result, x, made, *weights)
    assert added.data_ptr() == result.data_ptr()  # in place
    assert not added[0, :2].any() and not added[0, 4:].any()
    assert torch.allclose(added[0, 2:4], 1.5 * x[0, 2:4] @ weights[0].t() @ weights[1].t())


@pytest.mark.parametrize("rate", [1e-4, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share(rate: float) -> None:
    count = 1_000_001
    mask = packs._mask(torch.ones(1, count), rate, torch.Generator().manual_seed(0))
    deviation = (count * rate * (1 - rate)) ** 0.5
    assert mask.unique().tolist() == [0, 1]
    assert abs(int((mask == 0).sum()) - count * rate) < 4 * deviation


@pytest.mark.parametrize("most", [1, 2])
def test_what_does_not_fit_into_memory_is_halved(
    most: int, trained: Callable[..., list[Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in the second epoch; what diverged in the first has no state then, the others have one."""
    points = [*MIXED[:2], {"lora_rank": 3, "learning_rate": 1e30, "target_modules": "all-linear"}, MIXED[2]]
    calm = trained("calm", *points, num_train_epochs=2)
    tried = []
    fit = train.fit

    def tight(setup: Any, pack: Any, members: Sequence[Any]) -> None:
        tried.append(len(members))
        fit(setup, pack, members)

    def failing(setup: Setup, pack: Pack, members: Sequence[Any], rows: Any) -> None:
        if len(members) > most and members[0].counts.steps >= 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        optimizer_step(setup, pack, members, rows)

    monkeypatch.setattr(train, "fit", tight)
    monkeypatch.setattr("blackbox.fit.optimizer_step", failing)
    for one, other in zip(calm, trained("tight", *points, num_train_epochs=2), strict=True):
        assert one.result is not None and other.result is not None
        assert one.result.status == other.result.status and one.result.reason == other.result.reason
        assert one.result.metrics.get("eval_loss") == other.result.metrics.get("eval_loss")
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
        if other.result.status == "ok":
            lines = [json.loads(line) for line in (other.folder / "progress.jsonl").read_text().splitlines()]
            assert [line["epoch"] for line in lines if "epoch" in line] == [1.0, 2.0]
    assert tried[0] == 4


def test_one_that_is_too_large_alone_fails(
    trained: Callable[..., list[Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(setup: Setup, pack: Pack, members: Sequence[Any], rows: Any) -> None:
        if any(member.training.lora_rank == 8 for member in members):
            raise torch.OutOfMemoryError("CUDA out of memory")
        optimizer_step(setup, pack, members, rows)

    monkeypatch.setattr("blackbox.fit.optimizer_step", failing)
    ranks = (1, 2, 4, 8)
    ended = trained("job", *({"lora_rank": rank} for rank in ranks))
    assert [one.result.status for one in ended if one.result] == ["ok", "ok", "ok", "failed"]
    assert ended[3].result is not None and str(ended[3].result.reason).startswith("out of memory")


def test_points_of_other_lengths_and_batches_share_a_job_but_no_pack(
    trained: Callable[..., list[Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[list[int]] = []
    train_pack = train.train_pack

    def noting(setup: Setup, entries: Sequence[Any], base_score: Any) -> Any:
        together.append([entry.training.lora_rank for entry in entries])
        return train_pack(setup, entries, base_score)

    monkeypatch.setattr(train, "train_pack", noting)
    others = [{}, {"global_batch_size": 4}, {"num_train_epochs": 2}, {"per_device_eval_batch_size": 4}, {"seed": 7}]
    points = [{"lora_rank": rank, **other} for rank, other in enumerate(others, 1)]
    ended = trained("job", *points)
    assert together == [[1, 5], [2], [3], [4]]
    assert all(one.result is not None and one.result.status == "ok" for one in ended)


def test_a_refused_adapter_leaves_the_base_model_as_it_was(small_model: Path) -> None:
    base = load_model(small_model, ModelSettings(path="unused"))
    names = [name for name, _ in base.named_modules()]
    for name in ("input_layernorm", "embed_tokens"):
        with pytest.raises(InputError, match=r"training\.target_modules"):
            Pack(base, [Training(target_modules=("q_proj",)), Training(target_modules=("k_proj", name))], CPU)
        assert [name for name, _ in base.named_modules()] == names
        assert base.config._attn_implementation == "sdpa"
