"""`bbo status RUN`: where a run stands, as its log and its store say; nothing that drives it is asked."""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bbo.display import clock, describe, scores, spelt
from bbo.errors import InputError
from bbo.record import Entry, Record, open_record
from bbo.reports.overview import Overview, read_overview
from bbo.run import Run, find_run

EVERY = 1.0
"""Seconds between two looks."""

SILENCE = 120.0
"""Of a driver on another host, whose lock may not show here: seconds without news after which it counts as gone."""

LAST = 5
"""Answers that are listed."""


@dataclass(frozen=True)
class Status:
    """One look at a run."""

    run: Run
    overview: Overview | None
    """None before its first evaluation has begun."""
    driver: str | None
    """Who drives it, or None."""
    news: float | None
    """Seconds since something was last written."""


def look(name: str) -> Status:
    """Raises InputError where there is no run."""
    run = find_run(name)
    if not run.log_file.is_file() and not run.lock_file.is_file():
        raise InputError(f"{run.folder}: no run there")
    try:
        overview = read_overview(open_record(name))
    except InputError:
        if run.log_file.is_file() and run.log().answers:
            raise
        overview = None
    news = _news(run, overview)
    return Status(run, overview, _driver(run, news), news)


def follow(name: str, console: Console) -> None:
    """Show it until nobody drives it any more; once where this is no terminal, or nobody does."""
    status, took = _timed(name)
    if not console.is_terminal or status.driver is None:
        console.print(shown(status))
        return
    with Live(shown(status), console=console, auto_refresh=False) as live:
        while status.driver is not None:
            time.sleep(max(EVERY, 5 * took))
            status, took = _timed(name)
            live.update(shown(status), refresh=True)


def _timed(name: str) -> tuple[Status, float]:
    """With the seconds of the look: a long run's results are many files, which a look reads anew."""
    began = time.monotonic()
    return look(name), time.monotonic() - began


def _driver(run: Run, news: float | None) -> str | None:
    try:
        who = run.lock_file.read_text().strip()
    except FileNotFoundError:  # a native NOMAD's run
        return None
    if run.is_driven():
        return who or "another process"
    elsewhere = bool(who) and not who.endswith(f" on {socket.gethostname()}")
    return f"{who}, as far as can be seen" if elsewhere and news is not None and news < SILENCE else None


