"""A run opened for reading, whether it is finished, under way or a native NOMAD's: nothing here changes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.run import Run, find_run, lasting
from bbo.runlog import Answer, Ask, RunLog
from bbo.session import read_session
from bbo.store import Evaluation, Result, Stopped, Store

Status = Literal["ok", "infeasible", "failed", "stopped", "declined", "pending"]


@dataclass(frozen=True)
class Entry:
    """One evaluation of a run: what was asked for, and how it ended so far."""

    ask: Ask
    answer: Answer | None
    """None while it is under way."""
    hyperparameters: Mapping[str, Any]
    evaluation: Evaluation
    status: Status
    result: Result | None
    """None too where this run stopped it early, whoever finished it since."""
    stopped: Stopped | None

    @property
    def values(self) -> tuple[float, ...] | None:
        """As told, of a whole evaluation; a constraint may be violated."""
        whole = self.status in ("ok", "infeasible") and self.answer is not None
        return self.answer.values if whole and self.answer is not None else None

    @property
    def reason(self) -> str | None:
        """Why it failed, or what stopped it."""
        return None if self.answer is None else self.answer.reason


@dataclass(frozen=True)
class Record:
    """What a run's log and its store say."""

    run: Run
    experiment: Experiment
    store: Store
    log: RunLog

    @property
    def asks(self) -> list[Ask]:
        """The run's evaluations: its optimizer's, or, where nobody drove it, those of a native NOMAD."""
        return asks_of(self.log)

    def entries(self) -> list[Entry]:
        """Of all evaluations, in the order in which they were asked for. Reads the result of each."""
        return [self.entry(ask) for ask in self.asks]

    def entry(self, ask: Ask) -> Entry:
        answer, evaluation = self.log.answers.get(ask.number), self.store.evaluation(ask.key)
        early = answer is not None and answer.source == "stopped"
        ended = answer is not None and answer.source in ("trained", "store", "failed")
        return Entry(
            ask,
            answer,
            decode(self.experiment, ask),
            evaluation,
            _status(self.experiment, answer),
            evaluation.result() if ended else None,
            evaluation.stopped() if early else None,
        )


def open_record(name: str) -> Record:
    """The run of a name or path. Raises InputError where there is none, or no evaluation was begun in it yet."""
    run = find_run(name)
    if not run.log_file.is_file():
        raise InputError(f"{run.folder}: no run there")
    store, log = store_of(run), run.log()
    return Record(run, _experiment(run, store, asks_of(log)), store, log)


def store_of(run: Run) -> Store:
    """Where its evaluations are."""
    return Store(Path(read_session(run).store)) if run.session_file.is_file() else Store(run.evals)


def asks_of(log: RunLog) -> list[Ask]:
    return log.driven or [ask for ask in log.asks if not ask.surrogate]


def decode(experiment: Experiment, ask: Ask) -> Mapping[str, Any]:
    """Hyperparameters of an ask. Raises InputError where it is no point of the experiment."""
    try:
        return experiment.space.decode(ask.point)
    except ValueError as error:  # a native NOMAD's run may have seen several experiments
        raise InputError(f"#{ask.number}: no point of {experiment.path}: {error}") from None


def _experiment(run: Run, store: Store, asks: Sequence[Ask]) -> Experiment:
    """The run's experiment, from the copy beside an evaluation. In a shared store it may be another run's."""
    begun = run.about().get("experiment")
    wanted = None if begun is None else lasting(begun)
    for ask in asks:
        file = store.evaluation(ask.key).experiment_file
        if file.is_file():
            experiment = read_experiment(file)
            if wanted in (None, json.loads(json.dumps(lasting(experiment.document)))):
                return experiment
    raise InputError(f"{run.folder}: none of its evaluations in {store.root} has a copy of its experiment")


def _status(experiment: Experiment, answer: Answer | None) -> Status:
    if answer is None:
        return "pending"
    match answer.source:
        case "trained" | "store":
            return "infeasible" if experiment.rank(answer.values or ())[0] > 0 else "ok"
        case other:
            return other
