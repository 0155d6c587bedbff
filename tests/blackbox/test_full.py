"""All weights: against transformers.Trainer, read back, kept, scored, continued; and the base model stays as it was."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Evaluation, Store
from benchmarks import peer
from blackbox import applied, checks, train
from blackbox.block import Blackbox
from blackbox.data import epoch_steps
from blackbox.full import pack_of
from blackbox.hyperparameters import OF_LORA, Training
from blackbox.liveness import dead
from blackbox.settings import read_settings
from blackbox.setup import Setup, load
from tests.blackbox.conftest import results

pytestmark = pytest.mark.usefixtures("on_cpu")

Write = Callable[..., Path]

RATE = {"space": {"learning_rate": {"log10": [-5, -2]}}}
POINT = {"learning_rate": 3e-3}


@pytest.fixture
def full(experiment: Write, small_bloom: Path) -> Write:
    """An experiment that trains all weights of a small BLOOM: full(sections={...}, num_train_epochs=2)."""

    def write(
        sections: dict[str, Any] | None = None, model: Path = small_bloom, dtype: str = "float32", **training: Any
    ) -> Path:
        file = experiment(
            sections={"model": {"path": str(model), "dtype": dtype}, **RATE, **(sections or {})},
            method="full",
            **{"target_modules": None, "learning_rate": 1e-3, **training},
        )
        return file

    return write


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["small_bloom", "small_model"])
def test_our_loss_is_that_of_transformers_trainer(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, full: Write, write_job: Write
) -> None:
    """Same order, schedule with warm-up, clipping, weight decay, accumulation and smaller last step."""
    folder: Path = request.getfixturevalue(kind)
    common = {
        "learning_rate": 2e-3, "weight_decay": 0.1, "adam_beta2": 0.99, "max_grad_norm": 0.5, "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine", "num_train_epochs": 2, "seed": 1, "per_device_train_batch_size": 4,
    }  # fmt: skip
    job = write_job(full(model=folder, global_batch_size=12, **common), {})
    setup = train.run(job)
    (result,) = results(job)
    theirs = loaded(folder)
    base = peer.token_loss(theirs, setup.data.valid, 1)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"), gradient_accumulation_steps=3, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, **common,
    )  # fmt: skip
    order = peer.Order([list(chain(*epoch_steps(setup.data.train, 12, 1, epoch))) for epoch in range(2)])
    rows = peer.features(setup.data.train)
    trainer = peer.Ordered(theirs, arguments, peer.collate, train_dataset=rows, order=order)
    trainer.train()
    loss = peer.token_loss(theirs, setup.data.valid, 1)
    assert result.status == "ok", result.reason
    print(f"{kind}: ours {result.metrics['eval_loss']:.7f}, transformers.Trainer {loss:.7f}, base model {base:.4f}")
    assert loss < base - 0.1
    assert result.metrics["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert result.metrics["train_loss"] == pytest.approx(trainer.state.log_history[-1]["train_loss"], abs=1e-5)
    assert result.metrics["trainable_parameters"] == sum(parameter.numel() for parameter in theirs.parameters())


def test_the_checkpoint_is_the_model_that_was_scored(tmp_path: Path, full: Write, write_job: Write) -> None:
    job = write_job(full(num_train_epochs=2), POINT)
    setup = train.run(job)
    evaluation = Evaluation(tmp_path / "job" / "job0")
    assert evaluation.weights == evaluation.model and not evaluation.adapter.exists()
    loss = peer.token_loss(loaded(evaluation.model), setup.data.valid, 1)
    assert results(job)[0].metrics["eval_loss"] == pytest.approx(loss, rel=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(evaluation.model)
    assert tokenizer("Say so.").input_ids == setup.tokenizer("Say so.").input_ids
    assert [file.name for file in evaluation.model.glob("*.safetensors")] == ["model.safetensors"]
    assert not list(evaluation.model.glob("*.bin"))
    evaluation.drop_weights()
    assert evaluation.weights is None and not evaluation.model.exists()


def test_the_base_model_stays_as_it_was(full: Write, write_job: Write, experiment: Write, small_bloom: Path) -> None:
    """To the bit, for the next point of the worker: whole, or an adapter's."""
    job = write_job(full(), POINT, {"learning_rate": 1e-4}, POINT, base_score=True)
    setup = load(read_experiment(full()))
    before, base = weights(setup.base), setup.base
    setup = train.run(job, setup)
    first, other, again = results(job)
    assert setup.base is base and same(weights(base), before)
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert first.metrics["eval_loss"] == again.metrics["eval_loss"] != other.metrics["eval_loss"]
    sections = {"model": {"path": str(small_bloom)}}
    adapters = [experiment(sections=sections, target_modules="all-linear")]
    jobs = [write_job(adapters[0], {"lora_rank": 2}, name=name) for name in ("after", "fresh")]
    train.run(jobs[0], setup)
    train.run(jobs[1])
    losses = [results(each)[0].metrics["eval_loss"] for each in jobs]
    assert losses[0] == losses[1]


