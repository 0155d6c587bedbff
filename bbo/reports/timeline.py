"""Who ran when: the jobs of a run on the slots that they had, and how long those stood idle.

A job's evaluations share out its time, so a job is as long as their seconds add up to, and over when the last of them
was recorded.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bbo.record import Entry, Record, Status

UNKNOWN = "unknown slot"


@dataclass(frozen=True)
class Bar:
    """One job; times in seconds since the run's first ask."""

    lane: str
    """Its slot, with the host where there are several."""
    start: float
    end: float
    numbers: tuple[int, ...]
    """Of its evaluations."""
    statuses: frozenset[Status]


@dataclass(frozen=True)
class Timeline:
    """All jobs of a run."""

    lanes: Sequence[str]
    bars: Sequence[Bar]
    """By their start."""
    busy: Mapping[str, float]
    """Share of the time from the first job's start to the last one's end, by lane."""

    @property
    def span(self) -> tuple[float, float]:
        return min(bar.start for bar in self.bars), max(bar.end for bar in self.bars)


@dataclass(frozen=True)
class _Part:
    """What one evaluation says of its job."""

    number: int
    status: Status
    seconds: float
    finished: float
    place: tuple[str, str] | None
    """Host and slot, where it is recorded."""


def read_timeline(record: Record, entries: Sequence[Entry]) -> Timeline:
    """Of what this run has trained itself, surrogates too."""
    began = min((ask.time for ask in record.log.asks), default=0.0)
    surrogates = [record.entry(ask) for ask in record.log.asks if ask.surrogate]
    jobs: dict[str, list[_Part]] = defaultdict(list)
    for entry in [*entries, *surrogates]:
        job = entry.answer.job if entry.answer is not None else None
        if job is not None and entry.answer is not None and entry.answer.source != "store":
            part = _part(entry)
            if part is not None:
                jobs[job].append(part)
    places = {job: _place(record, job, parts) for job, parts in jobs.items()}
    hosts = {host for host, _ in places.values() if host}
    bars = []
    for job, parts in jobs.items():
        host, slot = places[job]
        end = max(part.finished for part in parts) - began
        bars.append(
            Bar(
                f"{host} {slot}".strip() if len(hosts) > 1 else slot,
                end - sum(part.seconds for part in parts),
                end,
                tuple(part.number for part in parts),
                frozenset(part.status for part in parts),
            )
        )
    bars.sort(key=lambda bar: (bar.start, bar.lane))
    lanes = sorted({bar.lane for bar in bars}, key=_natural)
    return Timeline(lanes, bars, {lane: _busy(bars, lane) for lane in lanes})


def _part(entry: Entry) -> _Part | None:
    assert entry.answer is not None
    number, status = entry.ask.number, entry.status
    if (result := entry.result) is not None:
        place = (result.host, result.slot)
        return _Part(number, status, result.seconds, result.finished, place)
    if status == "stopped":
        finished = entry.answer.time if entry.stopped is None else entry.stopped.finished
        return _Part(number, status, entry.answer.seconds or 0.0, finished, None)
    return None


def _place(record: Record, job: str, parts: Sequence[_Part]) -> tuple[str, str]:
    """Host and slot, from a result or from the job's file."""
    if known := [part.place for part in parts if part.place is not None]:
        return known[0]
    with suppress(FileNotFoundError, KeyError, ValueError):
        content: Mapping[str, Any] = json.loads((record.store.jobs / f"{job}.json").read_text())
        return str(content.get("host", "")), str(content["slot"])
    return "", UNKNOWN


def _busy(bars: Sequence[Bar], lane: str) -> float:
    """Bars of one slot may overlap by the rounding of their shares: time counts once."""
    begin, end = min(bar.start for bar in bars), max(bar.end for bar in bars)
    covered, until = 0.0, begin
    for bar in bars:
        if bar.lane == lane:
            covered += max(0.0, bar.end - max(bar.start, until))
            until = max(until, bar.end)
    return covered / (end - begin) if end > begin else 1.0


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sorts cpu2 before cpu10."""
    return [(0, int(word)) if word.isdigit() else (1, word) for word in re.split(r"(\d+)", text)]
