"""A run as a table, one row per evaluation, and that table as a CSV file for pandas and spreadsheets.

A column's name begins with what it is about where names could clash: `hp_` hyperparameters, `x_` the optimizer's
coordinates, `fidelity_`, `told_` the values that the optimizer was told (its signs, minus a constraint's bound),
`metric_` what was measured, `score_` benchmarks beside it, `phase_` seconds, `version_` libraries. A cell is empty
where there is nothing to say.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bbo.experiment import Experiment
from bbo.record import Entry, Record
from bbo.store import write_text

LEADING = ("number", "block", "key", "source", "status", "reason")
"""Always there, in this order; so are TRAILING. What lies between them depends on the run."""

TRAILING = (
    "epoch",
    "seconds",
    "gpu_seconds",
    "asked",
    "answered",
    "started",
    "finished",
    "host",
    "slot",
    "job",
    "attempts",
    "seed",
    "parent",
)

GROUPS = ("hp_", "x_", "fidelity_", "told_", "metric_", "score_", "phase_", "version_")


def write_csv(record: Record, file: Path) -> int:
    """Write all evaluations of a run, whole or not at all. How many there are."""
    rows = table(record)
    with io.StringIO(newline="") as stream:
        writer = csv.DictWriter(stream, columns(rows), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        write_text(file, stream.getvalue())
    return len(rows)


def table(record: Record) -> list[dict[str, Any]]:
    """A row per evaluation, in the order in which they were asked for; times in UTC, without a zone."""
    return [dict(_row(record.experiment, entry)) for entry in record.entries()]


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All names, those of a group side by side in the order in which they first come."""
    found = dict.fromkeys(name for row in rows for name in row)
    return [
        *LEADING,
        *(name for group in GROUPS[:6] for name in found if name.startswith(group)),
        *TRAILING,
        *(name for group in GROUPS[6:] for name in found if name.startswith(group)),
    ]


def _row(experiment: Experiment, entry: Entry) -> Iterator[tuple[str, Any]]:
    ask, answer = entry.ask, entry.answer
    yield from zip(LEADING, (ask.number, ask.block, ask.key, answer and answer.source, entry.status), strict=False)
    yield "reason", entry.reason
    yield from _group("hp", entry.hyperparameters)
    yield from _group("x", dict(zip(experiment.space.free, ask.point, strict=True)))
    yield from _group("fidelity", ask.fidelity)
    if answer is not None and answer.values is not None:
        names = [o.condition if o.kind == "PB" else o.metric for o in experiment.outputs]
        yield from _group("told", dict(zip(names, answer.values, strict=True)))
    yield "asked", _time(ask.time)
    yield "answered", None if answer is None else _time(answer.time)
    yield "job", answer and answer.job
    yield from _ended(entry)


def _ended(entry: Entry) -> Iterator[tuple[str, Any]]:
    """What the store says of it."""
    if entry.stopped is not None:
        yield from _group("metric", entry.stopped.metrics)
        yield "finished", _time(entry.stopped.finished)
    if entry.answer is not None and entry.answer.source == "stopped":
        yield from ((name, getattr(entry.answer, name)) for name in ("epoch", "seconds", "gpu_seconds"))
    if (result := entry.result) is None:
        return
    yield from _group("metric", result.metrics)
    yield from _group("score", _scores(entry))
    yield from _group("phase", result.phases)
    yield from _group("version", result.versions)
    yield "started", _time(result.started)
    yield "finished", _time(result.finished)
    for name in ("seconds", "gpu_seconds", "host", "slot", "job", "attempts", "seed", "parent"):
        yield name, getattr(result, name)


def _scores(entry: Entry) -> Mapping[str, float]:
    """By the name of the score's file, which tells apart what was scored differently, and the metric."""
    files = sorted(entry.evaluation.scores.glob("[!.]*.json"))
    found = [(file.stem, score) for file in files if (score := entry.evaluation.score(file.stem)) is not None]
    return {f"{name}_{metric}": value for name, score in found for metric, value in score.metrics.items()}


def _group(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}_{key}", value) for key, value in values.items())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _cell(value: Any) -> Any:
    """Lists as words; numbers to the last digit."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else value