def test_the_base_score_is_the_untouched_models(tmp_path: Path, full: Write, write_job: Write) -> None:
    job = write_job(full(), POINT, base_score=True)
    setup = train.run(job)
    base = json.loads((tmp_path / "job.base.json").read_text())["eval_loss"]
    assert base == pytest.approx(peer.token_loss(setup.base, setup.data.valid, 1), rel=1e-6)


ALL = {
    "method": "full", "learning_rate": 2e-3, "weight_decay": 0.2, "adam_beta1": 0.8, "adam_beta2": 0.95,
    "adam_epsilon": 1e-7, "max_grad_norm": 0.7, "lr_scheduler_type": "polynomial", "warmup_steps": 2,
    "num_train_epochs": 2.0, "global_batch_size": 16, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4, "per_device_eval_batch_size": 5, "label_smoothing_factor": 0.2,
    "gradient_checkpointing": True, "seed": 9,
}  # fmt: skip


def test_every_setting_that_acts_is_read_back(tmp_path: Path, full: Write, write_job: Write) -> None:
    assert set(ALL) == set(Training.model_fields) - OF_LORA - {"report_to"}
    point = {name: value for name, value in ALL.items() if name != "method"}
    job = write_job(full(), point)
    train.run(job)
    assert results(job)[0].status == "ok", results(job)[0].reason
    content = json.loads((tmp_path / "job/job0/applied.json").read_text())
    assert {name: content[name] for name in ALL} == ALL
    assert not OF_LORA & content.keys()


