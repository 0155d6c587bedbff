"""A run as a comparison sees it: what it had found after so many evaluations and so much training."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bbo.experiment import Experiment
from bbo.front import is_good
from bbo.runlog import Answer, Ask, RunLog
from bbo.store import Evaluation, Store


@dataclass
class Trace:
    """One run: lists with an entry per answer, in the order in which they came. Smaller losses are better."""

    seed: int
    evaluations: list[float] = field(default_factory=list)
    """So far. Where an optimizer asks for parts of a training each counts as that fraction."""
    seconds: list[float] = field(default_factory=list)
    """So far, of recorded training, whoever trained it; what one run asks for again is charged once."""
    gpu_seconds: list[float] = field(default_factory=list)
    """The same, times GPUs."""
    best: list[float] = field(default_factory=list)
    """So far; Inf until there is a good one."""
    losses: list[float] = field(default_factory=list)
    """Of each; Inf where it was not good."""
    worst: float = -math.inf
    """Of the good ones."""
    first: tuple[tuple[float, ...], float] | None = None
    """The first point and its loss; Inf where it was not good."""
    counts: Counter[str] = field(default_factory=Counter)
    """Evaluations by where the answer came from: trained, store, failed, stopped."""
    unknown: int = 0
    """Evaluations whose time is not recorded: they are charged nothing."""

    @property
    def final(self) -> float:
        return self.best[-1] if self.best else math.inf

    def at(self, positions: Sequence[float], where: float) -> float:
        """The best so far at a place on one of the axes; Inf before the first answer."""
        index = bisect_right(positions, where)
        return self.best[index - 1] if index else math.inf

    def reach(self, positions: Sequence[float], level: float) -> float:
        """Where on an axis the best is first no worse than `level`; Inf if never."""
        return next((where for where, best in zip(positions, self.best, strict=True) if best <= level), math.inf)


def read_trace(experiment: Experiment, log: RunLog, store: Store, seed: int, whole: float = 1.0) -> Trace:
    """Read a run; `whole` is the fraction of the epochs that counts as one evaluation."""
    trace = Trace(seed)
    evaluations, best = 0.0, math.inf
    charged: dict[str, tuple[float, float]] = {}
    for ask, answer in _answered(log):
        before, cost = charged.get(ask.key, (0.0, 0.0)), _cost(store.evaluation(ask.key), answer)
        trace.unknown += cost is None
        charged[ask.key] = max(before, cost or before)  # more than before where it was stopped early then
        if ask.surrogate:  # its time is spent, but it is no evaluation
            continue
        loss = _loss(experiment, answer)
        if math.isfinite(loss):
            best, trace.worst = min(best, loss), max(trace.worst, loss)
        trace.first = trace.first or (ask.point, loss)
        evaluations += ask.fidelity.get("epochs_fraction", 1.0) / whole
        trace.evaluations.append(round(evaluations, 9))
        trace.seconds.append(math.fsum(seconds for seconds, _ in charged.values()))
        trace.gpu_seconds.append(math.fsum(seconds for _, seconds in charged.values()))
        trace.best.append(best)
        trace.losses.append(loss)
        trace.counts[answer.source] += 1
    return trace


def _answered(log: RunLog) -> Iterator[tuple[Ask, Answer]]:
    """The asks of the run's optimizer, its surrogate's too, as they were answered, each once."""
    native = not log.driven  # nobody but a native NOMAD has asked
    for answer in log.arrived:
        ask = log.asks[answer.number - 1]
        if ask.native == native and log.answers[answer.number] is answer and answer.source != "declined":
            yield ask, answer


def _loss(experiment: Experiment, answer: Answer) -> float:
    """What was measured on a whole evaluation that keeps the constraints; else Inf."""
    if not is_good(experiment, answer):
        return math.inf
    assert answer.values is not None
    return answer.values[experiment.objective]


def _cost(evaluation: Evaluation, answer: Answer) -> tuple[float, float] | None:
    """Seconds and GPU-seconds of an evaluation; where this run stopped it early, up to there."""
    if answer.source not in ("trained", "store", "failed"):
        return None if answer.seconds is None else (answer.seconds, answer.gpu_seconds or 0.0)
    return evaluation.spent()
