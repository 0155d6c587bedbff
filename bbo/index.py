"""The run log in a form that can be asked, so that a call of the blackbox reads the lines added since the last one.

A SQLite file beside log.jsonl, derived from it and worth nothing by itself: where it is missing, damaged, another
session's or ahead of the log it is begun anew, which reads the whole log once. It also holds what one call hands on to
the next. Everything happens under the lock of the log; a transaction that a kill cuts short never was.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bbo.errors import MachineError
from bbo.experiment import Rank
from bbo.run import Run
from bbo.runlog import Answer, Ask, Log, parse_answer, parse_ask
from bbo.session import Session, Superseded, read_session
from bbo.space import Point

TABLES = """
CREATE TABLE asks (number INTEGER PRIMARY KEY, place INTEGER UNIQUE, evaluation INTEGER UNIQUE, point TEXT, entry TEXT);
CREATE INDEX asks_at ON asks (point);
CREATE TABLE answers (arrived INTEGER PRIMARY KEY, number INTEGER, entry TEXT);
CREATE INDEX answers_to ON answers (number);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), content TEXT);
"""


@dataclass(frozen=True)
class Recorded:
    """An ask as the record has it: its place among the run's evaluations, from 0, and its latest answer."""

    ask: Ask
    evaluation: int | None
    """None for a surrogate's."""
    answer: Answer | None


@dataclass
class State:
    """How far a session's calls have come."""

    session: str
    log: int = 0
    """Bytes of the log that are in the tables."""
    done: int = 0
    """Asks that were taken: the cursor of a replay."""
    heard: int = 0
    """Of those, the asks that NOMAD's history was seen to agree with, and the bytes of the history up to there."""
    history: int = 0
    noted: int = 0
    """Evaluations in that part of the history."""
    said: int = 0
    """Bytes of NOMAD's log that were read."""
    ranked: int = 0
    """Answers that the choice of adapters to keep has seen, and the rank of each kept key."""
    kept: dict[str, Rank] = field(default_factory=dict)
    generations: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Of the intervals whose states are kept: how many others are before it, and whether the state is the run's."""


class Index(Log):
    """The run log for one session's calls, or (None) for those of a native NOMAD. All but `answer` under `locked`.

    Raises Superseded where another session was opened since, and MachineError.
    """

    state: State
    _db: sqlite3.Connection

    def __init__(self, run: Run, session: Session | None) -> None:
        super().__init__(run.log_file)
        self.run = run
        self.session = session
        self._file = run.native_index_file if session is None else run.index_file
        self._name = "native" if session is None else session.name
        # No session outlives a crash of the machine, the one thing that flushing is for.
        self._flushing = f"PRAGMA synchronous = {'FULL' if session is None else 'OFF'}"

    def at(self, place: int, count: int) -> list[Recorded]:
        """Up to `count` of the driver's asks from this place on."""
        return self._select("place >= ? AND place < ? ORDER BY place", place, place + count)

    def of(self, point: Point, surrogate: bool = False) -> Recorded | None:
        """The driver's last ask at this point, of its surrogate or not."""
        where = "point = ? AND place IS NOT NULL AND (evaluation IS NULL) = ? ORDER BY place DESC LIMIT 1"
        found = self._select(where, _text(point), surrogate)
        return found[0] if found else None

    def places(self) -> int:
        """How many asks a driver's optimizer made, surrogate's included."""
        return self._number("SELECT max(place) + 1 FROM asks")

    def news(self) -> list[tuple[Ask, Answer]]:
        """The answers that came in since this was last called, native ones too."""
        rows = self._db.execute(
            "SELECT asks.entry, answers.entry FROM answers JOIN asks USING (number) WHERE arrived > ? ORDER BY arrived",
            (self.state.ranked,),
        ).fetchall()
        self.state.ranked = self._number("SELECT max(arrived) FROM answers")
        return [(parse_ask(json.loads(ask)), parse_answer(json.loads(answer))) for ask, answer in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.session is not None and read_session(self.run) != self.session:
            raise Superseded(self._name)
        try:
            if not self._fits():
                self._begin()
            self._offset = self.state.log
            with closing(self._db), self._db:
                yield
                self.state.log = self._offset
                self._db.execute("REPLACE INTO state VALUES (1, ?)", (json.dumps(vars(self.state)),))
        except sqlite3.Error as error:
            raise MachineError(f"{self._file}: {error}") from None

    def _fits(self) -> bool:
        """Whether the file is this session's and says nothing that the log does not."""
        self._db = sqlite3.connect(self._file)
        try:
            self._db.execute(self._flushing)
            (content,) = self._db.execute("SELECT content FROM state").fetchone()
            self.state = State(**json.loads(content))
        except (sqlite3.DatabaseError, TypeError, ValueError):
            return False
        return self.state.session == self._name and self.state.log <= self.path.stat().st_size

    def _begin(self) -> None:
        """An empty index; the next `refresh` fills it."""
        self._db.close()
        self._file.unlink(missing_ok=True)
        self._file.with_name(f"{self._file.name}-journal").unlink(missing_ok=True)  # SQLite undoes a part with it
        self._db = sqlite3.connect(self._file)
        self._db.execute(self._flushing)
        self._db.executescript(TABLES)
        self.state = State(self._name)

    def _select(self, where: str, *values: Any) -> list[Recorded]:
        latest = "SELECT entry FROM answers WHERE number = asks.number ORDER BY arrived DESC LIMIT 1"
        rows = self._db.execute(f"SELECT evaluation, entry, ({latest}) FROM asks WHERE {where}", values)
        return [
            Recorded(parse_ask(json.loads(ask)), evaluation, parse_answer(json.loads(answer)) if answer else None)
            for evaluation, ask, answer in rows
        ]

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0] or 0)

    def _last(self) -> int:
        return self._number("SELECT max(number) FROM asks")

    def _take(self, entry: dict[str, Any]) -> None:
        if "ask" in entry:
            ask = parse_ask(entry)
            place = None if ask.native else self.places()
            no_evaluation = ask.native or ask.surrogate
            evaluation = None if no_evaluation else self._number("SELECT max(evaluation) + 1 FROM asks")
            row: tuple[Any, ...] = (ask.number, place, evaluation, _text(ask.point), json.dumps(entry))
            self._db.execute("INSERT INTO asks VALUES (?, ?, ?, ?, ?)", row)
        elif "answer" in entry:
            row = (parse_answer(entry).number, json.dumps(entry))
            self._db.execute("INSERT INTO answers (number, entry) VALUES (?, ?)", row)
        elif "forget" in entry:
            for table in ("asks", "answers"):
                self._db.execute(f"DELETE FROM {table} WHERE number >= ?", (entry["forget"],))
            self.state = State(self._name)  # what was taken or kept may be gone


def _text(point: Sequence[float]) -> str:
    return json.dumps([x + 0.0 for x in point])  # -0.0 and 0.0 are one point
