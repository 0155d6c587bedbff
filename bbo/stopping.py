"""Early stopping: which evaluations are left before their last epoch, and what is told for them.

Optuna's pruners decide, over a study that is a view of the run's log and of the store: a trial for each of the run's
evaluations, numbered as they were asked for, with its validation losses by epoch. An evaluation is compared with what
was known when its block was asked for, and with nothing that came later: so a decision depends neither on companions
nor on the speed of anybody, and is the same after every kill. Losses are compared at the same optimizer step of
equally long trainings only; an evaluation of another length counts for nothing.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from bbo.errors import InputError
from bbo.experiment import Experiment, Stopping
from bbo.run import Run
from bbo.runlog import Answer, RunLog
from bbo.store import Evaluation, Stopped, Store

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Status = Literal["ok", "failed", "stopped"]

STATUS: Mapping[str, Status] = {"trained": "ok", "store": "ok", "failed": "failed", "stopped": "stopped"}
"""Of an evaluation, by its answer's source."""

BY_HAND = "asked to stop"
"""The reason of those that found the file `stop` in their folder."""


@dataclass(frozen=True)
class Asked:
    """Who wants an evaluation. It is part of the job's file, and of stopped.json."""

    run: str
    """The run folder."""
    number: int
    """Of the ask."""
    block: int
    """Of the ask: what was answered before it is what the evaluation is compared with."""
    stopping: Mapping[str, Any] | None
    """The rule with its settings; None where no rule applies."""

    def accepts(self, stopped: Stopped) -> bool:
        """Whether it was stopped for this ask, or by the same run's rule for an earlier one at the same point."""
        if stopped.asked is None:
            return False
        by = Asked(**stopped.asked)
        if (by.run, by.stopping) != (self.run, self.stopping):
            return False
        return by.number == self.number or (self.stopping is not None and by.number < self.number)


class Study:
    """An Optuna study whose trials come one after another: `begin`, `stops` as often as wanted, `end`."""

    def __init__(self, stopping: Stopping, epochs: int) -> None:
        """`epochs`: of a whole training, a last part counted as one."""
        import optuna  # noqa: PLC0415 - heavy

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Hyperband chooses a trial's bracket by the study's name and the trial's number.
        self._study = optuna.create_study(
            study_name="run", pruner=_pruner(stopping, epochs), sampler=optuna.samplers.RandomSampler(seed=0)
        )

    def begin(self) -> None:
        """The next evaluation."""
        self._trial = self._study.ask()
        self._losses: list[float] = []
        self._stopped = False

    def stops(self, losses: Sequence[float]) -> bool:
        """Whether the rule leaves the evaluation that began last, at one of these epochs, all that it has behind it."""
        for loss in losses[len(self._losses) :]:
            self._losses.append(loss)
            self._trial.report(loss, len(self._losses))
            self._stopped |= self._trial.should_prune()
        return self._stopped

    def end(self, status: Status) -> None:
        """The evaluation that began last is over, or there is no more to be known of it."""
        from optuna.trial import TrialState  # noqa: PLC0415 - heavy

        states = {"ok": TrialState.COMPLETE, "failed": TrialState.FAIL, "stopped": TrialState.PRUNED}
        self._study.tell(self._trial, self._losses[-1] if status == "ok" else None, states[status])


def _pruner(stopping: Stopping, epochs: int) -> "BasePruner":
    from optuna import pruners  # noqa: PLC0415 - heavy

    if stopping.rule == "median":
        return pruners.MedianPruner(stopping.n_startup, stopping.min_epochs)
    if stopping.rule == "asha":
        return pruners.SuccessiveHalvingPruner(stopping.min_epochs, stopping.reduction_factor)
    if stopping.rule == "hyperband":
        return pruners.HyperbandPruner(stopping.min_epochs, epochs, stopping.reduction_factor)
    return pruners.NopPruner()


class Judge:
    """Says after each epoch of one evaluation whether it is to be left."""

    def __init__(self, asked: Asked | None, evaluation: Evaluation) -> None:
        self.asked = asked
        self.evaluation = evaluation

    def verdict(self) -> str | None:
        """Why training ends here, as progress.jsonl and the file `stop` stand; None: it goes on."""
        return BY_HAND if self.evaluation.stop_file.exists() else self.rule()

    def rule(self) -> str | None:
        """The same without a look at the file `stop`."""
        if self.asked is None or self.asked.stopping is None:
            return None
        curve = Curve.of(self.evaluation)
        assert curve is not None, "the trainer notes an epoch before it asks"
        return str(self.asked.stopping["rule"]) if self._study.stops(curve.losses) else None

    @cached_property
    def _study(self) -> Study:
        """Of the run as it was when the block was asked for, with this evaluation as its latest trial."""
        assert self.asked is not None and self.asked.stopping is not None
        mine = Curve.of(self.evaluation)
        assert mine is not None
        study = Study(Stopping(**self.asked.stopping), mine.epochs)
        for curve, status in _before(self.asked, Store(self.evaluation.folder.parent)):
            study.begin()
            if curve is not None and curve.schedule == mine.schedule:
                study.stops(curve.losses)
                study.end(status)
            else:
                study.end("failed")
        study.begin()
        return study

    def record(self, reason: str, seconds: float, gpus: int, job: str) -> None:
        """Write stopped.json: it ends where progress.jsonl does."""
        last = self.evaluation.epochs()[-1]
        self.evaluation.stop(
            Stopped(
                key=self.evaluation.key,
                epoch=last["epoch"],
                metrics={name: last[name] for name in ("eval_loss", "train_loss") if name in last},
                reason=reason,
                asked=None if self.asked is None else asdict(self.asked),
                seconds=seconds,
                gpu_seconds=seconds * gpus,
                finished=time.time(),
                job=job,
            )
        )


