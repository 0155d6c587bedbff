"""Train and score a job: `accelerate launch -m blackbox.train JOB.json`, one point after another over one base model.

A step's loss is the mean over its label tokens, however the step is cut into processes and passes. What a point does
wrong itself is recorded as its failed result and the next point goes on; anything else ends the process, and
`failure_file(JOB)` says why, since exit statuses do not survive `accelerate launch`.
"""

import gc
import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import CrossEntropyLoss
from torch.nn.functional import pad
from transformers.optimization import get_scheduler

from bbo import lifeline
from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Evaluation, write_json
from blackbox import applied
from blackbox.applied import Counts
from blackbox.data import IGNORED, Example, by_length, collate, deal, epoch_steps, label_tokens, part_of
from blackbox.failure import failure_file, write_failure
from blackbox.model import attach, detach
from blackbox.outcome import Ended, Phases, PointFailed, failed, make_result, peak_gib, reset_peak
from blackbox.settings import Training
from blackbox.setup import Setup, load, trainings_of

INPUT_REFUSED = 1
MACHINE_FAILED = 75  # EX_TEMPFAIL of sysexits.h

CHECK_STEPS = 10
"""Steps between two looks at the loss: looking makes a GPU wait, and all processes must look together."""

SHOW_SECONDS = 2.0


@dataclass
class Trainee:
    """One adapter in training, with all that acts on it."""

    training: Training
    model: Any
    optimizer: Any
    scheduler: Any
    criterion: CrossEntropyLoss
    clip: Callable[[], Any] | None
    counts: Counts


def main() -> int:
    """Exit status 0: every evaluation of the job has a result; 1: bad input; 75: the machine's failure."""
    job_file = Path(sys.argv[1])
    lifeline.watch()
    try:
        run(job_file).accelerator.end_training()
    except InputError as error:
        return _give_up(job_file, error, INPUT_REFUSED)
    except Exception as error:
        traceback.print_exc()
        return _give_up(job_file, error, MACHINE_FAILED)
    return 0


def run(job_file: Path, setup: Setup | None = None) -> Setup:
    """Train, score and record every evaluation of the job. Returns what was loaded for it, good for the next job."""
    began = time.time()
    job = json.loads(job_file.read_text())
    experiment = read_experiment(Path(job["experiment"]))
    setup = setup or load(experiment)
    trainings = trainings_of(job, experiment, setup.accelerator.num_processes)
    setup.time_limit = experiment.resources.time_limit
    phases = Phases(start=began - job["launched"], load=time.time() - began)
    base_score = None if job["base_score"] is None else Path(job["base_score"])
    whole = setup.data
    for item, training in zip(job["evaluations"], trainings, strict=True):
        evaluation, began = Evaluation(Path(item["folder"])), time.monotonic()
        setup.data = replace(
            whole, train=part_of(whole.train, item["fidelity"].get("train_fraction", 1.0), training.seed)
        )
        try:
            ended = evaluate(setup, training, evaluation, phases, base_score)
        except Exception as error:
            ended = failed(error)
            phases.train = time.monotonic() - began
            traceback.print_exc()
        setup.accelerator.free_memory()  # accelerate's own references to the point's model and optimizer
        gc.collect()
        if setup.accelerator.is_main_process or not ended.shared:
            evaluation.record(make_result(job, item, ended, phases, training.seed))
        if not ended.shared and setup.accelerator.num_processes > 1:
            os._exit(1)  # the others wait for us in a collective; torchrun ends them all when one process is gone
        phases, base_score = Phases(), None
    setup.data = whole
    return setup


def evaluate(
    setup: Setup, training: Training, evaluation: Evaluation, phases: Phases, base_score: Path | None
) -> Ended:
    """One point, from a fresh adapter to the saved one. Raises PointFailed and whatever else goes wrong on the way."""
    reset_peak()
    with trainee_of(setup, training) as trainee:
        if base_score is not None:
            began = time.time()
            score_base(setup, trainee, base_score)
            phases.load += time.time() - began
        rows, valid_rows, processes = len(setup.data.train), len(setup.data.valid), setup.accelerator.num_processes
        proposed = applied.expected(training, rows, valid_rows, processes)
        per_epoch = training.steps_per_epoch(rows, processes)
        held = read_static(setup, trainee, per_epoch)
        require_applied({name: value for name, value in proposed.items() if name in held}, held)
        metrics = train(setup, trainee, evaluation, phases)
        counts = shared_counts(setup, trainee)
        used = read_static(setup, trainee, per_epoch)
        used |= applied.read_loop(trainee.criterion, trainee.clip, counts, per_epoch)
        if setup.accelerator.is_main_process:
            write_json(evaluation.applied_file, used)
        require_applied(proposed, used)
        save_adapter(setup, trainee, evaluation.adapter)
        trainable = sum(parameter.numel() for parameter in trainee.model.parameters() if parameter.requires_grad)
    peak = setup.accelerator.reduce(torch.tensor(peak_gib(), device=setup.accelerator.device), "sum")
    return Ended({**metrics, "trainable_parameters": float(trainable), "peak_gib": float(peak)})


