"""Drawing of a run's figures, under `svg.drawing`: each takes data that was computed elsewhere."""

import math
from collections.abc import Sequence
from typing import Any

from bbo.reports.curves import LearningCurve
from bbo.reports.overview import Overview
from bbo.reports.parallel import Line, Parallel
from bbo.reports.style import BAD, GOOD, MIDDLE, base_line, colour_of, positions, spread_axis, style_of
from bbo.reports.svg import INK, PAPER
from bbo.reports.timeline import Timeline

SMALL = (5.6, 3.5)
WIDE = (9.6, 3.9)

MANY = 100
"""Lines that still have a marker at each place: with more of them a file grows, and nothing is seen of them."""

KINDS: dict[str, dict[str, Any]] = {
    "ok": {"facecolor": "#56B4E9", "hatch": ""},
    "infeasible": {"facecolor": "#CC79A7", "hatch": ".."},
    "stopped": {"facecolor": "#E69F00", "hatch": "//"},
    "failed": {"facecolor": "#D55E00", "hatch": "xx"},
}

MARKED: dict[str, dict[str, Any]] = {
    "best": {"linewidth": 2.4, "color": INK, "marker": "o", "zorder": 5},
    "stopped": {"linestyle": "--"},
    "failed": {"linestyle": ":"},
    "pending": {"linestyle": "-."},
}
"""Learning curves that are more than whole."""


