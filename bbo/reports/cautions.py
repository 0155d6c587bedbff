"""What a reader of a run must know before believing it, in sentences."""

import math
from collections.abc import Iterator, Mapping
from statistics import fmean, variance
from typing import Any

from bbo.display import spelt
from bbo.record import Entry
from bbo.reports.overview import Overview
from bbo.reports.study import numbers_of
from bbo.space import Variable

FEW = 10
"""Good evaluations below which figures over hyperparameters say little."""

NEAR = 0.01
"""Of a range: what counts as on its bound, since samplers come near to one without reaching it."""


def cautions(overview: Overview) -> list[str]:
    """All that apply."""
    return [*_leaks(overview), *_finished(overview), *_base(overview), *_bounds(overview), *_noise(overview)]


def _leaks(overview: Overview) -> Iterator[str]:
    experiment = overview.record.experiment
    if experiment.data.get("allow_leak"):
        yield (
            "Leaks are allowed (data.allow_leak): validation rows that are training rows too flatter every score here. "
            "Remove them."
        )
    if experiment.allow_dead:
        yield f"Allowed to change nothing (allow_dead): {', '.join(experiment.allow_dead)}."


def _finished(overview: Overview) -> Iterator[str]:
    whole, over, counts = overview.counts["ok"], len(overview.over), overview.counts
    if counts["pending"]:
        yield f"The run is not over: {_counted(counts['pending'])} without an answer."
    if whole < FEW:
        yield f"Few finished: {_counted(whole, 'good ')}. Importances, slices and contours say little below {FEW}."
    if counts["failed"] and counts["failed"] * 4 >= over:
        yield f"{counts['failed']} of {over} evaluations failed, most often: {overview.reasons.most_common(1)[0][0]}."
    if counts["infeasible"] and not whole:
        yield "No evaluation keeps all constraints."


def _counted(count: int, kind: str = "") -> str:
    return f"{count} {kind}evaluation{'' if count == 1 else 's'}"


def _base(overview: Overview) -> Iterator[str]:
    if (best := overview.best) is None:
        return
    gain = overview.gain(best, overview.base)
    if gain is not None and gain <= 0:
        yield f"The best is no better than the untouched base model ({spelt(overview.base or 0.0)})."


def _bounds(overview: Overview) -> Iterator[str]:
    """Of the best alone where there is one objective, of the whole front where there are several."""
    good = [entry for entry in overview.over if entry.status == "ok"]
    for place, name in enumerate(overview.record.experiment.space.free):
        variable = overview.record.experiment.space.variables[name]
        sides = {entry.ask.number: side_of(variable, entry.ask.point[place]) for entry in good}
        for side in ("lower", "upper"):
            there = [entry for entry in overview.front if sides[entry.ask.number] == side]
            if there and len(there) == len(overview.front):
                share = f"{sum(each == side for each in sides.values())} of {len(good)} good evaluations are there"
                yield _widen(variable, name, there[0], side, share)


def _widen(variable: Variable, name: str, entry: Entry, side: str, share: str) -> str:
    value = entry.hyperparameters[name]
    shown = f"{value:.4g}" if isinstance(value, float) else value
    which = "downwards" if side == "lower" else "upwards"
    factor = f" (its factor of {variable.times})" if variable.times else ""
    return (
        f"The best is on the {side} bound of {name}{factor}, {shown}: widen it {which}. {share[0].upper()}{share[1:]}."
    )


def side_of(variable: Variable, x: float) -> str | None:
    """Which bound a coordinate is on, by the values behind it; None for a choice of words, or a natural bound."""
    numbers = numbers_of(variable)
    if variable.kind == "choice":
        if numbers is None or len(numbers) == 1:
            return None
        value = float(variable.decode(x))  # type: ignore[arg-type]
        side = "lower" if value == numbers[0] else "upper" if value == numbers[-1] else None
    else:
        low, high = variable.bounds
        value, width = (math.nan if variable.kind == "log10" else x), high - low
        reach = 0.0 if variable.whole else NEAR * width
        side = None if not width else "lower" if x <= low + reach else "upper" if x >= high - reach else None
    # No training setting is below 0: that end cannot be widened.
    return None if side == "lower" and value == 0 else side


def _noise(overview: Overview) -> Iterator[str]:
    content = overview.confirmed
    if content is None:
        if overview.intervals:
            yield "Noise is not measured: intervals go on from one another, and are not trained again with other seeds."
        elif overview.best is not None:
            command = f"bbo confirm {overview.record.run.name}"
            yield f"Noise is not measured: `{command}` trains the best again with other seeds."
        return
    if content["winner_demoted"]:
        yield "The search's winner is not the best with other training seeds: see the confirmation."
    if ties := [f"#{point['evaluation']}" for point in content["points"] if point["verdict"] == "tie"]:
        best_ = f"#{content['points'][0]['evaluation']}"
        yield f"Within the noise: these seeds cannot tell {' and '.join(ties)} from {best_}."
    noise = noise_of(content)
    if noise is not None and (best := overview.best) is not None and (value := overview.value(best)) is not None:
        others = [
            v
            for e in overview.over
            if e.status == "ok" and e.ask.key != best.ask.key and (v := overview.value(e)) is not None
        ]
        near = sum(abs(other - value) < 2 * noise for other in others)
        if near:
            yield (
                f"{near} of the {len(others)} other good evaluations differ from the best by less than "
                f"{2 * noise:.2g}, twice the standard deviation between two trainings that differ in their seed alone."
            )


def noise_of(content: Mapping[str, Any]) -> float | None:
    """Standard deviation of the difference of two trainings with different seeds, pooled over the confirmed points."""
    groups = [list(point["values"].values()) for point in content["points"] if len(point["values"]) > 1]
    return math.sqrt(2 * fmean(variance(group) for group in groups)) if groups else None