def test_a_weight_that_is_not_trained_fails_the_evaluation(
    full: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blackbox.full import FullPack  # noqa: PLC0415 - heavy

    whole = FullPack.parameters
    monkeypatch.setattr(FullPack, "parameters", lambda *a: dict(list(whole(*a).items())[1:]))
    job = write_job(full(), POINT)
    train.run(job)
    (result,) = results(job)
    count = len(dict(loaded(Path(read_experiment(full()).model["path"])).named_parameters()))  # type: ignore[index]
    assert result.status == "failed"
    assert f"method: proposed 'full', applied '{count - 1} of {count} weights'" in str(result.reason)


@pytest.mark.parametrize(
    ("sections", "training", "sentence"),
    [
        ({"space": {"lora_rank": {"int": [1, 8]}, "lora_dropout": {"fixed": 0.1}, **RATE["space"]}}, {},
         "space: method full trains all weights and has no adapter: leave out lora_dropout, lora_rank"),
        ({}, {"lora_alpha": 32}, "training: method full trains all weights and has no adapter: leave out lora_alpha"),
        ({"space": {"method": {"choice": ["lora", "full"]}}}, {}, "space.method: belongs to the training section"),
        ({}, {"method": "whole"}, "training.method: input should be 'lora' or 'full'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_sentence(
    sections: dict[str, Any], training: dict[str, Any], sentence: str, experiment: Write, small_bloom: Path
) -> None:
    settings = {"method": "full", "target_modules": None, **training}
    file = experiment(sections={"model": {"path": str(small_bloom)}, **RATE, **sections}, **settings)
    with pytest.raises(InputError) as error:
        checks.quick(read_experiment(file))
    assert len(error.value.messages) == 1
    assert re.search(rf"experiment\.yaml:\d+: {re.escape(sentence)}", str(error.value))


def test_float16_is_refused(full: Write) -> None:
    with pytest.raises(InputError, match=r"model\.dtype: float16 is not offered with method full"):
        read_settings(read_experiment(full(dtype="float16")))


def test_bfloat16_keeps_the_weights_in_float32(tmp_path: Path, full: Write, write_job: Write) -> None:
    """A step of 1e-5 of a weight is lost in bfloat16's 8 bits; the loss is float32's but for its rounding."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        job = write_job(full(dtype=dtype, num_train_epochs=2), {"learning_rate": 1e-5}, name=dtype)
        setup = train.run(job)
        assert {parameter.dtype for parameter in setup.base.parameters()} == {torch.float32}
        losses[dtype] = results(job)[0].metrics["eval_loss"]
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / dtype / f"{dtype}0" / "model", dtype="auto")
        assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}
        changed = [not torch.equal(*pair) for pair in zip(saved.parameters(), setup.base.parameters(), strict=True)]
        assert all(changed)
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_the_key_knows_the_method_and_nothing_of_adapters(full: Write, experiment: Write) -> None:
    whole, adapter = Training(method="full").determinants(1), Training().determinants(1)
    assert whole == {**{name: value for name, value in adapter.items() if name not in OF_LORA}, "method": "full"}
    assert "method" not in adapter

    def key(file: Path) -> str:
        return Blackbox(read_experiment(file), Store(file.parent / "evals"), file).candidate(POINT, None).key

    assert key(full()) != key(full(dtype="bfloat16"))


def test_a_killed_training_goes_on_to_the_same_bits(
    tmp_path: Path, full: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = full(num_train_epochs=2)
    whole, killed = write_job(file, POINT, name="whole"), write_job(file, POINT, name="killed")
    setup = train.run(whole)
    evaluation = Evaluation(tmp_path / "killed" / "killed0")
    with monkeypatch.context() as patched:
        patched.setattr(train, "_record", lambda *_: None)  # the state is there until there is a result
        evaluation.stop_file.touch()
        train.run(killed, setup)
    assert evaluation.state_file.is_file() and evaluation.result() is None and not evaluation.model.exists()
    evaluation.stop_file.unlink()
    train.run(killed, setup)
    first, second = (results(job)[0].metrics["eval_loss"] for job in (whole, killed))
    assert first == second
    assert same(weights(loaded(tmp_path / "whole/whole0/model")), weights(loaded(evaluation.model)))


def test_a_dead_variable_is_found(full: Write) -> None:
    space = {"learning_rate": {"log10": [-5, -2]}, "weight_decay": {"choice": [0.1, 0.2]}}
    for betas, expected in (({}, []), ({"learning_rate": {"fixed": 0}}, ["space.weight_decay: changes nothing"])):
        file = full(sections={"space": {**space, **betas}}, global_batch_size=4)
        content = read_experiment(file)
        setup = load(content)
        before = weights(setup.base)
        found = dead(content, read_settings(content), setup, 1)
        assert [sentence[: len(begin)] for sentence, begin in zip(found, expected, strict=True)] == expected
        assert same(weights(setup.base), before)


def test_a_preflight_loads_it_and_knows_no_adapter(full: Write) -> None:
    report = checks.full(read_experiment(full(dtype="bfloat16", global_batch_size=4)))
    assert "fresh_adapter_changes_nothing" not in report
    assert report["variables_that_change_the_training"] == ["learning_rate"]
    assert report["memory_gib"] > 16 * report["parameters"] / 2**30


def scored(setup: Setup, job: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Have a trained job's points and the base model scored for this."""
    content = json.loads(job.read_text())
    content |= {"base_score": str(job.with_suffix(".base.json")), "base_scores": [about]}
    for item in content["evaluations"]:
        item |= {"trained": True, "scores": [about]}
    job.write_text(json.dumps(content))
    train.run(job, setup)
    found = {}
    for item in content["evaluations"]:
        (file,) = (Path(item["folder"]) / "scores").glob("*.json")
        found[item["key"]] = json.loads(file.read_text())["metrics"]
    return {**found, "base": next(iter(json.loads(job.with_suffix(".base.json").read_text())["scores"].values()))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scorers_are_given_the_saved_models_one_by_one(
    dtype: str, full: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from blackbox.scores import harness  # noqa: PLC0415 - heavy
    from blackbox.scores.requests import Scored  # noqa: PLC0415
    from tests.blackbox.scores.test_live import request  # noqa: PLC0415

    def evaluate(model: Any, tokenizer: Any, names: list[str | None], *_: Any) -> dict[str | None, Scored]:
        (name,) = names
        ids = torch.tensor([tokenizer("Say often.").input_ids])
        assert not model.training
        if name is not None:
            model.set_adapter(name)
        with torch.no_grad(), nullcontext() if name else model.disable_adapter():
            return {name: Scored({"acc": float(model(ids).logits.float().sum())}, 1, {})}

    monkeypatch.setattr(harness, "evaluate", evaluate)
    job = write_job(full(dtype=dtype), POINT, {"learning_rate": 1e-4})
    setup = train.run(job)
    before = weights(setup.base)
    found = scored(setup, job, asdict(request()))
    assert same(weights(setup.base), before)
    ids = torch.tensor([setup.tokenizer("Say often.").input_ids])
    models = {key: loaded(tmp_path / "job" / key / "model") for key in ("job0", "job1")} | {"base": setup.base}
    for key, model in models.items():
        alone = model.to(getattr(torch, dtype))(ids).logits.float().sum()
        assert found[key]["acc"] == pytest.approx(float(alone), rel=1e-6), key
    assert len({each["acc"] for each in found.values()}) == 3


def test_shards_are_refused(full: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = load(read_experiment(full()))
    monkeypatch.setattr(Setup, "sharded", True)
    with pytest.raises(InputError, match=r"training\.method: full is not offered with FSDP"):
        pack_of(setup, [Training(method="full")])


def test_read_model_counts_what_the_optimizer_has(small_bloom: Path) -> None:
    model = loaded(small_bloom)
    whole = torch.optim.AdamW(model.parameters())
    assert applied.read_model(model, whole) == {"method": "full", "gradient_checkpointing": False}
    part = torch.optim.AdamW(list(model.parameters())[2:])
    count = len(list(model.parameters()))
    assert applied.read_model(model, part)["method"] == f"{count - 2} of {count} weights"
