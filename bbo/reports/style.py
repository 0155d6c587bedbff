"""How figures look: colours, lines, markers, and what several figures have in common."""

import math
import re
from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart; lines and markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")

GOOD, MIDDLE, BAD = "#0072B2", "#8f959e", "#D55E00"

LOG = 4.0
"""Values that spread over such a factor are drawn on a logarithmic axis: one that diverged leaves room for the rest."""


def style_of(index: int) -> dict[str, Any]:
    """Of the line of a method or run."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def base_line(panel: Any, base: float, colour: str = "0.35") -> None:
    """The untouched base model's score: a line, or words where it is off the picture."""
    low, high = panel.get_ylim()
    place: dict[str, Any] = {"ha": "right", "color": colour, "fontsize": "small"}
    if low <= base <= high:
        panel.axhline(base, color=colour, linewidth=1, linestyle=(0, (2, 3)))
        panel.annotate("base model", (1, base), xycoords=("axes fraction", "data"), va="bottom", **place)
    else:
        corner, side = ((1, 1), "top") if base > high else ((1, 0.02), "bottom")
        panel.annotate(f"base model: {base:.4g}", corner, xycoords="axes fraction", va=side, **place)


def spread_axis(axis: Any, set_scale: Any, values: Sequence[float]) -> None:
    """Logarithmic where the values spread over a factor of LOG."""
    if values and min(values) > 0 and max(values) >= LOG * min(values):
        set_scale("log")
        plain_ticks(axis, min(values), max(values))


def plain_ticks(axis: Any, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis: at powers of ten, and between them where those are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator  # noqa: PLC0415

    subs = (1.0,) if high >= 300 * low else (1.0, 2.0, 5.0) if high >= 8 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def positions(values: Sequence[float]) -> list[float]:
    """0 for the lowest to 1 for the highest, by the logarithm where they spread; what is not finite is highest."""
    finite = [value for value in values if math.isfinite(value)]
    log = bool(finite) and min(finite) > 0 and max(finite) >= LOG * min(finite)
    scaled = [(math.log10(v) if log else v) if math.isfinite(v) else None for v in values]
    known = [value for value in scaled if value is not None]
    low, width = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    return [1.0 if value is None else (value - low) / width for value in scaled]


def colour_of(place: float) -> tuple[float, ...]:
    """From good through grey to bad: all of them show on white and on black."""
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415 - slow to load

    shades = LinearSegmentedColormap.from_list("loss", [GOOD, MIDDLE, BAD])
    return tuple(shades(place))


def short(value: float) -> str:
    """`1e-5`, not `1e-05`."""
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.4g}").replace("e+", "e")
