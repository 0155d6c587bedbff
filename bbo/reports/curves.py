"""What happened inside evaluations: validation losses epoch by epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bbo.record import Entry, Status


@dataclass(frozen=True)
class LearningCurve:
    """One evaluation, as far as this run took it."""

    number: int
    status: Status
    epochs: tuple[float, ...]
    losses: tuple[float, ...]
    """Not finite where it diverged."""


def learning_curves(entries: Sequence[Entry]) -> list[LearningCurve]:
    """Of every different evaluation that has an epoch behind it; one under way has those so far."""
    curves: dict[str, LearningCurve] = {}
    for entry in entries:
        until = math.inf if entry.answer is None or entry.answer.epoch is None else entry.answer.epoch
        lines = [each for each in entry.evaluation.epochs() if "eval_loss" in each and each["epoch"] <= until]
        if lines and entry.status != "declined":
            epochs, losses = tuple(each["epoch"] for each in lines), tuple(each["eval_loss"] for each in lines)
            curves.setdefault(entry.ask.key, LearningCurve(entry.ask.number, entry.status, epochs, losses))
    return list(curves.values())
