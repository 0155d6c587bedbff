"""Classifiers: each member of a pack with a head of its own, trained as alone and as by transformers.Trainer + PEFT."""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    TrainingArguments,
)

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Result
from benchmarks import peer
from blackbox import checks, classification, heads, model, train
from blackbox.data import epoch_steps
from blackbox.labels import Labelled
from blackbox.model import attach, detach, load_classifier
from blackbox.pack import Pack
from blackbox.settings import ModelSettings, Training, read_settings
from blackbox.setup import Setup, load
from tests.blackbox.conftest import results
from tests.blackbox.test_ddp import launch
from tests.blackbox.test_pack import KINDS as CAUSAL
from tests.blackbox.test_pack import targets

pytestmark = pytest.mark.usefixtures("on_cpu")

Write = Callable[..., Path]

CPU = torch.device("cpu")
CLASSES = 3

BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    **CAUSAL, "bert": BERT, "bert without pooler": BERT,
    "distilbert": {"model_type": "distilbert", "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "roberta": {**BERT, "model_type": "roberta"},
}  # fmt: skip
CLASSES_OF = {"bert": AutoModel, "bert without pooler": AutoModelForMaskedLM, "distilbert": AutoModel,
              "roberta": AutoModel}  # fmt: skip

MIXED: list[dict[str, Any]] = [
    {"lora_rank": 4, "lora_alpha": 16},
    {"lora_rank": 2, "lora_dropout": 0.3, "use_rslora": True, "target_modules": "all-linear", "weight_decay": 0.1},
    {"lora_rank": 8, "lora_dropout": 0.1, "lr_scheduler_type": "cosine", "label_smoothing_factor": 0.1,
     "max_grad_norm": 0.05},
]  # fmt: skip


def targets_of(kind: str) -> list[str]:
    known = {"distilbert": ["q_lin", "v_lin"], "roberta": ["query", "dense"]}
    own = ["query", "dense"] if kind.startswith("bert") else [name for name in targets(kind) if name != "lm_head"]
    return known.get(kind, own)


@pytest.fixture
def model_of(tmp_path: Path, small_model: Path) -> Callable[[str], Path]:
    """Write a small random model of this kind, without a classifier's head."""

    def write(kind: str) -> Path:
        folder = tmp_path / f"model {kind}"
        torch.manual_seed(3)
        content = {"vocab_size": 260, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **KINDS[kind]}
        config = AutoConfig.for_model(**content, initializer_range=0.2, tie_word_embeddings=False)
        CLASSES_OF.get(kind, AutoModelForCausalLM).from_config(config).save_pretrained(folder)
        for file in small_model.glob("tokenizer*"):
            shutil.copy(file, folder)
        return folder

    return write


def load_one(folder: Path) -> Any:
    return load_classifier(folder, ModelSettings(path="unused"), CLASSES, 0)