def _news(run: Run, overview: Overview | None) -> float | None:
    pending = [] if overview is None else [e for e in overview.entries if e.status == "pending"]
    times = []
    for file in (run.log_file, *(each.evaluation.progress_file for each in pending)):
        try:
            times.append(file.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(0.0, time.time() - max(times)) if times else None


def step_of(entry: Entry) -> Mapping[str, Any] | None:
    """The last whole line of its progress: optimizer steps, and after an epoch its validation loss."""
    try:
        lines = entry.evaluation.progress_file.read_text().rpartition("\n")[0].splitlines()
        last: dict[str, Any] = json.loads(lines[-1])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    losses = [each["eval_loss"] for each in map(json.loads, lines) if "eval_loss" in each]
    return last | ({"eval_loss": losses[-1]} if losses else {})


def as_json(status: Status) -> dict[str, Any]:
    """For scripts; null where nothing is known."""
    content: dict[str, Any] = {
        "run": str(status.run.folder),
        "driven": status.driver is not None,
        "driver": status.driver,
        "seconds_since_news": status.news,
    }
    if (over := status.overview) is None:
        return content | {"evaluations": 0}
    best = over.best
    return content | {
        "optimizer": over.optimizer,
        "metric": over.output.metric,
        "better": "higher" if over.output.sign < 0 else "lower",
        "evaluations": len(over.over),
        "budget": budget_of(over.record),
        "counts": {name: over.counts[name] for name in COUNTED},
        "best": None
        if best is None
        else {"evaluation": best.ask.number, "key": best.ask.key, "value": over.value(best)},
        "base": over.base,
        "x0": over.x0,
        "wall_seconds": over.wall_seconds,
        "pending": [_pending(entry) for entry in over.entries if entry.status == "pending"],
    }


COUNTED = ("trained", "store", "failed", "stopped", "infeasible", "declined", "pending")


def _pending(entry: Entry) -> dict[str, Any]:
    known = {"evaluation": entry.ask.number, "key": entry.ask.key, "asked": entry.ask.time}
    return known | {"hyperparameters": dict(entry.hyperparameters), "progress": step_of(entry)}


def budget_of(record: Record) -> int | None:
    """Evaluations, where the session says how many."""
    try:
        session: dict[str, Any] = json.loads(record.run.session_file.read_text())
    except FileNotFoundError:
        return None
    budget = session["max_bb_eval"]
    return None if budget is None else int(budget)


def shown(status: Status) -> RenderableType:
    """For a terminal."""
    driver = f"driven by {status.driver}" if status.driver else "nobody drives it"
    news = "" if status.news is None else f", last news {clock(status.news)} ago"
    head = Text(f"{status.run.folder}: {driver}{news}", style="bold" if status.driver else "")
    if status.overview is None:
        return Group(head, Text("no evaluation has begun"))
    over = status.overview
    lines = [head, Text(_counts(over)), Text(_best(over))]
    pending = [entry for entry in over.entries if entry.status == "pending"]
    answered = sorted((e for e in over.over if e.answer is not None), key=lambda e: e.answer.time if e.answer else 0.0)
    tables = []
    if pending:
        tables.append(_under_way(pending))
    if answered:
        tables.append(_answered(over, answered[-LAST:]))
    return Group(*lines, *tables)


def _counts(over: Overview) -> str:
    budget = budget_of(over.record)
    of = f" of {budget}" if budget else ""
    words = {"declined": "declined, beyond the budget"}
    counts = ", ".join(f"{over.counts[name]} {words.get(name, name)}" for name in COUNTED if over.counts[name])
    return f"{over.optimizer}: {len(over.over)}{of} evaluations ({counts}), {clock(over.wall_seconds)}"


def _best(over: Overview) -> str:
    others = [("X0", over.x0), ("base model", over.base)]
    beside = [f"{name} {_spelt(value)}" for name, value in others if value is not None]
    if over.best is None:
        return "   ".join(["no good evaluation yet", *beside])
    best = f"best {over.output.metric} {_spelt(over.value(over.best))} (#{over.best.ask.number})"
    return "   ".join([best, *beside]) + f"\n{describe(over.best.hyperparameters)}"


def _under_way(pending: list[Entry]) -> Table:
    table = Table(
        "#", "since", "step", "eval_loss", "hyperparameters", title="under way", title_justify="left", box=None
    )
    for entry in pending:
        step = step_of(entry) or {}
        where = f"{step['step']} of {step['steps']}" if "step" in step else "-"
        where = f"scoring {step['scoring']}" if "scoring" in step else where
        since = clock(max(0.0, time.time() - entry.ask.time))
        loss = _spelt(step.get("eval_loss"))
        table.add_row(*map(Text, (str(entry.ask.number), since, where, loss, describe(entry.hyperparameters))))
    return table


def _answered(over: Overview, entries: list[Entry]) -> Table:
    table = Table("#", "ago", "how", "score", "hyperparameters", title="last answers", title_justify="left", box=None)
    for entry in reversed(entries):
        assert entry.answer is not None
        ago = clock(max(0.0, time.time() - entry.answer.time))
        how = f"{entry.answer.source}{f': {entry.reason}' if entry.reason else ''}"
        words = scores(over.record.experiment, entry.answer)
        table.add_row(*map(Text, (str(entry.ask.number), ago, how, words, describe(entry.hyperparameters))))
    return table


def _spelt(value: float | None) -> str:
    return "-" if value is None else spelt(value)
