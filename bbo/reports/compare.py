"""Methods compared by the figures of merit that their runs' logs and one store give: `compare` makes them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from bbo.reports.significance import Pair, mean, pairs
from bbo.reports.trace import Trace


@dataclass(frozen=True)
class Subject:
    """What is compared, in the words of its report."""

    name: str
    metric: str
    sign: float
    """-1 where the metric is maximized: losses are its negatives."""
    budget: int
    seeds: int
    """Planned, of each method."""
    base: float | None = None
    """The untouched base model's score."""
    x0: tuple[float, ...] | None = None
    """The point that runs may begin with."""


@dataclass(frozen=True)
class Level:
    """A loss to reach: the same for all seeds, or (X0's) each seed's own."""

    name: str
    loss: float
    by_seed: Mapping[int, float] = field(default_factory=dict)

    def of(self, seed: int) -> float:
        return self.by_seed.get(seed, self.loss)


@dataclass(frozen=True)
class Curve:
    """Best so far: mean and standard error over the seeds, where one is worth showing."""

    x: list[float]
    mean: list[float]
    error: list[float | None]


@dataclass(frozen=True)
class Reached:
    """How soon a method's runs were as good as a level. Medians over the seeds are Inf where most never were."""

    runs: int
    evaluations: float
    hours: float


@dataclass(frozen=True)
class Method:
    """What the runs of one method gave. Scores with the metric's own sign."""

    name: str
    traces: Sequence[Trace]
    best: tuple[float, float | None]
    """Final best, mean and standard error."""
    hours: tuple[float, float | None]
    none_good: int
    """Runs without any good evaluation."""
    reached: Sequence[Reached]
    by_evaluations: Curve
    by_hours: Curve


@dataclass(frozen=True)
class Comparison:
    """All figures of merit."""

    subject: Subject
    on_gpus: bool
    """Whether hours are GPU-hours; else hours of training wherever it ran."""
    levels: Mapping[str, float]
    """With the metric's own sign, by what they are."""
    worst: float
    """What runs, or beginnings of runs, without a good evaluation count as: the worst good one that there was."""
    methods: Sequence[Method]
    """Of those that have runs, the best mean first."""
    pairs: Sequence[Pair]

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.on_gpus else "hours"

    def verdict(self, a: str, b: str) -> str:
        """Of a against b."""
        turned = {"better": "worse", "worse": "better"}
        for pair in self.pairs:
            if (pair.a, pair.b) == (a, b):
                return pair.verdict
            if (pair.a, pair.b) == (b, a):
                return turned.get(pair.verdict, pair.verdict)
        raise KeyError((a, b))


def compare(subject: Subject, runs: Mapping[str, Sequence[Trace]], levels: Sequence[float] = ()) -> Comparison:
    """Compare complete runs by method; `levels`, in the metric's own sign, are those to reach."""
    runs = {name: [trace for trace in traces if trace.best] for name, traces in runs.items()}
    runs = {name: traces for name, traces in runs.items() if traces}
    every = [trace for traces in runs.values() for trace in traces]
    on_gpus = any(trace.gpu_seconds[-1] > 0 for trace in every)
    worst = max((trace.worst for trace in every), default=-math.inf)
    worst = worst if math.isfinite(worst) else 0.0  # nobody has anything: all count the same
    goals = [Level(f"{level:g}", subject.sign * level) for level in levels] or _levels(subject, every)
    finals = {name: {t.seed: min(t.final, worst) for t in traces} for name, traces in runs.items()}
    methods = [_method(name, traces, subject.sign, worst, goals, on_gpus) for name, traces in runs.items()]
    return Comparison(
        subject,
        on_gpus,
        {goal.name: subject.sign * goal.loss for goal in goals},
        subject.sign * worst,
        sorted(methods, key=lambda method: subject.sign * method.best[0]),
        pairs(finals),
    )