class Trained:
    """What became of a point."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result = Result(**json.loads((folder / "result.json").read_text()))
        assert self.result.status == "ok", self.result.reason
        lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
        self.losses = [(line["train_loss"], line["eval_loss"]) for line in lines if "epoch" in line]
        self.weights = load_file(folder / "adapter/adapter_model.safetensors")


@pytest.fixture
def trained(tmp_path: Path, classifier: Callable[..., Path], write_job: Callable[..., Path]) -> Callable[..., Any]:
    """Train points as one job: trained("name", {...}, {...}, model=FOLDER, num_train_epochs=2)."""
    loaded: dict[Path | None, Setup] = {}

    def run(name: str, *points: dict[str, Any], model: Path | None = None, **training: Any) -> list[Trained]:
        sections = None if model is None else {"model": {"path": str(model)}}
        job = write_job(classifier(sections=sections, **training), *points, name=name)
        loaded[model] = train.run(job, loaded.get(model))
        return [Trained(tmp_path / name / f"{name}{number}") for number in range(len(points))]

    return run


@pytest.mark.parametrize("kind", ["llama", "bert", "bloom", "qwen3"])
def test_members_train_as_alone(kind: str, trained: Any, model_of: Callable[[str], Path]) -> None:
    """To the last bit, their heads too; every head is another."""
    common = {"model": model_of(kind), "target_modules": targets_of(kind), "per_device_train_batch_size": 4}
    together = trained("all", *MIXED, **common)
    for number, (point, one) in enumerate(zip(MIXED, together, strict=True)):
        (alone,) = trained(f"alone{number}", point, **common)
        assert one.losses == alone.losses
        assert one.result.metrics["accuracy"] == alone.result.metrics["accuracy"]
        assert one.weights.keys() == alone.weights.keys()
        assert all(torch.equal(one.weights[name], alone.weights[name]) for name in one.weights)
    (head,) = [name for name in together[0].weights if name.endswith(("score.weight", "classifier.weight"))]
    assert len({tuple(one.weights[head].flatten().tolist()) for one in together}) == 3


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_members_with_other_seeds_train_as_alone(kind: str, trained: Any, model_of: Callable[[str], Path]) -> None:
    """Other rows and another head in every member: equal but for rounding where rows are padded to each other."""
    common = {"model": model_of(kind), "target_modules": targets_of(kind), "gradient_checkpointing": True}
    points = [{"lora_rank": seed, "lora_dropout": 0.2, "seed": seed} for seed in (1, 2)]
    for point, one in zip(points, trained("all", *points, **common), strict=True):
        (alone,) = trained(f"alone{point['seed']}", point, **common)
        assert list(chain(*one.losses)) == pytest.approx(list(chain(*alone.losses)), rel=1e-5)


EXAMPLES = [
    Labelled(tuple((7 * row + 3 * place) % 250 + 3 for place in range(4 + 5 * row)), 4 + 5 * row, row % CLASSES)
    for row in range(5)
]
"""Rows of 4 to 24 tokens."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_computes_what_transformers_and_peft_compute(kind: str, model_of: Callable[[str], Path]) -> None:
    """Logits and gradients, of heads too, row by row and without padding over there."""
    base = load_one(model_of(kind))
    theirs, frozen = copy.deepcopy(base), {name: value.clone() for name, value in base.state_dict().items()}
    trainings = [Training(lora_rank=2, target_modules=tuple(targets_of(kind))), Training(target_modules="all-linear")]
    rows = [[1, 4], [0, 3]]
    pack = Pack(base, trainings, CPU)
    assert pack._flat == (kind in CAUSAL and kind not in ("gpt2", "bloom"))
    torch.manual_seed(5)
    for name, parameter in pack.adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    layout = pack.lay_out(EXAMPLES, rows, pack.names)
    logits = pack.logits(layout, pack.names)
    assert layout.targets.tolist() == [EXAMPLES[row].label for row in chain(*rows)]
    torch.nn.functional.cross_entropy(logits, layout.targets, reduction="sum").backward()
    for name, training, mine, part in zip(pack.names, trainings, rows, logits.split(2), strict=True):
        wanted = training.target_modules
        lora = LoraConfig(
            task_type="SEQ_CLS", r=training.lora_rank, modules_to_save=heads.modules_to_save(base) or None,
            target_modules=wanted if isinstance(wanted, str) else list(wanted or ()),
        )  # fmt: skip
        plain = get_peft_model(copy.deepcopy(theirs), lora).eval()
        parameters = {key.replace(".default.", "."): p for key, p in plain.named_parameters() if p.requires_grad}
        assert parameters.keys() == pack.parameters(name).keys()
        with torch.no_grad():
            for key, parameter in pack.parameters(name).items():
                parameters[key].copy_(parameter)
        said = torch.cat([plain(input_ids=torch.tensor(EXAMPLES[row].tokens)[None]).logits for row in mine])
        wanted_labels = torch.tensor([EXAMPLES[row].label for row in mine])
        torch.nn.functional.cross_entropy(said, wanted_labels, reduction="sum").backward()
        assert torch.allclose(part, said, rtol=1e-5, atol=1e-5)
        for key, parameter in pack.parameters(name).items():
            assert parameter.grad is not None and parameters[key].grad is not None, key
            size = float(parameters[key].grad.abs().max())
            assert torch.allclose(parameter.grad, parameters[key].grad, rtol=1e-4, atol=1e-5 * max(size, 1e-3)), key
    assert pack.close() is base
    after = base.state_dict()
    assert after.keys() == frozen.keys() and all(torch.equal(after[name], value) for name, value in frozen.items())


