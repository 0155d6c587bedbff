"""What a run shows: one line per evaluation, a live line while one is under way, and the summary at the end."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bbo.experiment import Experiment
from bbo.guard import Watch
from bbo.lineage import schedule
from bbo.run import Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.space import Point
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
        self._best = math.inf
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
            self._best = min(self._best, _objective(answer, self.experiment))

    def _line(self, ask: Ask, answer: Answer) -> str:
        output = self.experiment.outputs[self.experiment.objective]
        total = f"/{self.max_bb_eval}" if self.max_bb_eval else ""
        told = answer.objective if answer.objective is not None else _objective(answer, self.experiment)
        value = "failed" if answer.source == "failed" else f"{output.sign * told:.5g}"
        best = "-" if math.isinf(self._best) else f"{output.sign * self._best:.5g}"
        how = f"  ({answer.reason})" if answer.reason else "" if answer.source == "trained" else "  (from the store)"
        if answer.source == "stopped":
            how = f"  stopped at epoch {answer.epoch:g} ({answer.reason})"
        words = describe(self.experiment.space.decode(ask.point))
        clock = _clock(time.monotonic() - self._started)
        return f"[{self._counted}{total}] #{ask.number} {output.metric} {value}  best {best}  {words}  {clock}{how}"

    def _status(self, log: RunLog) -> Text:
        elapsed = time.monotonic() - self._started
        words = f"{self._counted}{f' of {self.max_bb_eval}' if self.max_bb_eval else ''} evaluations"
        words += f"{_beside(self._surrogates)}, {_clock(elapsed)}"
        left = self._expected()
        words += f", about {_clock(left)} to go" if left is not None else ""
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


def summary(
    experiment: Experiment,
    store: Store,
    log: RunLog,
    base: Mapping[str, float] | None,
    seconds: float,
    x0: Sequence[Point],
) -> list[str]:
    """The end of a run: scores of base, X0 and best, hyperparameters, evaluations, wall time, adapter, what is next."""
    output = experiment.outputs[experiment.objective]
    evaluated = [
        (ask, answer)
        for ask in log.driven
        if (answer := log.answers.get(ask.number)) is not None and answer.source != "declined"
    ]
    best = best_of(experiment, log)

    def score(answer: Answer) -> str:
        return "failed" if answer.source == "failed" else f"{output.sign * _objective(answer, experiment):.6g}"

    rows = {"base score": f"{base[output.metric]:.6g}" if base and output.metric in base else "not scored"}
    if first := next(((ask, answer) for ask, answer in evaluated if ask.point in x0), None):
        ask, answer = first
        rows["X0's score"] = f"{score(answer)}   ({describe(experiment.space.decode(ask.point))})"
    if best is None:
        rows["best score"] = "no good evaluation"
    else:
        ask, answer = best
        rows["best score"] = f"{score(answer)}   ({output.metric}, evaluation #{ask.number})"
        rows["best hyperparameters"] = describe(experiment.space.decode(ask.point))
        if (changes := schedule(store, ask.key)) is not None:
            rows["best schedule"] = changes
    sources = ("trained", "store", "failed", "stopped")
    count = {source: sum(a.source == source for _, a in evaluated) for source in sources}
    surrogates = {ask.key for ask in log.replayed if ask.surrogate and ask.number in log.answers}
    stopped = f", {count['stopped']} stopped" if count["stopped"] else ""
    counts = f"({count['trained']} trained, {count['store']} from the store, {count['failed']} failed{stopped})"
    rows["evaluations"] = f"{len(evaluated)}   {counts}{_beside(surrogates)}"
    rows["wall time"] = _clock(seconds)
    if best is not None:
        evaluation = store.evaluation(best[0].key)
        kept = evaluation.weights
        what = "best model" if kept == evaluation.model else "best adapter"
        rows[what] = str(kept) if kept else "none on disk (the toy has none; see resources.keep)"
        rows["next"] = f"python -m blackbox.eval {evaluation.point_file}"
    return [f"{name:<22}{value}" for name, value in rows.items()]


def best_of(experiment: Experiment, log: RunLog) -> tuple[Ask, Answer] | None:
    """The best answered ask whose constraints hold; the first of equals."""
    good = [
        (ask, answer)
        for ask in log.driven
        if (answer := log.answers.get(ask.number)) is not None and is_good(experiment, answer)
    ]
    return min(good, key=lambda pair: _objective(pair[1], experiment), default=None)


def is_good(experiment: Experiment, answer: Answer) -> bool:
    """Neither failed nor declined nor stopped nor infeasible."""
    told = answer.source in ("trained", "store") and answer.values is not None
    return told and not experiment.rank(answer.values or ())[0]


def _beside(surrogates: Set[str]) -> str:
    """How many different points the surrogate has answered, if there is one."""
    return f" + {len(surrogates)} surrogate" if surrogates else ""


def describe(hyperparameters: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in hyperparameters.items())  # fmt: skip


def _objective(answer: Answer, experiment: Experiment) -> float:
    return math.inf if answer.values is None else answer.values[experiment.objective]


def _clock(seconds: float) -> str:
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