@contextmanager
def trainee_of(setup: Setup, training: Training) -> Iterator[Trainee]:
    """A fresh adapter on the base model, ready to train; taken off again at the end, however it ends."""
    accelerator = setup.accelerator
    torch.manual_seed(training.seed)
    counts = Counts(seed=torch.initial_seed())
    adapted = attach(setup.base, training)
    try:
        if training.gradient_checkpointing:
            adapted.activation_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(
            [parameter for parameter in adapted.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
            weight_decay=training.weight_decay,
            fused=True,
        )
        model, optimizer = accelerator.prepare(adapted, optimizer)
        steps = training.steps(len(setup.data.train), accelerator.num_processes)
        scheduler = get_scheduler(
            training.lr_scheduler_type, optimizer.optimizer, training.warmup(steps), num_training_steps=steps
        )
        criterion = CrossEntropyLoss(reduction="sum", label_smoothing=training.label_smoothing_factor)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        clip = partial(accelerator.clip_grad_norm_, parameters, max_norm=training.max_grad_norm)
        # From here on chance is dropout's alone, which differs between processes.
        torch.manual_seed((training.seed + accelerator.process_index) % 2**63)
        yield Trainee(
            training, model, optimizer, scheduler, criterion, clip if training.max_grad_norm else None, counts
        )
    finally:
        if training.gradient_checkpointing:
            adapted.activation_checkpointing_disable()
        setup.base = detach(adapted)


def train(setup: Setup, trainee: Trainee, evaluation: Evaluation, phases: Phases) -> dict[str, float]:
    """The loop over epochs and steps, with a validation after each epoch. Returns losses and run times."""
    training, accelerator, examples = trainee.training, setup.accelerator, setup.data.train
    processes, main = accelerator.num_processes, accelerator.is_main_process
    steps = training.steps(len(examples), processes)
    began = shown = time.monotonic()
    deadline = math.inf if setup.time_limit is None else began + setup.time_limit
    total = 0.0  # of the run's step losses
    spent = eval_runtime = eval_loss = 0.0
    trainee.model.train()
    for epoch in count():
        epoch_loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        order = epoch_steps(examples, training.batch(processes).size, training.seed, epoch)
        order = order[: steps - trainee.counts.steps]
        for rows in order:
            rate = trainee.optimizer.param_groups[0]["lr"]
            epoch_loss += optimizer_step(setup, trainee, rows)
            step = trainee.counts.steps
            if step % CHECK_STEPS == 0 or (processes == 1 and time.monotonic() > deadline):
                check(setup, epoch_loss, step, steps, deadline)
            if main and time.monotonic() - shown > SHOW_SECONDS:
                shown = time.monotonic()
                evaluation.progress({"step": step, "steps": steps})
        step_losses = check(setup, epoch_loss, trainee.counts.steps, steps, deadline)
        total += step_losses
        validated = time.monotonic()
        eval_loss = validation_loss(setup, trainee.model, training.per_device_eval_batch_size, trainee.counts)
        eval_runtime = time.monotonic() - validated
        spent += eval_runtime
        if not math.isfinite(eval_loss):
            raise PointFailed(f"validation loss is {eval_loss} after step {trainee.counts.steps} of {steps}")
        if main:
            evaluation.progress(
                {
                    "epoch": trainee.counts.steps / training.steps_per_epoch(len(examples), processes),
                    "step": trainee.counts.steps,
                    "steps": steps,
                    "eval_loss": eval_loss,
                    "train_loss": step_losses / len(order),
                    "learning_rate": rate,
                    "seconds": time.monotonic() - began,
                }
            )
        if trainee.counts.steps >= steps:
            break
    phases.train = time.monotonic() - began - spent
    phases.score = spent
    return {
        "eval_loss": eval_loss,
        "train_loss": total / steps,
        "eval_runtime": eval_runtime,
        "train_runtime": phases.train,
    }


def optimizer_step(setup: Setup, trainee: Trainee, rows: Sequence[int]) -> Tensor:
    """One step over `rows`. Returns this process's part of the step's loss."""
    accelerator, examples = setup.accelerator, setup.data.train
    processes = accelerator.num_processes
    tokens = label_tokens(examples[row] for row in rows)
    micro = trainee.training.batch(processes).micro
    passes = deal(rows, micro, processes, accelerator.process_index)
    share = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for number, batch in enumerate(passes, 1):
        # Gradients are exchanged in the last pass; the exchange takes the mean, our loss is a sum over processes.
        with nullcontext() if number == len(passes) else accelerator.no_sync(trainee.model):
            loss = loss_sum(setup, trainee.model, trainee.criterion, setup.data.train, batch) / tokens
            accelerator.backward(loss * processes)
        share += loss.detach()
        trainee.counts.micro = max(trainee.counts.micro, len(batch))
    if trainee.clip is not None:
        trainee.clip()
    trainee.optimizer.step()
    trainee.scheduler.step()
    trainee.optimizer.zero_grad()
    if trainee.counts.steps == 0:
        trainee.counts.rows, trainee.counts.passes = sum(map(len, passes)), len(passes)
    trainee.counts.steps += 1
    return share


def loss_sum(
    setup: Setup, model: Any, criterion: CrossEntropyLoss, examples: Sequence[Example], rows: Sequence[int]
) -> Tensor:
    """Sum of the losses of all label tokens of these rows, in float32."""
    ids, labels = (part.to(setup.accelerator.device) for part in collate(examples, rows))
    logits = model(input_ids=ids, use_cache=False).logits
    following = pad(labels, (0, 1), value=IGNORED)[:, 1:]  # position t predicts token t + 1
    learnt = following != IGNORED
    loss: Tensor = criterion(logits[learnt].float(), following[learnt])
    return loss


@torch.no_grad()
def validation_loss(setup: Setup, model: Any, micro: int, counts: Counts) -> float:
    """Mean loss of the label tokens of the validation side, without label smoothing and dropout."""
    accelerator, examples = setup.accelerator, setup.data.valid
    plain = CrossEntropyLoss(reduction="sum")
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    model.eval()
    for rows in deal(
        by_length(examples, range(len(examples))), micro, accelerator.num_processes, accelerator.process_index
    ):
        total += loss_sum(setup, model, plain, examples, rows)
        counts.eval_rows = max(counts.eval_rows, len(rows))
    model.train()
    return float(accelerator.reduce(total, "sum")) / label_tokens(examples)


def check(setup: Setup, loss: Tensor, step: int, steps: int, deadline: float) -> float:
    """The sum of step losses over all processes. Raises PointFailed where it is not finite or time is up."""
    over = time.monotonic() > deadline
    state = torch.stack((loss, torch.tensor(float(over), dtype=loss.dtype, device=loss.device)))
    total, late = setup.accelerator.reduce(state, "sum").tolist()
    if not math.isfinite(total):
        raise PointFailed(f"training loss is {total} by step {step} of {steps}")
    if late:
        raise PointFailed(f"took longer than resources.time_limit {setup.time_limit:g} s, at step {step} of {steps}")
    return float(total)


def score_base(setup: Setup, trainee: Trainee, file: Path) -> None:
    """Write the validation loss of the base model, the adapter switched off."""
    adapted = setup.accelerator.unwrap_model(trainee.model)
    with adapted.disable_adapter():
        loss = validation_loss(setup, trainee.model, trainee.training.per_device_eval_batch_size, Counts())
    if not math.isfinite(loss):
        raise InputError(
            f"model: the validation loss of the untouched base model is {loss}: try dtype bfloat16 or float32"
        )
    if setup.accelerator.is_main_process:
        write_json(file, {"eval_loss": loss})


def read_static(setup: Setup, trainee: Trainee, steps_per_epoch: int) -> dict[str, Any]:
    """What adapters, optimizer and schedule hold right now."""
    adapter = applied.read_adapter(setup.accelerator.unwrap_model(trainee.model), trainee.training)
    return adapter | applied.read_optimizer(trainee.optimizer, trainee.scheduler, steps_per_epoch)


def shared_counts(setup: Setup, trainee: Trainee) -> Counts:
    """The loop's counts over all processes."""
    mine = trainee.counts
    numbers = torch.tensor([[mine.rows, mine.micro, mine.eval_rows]], device=setup.accelerator.device)
    rows, micro, eval_rows = zip(*setup.accelerator.gather(numbers).tolist(), strict=True)
    return replace(mine, rows=sum(rows), micro=max(micro), eval_rows=max(eval_rows))


def require_applied(proposed: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    """Raise PointFailed naming each proposed value that the live objects do not have."""
    wrong = applied.differences(proposed, used)
    if wrong:
        raise PointFailed("applied differs from proposed: " + "; ".join(wrong))


def save_adapter(setup: Setup, trainee: Trainee, folder: Path) -> None:
    """Save in PEFT's format: whole under its name, or not there."""
    adapted = setup.accelerator.unwrap_model(trainee.model)
    state = {
        name: parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    if not setup.accelerator.is_main_process:
        return
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    adapted.save_pretrained(temporary, state_dict=state, save_embedding_layers=False)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _give_up(job_file: Path, error: Exception, status: int) -> int:
    write_failure(failure_file(job_file), error)
    print(error, file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