def collate(rows: Sequence[Any]) -> dict[str, Tensor]:
    batch = peer.collate([{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows])
    return batch | {"labels": torch.tensor([row["label"] for row in rows])}


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_our_loss_is_that_of_transformers_trainer_with_peft(
    kind: str, tmp_path: Path, trained: Any, model_of: Callable[[str], Path], classifier: Callable[..., Path]
) -> None:
    """From the same head and adapter; schedule with warm-up, clipping, smoothing, accumulation; no dropout."""
    same = {
        "learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 0.5, "warmup_steps": 0.1, "num_train_epochs": 2,
        "lr_scheduler_type": "cosine", "label_smoothing_factor": 0.1, "seed": 1, "per_device_train_batch_size": 4,
    }  # fmt: skip
    folder, names = model_of(kind), targets_of(kind)
    about = {"target_modules": names, "global_batch_size": 8, **same}
    (one,) = trained("job", {"lora_rank": 4, "lora_alpha": 16}, model=folder, **about)
    setup = load(read_experiment(classifier(sections={"model": {"path": str(folder)}}, **about)))
    ours = attach(setup.base, {"member": Training(lora_rank=4, lora_alpha=16, target_modules=names, seed=1)})
    start = {name.replace(".member.", "."): value.clone() for name, value in ours.named_parameters()}
    detach(ours)

    lora = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=16, target_modules=names)
    theirs = get_peft_model(load_one(folder), lora)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[name.replace(".default.", ".")])
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"), gradient_accumulation_steps=2, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False, **same,
    )  # fmt: skip
    order = peer.Order([list(chain(*epoch_steps(setup.data.train, 8, 1, epoch))) for epoch in range(2)])
    rows: Any = [{"input_ids": list(row.tokens), "label": row.targets[0]} for row in setup.data.train]
    trainer = peer.Ordered(theirs, arguments, collate, train_dataset=rows, order=order)
    trainer.train()
    with torch.no_grad():
        said = [theirs.eval()(input_ids=torch.tensor([row.tokens])).logits[0] for row in setup.data.valid]
    truth = [row.targets[0] for row in setup.data.valid]
    loss = log_loss(truth, torch.stack(said).double().softmax(-1).numpy(), labels=range(CLASSES))
    print(f"{kind}: ours {one.result.metrics['eval_loss']:.7f}, transformers.Trainer {loss:.7f}")
    assert one.result.metrics["eval_loss"] == pytest.approx(loss, abs=1e-3)
    assert one.result.metrics["train_loss"] == pytest.approx(trainer.state.log_history[-1]["train_loss"], abs=1e-3)


@pytest.mark.parametrize("kind", ["mistral", "bert without pooler"])
def test_the_saved_adapter_says_what_was_scored(
    kind: str, trained: Any, model_of: Callable[[str], Path], classifier: Callable[..., Path], tmp_path: Path
) -> None:
    """Loaded by PEFT; log loss and accuracy are scikit-learn's; batches say what rows say one by one."""
    folder = model_of(kind)
    common = {"model": folder, "target_modules": "all-linear", "num_train_epochs": 4}
    one, _ = trained("job", {"lora_rank": 4, "learning_rate": 1e-2}, {"lora_rank": 2}, **common)
    settings = read_settings(read_experiment(tmp_path / "experiment.yaml"))
    tuned, tokenizer = classification.load(settings, one.folder / "adapter")
    assert isinstance(settings.data.valid, type(settings.data.train))
    texts = classification.texts_of(settings, settings.data.valid, settings.base, "data.valid")
    found = classification.probabilities(tuned, tokenizer, texts, settings.data.max_length, 5)
    single = classification.probabilities(tuned, tokenizer, texts, settings.data.max_length, 1)
    assert len(found) == 12 and all(len(row) == CLASSES and sum(row) == pytest.approx(1, abs=1e-12) for row in found)
    assert list(chain(*found)) == pytest.approx(list(chain(*single)), rel=1e-4)
    truth = [number % 3 for number in range(60, 72)]
    metrics = one.result.metrics
    assert metrics["eval_loss"] == pytest.approx(log_loss(truth, found, labels=range(CLASSES)), rel=1e-5)
    likeliest = [max(range(CLASSES), key=row.__getitem__) for row in found]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, likeliest))
    assert metrics["accuracy"] > 1 / 3 and metrics["eval_loss"] < 1.09, "it has learnt something"


def test_the_same_head_is_drawn_for_the_same_seed_alone(small_model: Path) -> None:
    """Whatever was drawn before; and a head that the checkpoint brings is kept."""
    base = load_one(small_model)
    drawn = {}
    for name, seeds in {"both": (1, 2), "second": (2,)}.items():
        torch.rand(7)
        adapted = attach(base, {f"m{seed}": Training(target_modules=("q_proj",), seed=seed) for seed in seeds})
        (wrapper,) = heads.wrappers(adapted).values()
        drawn[name] = {key: head.weight.clone() for key, head in wrapper.modules_to_save.items()}
        detach(adapted)
    assert torch.equal(drawn["both"]["m2"], drawn["second"]["m2"])
    assert not torch.equal(drawn["both"]["m1"], drawn["both"]["m2"])
    assert 0.1 < float(drawn["both"]["m1"].std()) < 0.3, "the model's initializer_range is 0.2"


