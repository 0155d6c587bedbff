"""The trainer against plain transformers, its independence of cuts and companions, and its failures."""

import errno
import json
import re
import sys
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, TrainingArguments

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Result
from benchmarks import peer
from blackbox import member, train
from blackbox import model as models
from blackbox import setup as setups
from blackbox.data import epoch_steps
from blackbox.failure import failure_file
from blackbox.hyperparameters import DETERMINES_NOTHING, OF_LORA, Training
from blackbox.settings import ModelSettings
from tests.blackbox.conftest import results

pytestmark = pytest.mark.usefixtures("on_cpu")

Write = Callable[..., Path]

POINT = {"lora_rank": 4, "lora_alpha": 16}


@pytest.fixture
def result_of(experiment: Write, write_job: Write) -> Callable[..., Result]:
    """Train POINT under these training settings: result_of("name", lora_dropout=0.1)."""

    def run(name: str = "job", data: dict[str, Any] | None = None, **training: Any) -> Result:
        job = write_job(experiment(data, **training), POINT, name=name)
        train.run(job)
        return results(job)[0]

    return run


def applied_of(tmp_path: Path, name: str = "job") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / name / f"{name}0" / "applied.json").read_text())
    return content


def test_our_defaults_are_those_of_transformers_and_peft() -> None:
    ours, theirs, lora = Training(), TrainingArguments(output_dir="unused"), LoraConfig()
    for name in set(Training.model_fields) - OF_LORA - {"method", "global_batch_size"} - DETERMINES_NOTHING:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.lora_rank, ours.lora_alpha, ours.lora_dropout) == (lora.r, lora.lora_alpha, lora.lora_dropout)
    assert (ours.use_rslora, ours.target_modules) == (lora.use_rslora, lora.target_modules)
    batch = ours.batch(1)
    assert batch.micro == theirs.per_device_train_batch_size
    assert batch.passes == theirs.gradient_accumulation_steps
    assert ours.per_device_eval_batch_size == theirs.per_device_eval_batch_size
    assert ours.gradient_checkpointing == theirs.gradient_checkpointing


