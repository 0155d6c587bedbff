"""Does each variable of the space change the training? A dead one would be tuned for nothing, and looks like a result.

One short packed training shows it: a full schedule of ten steps in the middle of the space, with a low and a high value
of each variable in turn, whose adapters must differ in the end. What changes only the length or the batches of a
training is judged by these.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bbo.experiment import Experiment
from bbo.store import Evaluation
from blackbox.data import Data
from blackbox.fit import fit
from blackbox.member import members_of
from blackbox.planner import OF_THE_ADAPTER
from blackbox.settings import Settings, Training
from blackbox.setup import Setup

STEPS = 10
ROWS_PER_STEP = 2


def dead(experiment: Experiment, settings: Settings, setup: Setup, processes: int) -> list[str]:
    """One sentence for each variable that changes nothing."""
    rows = len(setup.data.train)
    in_doubt: dict[str, tuple[Training, Training]] = {}
    sentences = []
    for name, points in experiment.space.ends():
        if name in experiment.allow_dead:
            continue
        low, high = (settings.training_for(experiment.space.decode(point)) for point in points)
        first, second = low.determinants(processes), high.determinants(processes)
        differing = {setting for setting in first if first[setting] != second[setting]}
        if differing & OF_THE_ADAPTER:
            in_doubt[name] = (low, high)
        elif _length(low, rows, processes) == _length(high, rows, processes):
            sentences.append(_sentence(name, "the same steps over the same batches"))
    weights = _train_shortly(setup, [training for both in in_doubt.values() for training in both])
    for name in in_doubt:
        if _equal(next(weights), next(weights)):
            sentences.append(_sentence(name, f"the same adapter after {STEPS} steps in the middle of the space"))
    return sentences


def _length(training: Training, rows: int, processes: int) -> tuple[int, int]:
    """Optimizer steps, and sequences in each."""
    return training.steps(rows, processes), training.batch(processes).size


def _train_shortly(setup: Setup, trainings: Sequence[Training]) -> Iterator[dict[str, Tensor]]:
    """The weights after a full schedule of a few steps with few rows, in order; of whole models one after another."""
    if not trainings:
        return
    rows = setup.data.train[: STEPS * ROWS_PER_STEP]
    batch = {
        "global_batch_size": ROWS_PER_STEP,
        "per_device_train_batch_size": None,
        "gradient_accumulation_steps": None,
    }
    length = {"num_train_epochs": STEPS / math.ceil(len(rows) / ROWS_PER_STEP)}
    short = [training.model_copy(update=batch | length) for training in trainings]
    few = replace(setup, data=Data(rows, setup.data.valid[:1], 0), time_limit=None, keep_state=False)
    packs = [[training] for training in short] if short[0].method == "full" else [short]
    for pack in packs:
        yield from _trained(few, pack)


def _trained(setup: Setup, trainings: Sequence[Training]) -> list[dict[str, Tensor]]:
    """The weights of these, trained together."""
    with tempfile.TemporaryDirectory() as folder:
        evaluations = [Evaluation(Path(folder) / str(number)) for number in range(len(trainings))]
        for evaluation in evaluations:
            evaluation.folder.mkdir()
        with members_of(setup, trainings, evaluations) as (pack, members):
            fit(setup, pack, members)
            return [{name: value.detach().clone() for name, value in m.parameters.items()} for m in members]


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.shape == second[name].shape and torch.equal(value, second[name]) for name, value in first.items()
    )


def _sentence(name: str, what: str) -> str:
    advice = "fix it at one value, or name it in allow_dead"
    return f"space.{name}: changes nothing: its lowest and its highest value give {what}; {advice}"