def test_a_head_of_the_checkpoint_is_kept(small_model: Path, tmp_path: Path) -> None:
    load_one(small_model).save_pretrained(tmp_path)
    base = load_one(tmp_path)
    assert not base.fresh_modules
    adapted = attach(base, {"member": Training(target_modules=("q_proj",), seed=9)})
    assert torch.equal(heads.wrappers(adapted).popitem()[1].modules_to_save["member"].weight, base.score.weight)
    detach(adapted)
    other = load_classifier(tmp_path, ModelSettings(path="unused"), 5, 0)
    assert other.fresh_modules == {"score"} and other.score.weight.shape[0] == 5, "made for other classes"


def test_a_preflight_of_a_classifier(classifier: Callable[..., Path], tmp_path: Path) -> None:
    space = {"label_smoothing_factor": {"float": [0, 0.1]}, "lora_rank": {"int": [1, 8]}}
    report = checks.full(read_experiment(classifier(sections={"space": space})))
    assert report["fresh_adapter_changes_nothing"] and report["variables_that_change_the_training"] == list(space)
    assert (report["train_rows"], report["valid_rows"]) == (40, 12)
    assert report["rows_of_each_class"] == {"train": [14, 13, 13], "valid": [4, 4, 4]}
    assert report["memory_gib"] > 0
    with pytest.raises(InputError, match=r"^data\.valid: 12 of 12 validation texts are training texts too \(row 1, 2"):
        checks.full(read_experiment(classifier({"train": "valid.csv"})))
    assert checks.full(read_experiment(classifier({"train": "valid.csv", "allow_leak": True})))