@dataclass(frozen=True)
class Curve:
    """Validation losses by epoch."""

    losses: tuple[float, ...]
    schedule: tuple[int, int]
    """Optimizer steps of the first epoch, and of the whole training."""

    @property
    def epochs(self) -> int:
        """Of the whole training, a last part counted as one."""
        first, whole = self.schedule
        return math.ceil(whole / first)

    @classmethod
    def of(cls, evaluation: Evaluation, until: float = math.inf) -> "Curve | None":
        """As far as epoch `until`; None where no epoch has ended."""
        entries = [entry for entry in evaluation.epochs() if entry["epoch"] <= until]
        if not entries:
            return None
        return cls(tuple(entry["eval_loss"] for entry in entries), (entries[0]["step"], entries[0]["steps"]))


class _Log(RunLog):
    """A run's log, with the answers that stood in it when a block was asked for."""

    def __init__(self, path: Path, block: int) -> None:
        self._block = block
        self.known: dict[int, Answer] = {}
        super().__init__(path)

    def _take(self, entry: dict[str, Any]) -> None:
        if entry.get("ask") == self._block:  # once more after a `forget`
            self.known = dict(self.answers)
        super()._take(entry)


def _before(asked: Asked, store: Store) -> Iterator[tuple[Curve | None, Status]]:
    """The run's evaluations before this one, in their order; None for what was not known yet, or asked for before."""
    log, seen = _Log(Run(Path(asked.run)).log_file, asked.block), set()
    for ask in log.driven:
        if ask.number >= asked.number:
            return
        answer = log.known.get(ask.number)
        if answer is None or answer.source == "declined" or ask.key in seen:
            yield None, "failed"
            continue
        seen.add(ask.key)
        until = math.inf if answer.epoch is None else answer.epoch  # another run may have trained it further
        yield Curve.of(store.evaluation(ask.key), until), STATUS[answer.source]


def compared_with(asked: Iterable[Asked | None], store: Store) -> list[Path]:
    """The files that a judge of these looks into, beside those of the evaluation itself."""
    runs = {each.run for each in asked if each is not None and each.stopping is not None}
    logs = [Run(Path(run)).log_file for run in runs]
    keys = {ask.key for log in logs for ask in RunLog(log).driven}
    return logs + [file for key in keys if (file := store.evaluation(key).progress_file.absolute()).is_file()]


def told_for(experiment: Experiment, asked: Asked, stopped: Stopped) -> Answer:
    """What the optimizer hears of a stopped evaluation.

    Its last values; 0 (Inf in an objective) for what is not measured after an epoch. The objective is no better than
    the best one that was known when its block was asked for: nobody may take a part of a training for the best. Of
    several, all are Inf: what is left by hand is on no front.
    """
    outputs, place = experiment.outputs, experiment.objective
    values = [
        output.value(stopped.metrics) if output.metric in stopped.metrics else output.failed for output in outputs
    ]
    own = values[place]
    answers = _Log(Run(Path(asked.run)).log_file, asked.block).known.values()
    good = [a.values for a in answers if a.source in ("trained", "store") and a.values is not None]
    values[place] = max([own, min((v[place] for v in good if not experiment.rank(v)[0]), default=own)])
    if len(experiment.objectives) > 1:
        own = math.inf
        for index in experiment.objectives:
            values[index] = own
    return Answer(
        number=asked.number,
        values=tuple(values),
        source="stopped",
        time=time.time(),
        job=stopped.job,
        reason=stopped.reason,
        epoch=stopped.epoch,
        objective=own if math.isfinite(own) else None,
        seconds=stopped.seconds,
        gpu_seconds=stopped.gpu_seconds,
    )


def stopping_of(experiment: Experiment, rule: str | None) -> Stopping:
    """The YAML's section, with another rule where one is named. Raises InputError for one that does not exist."""
    if rule is None:
        return experiment.stopping
    try:
        return Stopping.model_validate({**experiment.stopping.model_dump(), "rule": rule})
    except ValidationError as error:
        raise InputError(f"--stopping: {error.errors()[0]['msg'].lower()}, got {rule!r}") from None


def refusal(experiment: Experiment, stopping: Stopping, epochs: int, budget: int | None) -> str | None:
    """Why this rule means nothing here: `epochs` of the longest training, evaluations of the run. None: it does."""
    if stopping.rule == "none":
        return None
    objectives = [output for output in experiment.outputs if output.kind == "OBJ"]
    if [(output.metric, output.sign) for output in objectives] != [("eval_loss", 1.0)]:
        return f"{stopping.rule} compares validation losses: eval_loss must be the one objective"
    if _fires(stopping, epochs, budget):
        return None
    settings = f"min_epochs {stopping.min_epochs}"
    settings += f" and n_startup {stopping.n_startup}" if stopping.rule == "median" else ""
    within = "" if budget is None else f" among {budget}"
    return f"{stopping.rule} with {settings} can stop no evaluation of {epochs} epoch(s){within}"


def _fires(stopping: Stopping, epochs: int, budget: int | None) -> bool:
    """Whether one is stopped before its last epoch where each is worse than all before."""
    if epochs <= stopping.min_epochs:
        return False
    study = Study(stopping, epochs)
    for number in itertools.count() if budget is None else range(budget):
        study.begin()
        if study.stops([float(number)] * (epochs - 1)):
            return True
        study.end("ok")
    return False
