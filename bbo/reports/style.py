"""How figures look: colours, lines, markers, and what several figures have in common."""

from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart; lines and markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")


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