def test_an_adapter_that_is_no_identity_is_found_below_the_heads(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(target_modules=("q_proj",))
    checks._check_identity(load_one(small_model), training, EXAMPLES)

    def spoiled(*arguments: Any) -> Any:
        adapted = attach(*arguments)
        torch.nn.init.normal_(next(p for name, p in adapted.named_parameters() if "lora_B" in name))
        return adapted

    monkeypatch.setattr("blackbox.pack.attach", spoiled)
    with pytest.raises(InputError, match="a fresh adapter changes the logits by"):
        checks._check_identity(load_one(small_model), training, EXAMPLES)


def test_rows_longer_than_the_table_of_positions_are_refused(
    classifier: Callable[..., Path], model_of: Callable[[str], Path]
) -> None:
    sections = {"model": {"path": str(model_of("bert"))}}
    file = classifier({"max_length": 300, "template": "{Question}{Question}{Question}{Question}{Question}{Response}"},
                      sections, target_modules=["query"])  # fmt: skip
    with pytest.raises(InputError, match=r"^data\.max_length: the longest row has \d+ tokens, the model takes 128$"):
        checks.full(read_experiment(file))


def test_the_base_score_is_the_best_constant_answer(
    tmp_path: Path, classifier: Callable[..., Path], write_job: Callable[..., Path]
) -> None:
    """And what is applied is read back from a classifier too."""
    job = write_job(classifier({"valid": {"path": "valid.csv", "split": "train[:10]"}}), MIXED[1], base_score=True)
    train.run(job)
    (result,) = results(job)
    truth = [number % 3 for number in range(10)]
    shares = [[truth.count(label) / 10 for label in range(3)]] * 10
    base = json.loads((tmp_path / "job.base.json").read_text())
    assert base == {"eval_loss": pytest.approx(log_loss(truth, shares)), "accuracy": 0.4}
    assert result.status == "ok" and set(result.metrics) >= {"eval_loss", "accuracy", "train_loss"}
    applied = json.loads((tmp_path / "job/job0/applied.json").read_text())
    assert (applied["target_modules"], applied["use_rslora"], applied["lora_rank"]) == ("all-linear", True, 2)
    lora = 2 * 2 * (4 * (32 + 32) + 3 * (32 + 64))  # layers, rank, and both sides of seven modules
    assert result.metrics["trainable_parameters"] == lora + 3 * 32, "adapter and head"


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_training_goes_on_with_its_head(
    epoch: int, tmp_path: Path, classifier: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing was left to train: what the last validation measured is in its state."""
    file, point = classifier(num_train_epochs=3), {"lora_rank": 2, "lora_dropout": 0.2}
    whole, killed = write_job(file, point, name="whole"), write_job(file, point, name="killed")
    killed.write_text(json.dumps(json.loads(killed.read_text()) | {"keep_state": True}))
    train.run(whole)
    begin, capture = train._begin, train.state.capture

    def dies(setup: Any, member: Any) -> None:
        capture(setup, member)
        if member.epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.state, "capture", dies)
    with pytest.raises(KeyboardInterrupt):
        train.run(killed)
    monkeypatch.setattr(train.state, "capture", capture)
    resumed = []
    monkeypatch.setattr(train, "_begin", lambda *a: (begin(*a), resumed.append(a[3].counts.steps)))
    train.run(killed)
    assert resumed == [5 * epoch]
    first, second = (Trained(tmp_path / name / f"{name}0") for name in ("whole", "killed"))
    assert first.losses == second.losses
    assert first.result.metrics["accuracy"] == second.result.metrics["accuracy"]
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.parametrize(
    ("task", "output", "sentence"),
    [
        ("instruct", "accuracy", None),
        ("classification", "mmlu", "mmlu cannot be measured: there are eval_loss, .*, accuracy$"),
        ("classification", "acuracy", r"acuracy cannot be measured \(did you mean accuracy\?\)"),
    ],
)
def test_who_measures_what(task: str, output: str, sentence: str | None, classifier: Callable[..., Path]) -> None:
    from bbo.store import Store  # noqa: PLC0415
    from blackbox.block import Blackbox, measured_by  # noqa: PLC0415

    experiment = read_experiment(classifier(sections={"outputs": [output]}))
    if sentence is None:
        assert "accuracy" in measured_by(experiment)
        return
    with pytest.raises(InputError, match=sentence):
        Blackbox(experiment, Store(Path("unused")), Path("unused"))


def test_the_head_is_no_target(small_model: Path) -> None:
    base = load_one(small_model)
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(InputError, match=r"^training\.target_modules: score is the head, which is trained whole$"):
        Pack(base, [Training(target_modules=("q_proj", "score"))], CPU)
    with pytest.raises(InputError, match="the model has no w_proj"):
        Pack(base, [Training(target_modules=("q_proj",)), Training(target_modules=("w_proj",))], CPU)
    assert [name for name, _ in base.named_modules()] == names


def test_nf4_needs_a_gpu_and_bitsandbytes(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ModelSettings(path="unused", quantization="nf4", dtype="bfloat16")
    with pytest.raises(InputError, match=r"^model\.quantization: nf4 needs an NVIDIA GPU"):
        load_classifier(small_model, settings, CLASSES, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(model, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match="needs bitsandbytes: `pip install bitsandbytes`"):
        load_classifier(small_model, settings, CLASSES, 0)
    monkeypatch.setattr(model, "is_bitsandbytes_available", lambda: True)
    whole, heard = AutoModelForSequenceClassification.from_pretrained, {}

    def loading(*folder: Any, quantization_config: Any, device_map: Any, **more: Any) -> Any:
        heard.update(quantization_config.to_dict(), device_map=device_map)
        return whole(*folder, **more)

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", loading)
    load_classifier(small_model, settings, CLASSES, 0)
    assert heard["load_in_4bit"] and heard["bnb_4bit_quant_type"] == "nf4" and heard["bnb_4bit_use_double_quant"]
    assert heard["bnb_4bit_compute_dtype"] == "bfloat16" and heard["device_map"] == {"": 1}
    assert {"score", "classifier", "lm_head"} <= set(heard["llm_int8_skip_modules"])


def test_two_processes_leave_a_classifiers_result_unchanged(
    tmp_path: Path, classifier: Callable[..., Path], write_job: Callable[..., Path], model_of: Callable[[str], Path]
) -> None:
    """12 validation rows in passes of 5: the second process has a pass without rows in the last one."""
    sections = {"model": {"path": str(model_of("bert"))}}
    cut = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 5}
    file = classifier(sections=sections, target_modules="all-linear", global_batch_size=12, **cut)
    one, two = write_job(file, {"lora_rank": 4}, name="one"), write_job(file, {"lora_rank": 4}, name="two")
    content = yaml.safe_load(file.read_text())
    del content["training"]["gradient_accumulation_steps"]
    file.write_text(yaml.safe_dump(content))
    train.run(one)
    done = launch(two, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    (alone,), (shared,) = results(one), results(two)
    assert shared.status == "ok", shared.reason
    for name in ("eval_loss", "train_loss", "accuracy"):
        assert shared.metrics[name] == pytest.approx(alone.metrics[name], abs=1e-5)


def test_fsdp_is_refused(classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sharding = SimpleNamespace(distributed_type=DistributedType.FSDP)
    monkeypatch.setattr("blackbox.setup.start_accelerator", lambda: sharding)
    with pytest.raises(InputError, match=r"^task: FSDP shards no classifier: .*, DDP is offered$"):
        load(read_experiment(classifier()))