def _levels(subject: Subject, every: Sequence[Trace]) -> list[Level]:
    """X0's loss, where runs began there; the median of all finals, and what the best quarter of them reached."""
    began = {trace.seed: trace.first[1] for trace in every if trace.first and trace.first[0] == subject.x0}
    began = {seed: loss for seed, loss in began.items() if math.isfinite(loss)}
    finals = [trace.final for trace in every if math.isfinite(trace.final)]
    found = [Level("X0", median(began.values()), began)] if began else []
    if finals:
        found.append(Level("median of final bests", median(finals)))
    if len(finals) > 1:
        found.append(Level("best quarter of them", quantiles(finals, n=4, method="inclusive")[0]))
    return found


def _method(
    name: str, traces: Sequence[Trace], sign: float, worst: float, goals: Sequence[Level], on_gpus: bool
) -> Method:
    def evaluations(trace: Trace) -> Sequence[float]:
        return trace.evaluations

    def hours(trace: Trace) -> Sequence[float]:
        return [seconds / 3600 for seconds in (trace.gpu_seconds if on_gpus else trace.seconds)]

    best, error = mean([min(trace.final, worst) for trace in traces])
    return Method(
        name,
        traces,
        (sign * best, error),
        mean([hours(trace)[-1] for trace in traces]),
        sum(math.isinf(trace.final) for trace in traces),
        [_reached(traces, goal, evaluations, hours) for goal in goals],
        _curve(traces, evaluations, sign, worst),
        _curve(traces, hours, sign, worst),
    )


Axis = Callable[[Trace], Sequence[float]]


def _reached(traces: Sequence[Trace], goal: Level, evaluations: Axis, hours: Axis) -> Reached:
    first, spent = (
        [trace.reach(axis(trace), goal.of(trace.seed)) for trace in traces] for axis in (evaluations, hours)
    )
    return Reached(sum(map(math.isfinite, first)), median(first), median(spent))


def _curve(traces: Sequence[Trace], axis: Axis, sign: float, worst: float) -> Curve:
    """From where every run has an answer, to the end of the longest: a run that is over keeps its best."""
    axes = [(trace, axis(trace)) for trace in traces]
    begin = max(positions[0] for _, positions in axes)
    x = sorted({where for _, positions in axes for where in positions if where >= begin})
    means = [mean([min(trace.at(positions, where), worst) for trace, positions in axes]) for where in x]
    return Curve(x, [sign * value for value, _ in means], [error for _, error in means])


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All figures, ready for JSON; null where there is no number."""
    subject, unit = comparison.subject, comparison.unit.replace("-", "_").lower()
    return {
        "experiment": subject.name,
        "metric": subject.metric,
        "maximize": subject.sign < 0,
        "budget": subject.budget,
        "seeds": subject.seeds,
        "unit": unit,
        "base": _number(subject.base),
        "worst": _number(comparison.worst),
        "levels": dict(comparison.levels),
        "methods": {method.name: _method_json(method, comparison, unit) for method in comparison.methods},
        "pairs": [{name: _number(value) for name, value in vars(pair).items()} for pair in comparison.pairs],
    }


def _method_json(method: Method, comparison: Comparison, unit: str) -> dict[str, Any]:
    def curve(of: Curve) -> dict[str, Any]:
        return {"x": of.x, "mean": of.mean, "error": of.error}

    return {
        "best": {"mean": method.best[0], "error": method.best[1]},
        unit: {"mean": method.hours[0], "error": method.hours[1]},
        "none_good": method.none_good,
        "reached": {
            name: {"runs": to.runs, "evaluations": _number(to.evaluations), unit: _number(to.hours)}
            for name, to in zip(comparison.levels, method.reached, strict=True)
        },
        "curves": {"evaluations": curve(method.by_evaluations), unit: curve(method.by_hours)},
        "runs": [_run_json(trace, comparison.subject.sign) for trace in method.traces],
    }


def _run_json(trace: Trace, sign: float) -> dict[str, Any]:
    return {
        "seed": trace.seed,
        "evaluations": trace.evaluations,
        "seconds": trace.seconds,
        "gpu_seconds": trace.gpu_seconds,
        "best": [_number(sign * best) for best in trace.best],
        "counts": dict(trace.counts),
    }


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
