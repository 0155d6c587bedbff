"""The picture of a comparison: best so far against evaluations, and against what the training took."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbo.reports.compare import Comparison, Curve
from bbo.reports.style import base_line, style_of
from bbo.reports.text import scale_of


def draw(comparison: Comparison, files: Sequence[Path]) -> None:
    """Write the figure into each of `files`, in the format of its suffix (svg, png)."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    scale, unit = scale_of(comparison)
    for index, method in enumerate(sorted(comparison.methods, key=lambda each: each.name)):
        style = style_of(index)
        _line(panels[0], method.by_evaluations, 1.0, style | {"label": method.name})
        _line(panels[1], method.by_hours, scale, style)
    _frame(panels, comparison, unit)
    figure.legend(loc="outside right upper", frameon=False, handlelength=4)
    for file in files:
        figure.savefig(file, dpi=160, metadata={"Date": None} if file.suffix == ".svg" else None)


def _line(panel: Any, curve: Curve, scale: float, style: dict[str, Any]) -> None:
    x = [scale * where for where in curve.x]
    every = max(1, len(x) // 10)
    panel.plot(x, curve.mean, drawstyle="steps-post", markevery=every, markersize=5, linewidth=1.6, **style)
    low = [mean - (error or 0) for mean, error in zip(curve.mean, curve.error, strict=True)]
    high = [mean + (error or 0) for mean, error in zip(curve.mean, curve.error, strict=True)]
    panel.fill_between(x, low, high, step="post", alpha=0.15, color=style["color"], linewidth=0)


def _frame(panels: Sequence[Any], comparison: Comparison, unit: str) -> None:
    subject = comparison.subject
    panels[0].set_xlabel("evaluations")
    panels[1].set_xlabel(f"recorded training ({unit})")
    panels[0].set_ylabel(f"best {subject.metric} so far, mean ± s.e.")
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_title(f"{subject.name}, {subject.seeds} seeds", loc="left")
    if comparison.methods:
        panels[0].set_ylim(*_limits(comparison))
    for panel in panels:
        panel.set_xlim(left=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        if subject.base is not None:
            base_line(panel, subject.base)


def _limits(comparison: Comparison) -> tuple[float, float]:
    """What the curves take from a quarter of the budget on gets most of the height; they may come in from outside."""
    late, sign = comparison.subject.budget / 4, comparison.subject.sign
    bands = [
        sign * mean + side * (error or 0.0)
        for method in comparison.methods
        for x, mean, error in zip(
            method.by_evaluations.x, method.by_evaluations.mean, method.by_evaluations.error, strict=True
        )
        if x >= min(late, method.by_evaluations.x[-1])
        for side in (-1, 1)
    ]
    low, high = min(bands), max(bands)
    span = (high - low) or abs(low) or 1.0
    limits = sorted((sign * (low - 0.05 * span), sign * (high + 0.4 * span)))
    return limits[0], limits[1]
