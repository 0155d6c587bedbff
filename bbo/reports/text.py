"""A comparison in words and tables: the same for a terminal and as Markdown."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Drawn

from bbo.reports.compare import Comparison, Method, Reached
from bbo.reports.significance import FEWEST, LEVEL, seeds_needed

SOURCES = {"trained": "trained", "store": "from the store", "failed": "failed", "stopped": "stopped"}

SCALES = ((1.0, ""), (60.0, "min"), (3600.0, "s"))


@dataclass(frozen=True)
class Table:
    """A heading above columns; the first is text, the others are numbers."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Text:
    """A report: its title, what leads, tables, what has to be said about them."""

    title: str
    lead: Sequence[str]
    tables: Sequence[Table]
    notes: Sequence[str]


def text(comparison: Comparison, remarks: Sequence[str] = ()) -> Text:
    """The report; `remarks` are about what is not in the figures, such as runs that failed."""
    subject = comparison.subject
    better = "higher" if subject.sign < 0 else "lower"
    title = f"{subject.name}: {subject.metric} ({better} is better)"
    tables = [_merits(comparison), _levels(comparison), _pairs(comparison)]
    return Text(
        title,
        [ranking(comparison)],
        [table for table in tables if table.rows],
        [*remarks, *_notes(comparison)],
    )


def ranking(comparison: Comparison) -> str:
    """Who is best, and who cannot be told apart from it."""
    if not comparison.methods:
        return "No run has anything to compare."
    best, *others = comparison.methods
    how = {other.name: comparison.verdict(best.name, other.name) for other in others}
    said = {
        "tie": "Tied with it",
        "better": "Worse",
        "worse": "Better seed by seed, though not in the mean",
        "too few seeds": "Too few seeds to judge",
    }
    words = [f"Best mean: {best.name}."]
    for verdict, sentence in said.items():
        if names := [name for name, found in how.items() if found == verdict]:
            words.append(f"{sentence}: {', '.join(names)}.")
    return " ".join(words)


def markdown(report: Text) -> str:
    """As Markdown."""
    parts = [f"# {report.title}", *report.lead]
    for table in report.tables:
        rule = ["---", *["---:"] * (len(table.columns) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (table.columns, rule, *table.rows)]
        parts += [f"## {table.heading}", "\n".join(lines)]
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def show(report: Text, console: Console) -> None:
    """On a terminal."""
    console.print(report.title, style="bold", highlight=False, markup=False)
    for line in report.lead:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for table in report.tables:
        drawn = Drawn(title=table.heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(table.columns):
            widest = max(len(words) for words in (*column.split(), *(row[index] for row in table.rows)))
            drawn.add_column(column, justify="right" if index else "left", min_width=widest)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn, markup=False, highlight=False)
    for note in report.notes:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)


def measured(value: float, error: float | None) -> str:
    """`0.6082 ± 0.0023`: as many digits as the error leaves any meaning."""
    if error is None or error == 0:
        return f"{value:.5g}" + ("" if error is None else " ± 0")
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def scale_of(comparison: Comparison) -> tuple[float, str]:
    """What hours are multiplied with so that a method's total is at least one, and the unit's name: hours, min, s."""
    longest = max((method.hours[0] for method in comparison.methods), default=1.0)
    scale, short = next((each for each in SCALES if longest * each[0] >= 1), SCALES[-1])
    gpu = "GPU-" if comparison.on_gpus else ""
    return scale, f"{gpu}{short or 'hours'}"


def _merits(comparison: Comparison) -> Table:
    scale, unit = scale_of(comparison)
    columns = ["method", "runs", "final best", "evaluations per run", f"{unit} per run", *SOURCES.values()]
    return Table("What each method reached", columns, [_merit(method, scale) for method in comparison.methods])


def _merit(method: Method, scale: float) -> list[str]:
    counts = [sum(trace.counts[source] for trace in method.traces) for source in SOURCES]
    evaluations = fmean(trace.evaluations[-1] for trace in method.traces)
    hours, error = method.hours
    return [
        method.name,
        str(len(method.traces)),
        measured(*method.best),
        f"{evaluations:.4g}",
        measured(scale * hours, None if error is None else scale * error),
        *map(str, counts),
    ]


def _levels(comparison: Comparison) -> Table:
    scale, unit = scale_of(comparison)
    levels = comparison.levels.items()
    columns = ["method", *(name if name == f"{value:g}" else f"{name} ({value:.4g})" for name, value in levels)]
    rows = [[m.name, *(_soon(to, len(m.traces), scale, unit) for to in m.reached)] for m in comparison.methods]
    return Table("Evaluations and time to reach a level (median; runs that did)", columns, rows if columns[1:] else [])


def _soon(to: Reached, runs: int, scale: float, unit: str) -> str:
    if math.isinf(to.evaluations):
        return f"- ({to.runs}/{runs})"
    return f"{to.evaluations:g}, {scale * to.hours:.3g} {unit} ({to.runs}/{runs})"


def _pairs(comparison: Comparison) -> Table:
    columns = ["pair", "seeds", "median difference", "p", "p (Holm)", "verdict"]
    rows = []
    for pair in comparison.pairs:
        difference = comparison.subject.sign * pair.median
        verdict = f"{pair.a} {pair.verdict}" if pair.verdict in ("better", "worse") else pair.verdict
        ps = ("-" if p is None else f"{p:.2g}" for p in (pair.p, pair.holm))
        shown = "-" if math.isnan(difference) else f"{difference:+.3g}"
        rows.append([f"{pair.a} - {pair.b}", str(pair.seeds), shown, *ps, verdict])
    return Table("Pairs, by the same seeds", columns, rows)


def _notes(comparison: Comparison) -> Iterator[str]:
    subject, methods = comparison.subject, comparison.methods
    traces = list(chain.from_iterable(method.traces for method in methods))
    yield (
        f"{subject.budget} evaluations per run, {subject.seeds} seeds, each the optimizer's and the training's; mean ± "
        "standard error over the runs."
    )
    charged = "GPU-seconds" if comparison.on_gpus else "seconds (no GPU was used)"
    yield (
        f"One store for all: the same point with the same seed is the same evaluation. Whoever asks for it is charged "
        f"its recorded {charged}, trained or from the store; who trains it is a matter of order."
    )
    if any(method.none_good for method in methods):
        who = ", ".join(f"{method.none_good} of {method.name}" for method in methods if method.none_good)
        yield f"Runs without a good evaluation ({who}) count as {comparison.worst:.4g}, the worst that was good."
    if unknown := sum(trace.unknown for trace in traces):
        yield f"{unknown} evaluations have no recorded time and are charged nothing."
    yield from _limits(comparison)


def _limits(comparison: Comparison) -> Iterator[str]:
    """What the pairs' verdicts mean, and cannot mean."""
    tested = [pair for pair in comparison.pairs if pair.p is not None]
    if tested:
        yield (
            f"Wilcoxon's signed-rank test on the finals of each pair, corrected by Holm for {len(tested)} test(s), at "
            f"{LEVEL:g}. A tie is a difference that these runs cannot tell from noise."
        )
    if len(tested) < len(comparison.pairs):
        yield f"Below {FEWEST} common seeds no difference can be told from noise."
    if tested and max(pair.seeds for pair in tested) < (needed := seeds_needed(len(tested))):
        yield f"With {len(tested)} tests even the clearest difference needs {needed} seeds: these ties decide nothing."
