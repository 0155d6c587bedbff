"""The trainer against plain transformers, its independence of cuts and companions, and what it does when things fail."""

import errno
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from bbo.errors import InputError, MachineError
from bbo.experiment import read_experiment
from bbo.store import Result
from blackbox import model as models
from blackbox import setup as setups
from blackbox import train
from blackbox.applied import Counts
from blackbox.data import collate, epoch_steps
from blackbox.failure import failure_file
from blackbox.hyperparameters import DETERMINES_NOTHING, Training
from blackbox.settings import ModelSettings, read_settings
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
    others = {"lora_rank", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "global_batch_size"}
    for name in set(Training.model_fields) - others - DETERMINES_NOTHING:
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
    job = write_job(experiment(), POINT)
    train.run(job)
    setup, (training,) = setups.load(json.loads(job.read_text()))
    fresh = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(fresh, tmp_path / "job/job0/adapter")
    loss = train.validation_loss(setup, tuned, training.per_device_eval_batch_size, Counts())
    assert loss == results(job)[0].metrics["eval_loss"]
    assert not list((tmp_path / "job/job0").glob("adapter/*.bin"))


def test_a_points_result_depends_on_the_point_alone(experiment: Write, write_job: Write) -> None:
    """A good point after one that diverges, with dropout and in another place of the job, gives the same bits."""
    file = experiment(lora_dropout=0.1)
    together = write_job(file, {"learning_rate": 1e8, "lora_rank": 8}, {**POINT, "use_rslora": True}, POINT, name="all")
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


def test_dropout_one_trains_nothing(tmp_path: Path, experiment: Write, write_job: Write) -> None:
    job = write_job(experiment(lora_dropout=1), POINT, base_score=True)
    train.run(job)
    (result,) = results(job)
    assert result.metrics["eval_loss"] == json.loads((tmp_path / "job.base.json").read_text())["eval_loss"]


class Ordered(Trainer):
    """transformers' Trainer over rows in the order they are given."""

    def _get_train_sampler(self, *unused: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def test_our_loss_is_that_of_transformers_trainer_with_peft(
    tmp_path: Path, experiment: Write, write_job: Write, small_model: Path
) -> None:
    """Same data order, schedule with warm-up, clipping, weight decay, accumulation and a smaller last batch; no dropout."""
    settings = {
        "learning_rate": 1e-2, "weight_decay": 0.1, "adam_beta2": 0.99, "max_grad_norm": 0.5, "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine", "num_train_epochs": 2, "seed": 1,
    }  # fmt: skip
    job = write_job(experiment(global_batch_size=12, per_device_train_batch_size=4, **settings), POINT)
    train.run(job)
    setup, (training,) = setups.load(json.loads(job.read_text()))
    assert training.batch(1).passes == 3

    rows: list[dict[str, Any]] = []
    for epoch in range(2):
        for step in epoch_steps(setup.data.train, 12, 1, epoch):
            rows += [{"row": row} for row in step]
    base = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    torch.manual_seed(1)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    theirs = get_peft_model(base, lora)

    def collator(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, labels = collate(setup.data.train, [item["row"] for item in batch])
        real = torch.arange(ids.shape[1]) < torch.tensor(
            [[len(setup.data.train[item["row"]].tokens)] for item in batch]
        )
        return {"input_ids": ids, "labels": labels, "attention_mask": real.long()}

    # One epoch after the other, since the order changes; a plain Trainer runs them in one go over both epochs' rows,
    # whose steps are 12, 12, 12, 4 rows each: so it is given the rows of each step as its batches.
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"), per_device_train_batch_size=4, gradient_accumulation_steps=3, use_cpu=True,
        report_to=[], save_strategy="no", remove_unused_columns=False, disable_tqdm=True, max_steps=8,
        **{**settings, "num_train_epochs": 1},
    )  # fmt: skip
    trainer = Ordered(theirs, arguments, collator, train_dataset=rows)  # type: ignore[arg-type]
    trainer.train()
    loss = train.validation_loss(setup, theirs, 8, Counts())
    ours = results(job)[0].metrics["eval_loss"]
    print(f"ours {ours:.7f}, transformers.Trainer {loss:.7f}, difference {abs(ours - loss):.2e}")
    assert ours == pytest.approx(loss, abs=1e-3)
    assert trainer.state.global_step == 8
