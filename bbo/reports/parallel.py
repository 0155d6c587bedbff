"""Parallel coordinates: each evaluation as a line over the hyperparameters' true values and its objective."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bbo.experiment import Experiment
from bbo.record import Entry, Status
from bbo.reports.study import WIDE, numbers_of
from bbo.reports.style import short
from bbo.space import Space, Value, Variable

MOST_TICKS = 12


@dataclass(frozen=True)
class Axis:
    """A vertical axis from 0 (bottom) to 1 (top)."""

    name: str
    ticks: Sequence[tuple[float, str]]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: Sequence[Value] = ()
    """Of a choice: one place each, evenly spaced."""

    def place(self, value: Value) -> float:
        """Where a value stands."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1) if len(self.choices) > 1 else 0.5
        low, high, here = (_scaled(float(each), self.log) for each in (self.low, self.high, value))  # type: ignore[arg-type]
        return (here - low) / (high - low) if high > low else 0.5


@dataclass(frozen=True)
class Line:
    """An evaluation; without a value it stands on the hyperparameters' axes alone."""

    number: int
    status: Status
    places: tuple[float, ...]
    value: float | None
    """The (first) objective, with the metric's own sign."""
    words: str
    """All of it, for who points at the line."""


@dataclass(frozen=True)
class Parallel:
    """The figure."""

    axes: Sequence[Axis]
    """The last one is the objective's."""
    lines: Sequence[Line]
    better: str
    """lower or higher."""


def parallel(experiment: Experiment, entries: Sequence[Entry]) -> Parallel:
    """All evaluations that are over, the worst first, so that the best are drawn above the others."""
    output = experiment.outputs[experiment.objective]
    over = [entry for entry in entries if entry.status in ("ok", "infeasible", "failed", "stopped")]
    told = [None if (v := entry.values) is None else output.sign * v[experiment.objective] for entry in over]
    finite = [value for value in told if value is not None and math.isfinite(value)]
    space = experiment.space
    axes = [_axis(name, space) for name in space.free]
    if finite:
        axes.append(_numbers(output.metric, min(finite), max(finite), _spread(min(finite), max(finite), 5)))
    lines = []
    for entry, value in zip(over, told, strict=True):
        known = value is not None and math.isfinite(value)
        places = [axis.place(entry.hyperparameters[name]) for axis, name in zip(axes, space.free, strict=False)] + (
            [axes[-1].place(value)] if value is not None and known else []
        )
        words = ", ".join(f"{name} {_spelt(entry.hyperparameters[name])}" for name in space.free)
        what = f"{output.metric} {value:.5g}" if value is not None and known else entry.status
        lines.append(
            Line(
                entry.ask.number,
                entry.status,
                tuple(places),
                value if known else None,
                f"#{entry.ask.number} {what}: {words}",
            )
        )
    lines.sort(key=lambda line: -math.inf if line.value is None else -output.sign * line.value)
    return Parallel(axes, lines, "higher" if output.sign < 0 else "lower")


def _axis(name: str, space: Space) -> Axis:
    variable = space.variables[name]
    if variable.times is not None:
        own, factor = _range(variable), _range(space.variables[variable.times])
        ends = [a * b for a in own for b in factor]
        return _numbers(name, min(ends), max(ends), _spread(min(ends), max(ends), WIDE))
    if variable.choice is not None:
        numbers = numbers_of(variable)
        choices: Sequence[Value] = variable.choice if numbers is None else sorted(variable.choice)
        every = math.ceil(len(choices) / MOST_TICKS)
        last = max(1, len(choices) - 1)
        ticks = [(place / last if len(choices) > 1 else 0.5, _spelt(value)) for place, value in enumerate(choices)]
        return Axis(name, ticks[::every], choices=tuple(choices))
    low, high = _range(variable)
    return _numbers(name, low, high, variable.kind == "log10", variable.whole)


def _range(variable: Variable) -> tuple[float, float]:
    """Lowest and highest true value, without `times`."""
    if variable.kind == "fixed":
        return float(variable.fixed), float(variable.fixed)  # type: ignore[arg-type]
    if (numbers := numbers_of(variable)) is not None:
        return numbers[0], numbers[-1]
    return float(variable.decode(variable.lower)), float(variable.decode(variable.upper))  # type: ignore[arg-type]


def _numbers(name: str, low: float, high: float, log: bool, whole: bool = False) -> Axis:
    """With ticks at round numbers, and at the ends of a range of integers."""
    if low == high:
        return Axis(name, [(0.5, short(low))], low, high)
    bare = Axis(name, (), low, high, log)
    ticks = _decades(low, high) if log else _round(low, high)
    if whole:
        gap = (high - low) / 12
        ticks = [low, *(tick for tick in ticks if low + gap < tick < high - gap and tick.is_integer()), high]
    return Axis(name, [(bare.place(tick), short(tick)) for tick in ticks], low, high, log)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten; where there are few, with 2 and 5 times them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) >= 4:
            return inside
    return [low, high]


def _round(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _spread(low: float, high: float, factor: float) -> bool:
    return low > 0 and high >= factor * low


def _scaled(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _spelt(value: Value) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return short(value) if isinstance(value, float) else str(value)
