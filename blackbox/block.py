"""A block of evaluations: answered from the store where they are known, else trained and scored as jobs."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bbo import lifeline
from bbo.claims import beating
from bbo.errors import InputError
from bbo.executors.choose import executor_of
from bbo.executors.protocol import Executor, Files, Resident
from bbo.executors.slots import gpus_of
from bbo.experiment import Experiment
from bbo.points import format_point
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.space import Point
from bbo.stopping import Judge
from bbo.store import ROOT, Evaluation, Result, Stopped, Store, key_of
from blackbox import objective, toy
from blackbox.inputs import inputs_of
from blackbox.jobs import Candidate, Jobs, Means, measures_the_machine
from blackbox.objective import is_callable
from blackbox.preflight import Preflight
from blackbox.recipe import RECIPE, Fingerprints, common, evaluation_key, loaded
from blackbox.scores import qa
from blackbox.scores.requests import Wanted, is_task, wanted
from blackbox.settings import Settings, Training, read_settings

Source = Literal["trained", "store", "stopped", "failed"]
Told = Callable[[Candidate, Result | Stopped, Source], None]
Keeps = Callable[[Result], bool]


class Blackbox:
    """One experiment's evaluations in one store."""

    def __init__(self, experiment: Experiment, store: Store, preflight_file: Path) -> None:
        """Raises InputError with file and line for what is wrong in the sections that the blackbox owns."""
        self.experiment = experiment
        self.store = store
        self.preflight_file = preflight_file
        self.settings: Settings | None = read_settings(experiment) if experiment.trains_a_model else None
        """None for the toy and for a callable."""
        check_outputs(experiment)

    @cached_property
    def executor(self) -> Executor:
        """Where jobs run. Raises InputError where a job asks for more than there is."""
        return executor_of(self.experiment.resources, self.preflight_file.parent)

    @property
    def processes(self) -> int:
        """Processes of one job."""
        return self.experiment.resources.processes_per_job or max(1, len(gpus_of(self.executor.devices)))

    @cached_property
    def wanted(self) -> Mapping[str, Wanted]:
        """The benchmark scores among the outputs, by output. Raises InputError where their data cannot be read."""
        if self.settings is None:
            return {}
        outputs, scores, base = self.experiment.outputs, self.settings.scores, self.settings.base
        answers = qa.wanted(outputs, self.settings, self._fingerprints.of_data)
        return answers | wanted(
            outputs, (*measured_by(self.experiment), *answers), scores, base, self._fingerprints.of_file
        )

    @cached_property
    def _fingerprints(self) -> Fingerprints:
        return Fingerprints(self.store)

    def training(self, hyperparameters: Mapping[str, Any]) -> Training | toy.ToyTraining:
        """The training section with these values in it, but for a callable.

        Raises InputError for a name or a value it does not take.
        """
        if self.settings is not None:
            return self.settings.training_for(hyperparameters)
        return toy.training_for(self.experiment, hyperparameters)

    def seed(self, hyperparameters: Mapping[str, Any]) -> int:
        """The training's seed at these values. Raises InputError for a callable that is given none."""
        if is_callable(self.experiment):
            return objective.seed_of(self.experiment)
        return self.training(hyperparameters).seed

    def candidate(
        self,
        hyperparameters: Mapping[str, Any],
        point: Point | None,
        fidelity: Mapping[str, float] = {},
        parent: str | None = None,
    ) -> Candidate:
        """The evaluation of these hyperparameters, from the state that `parent` ended with, ROOT for a first interval.

        With a parent, `epochs_fraction` is that part of the whole training and its schedule, not a shorter one.

        Raises InputError where they make no valid training, or where the parent's state is not there.
        """
        key = self._key(hyperparameters, fidelity, parent)
        self._require_state(key, parent)
        return Candidate(key, hyperparameters, point, fidelity, parent)

    def _key(self, hyperparameters: Mapping[str, Any], fidelity: Mapping[str, float], parent: str | None) -> str:
        if is_callable(self.experiment):
            digest = self._fingerprints.of_file
            return key_of(objective.determinants(self.experiment, hyperparameters, fidelity, parent, digest))
        training = self.training(hyperparameters)
        if isinstance(training, toy.ToyTraining):
            about = {"recipe": RECIPE, "model": "toy", "training": training.determinants()}
            if fidelity:
                about["fidelity"] = fidelity
            return key_of(about | ({"parent": parent} if parent else {}))
        assert self.settings is not None
        return evaluation_key(self.settings, training, self.processes, self._fingerprints, fidelity, parent)

    def _require_state(self, key: str, parent: str | None) -> None:
        if parent is None or parent == ROOT or self.store.evaluation(key).result() is not None:
            return
        before = self.store.evaluation(parent)
        result = before.result()
        if result is None or result.status == "failed" or not before.state_file.is_file():
            raise InputError(f"--parents: {parent}: no captured state in {self.store.root}")

    def evaluate(self, candidates: Sequence[Candidate], told: Told, keeps: Keeps = lambda result: True) -> None:
        """Call `told` once for each different key, as soon as its result is known.

        `keeps` says whose weights are wanted here, where they are made elsewhere.

        Raises MachineError or InputError when the work cannot go on; what was told by then stands in the store.
        """
        waiting = {candidate.key: candidate for candidate in candidates}
        claims = {key: self.store.evaluation(key).claim for key in waiting}  # each remembers its holder's silence
        self._tell_known(waiting, told, "store")
        said = False
        while waiting:
            mine = [key for key in waiting if claims[key].acquire()]
            try:
                self._tell_known(waiting, told, "store")  # somebody may have finished just before we claimed
                todo = [waiting[key] for key in mine if key in waiting]
                if todo:
                    with beating([claims[candidate.key] for candidate in todo]):
                        self._work(todo, waiting, told, keeps)
            finally:
                for key in mine:
                    claims[key].release()
            if waiting and not said:
                holder = claims[next(iter(waiting))].holder()
                who = holder.describe() if holder else "another process"
                print(f"waiting for {who}, which trains {len(waiting)} of these points", file=sys.stderr, flush=True)
                said = True
            if waiting:
                time.sleep(0.2)

    def preflight(self) -> Preflight:
        """The record of this experiment's preflight in its run folder, as it stands."""
        if self.settings is None:
            return Preflight(self.preflight_file, self.experiment, "", self.store)
        about = {**common(self.settings, self._fingerprints), "training": self.experiment.training}
        return Preflight(self.preflight_file, self.experiment, key_of(about), self.store)

    def resident(self, launcher: Sequence[str], job_file: Path) -> Resident | None:
        """Who does the job; None where each is a process of its own, as those of several processes are."""
        fresh = self.experiment.resources.worker == "fresh" or self.processes > 1
        if self.settings is None or fresh or measures_the_machine(self.experiment):
            return None
        driven = RUN in os.environ and os.environ.get(lifeline.ENVIRONMENT) == "1"
        note = Run(self.preflight_file.parent).worker_file
        return Resident([*launcher, "blackbox.worker"], self._loaded, job_file, note, driven)

    @cached_property
    def _loaded(self) -> str:
        assert self.settings is not None
        return loaded(self.settings, self.experiment.accelerate, self._fingerprints)

    def whole(self, evaluation: Evaluation) -> Result | None:
        """Its result with the scores that the outputs name among the metrics; None while anything is missing."""
        result = evaluation.result()
        if result is None or result.status == "failed":
            return result
        metrics = {**result.metrics, "gpu_seconds": result.gpu_seconds}
        for output, each in self.wanted.items():
            score = evaluation.score(each.request.name)
            if score is None:
                return None
            if score.status == "failed":
                return replace(result, status="failed", reason=f"{output}: {score.reason}")
            metrics[output] = each.value(score.metrics)
        return replace(result, metrics=metrics)

    def _tell_known(self, waiting: dict[str, Candidate], told: Told, source: Source) -> None:
        for key, candidate in list(waiting.items()):
            evaluation, asked = self.store.evaluation(key), candidate.asked
            result, stopped = self.whole(evaluation), evaluation.stopped()
            if result is not None:
                del waiting[key]
                told(candidate, result, "failed" if result.status == "failed" else source)
            # Where no run asks, it may have been stopped for others but where we train it ourselves.
            elif stopped and (asked.accepts(stopped) if asked else source == "trained"):
                del waiting[key]
                told(candidate, stopped, "stopped")

    def _work(self, candidates: Sequence[Candidate], waiting: dict[str, Candidate], told: Told, keeps: Keeps) -> None:
        """Score those that have an adapter, train and score the others, and tell each as soon as it is whole."""
        trained = [c for c in candidates if self.store.evaluation(c.key).result() is not None]
        kept = [c for c in trained if self.store.evaluation(c.key).weights is not None]
        if len(kept) < len(trained):
            lost = f"{len(trained) - len(kept)} of {len(trained)} adapters to be scored were not kept (resources.keep)"
            print(f"{lost}: they are trained again", file=sys.stderr, flush=True)
        if kept:
            self._jobs(keeps).run(kept, lambda: self._tell_known(waiting, told, "store"))
        if others := [c for c in candidates if c not in kept]:
            self._train(others, keeps, lambda: self._tell_known(waiting, told, "trained"))

    def _jobs(self, keeps: Keeps) -> Jobs:
        if self.settings is not None:
            self.preflight().ensure(self.executor, self.files)
        means = Means(self.executor, self.processes, self.resident, self.files, keeps)
        return Jobs(self.experiment, self.store, self.wanted, self.preflight(), means)

    def files(self) -> Files:
        """What all jobs of this experiment read."""
        if self.settings is None:
            return Files(*objective.inputs_of(self.experiment, self._fingerprints.of_file))
        return Files(*inputs_of(self.experiment, self.settings, self._fingerprints.of_file))

    def _train(self, candidates: Sequence[Candidate], keeps: Keeps, finished: Callable[[], None]) -> None:
        """Record a result for each candidate, or where it was stopped; all claims are ours."""
        jobs = None if self.experiment.model == "toy" else self._jobs(keeps)
        evaluations = {candidate.key: self.store.evaluation(candidate.key) for candidate in candidates}
        for candidate in candidates:
            point = "" if candidate.point is None else format_point(candidate.point) + "\n"
            others = set(candidate.hyperparameters) - set(self.experiment.space.variables)  # a seed of its own
            settings = {name: candidate.hyperparameters[name] for name in others}
            evaluations[candidate.key].begin(self.experiment.dump(settings), point)
        if jobs is not None:
            jobs.run(candidates, finished)
            return
        for c in candidates:
            training, judge = toy.training_for(self.experiment, c.hyperparameters), Judge(c.asked, evaluations[c.key])
            about = c.hyperparameters, c.point, self.experiment.name, c.fidelity, c.parent
            toy.evaluate(judge, training, *about)
            finished()


