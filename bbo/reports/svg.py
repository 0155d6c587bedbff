"""A matplotlib figure as SVG: deterministic, its text as text, and in ink that follows the page around it."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

INK = "#010203"
"""Stands for the colour of text: what is drawn in it is dark on a light page and light on a dark one."""

PAPER = "#fdfefc"
"""Stands for the ground: behind words that lines run through."""

DARK_INK = "#24292f"
"""On the white ground that a file has."""

SETTINGS: Any = {
    "backend": "agg",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "text.parse_math": False,  # a user's $ is a dollar
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linestyle": "-",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.handlelength": 3,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures made inside have our settings; what a library sets there is undone at the end."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to load
    from matplotlib import pyplot  # noqa: PLC0415

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        try:
            yield
        finally:
            pyplot.close("all")


def as_svg(figure: Any, name: str) -> str:
    """The figure as an element of a page, without a ground; its ids begin with `name`."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to load

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), io.StringIO() as text:
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        whole = text.getvalue()
    drawn = whole[whole.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>\s*", "", drawn, flags=re.DOTALL)
    prefix = re.sub(r"[^\w.-]", "-", name)
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", drawn)
    return re.sub(r"[ \t]+\n", "\n", drawn)


def on_page(drawn: str, title: str) -> str:
    """For a page that has light and dark clothes; as wide as its place."""
    tag, rest = drawn[: drawn.index(">")], drawn[drawn.index(">") :]
    tag = re.sub(r' (width|height)="[^"]*"', "", tag) + f' role="img" aria-label="{escape(title)}"'
    return tag + rest.replace(INK, "currentColor").replace(PAPER, "var(--paper)")


def as_file(drawn: str) -> str:
    """For a file: on white, since nobody knows what lies behind it."""
    end = drawn.index(">") + 1
    ground = '\n<rect width="100%" height="100%" fill="#ffffff"/>'
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        + drawn[:end]
        + ground
        + drawn[end:].replace(INK, DARK_INK).replace(PAPER, "#ffffff")
        + "\n"
    )
