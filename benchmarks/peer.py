"""The peer that we measure ourselves against: transformers' Trainer with PEFT's adapters, as a plain script has them.

`accelerate launch -m benchmarks.peer EXPERIMENT.yaml HYPERPARAMETERS --out FOLDER` trains one point, as those systems
do that start a script for each: same model, data, template and tokens as ours, the Trainer's own data loading.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from bbo.experiment import read_experiment
from blackbox.data import Example
from blackbox.hyperparameters import Training
from blackbox.model import find_model, load_model, load_tokenizer
from blackbox.settings import read_settings
from blackbox.setup import data_for

SAME = (
    "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type",
    "warmup_steps", "num_train_epochs", "label_smoothing_factor", "per_device_eval_batch_size",
    "seed",
)  # fmt: skip
"""Settings that have the same name and meaning on both sides."""

IGNORED = -100
"""transformers' label of a token that is not learnt."""


def adapted(base: Any, training: Training) -> PeftModel:
    """The base model with a fresh adapter."""
    targets = training.target_modules
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,  # type: ignore[arg-type]  # a scale, any number works
        lora_dropout=training.lora_dropout,
        use_rslora=training.use_rslora,
        target_modules=list(targets) if isinstance(targets, tuple) else targets,
    )
    torch.manual_seed(training.seed)
    return get_peft_model(base, lora)


def arguments(training: Training, out: Path, **more: Any) -> TrainingArguments:
    """The Trainer's settings for one process."""
    batch = training.batch(1)
    same = {name: getattr(training, name) for name in SAME}
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=batch.micro,
        gradient_accumulation_steps=batch.passes,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **{**same, **more},
    )


def features(examples: Sequence[Example]) -> Any:
    """Rows as the Trainer takes them."""
    return [{"input_ids": list(e.tokens), "labels": [IGNORED] * e.start + list(e.tokens[e.start :])} for e in examples]


def collate(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
    """Rows padded on the right to the longest, without a tokenizer."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = torch.arange(longest) < lengths[:, None]
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", IGNORED), "attention_mask": mask.long()}


class Order(Sampler[int]):
    """A given order of rows for each epoch."""

    def __init__(self, epochs: Sequence[Sequence[int]]) -> None:
        self._epochs = iter(epochs)
        self._rows = len(epochs[0])

    def __iter__(self) -> Iterator[int]:
        return iter(next(self._epochs))

    def __len__(self) -> int:
        return self._rows


class Ordered(Trainer):
    """The Trainer, told the order of rows; it remembers the loss of every pass."""

    def __init__(self, *settings: Any, order: Order, **more: Any) -> None:
        super().__init__(*settings, **more)
        self.remove_callback(PrinterCallback)
        self.order = order
        self.losses: list[Tensor] = []

    def _get_train_sampler(self, *_: Any) -> Any:
        return self.order

    def training_step(self, *inputs: Any, **more: Any) -> Tensor:
        loss: Tensor = super().training_step(*inputs, **more)
        self.losses.append(loss)
        return loss


@torch.no_grad()
def token_loss(model: Any, examples: Sequence[Example], micro: int) -> float:
    """Mean loss over all label tokens as transformers computes it (the Trainer's eval_loss is a mean of batches)."""
    model.eval()
    total = 0.0
    for first in range(0, len(examples), micro):
        rows = examples[first : first + micro]
        total += float(model(**collate(features(rows))).loss) * sum(row.labels for row in rows)
    return total / sum(row.labels for row in examples)


def main(words: Sequence[str] | None = None) -> None:
    """Train, evaluate after every epoch, save the adapter; loss and seconds go to FOLDER/peer.json."""
    began = time.time()
    parser = argparse.ArgumentParser("python -m benchmarks.peer", description=__doc__)
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    parser.add_argument("hyperparameters", type=json.loads, help="as JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--launched", type=float, default=began, help="when the launcher was started, since 1970")
    options = parser.parse_args(words)
    settings = read_settings(read_experiment(options.experiment))
    training = settings.training_for(options.hyperparameters)
    folder = find_model(settings.model, settings.base)
    tokenizer = load_tokenizer(folder)
    data = data_for(settings, tokenizer)
    trainer = Trainer(
        adapted(load_model(folder, settings.model), training),
        arguments(training, options.out, eval_strategy="epoch"),
        DataCollatorForSeq2Seq(tokenizer),
        train_dataset=features(data.train),
        eval_dataset=features(data.valid),
    )
    loaded = time.time()
    trainer.train()
    trained = time.time()
    trainer.save_model()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    scoring = sum(entry["eval_runtime"] for entry in evaluations)
    phases = {
        "start": began - options.launched,
        "load": loaded - began,
        "train": trained - loaded - scoring,
        "score": scoring,
        "save": time.time() - trained,
    }
    loss = evaluations[-1]["eval_loss"]
    (options.out / "peer.json").write_text(json.dumps({"eval_loss": loss, "phases": phases}))
    print(f"eval_loss {loss:.6f}")


if __name__ == "__main__":
    main()
