"""The truth about a run: runs/NAME/log.jsonl, one line per ask and per answer, append-only.

The blackbox alone writes asks and answers; `bbo retry` appends what is to be forgotten.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bbo.errors import MachineError
from bbo.space import Point

Source = Literal["trained", "store", "failed", "declined"]


@dataclass(frozen=True)
class Ask:
    """A point that an optimizer asked for. `number` counts from 1; those of a native NOMAD are never replayed."""

    number: int
    point: Point
    key: str
    block: int
    time: float
    native: bool = False
    fidelity: Mapping[str, float] = field(default_factory=dict)
    """By value; empty for the full one."""
    surrogate: bool = False
    """Asked by SURROGATE_EXE (or natively below full fidelity): replayed, but no evaluation of the run's."""


@dataclass(frozen=True)
class Answer:
    """What was told for an ask; `values` is None for a declined one. `source` says where the values came from."""

    number: int
    values: tuple[float, ...] | None
    source: Source
    time: float
    job: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Stop:
    """Why the blackbox ended a session: the machine failed, the record does not hold, or a replay is needed."""

    kind: Literal["input", "machine", "diverged", "unanswered"]
    reason: str
    session: str


class RunLog:
    """The asks and answers of one run folder. Concurrent processes may append; `refresh` reads what others added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asks: list[Ask] = []
        self.answers: dict[int, Answer] = {}
        self.stopped: Stop | None = None
        """The last line that asked to end a session, if there is one."""
        self._offset = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the lines added since the last time; a torn last line is left for later."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = text.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                raise MachineError(f"{self.path}: damaged line: {line[:80].decode(errors='replace')}") from None

    @property
    def replayed(self) -> list[Ask]:
        """The asks that a driver's optimizer made, in order: those that a replay must repeat."""
        return [ask for ask in self.asks if not ask.native]

    @property
    def driven(self) -> list[Ask]:
        """Those of them that are evaluations of the run: all but the surrogate's."""
        return [ask for ask in self.replayed if not ask.surrogate]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the log for a read followed by an append. A torn tail that a dead writer left is cut first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.refresh()
            if os.fstat(file.fileno()).st_size > self._offset:
                file.truncate(self._offset)
            yield

    def ask(
        self,
        points: Sequence[Point],
        keys: Sequence[str],
        native: bool = False,
        fidelity: Mapping[str, float] = {},
        surrogate: bool = False,
    ) -> list[Ask]:
        """Append the asks of one block, which is known by the number of its first; call it under `locked`."""
        first, now = len(self.asks) + 1, time.time()
        asks = [
            Ask(first + i, point, key, first, now, native, fidelity, surrogate)
            for i, (point, key) in enumerate(zip(points, keys, strict=True))
        ]
        self._append(*({"ask": a.number, **_fields(a)} for a in asks))
        return asks

    def answer(self, answer: Answer) -> None:
        """Append what is told for an ask. A later answer for the same ask (a declined one, extended) replaces it."""
        with self.locked():
            self._append({"answer": answer.number, **_fields(answer)})

    def stop(self, stop: Stop) -> None:
        """Append that this session must end."""
        with self.locked():
            self._append({"stop": stop.kind, "reason": stop.reason, "session": stop.session, "time": time.time()})

    def forget(self, number: int) -> None:
        """Append that the record ends before ask `number`: what came later was proposed knowing its answer."""
        with self.locked():
            self._append({"forget": number, "time": time.time()})

    def _append(self, *entries: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
            file.flush()
            os.fsync(file.fileno())
        self.refresh()

    def _take(self, entry: dict[str, Any]) -> None:
        if "ask" in entry:
            number = entry.pop("ask")
            self.asks.append(Ask(number=number, **entry | {"point": tuple(entry["point"])}))
        elif "answer" in entry:
            number, values = entry.pop("answer"), entry.get("values")
            values = None if values is None else tuple(float(v) for v in values)
            self.answers[number] = Answer(number=number, **entry | {"values": values})
        elif "forget" in entry:
            self.asks = [ask for ask in self.asks if ask.number < entry["forget"]]
            self.answers = {n: answer for n, answer in self.answers.items() if n < entry["forget"]}
        elif "stop" in entry:
            self.stopped = Stop(entry["stop"], entry["reason"], entry["session"])


def _fields(entry: Ask | Answer) -> dict[str, Any]:
    """The JSON of a line; Inf as a word, since JSON has no number for it."""
    fields = {
        n: value
        for n, value in vars(entry).items()
        if n != "number" and value is not None and value is not False and value != {}
    }
    if "values" in fields:
        fields["values"] = [value if math.isfinite(value) else "Inf" for value in fields["values"]]
    return fields