def test_a_job_records_all_that_a_point_gave(tmp_path: Path, experiment: Write, write_job: Write) -> None:
    job = write_job(experiment(num_train_epochs=2), POINT, base_score=True)
    train.run(job)
    (result,) = results(job)
    base = json.loads((tmp_path / "job.base.json").read_text())["eval_loss"]
    assert result.status == "ok"
    assert result.metrics["eval_loss"] < result.metrics["train_loss"] < base
    assert result.metrics["trainable_parameters"] == 2 * 2 * 2 * 32 * 4  # layers, modules, A and B, width, rank
    assert set(result.phases) == {"start", "load", "train", "score"}
    assert result.seconds == pytest.approx(sum(result.phases.values()))
    lines = [json.loads(line) for line in (tmp_path / "job/job0/progress.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "eval_loss" in line]
    assert [(line["epoch"], line["step"], line["steps"]) for line in epochs] == [(1.0, 5, 10), (2.0, 10, 10)]
    assert epochs[-1]["eval_loss"] == result.metrics["eval_loss"]
    assert sum(line["train_loss"] for line in epochs) / 2 == pytest.approx(result.metrics["train_loss"])
    assert epochs[-1]["learning_rate"] == pytest.approx(3e-3 / 10)  # what the last step used, linear to 0


def test_the_saved_adapter_is_what_was_scored(
    tmp_path: Path, experiment: Write, write_job: Write, small_model: Path
) -> None:
    file = experiment()
    job = write_job(file, POINT)
    train.run(job)
    setup = setups.load(read_experiment(file))
    fresh = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(fresh, tmp_path / "job/job0/adapter")
    loss = peer.token_loss(tuned, setup.data.valid, 1)
    assert results(job)[0].metrics["eval_loss"] == pytest.approx(loss, rel=1e-6)
    assert not list((tmp_path / "job/job0").glob("adapter/*.bin"))


def test_a_points_result_depends_on_the_point_alone(experiment: Write, write_job: Write) -> None:
    """A good point after one that diverges, with dropout and in another place of the job, gives the same bits."""
    file = experiment(lora_dropout=0.1)
    together = write_job(
        file, {"learning_rate": 1e30, "target_modules": "all-linear"}, {**POINT, "use_rslora": True}, POINT, name="all"
    )
    alone = write_job(file, POINT, name="alone")
    train.run(together)
    train.run(alone)
    diverged, stabilized, last = results(together)
    assert diverged.status == "failed" and diverged.metrics == {}
    assert "loss is nan" in str(diverged.reason) or "loss is inf" in str(diverged.reason)
    assert stabilized.status == "ok"
    (first,) = results(alone)
    assert last.metrics["eval_loss"] == first.metrics["eval_loss"] != stabilized.metrics["eval_loss"]
    assert last.metrics["train_loss"] == first.metrics["train_loss"]


def test_micro_batches_leave_the_result_unchanged(result_of: Callable[..., Result]) -> None:
    whole = result_of("whole", per_device_train_batch_size=8, label_smoothing_factor=0.1)
    cut = result_of(
        "cut", per_device_train_batch_size=2, per_device_eval_batch_size=3, gradient_checkpointing=True,
        label_smoothing_factor=0.1,
    )  # fmt: skip
    for name in ("eval_loss", "train_loss"):
        assert cut.metrics[name] == pytest.approx(whole.metrics[name], abs=1e-5)


def test_a_fidelity_takes_fewer_epochs_and_rows(tmp_path: Path, experiment: Write, write_job: Write) -> None:
    job = write_job(experiment(num_train_epochs=2, warmup_steps=0.5), POINT, POINT, POINT)
    content = json.loads(job.read_text())
    low = {"epochs_fraction": 0.5, "train_fraction": 0.25}
    content["evaluations"][1]["fidelity"] = low
    job.write_text(json.dumps(content))
    train.run(job)
    first, between, last = results(job)
    assert (first.status, between.status) == ("ok", "ok"), (first.reason, between.reason)
    assert (first.fidelity, between.fidelity, last.fidelity) == ({}, low, {})
    assert first.metrics["eval_loss"] == last.metrics["eval_loss"] != between.metrics["eval_loss"]
    applied = json.loads((tmp_path / "job/job1/applied.json").read_text())
    # 10 of 40 rows are 2 steps of at most 8 rows; half of 2 epochs is 1
    assert (applied["num_train_epochs"], applied["steps"], applied["warmup_steps"]) == (1.0, 2, 1)
    assert json.loads((tmp_path / "job/job0/applied.json").read_text())["steps"] == 10


def test_dropout_one_trains_nothing(tmp_path: Path, experiment: Write, write_job: Write) -> None:
    job = write_job(experiment(lora_dropout=1), POINT, base_score=True)
    train.run(job)
    (result,) = results(job)
    assert result.metrics["eval_loss"] == json.loads((tmp_path / "job.base.json").read_text())["eval_loss"]


def test_our_loss_is_that_of_transformers_trainer_with_peft(
    tmp_path: Path, experiment: Write, write_job: Write, small_model: Path
) -> None:
    """Same order, schedule with warm-up, clipping, weight decay, accumulation and smaller last step; no dropout."""
    same = {
        "learning_rate": 1e-2, "weight_decay": 0.1, "adam_beta2": 0.99, "max_grad_norm": 0.5, "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine", "num_train_epochs": 2, "seed": 1, "per_device_train_batch_size": 4,
    }  # fmt: skip
    file = experiment(global_batch_size=12, **same)
    job = write_job(file, POINT)
    train.run(job)
    setup = setups.load(read_experiment(file))
    examples = setup.data.train

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    theirs = get_peft_model(base, lora)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"), gradient_accumulation_steps=3, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, **same,
    )  # fmt: skip
    order = peer.Order([list(chain(*epoch_steps(examples, 12, 1, epoch))) for epoch in range(2)])
    rows = peer.features(examples)
    trainer = peer.Ordered(theirs, arguments, peer.collate, train_dataset=rows, order=order)
    trainer.train()
    loss = peer.token_loss(theirs, setup.data.valid, 1)
    (result,) = results(job)
    print(f"ours {result.metrics['eval_loss']:.7f}, transformers.Trainer {loss:.7f}")
    assert trainer.state.global_step == 8
    assert result.metrics["eval_loss"] == pytest.approx(loss, abs=1e-3)
    assert result.metrics["train_loss"] == pytest.approx(trainer.state.log_history[-1]["train_loss"], abs=1e-3)


ALL = {
    "lora_rank": 2, "lora_alpha": 3.5, "lora_dropout": 0.1, "use_rslora": True, "target_modules": "all-linear",
    "learning_rate": 2e-3, "weight_decay": 0.2, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-7,
    "max_grad_norm": 0.7, "lr_scheduler_type": "polynomial", "warmup_steps": 2, "num_train_epochs": 1.5,
    "global_batch_size": 16, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4,
    "per_device_eval_batch_size": 5, "label_smoothing_factor": 0.2, "gradient_checkpointing": True, "seed": 9,
}  # fmt: skip


def test_every_setting_is_read_back(tmp_path: Path, experiment: Write, write_job: Write) -> None:
    # method: tests/blackbox/test_full.py, report_to: test_trackers.py
    assert set(ALL) == set(Training.model_fields) - {"method", "report_to"}
    assert all(value != Training.model_fields[name].default for name, value in ALL.items())
    job = write_job(experiment(), ALL)
    train.run(job)
    assert results(job)[0].status == "ok", results(job)[0].reason
    applied = applied_of(tmp_path)
    resolved = {**ALL, "num_train_epochs": 5 / 3}  # 1.5 epochs of 3 steps are 5 whole steps
    assert {name: applied[name] for name in ALL} == resolved


# What the trainer hears instead where the default would not do: other cuts of a step that are consistent.
OTHERWISE: dict[str, dict[str, Any]] = {
    "target_modules": {"target_modules": ("q_proj",)},
    "global_batch_size": {"global_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 1.0},
    "per_device_train_batch_size": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "gradient_accumulation_steps": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("name", ALL)
def test_a_setting_that_does_not_reach_the_training_fails_the_evaluation(
    name: str, experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever setting the trainer is made to overlook, the evaluation fails and names it."""
    heard = OTHERWISE.get(name, {name: Training.model_fields[name].default})
    members_of = train.members_of
    monkeypatch.setattr(
        train,
        "members_of",
        lambda setup, trainings, evaluations: members_of(
            setup, [training.model_copy(update=heard) for training in trainings], evaluations
        ),
    )
    job = write_job(experiment(), ALL)
    train.run(job)
    (result,) = results(job)
    assert result.status == "failed"
    assert f"{name}: proposed " in str(result.reason)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: CUDA out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_what_a_point_does_wrong_is_its_own_failure(
    error: Exception, reason: str, experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(experiment(), POINT, {"lora_rank": 2})
    whole = train.fit
    monkeypatch.setattr(
        train, "fit", lambda *a: failing(error)() if any(m.training.lora_rank == 4 for m in a[2]) else whole(*a)
    )
    train.run(job)
    first, second = results(job)
    assert first.status == "failed" and str(first.reason).startswith(reason)
    assert second.status == "ok"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("CUDA error: device-side assert triggered")],
)
def test_the_machines_failure_ends_the_job_without_a_result(
    error: Exception, experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(experiment(), POINT)
    monkeypatch.setattr(member, "save_adapter", failing(error))
    monkeypatch.setattr(sys, "argv", ["train", str(job)])
    assert train.main() == 75
    assert json.loads(failure_file(job).read_text())["kind"] == "machine"
    with pytest.raises(FileNotFoundError):
        results(job)


def test_a_point_that_takes_too_long_fails(experiment: Write, write_job: Write) -> None:
    job = write_job(experiment(sections={"resources": {"time_limit": 0.001}}), POINT)
    train.run(job)
    (result,) = results(job)
    assert result.reason == "took longer than resources.time_limit 0.001 s, at step 1 of 5"


def test_bad_input_is_said_in_one_sentence(
    experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(experiment(target_modules=["q_proj", "w_proj"]), POINT)
    monkeypatch.setattr(sys, "argv", ["train", str(job)])
    assert train.main() == 1
    sentence = (
        "training.target_modules: the model has no w_proj, "
        "it has down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
    )
    assert capsys.readouterr().err.splitlines()[-1] == sentence
    assert json.loads(failure_file(job).read_text()) == {"kind": "input", "messages": [sentence]}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no config.json in"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "no *.safetensors in"),
        ({"config.json": "{}", "model.safetensors": "x"}, "cannot be loaded"),
        ({"config.json": '{"model_type": "llama"}', "model.safetensors": "x"}, "damaged weights in"),
    ],
)
def test_a_bad_model_folder_is_refused(tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    settings = ModelSettings(path=str(tmp_path))
    with pytest.raises(InputError, match=re.escape(sentence)):
        models.load_model(models.find_model(settings, tmp_path), settings)


@pytest.mark.parametrize(
    ("path", "error", "sentence"),
    [
        ("./gone", None, "no such folder: "),
        (
            "org/gated",
            GatedRepoError.__new__(GatedRepoError),
            "ask for access at https://huggingface.co/org/gated, then set HF_TOKEN",
        ),
        ("org/none", RepositoryNotFoundError.__new__(RepositoryNotFoundError), "no model org/none on the hub"),
        ("org/far", LocalEntryNotFoundError("no network"), "run `hf download org/far` where there is a network"),
        ("no such id", None, "neither a folder nor a hub id"),
    ],
)
def test_a_model_that_cannot_be_had_gets_advice(
    path: str, error: Exception | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if error is not None:
        monkeypatch.setattr(models, "snapshot_download", lambda *_, **__: failing(error)())
    with pytest.raises(InputError, match=re.escape(sentence)):
        models.find_model(ModelSettings(path=path), tmp_path)


def test_the_base_model_is_left_as_it_was(small_model: Path, tmp_path: Path) -> None:
    settings = ModelSettings(path=str(small_model))
    base = models.load_model(models.find_model(settings, tmp_path), settings)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    names = [name for name, _ in base.named_modules()]
    assert models.detach(models.attach(base, {"member0": Training(target_modules="all-linear")})) is base
    assert [name for name, _ in base.named_modules()] == names
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns where it finds an adapter already
        models.attach(base, {"member0": Training(target_modules=("q_proj",))})