def check_outputs(experiment: Experiment) -> None:
    """Raise InputError for outputs that no evaluation measures. What a callable measures only its calls show."""
    if is_callable(experiment):
        return
    no_tasks = experiment.model == "toy" or experiment.task == "classification"
    measured = (*measured_by(experiment), *(qa.METRICS if experiment.task == qa.TASK else ()))
    for output in experiment.outputs:
        if output.metric in measured:
            continue
        close = get_close_matches(output.metric, measured, 1, cutoff=0.8)
        if close or no_tasks or not is_task(output.metric):
            hint = f" (did you mean {close[0]}?)" if close else ""
            tasks = "" if no_tasks else ", and lm-eval's tasks, as mmlu or hellaswag.acc"
            sentence = f"{output.metric} cannot be measured{hint}: there are {', '.join(measured)}{tasks}"
            raise experiment.error("outputs", sentence)


def measured_by(experiment: Experiment) -> tuple[str, ...]:
    """What a training of this experiment measures."""
    if experiment.model == "toy":
        return toy.METRICS
    return METRICS + OF_TASK.get(experiment.task, ())


METRICS = (
    "eval_loss",
    "train_loss",
    "eval_runtime",
    "train_runtime",
    "trainable_parameters",
    "peak_gib",
    "gpu_seconds",
)
"""What every training measures."""

OF_TASK = {"classification": ("accuracy",)}
"""What those of a task measure too."""