def best_so_far(overviews: Sequence[Overview], by_time: bool) -> Any:
    """One line per run; with a single run its evaluations as dots."""
    figure, panel = _small()
    scale, unit = _time_unit(overviews)
    seen: list[float] = []
    for index, each in enumerate(overviews):
        trace, sign = each.trace, each.output.sign
        seconds = trace.gpu_seconds if each.on_gpus else trace.seconds
        x = [scale * second for second in seconds] if by_time else list(trace.evaluations)
        found = [(where, sign * best) for where, best in zip(x, trace.best, strict=True) if math.isfinite(best)]
        if len(overviews) == 1:
            dots = [(where, v) for where, v in zip(x, each.answered, strict=True) if v is not None]
            panel.plot(*_columns(dots), linestyle="", marker="x", markersize=4, color=MIDDLE, label="each evaluation")
            seen += [value for _, value in dots]
        style = style_of(index) | {"markevery": max(1, len(found) // 12), "markersize": 5, "linewidth": 1.8}
        style["color"] = INK if style["color"] == "#000000" else style["color"]
        label = "best so far" if len(overviews) == 1 else each.record.run.name
        panel.plot(*_columns(found), drawstyle="steps-post", label=label, **style)
        seen += [value for _, value in found]
    bases = {each.base for each in overviews if each.base is not None}
    _loss_axis(panel, seen)
    if len(bases) == 1:
        base_line(panel, bases.pop(), INK)
    panel.set_xlabel(f"recorded training ({unit})" if by_time else "evaluations")
    panel.set_ylabel(f"{'best ' if len(overviews) > 1 else ''}{overviews[0].output.metric}")
    panel.set_xlim(left=0)
    if not by_time:
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper left", ncols=min(3, len(overviews) + 1))
    return figure


def learning(curves: Sequence[LearningCurve], overview: Overview) -> Any:
    """All in one panel: the best stands out, what was stopped or failed is marked at its end."""
    figure, panel = _small()
    best = overview.best.ask.key if overview.best is not None else None
    numbers = {e.ask.number for e in overview.entries if e.ask.key == best}
    finals = positions([curve.losses[-1] for curve in curves])
    named: set[str] = set()
    for curve, place in zip(curves, finals, strict=True):
        is_best = curve.number in numbers
        kind = "best" if is_best else {"ok": "whole", "infeasible": "whole"}.get(curve.status, curve.status)
        marker = "." if len(curves) <= MANY else ""
        look: dict[str, Any] = {"linewidth": 1.0, "color": colour_of(place), "marker": marker, "linestyle": "-"}
        look |= MARKED.get(kind, {})
        label = None if kind in named else "under way" if kind == "pending" else kind
        named.add(kind)
        panel.plot(curve.epochs, curve.losses, markersize=4, label=label, **look)
        if kind in ("stopped", "failed"):
            end = {"stopped": "s", "failed": "X"}[kind]
            panel.plot(curve.epochs[-1:], curve.losses[-1:], marker=end, markersize=6, color=look["color"])
    losses = [loss for curve in curves for loss in curve.losses if math.isfinite(loss)]
    base = (overview.record.run.base_score() or {}).get("eval_loss")
    _loss_axis(panel, losses)
    if base is not None:
        base_line(panel, base, INK)
    panel.set_xlabel("epoch")
    panel.xaxis.get_major_locator().set_params(integer=max(curve.epochs[-1] for curve in curves) >= 1)
    panel.set_ylabel("validation loss")
    panel.margins(x=0.06)
    figure.legend(loc="outside upper left", ncols=5)
    return figure


def timeline(shown: Timeline) -> Any:
    """A row per slot, a bar per job with the numbers of its evaluations; gaps are idle time."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load
    from matplotlib.patches import Patch  # noqa: PLC0415

    figure = Figure(figsize=(WIDE[0], 1.3 + 0.45 * len(shown.lanes)), layout="constrained")
    panel = figure.subplots()
    begin, end = shown.span
    scale, unit = next((s, u) for s, u in ((1, "s"), (60, "min"), (3600, "h")) if (end - begin) / s < 300 or u == "h")
    kinds = set()
    for bar in shown.bars:
        kind = next(kind for kind in ("failed", "stopped", "infeasible", "ok") if kind in bar.statuses)
        kinds.add(kind)
        row = shown.lanes.index(bar.lane)
        place = [(bar.start / scale, (bar.end - bar.start) / scale)]
        panel.broken_barh(place, (row - 0.34, 0.68), edgecolor=INK, linewidth=0.6, **KINDS[kind])
        words = " ".join(map(str, bar.numbers))
        if len(words) * 0.0085 * (end - begin) < bar.end - bar.start:
            middle = (bar.start + bar.end) / 2 / scale
            ground = {"facecolor": KINDS[kind]["facecolor"], "edgecolor": "none", "pad": 1}
            panel.text(middle, row, words, ha="center", va="center", fontsize=8, color="#16181c", bbox=ground)
    panel.set_yticks(range(len(shown.lanes)), [f"{lane}\n{shown.busy[lane]:.0%} busy" for lane in shown.lanes])
    panel.set_ylim(len(shown.lanes) - 0.5, -0.5)
    panel.set_xlabel(f"time since the first question ({unit}); numbers are evaluations")
    panel.grid(axis="y", visible=False)
    handles = [Patch(**KINDS[kind], edgecolor=INK, label=kind) for kind in KINDS if kind in kinds]
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def coordinates(shown: Parallel) -> Any:
    """Each line has the id evaluation-NUMBER, so that a page can choose among them."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load

    figure = Figure(figsize=WIDE, layout="constrained")
    panel = figure.subplots()
    last = len(shown.axes) - 1
    for line in shown.lines:
        panel.plot(range(len(line.places)), line.places, gid=f"evaluation-{line.number}", **_line(line, shown))
    for index, axis in enumerate(shown.axes):
        panel.plot([index, index], [0, 1], color=INK, linewidth=1.2, zorder=9)
        for place, words in axis.ticks:
            panel.plot([index - 0.012, index + 0.012], [place, place], color=INK, linewidth=1.0, zorder=9)
            side, align = (0.03, "left") if index == last else (-0.03, "right")
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
            panel.text(index + side, place, words, ha=align, va="center", fontsize=8, zorder=10, bbox=ground)
        note = f"\n({shown.better} is better)" if index == last and axis.name else ""
        panel.text(index, 1.07, axis.name + note, ha="center", va="bottom", fontsize=9, weight="bold")
    panel.set_xlim(-0.35, last + 0.35)
    panel.set_ylim(-0.05, 1.25)
    panel.axis("off")
    return figure


def _line(line: Line, shown: Parallel) -> dict[str, Any]:
    if line.value is None:
        return {"color": MIDDLE, "linewidth": 1.0, "linestyle": ":", "zorder": 2}
    place = line.places[-1] if shown.better == "lower" else 1 - line.places[-1]
    dashed = "--" if line.status == "infeasible" else "-"
    few = len(shown.lines) <= MANY
    marker = {"marker": "o", "markersize": 3} if few else {}
    width = (2.2 - 1.2 * place) * (1.0 if few else 0.4)
    return {"color": colour_of(place), "linewidth": width, "linestyle": dashed, "zorder": 3, **marker}


def confirmation(points: Sequence[Any], metric: str) -> Any:
    """Of confirmed.json: what other seeds gave, their mean, and what the search had seen."""
    figure, panel = _small()
    for row, point in enumerate(points):
        values = list(point["values"].values())
        first = row == 0
        panel.plot(values, [row + 0.18] * len(values), "|", color=MIDDLE, markersize=9, markeredgewidth=1.6,
                   label="other seeds" if first else None)  # fmt: skip
        if point["mean"] is not None:
            panel.errorbar(point["mean"], row, xerr=point["standard_error"] or 0, fmt="D", color=GOOD, capsize=5,
                           markersize=6, label="mean ± s.e." if first else None)  # fmt: skip
        panel.plot(point["searched"], row - 0.18, "o", markerfacecolor="none", color=BAD, markersize=7,
                   label="in the search" if first else None)  # fmt: skip
    panel.set_yticks(range(len(points)), [f"#{p['evaluation']}\n{p['verdict']}" for p in points])
    panel.set_ylim(len(points) - 0.5, -0.5)
    panel.margins(x=0.08)
    panel.set_xlabel(metric)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def pareto(overview: Overview, first: int, second: int) -> Any:
    """Two of the objectives, by their places among the outputs: all whole evaluations, the front joined up."""
    figure, panel = _small()
    outputs = overview.record.experiment.outputs
    one, two = outputs[first], outputs[second]

    def value(entry: Any) -> tuple[float, float]:
        return one.sign * entry.values[first], two.sign * entry.values[second]

    whole = [entry for entry in overview.over if entry.values is not None]
    looks = {"ok": ("o", MIDDLE, "good"), "infeasible": ("x", BAD, "infeasible")}
    for status, (marker, colour, label) in looks.items():
        there = [value(entry) for entry in whole if entry.status == status]
        if there:
            panel.plot(*_columns(there), linestyle="", marker=marker, color=colour, markersize=5, label=label)
    best = sorted(value(entry) for entry in overview.front)
    path = {} if len(overview.record.experiment.objectives) > 2 else {"linestyle": "-", "drawstyle": "steps-post"}
    panel.plot(*_columns(best), **({"linestyle": ""} | path), marker="D", color=GOOD, markersize=7, label="front")
    for entry in overview.front:
        panel.annotate(f"#{entry.ask.number}", value(entry), xytext=(6, 6), textcoords="offset points", fontsize=8)
    points = [value(entry) for entry in whole]
    spread_axis(panel.xaxis, panel.set_xscale, [x for x, _ in points])
    spread_axis(panel.yaxis, panel.set_yscale, [y for _, y in points])
    for output, name in ((one, panel.set_xlabel), (two, panel.set_ylabel)):
        name(f"{output.metric} ({'higher' if output.sign < 0 else 'lower'} is better)")
    panel.margins(0.1)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _small() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load

    figure = Figure(figsize=SMALL, layout="constrained")
    return figure, figure.subplots()


def _time_unit(overviews: Sequence[Overview]) -> tuple[float, str]:
    """What seconds are multiplied with, and the unit's name."""
    on_gpus = any(each.on_gpus for each in overviews)
    ends = [seconds[-1] for o in overviews if (seconds := o.trace.gpu_seconds if on_gpus else o.trace.seconds)]
    longest, kind = max(ends, default=0.0), "GPU" if on_gpus else "slot"
    if longest >= 3600:
        return 1 / 3600, f"{kind}-hours"
    return (1 / 60, f"{kind}-minutes") if longest >= 120 else (1.0, f"{kind}-seconds")


def _loss_axis(panel: Any, values: Sequence[float]) -> None:
    spread_axis(panel.yaxis, panel.set_yscale, [value for value in values if math.isfinite(value)])


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
