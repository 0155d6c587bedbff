"""The report of runs: one page that needs nothing beside it, and each of its figures as an SVG file."""

import math
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from bbo.record import Record
from bbo.reports import optuna_figures, pictures
from bbo.reports.cautions import cautions
from bbo.reports.curves import learning_curves
from bbo.reports.head import table
from bbo.reports.overview import Overview, read_overview
from bbo.reports.parallel import parallel
from bbo.reports.study import study_of
from bbo.reports.svg import as_file, as_svg, drawing, on_page
from bbo.reports.timeline import read_timeline
from bbo.store import write_text

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    name: str
    """Of its file, without suffix."""
    caption: str
    svg: str
    wide: bool = False
    order: Sequence[int] = ()
    """Evaluations that its reader may choose among, the best first."""
    words: Sequence[str] = ()
    """What each of them is."""

    @property
    def drawn(self) -> str:
        return on_page(self.svg, self.caption)


@dataclass(frozen=True)
class Part:
    """Figures under one heading."""

    title: str
    figures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """One run."""

    name: str
    table: Sequence[tuple[str, str]]
    cautions: Sequence[str]
    parts: Sequence[Part]

    @property
    def figures(self) -> list[Picture]:
        return [figure for part in self.parts for figure in part.figures]


def write_report(records: Sequence[Record], out: Path) -> Path:
    """Write OUT/report.html and a file OUT/NAME.svg for each of its figures. The page's path.

    Raises InputError where the runs have different objectives, so that their curves mean nothing side by side.
    """
    overviews = [read_overview(record) for record in records]
    _same_objective(overviews)
    several = len(overviews) > 1
    with drawing():
        shared = list(_overlaid(overviews)) if several else []
        sections = [_section(each, f"{each.record.run.name}-" if several else "") for each in overviews]
    for figure in [*shared, *(figure for section in sections for figure in section.figures)]:
        write_text(out / f"{figure.name}.svg", as_file(figure.svg))
    write_text(out / "report.html", _page(shared, sections))
    return out / "report.html"


def _same_objective(overviews: Sequence[Overview]) -> None:
    wanted = {f"{'-' if each.output.sign < 0 else ''}{each.output.metric}": each for each in overviews}
    if len(wanted) > 1:
        said = ", ".join(f"{each.record.run.folder} {output}" for output, each in wanted.items())
        raise InputError(f"the runs have different objectives: {said}")
    names = [each.record.run.name for each in overviews]
    if len(set(names)) < len(names):
        raise InputError(f"two of these runs have the same name: {', '.join(sorted(names))}")


def _page(shared: Sequence[Picture], sections: Sequence[Section]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - for reports alone
    from markupsafe import Markup  # noqa: PLC0415

    templates = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["code"] = _code
    figure = templates.get_template("figure.html")
    when = time.strftime("%Y-%m-%d %H:%M")
    return templates.get_template("page.html").render(
        title=", ".join(section.name for section in sections),
        made=f"Report of {when} on {socket.gethostname()}, from the run logs and the store alone.",
        style=Markup((PAGE / "page.css").read_text()),
        script=Markup((PAGE / "page.js").read_text()),
        picture=lambda each: Markup(figure.render(figure=each)),
        shared=shared,
        runs=sections,
    )


def _code(sentence: str) -> Any:
    """What stands between backticks is a command."""
    from markupsafe import Markup, escape  # noqa: PLC0415 - for reports alone

    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))


def _overlaid(overviews: Sequence[Overview]) -> Iterator[Picture]:
    known = [each for each in overviews if each.trace.best]
    if known:
        yield from _best_so_far(known, "")


def _best_so_far(overviews: Sequence[Overview], prefix: str) -> Iterator[Picture]:
    metric = overviews[0].output.metric
    for by_time, what in ((False, "evaluations"), (True, "time")):
        against = "recorded training, whoever trained" if by_time else "evaluations"
        figure = pictures.best_so_far(overviews, by_time)
        yield _picture(f"{prefix}best-by-{what}", f"Best {metric} so far, against {against}", figure)


def _section(overview: Overview, prefix: str) -> Section:
    parts = [
        Part("Progress", list(_progress(overview, prefix))),
        Part("Hyperparameters", list(_parallel(overview, prefix))),
        Part("Noise and fronts", [*_confirmation(overview, prefix), *_fronts(overview, prefix)]),
        Part("Inside the evaluations", list(_inside(overview, prefix))),
        Part("What matters", list(_importances(overview, prefix))),
    ]
    name = overview.record.run.name
    return Section(name, list(table(overview)), cautions(overview), [part for part in parts if part.figures])


def _progress(overview: Overview, prefix: str) -> Iterator[Picture]:
    if overview.trace.best:
        yield from _best_so_far([overview], prefix)


def _parallel(overview: Overview, prefix: str) -> Iterator[Picture]:
    shown = parallel(overview.record.experiment, overview.entries)
    if shown.lines:
        best_first = list(reversed(shown.lines))
        caption = f"Each line is an evaluation, blue the best by {overview.output.metric}; dotted ones have no result"
        order, words = [line.number for line in best_first], [line.words for line in best_first]
        yield _picture(f"{prefix}parallel", caption, pictures.coordinates(shown), wide=True, order=order, words=words)


def _confirmation(overview: Overview, prefix: str) -> Iterator[Picture]:
    if overview.confirmed is not None:
        figure = pictures.confirmation(overview.confirmed["points"], overview.output.metric)
        yield _picture(f"{prefix}confirmed", "The best points again with other training seeds (bbo confirm)", figure)


def _fronts(overview: Overview, prefix: str) -> Iterator[Picture]:
    outputs = overview.record.experiment.outputs
    for one, two in combinations(overview.record.experiment.objectives, 2):
        if overview.front:
            caption = f"Pareto front: {outputs[one].metric} and {outputs[two].metric}"
            name = f"{prefix}front-{outputs[one].metric}-{outputs[two].metric}"
            yield _picture(name, caption, pictures.pareto(overview, one, two))


def _inside(overview: Overview, prefix: str) -> Iterator[Picture]:
    curves = [each for each in learning_curves(overview.entries) if math.isfinite(each.losses[0])]
    if curves:
        caption = "Validation loss by epoch, blue the best; a square ends what was stopped, a cross what failed"
        yield _picture(f"{prefix}curves", caption, pictures.learning(curves, overview))
    shown = read_timeline(overview.record, overview.entries)
    if shown.bars:
        caption = "Who ran when: a bar is a job, a gap idle time of its slot"
        yield _picture(f"{prefix}timeline", caption, pictures.timeline(shown), wide=True)


def _importances(overview: Overview, prefix: str) -> Iterator[Picture]:
    study = study_of(overview.record)
    for name, caption, figure in optuna_figures.figures(study, overview.output.metric):
        yield _picture(f"{prefix}{name}", caption, figure)


def _picture(name: str, caption: str, figure: Any, **how: Any) -> Picture:
    return Picture(name, caption, as_svg(figure, name), **how)
