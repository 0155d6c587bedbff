"""What a run shows while it is under way: one line per evaluation, and a live line."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bbo.experiment import Experiment, Rank
from bbo.front import front, is_good
from bbo.guard import Watch
from bbo.run import Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.store import Store


@dataclass
class Display(Watch):
    """Follows one run on a terminal (a live line at the bottom) or in a plain log."""

    run: Run
    experiment: Experiment
    store: Store
    max_bb_eval: int | None
    console: Console

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._shown: set[int] = set()
        self._seen = 0
        """Answers in the log that were looked at."""
        self._surrogates: set[str] = set()
        """Keys that the surrogate has answered."""
        self._front: dict[int, Rank] = {}
        """The best so far, by the numbers of their asks."""
        self._counted = 0
        self._trained = 0
        """Evaluations trained since we started."""
        self._live = (
            Live(console=self.console, transient=True, auto_refresh=False) if self.console.is_terminal else None
        )
        if self._live:
            self._live.start()

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def note(self, sentence: str) -> None:
        self.console.print(sentence, style="yellow", highlight=False)

    def replaying(self, log: RunLog) -> None:
        """Evaluations known from before are counted, not listed again."""
        for ask, answer in self._new(log):
            self._count(ask, answer)
        if self._shown:
            of = f" of {self.max_bb_eval}" if self.max_bb_eval else ""
            self.note(f"replaying {len(self._shown)}{of} evaluations from {self.run.log_file}")

    def replayed(self, count: int, total: int) -> None:
        if self._live:
            self._live.update(Text(f"replaying {count} of {total}", style="cyan"), refresh=True)

    def update(self, log: RunLog) -> None:
        for ask, answer in self._new(log):
            self._count(ask, answer)
            self._trained += answer.source in ("trained", "stopped")
            self.console.print(self._line(ask, answer), highlight=False, soft_wrap=True)
        if self._live:
            self._live.update(self._status(log), refresh=True)

    def _new(self, log: RunLog) -> Iterator[tuple[Ask, Answer]]:
        """The evaluations told since this was last called, each ask once."""
        new, self._seen = log.arrived[self._seen :], len(log.arrived)
        for answer in new:
            ask = log.asks[answer.number - 1]
            if ask.native:
                continue
            if ask.surrogate:
                self._surrogates.add(ask.key)
            elif ask.number not in self._shown and answer.source != "declined":
                yield ask, answer

    def _count(self, ask: Ask, answer: Answer) -> None:
        self._shown.add(ask.number)
        self._counted += 1
        if is_good(self.experiment, answer):
            ranks = {**self._front, ask.number: self.experiment.rank(answer.values or ())}
            self._front = {number: ranks[number] for number in front(ranks)}

    def _line(self, ask: Ask, answer: Answer) -> str:
        total = f"/{self.max_bb_eval}" if self.max_bb_eval else ""
        how = f"  ({answer.reason})" if answer.reason else "" if answer.source == "trained" else "  (from the store)"
        if answer.source == "stopped":
            how = f"  stopped at epoch {answer.epoch:g} ({answer.reason})"
        words = describe(self.experiment.space.decode(ask.point))
        time_ = clock(time.monotonic() - self._started)
        said = f"{scores(self.experiment, answer)}{violated(self.experiment, answer)}  {self._best()}"
        return f"[{self._counted}{total}] #{ask.number} {said}  {words}  {time_}{how}"

    def _best(self) -> str:
        """The best objective so far, or how many are on the front."""
        several = len(self.experiment.objectives) > 1
        if not self._front:
            bounded = any(output.kind == "PB" for output in self.experiment.outputs)
            return f"{'front' if several else 'best'} {'none feasible yet' if bounded else '-'}"
        if several:
            return f"front {len(self._front)}"
        output = self.experiment.outputs[self.experiment.objective]
        return "best " + next(spelt(output.sign * rank[1]) for rank in self._front.values())

    def _status(self, log: RunLog) -> Text:
        elapsed = time.monotonic() - self._started
        words = f"{self._counted}{f' of {self.max_bb_eval}' if self.max_bb_eval else ''} evaluations"
        words += f"{beside(self._surrogates)}, {clock(elapsed)}"
        left = self._expected()
        words += f", about {clock(left)} to go" if left is not None else ""
        for ask in log.unanswered.values():
            step = _last_step(self.store.evaluation(ask.key).progress_file)
            if step:
                words += f"  | #{ask.number}: {step}"
        return Text(words, style="cyan", overflow="ellipsis", no_wrap=True)

    def _expected(self) -> float | None:
        """Seconds to the end at the pace of this session's trained evaluations."""
        if not self._trained or not self.max_bb_eval:
            return None
        return self._elapsed() / self._trained * max(0, self.max_bb_eval - self._counted)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def beside(surrogates: Set[str]) -> str:
    """How many different points the surrogate has answered, if there is one."""
    return f" + {len(surrogates)} surrogate" if surrogates else ""


def scores(experiment: Experiment, answer: Answer, digits: int = 5) -> str:
    """The objectives by name, with their true signs."""
    told = [answer.values[index] if answer.values else math.inf for index in experiment.objectives]
    told[0] = told[0] if answer.objective is None else answer.objective
    outputs = [experiment.outputs[index] for index in experiment.objectives]
    if answer.source == "failed":
        return f"{outputs[0].metric} failed"
    return "  ".join(f"{o.metric} {spelt(o.sign * value, digits)}" for o, value in zip(outputs, told, strict=True))


def spelt(value: float, digits: int = 5) -> str:
    """A number to so many digits, a whole one (of parameters, say) with all of them."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"


def violated(experiment: Experiment, answer: Answer) -> str:
    """The constraints that do not hold and by how much; nothing where all do, or nothing is known."""
    values = answer.values if answer.source in ("trained", "store") and answer.values else ()
    pairs = zip(experiment.outputs, values, strict=False)
    return "".join(f"  ({o.condition} violated by {spelt(v)})" for o, v in pairs if o.kind == "PB" and v > 0)


def describe(hyperparameters: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in hyperparameters.items())  # fmt: skip


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _last_step(progress: Path) -> str | None:
    try:
        lines = progress.read_text().splitlines()
        entry = json.loads(lines[-1])
        if "scoring" in entry:
            return f"scoring {entry['scoring']}"
        return f"step {entry['step']} of {entry['steps']}"
    except (FileNotFoundError, IndexError, ValueError, KeyError):
        return None
