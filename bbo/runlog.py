"""The truth about a run: runs/NAME/log.jsonl, one line per ask and per answer, append-only.

The blackbox alone writes asks and answers; `bbo retry` appends what is to be forgotten.
"""

import fcntl
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from bbo.errors import MachineError
from bbo.space import Point

Source = Literal["trained", "store", "stopped", "failed", "declined"]


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
    told: int | None = None
    """How many answers the optimizer knew when it proposed this; None under NOMAD, where the order of asks says it."""
    parent: int | None = None
    """Number of the ask whose training this one goes on from."""


@dataclass(frozen=True)
class Answer:
    """What was told for an ask; `values` is None for a declined one. `source` says where the values came from."""

    number: int
    values: tuple[float, ...] | None
    source: Source
    time: float
    job: str | None = None
    reason: str | None = None
    epoch: float | None = None
    """Of one that was stopped early: epochs behind it, its own last objective (None where it has none so far), and
    what it took."""
    objective: float | None = None
    seconds: float | None = None
    gpu_seconds: float | None = None


@dataclass(frozen=True)
class Stop:
    """Why the blackbox ended a session: the machine failed, the record does not hold, or a replay is needed."""

    kind: Literal["input", "machine", "diverged", "unanswered"]
    reason: str
    session: str


class Log(ABC):
    """The file. Concurrent processes may append; `refresh` reads what was added, and a subclass keeps what it says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        """Bytes that were read."""
        self._held: IO[bytes] | None = None
        """The file, open to be appended to, while we hold it."""

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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the log for a read followed by appends. A torn tail that a dead writer left is cut first.

        Whoever holds it may do so again: it is one hold, to the end of the outermost.
        """
        if self._held is not None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._held = file
            try:
                with self._transaction():
                    self.refresh()
                    if os.fstat(file.fileno()).st_size > self._offset:
                        file.truncate(self._offset)
                    yield
            finally:
                self._held = None

    def ask(
        self,
        points: Sequence[Point],
        keys: Sequence[str],
        parents: Sequence[int | None] = (),
        **of_all: Any,
    ) -> list[Ask]:
        """Append the asks of one block, which is known by the number of its first; call it under `locked`.

        `of_all`: the fields of Ask that are the same for all of them.
        """
        first, now = self._last() + 1, time.time()
        asks = [
            Ask(first + i, point, key, first, now, parent=parent, **of_all)
            for i, (point, key, parent) in enumerate(zip(points, keys, parents or [None] * len(points), strict=True))
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
        assert self._held is not None
        self._held.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
        self._held.flush()
        os.fsync(self._held.fileno())
        self.refresh()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Around all that is done under `locked`."""
        yield

    @abstractmethod
    def _last(self) -> int:
        """The number of the last ask."""

    @abstractmethod
    def _take(self, entry: dict[str, Any]) -> None:
        """Keep what one line says."""


class RunLog(Log):
    """All asks and answers of one run folder, in memory: for who follows a whole run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asks: list[Ask] = []
        """The ask of number n is the one at n - 1."""
        self.driven: list[Ask] = []
        """The run's evaluations: the asks that a driver's optimizer made, but for the surrogate's."""
        self.unanswered: dict[int, Ask] = {}
        """What a driver's optimizer asked for, the surrogate's too, and has no answer yet."""
        self.answers: dict[int, Answer] = {}
        self.arrived: list[Answer] = []
        """All answers, also replaced ones, as they came in: what follows the run remembers how many it has seen."""
        self.stopped: Stop | None = None
        """The last line that asked to end a session, if there is one."""
        self.refresh()

    @property
    def replayed(self) -> list[Ask]:
        """The asks that a driver's optimizer made, the surrogate's too, in order: those that a replay must repeat."""
        return [ask for ask in self.asks if not ask.native]

    def _last(self) -> int:
        return len(self.asks)

    def _take(self, entry: dict[str, Any]) -> None:
        if "ask" in entry:
            ask = parse_ask(entry)
            self.asks.append(ask)
            if not ask.native:
                self.unanswered[ask.number] = ask
                if not ask.surrogate:
                    self.driven.append(ask)
        elif "answer" in entry:
            answer = parse_answer(entry)
            self.answers[answer.number] = answer
            self.arrived.append(answer)
            self.unanswered.pop(answer.number, None)
        elif "forget" in entry:
            end = entry["forget"]
            self.asks = self.asks[: end - 1]
            self.driven = [ask for ask in self.driven if ask.number < end]
            self.unanswered = {n: ask for n, ask in self.unanswered.items() if n < end}
            self.answers = {n: answer for n, answer in self.answers.items() if n < end}
            self.arrived = [answer for answer in self.arrived if answer.number < end]
        elif "stop" in entry:
            self.stopped = Stop(entry["stop"], entry["reason"], entry["session"])


def parse_ask(entry: Mapping[str, Any]) -> Ask:
    """The ask that a line notes."""
    fields = {name: value for name, value in entry.items() if name != "ask"}
    return Ask(number=entry["ask"], **fields | {"point": tuple(entry["point"])})


def parse_answer(entry: Mapping[str, Any]) -> Answer:
    """The answer that a line notes."""
    fields, values = {name: value for name, value in entry.items() if name != "answer"}, entry.get("values")
    values = None if values is None else tuple(float(v) for v in values)
    return Answer(number=entry["answer"], **fields | {"values": values})


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
