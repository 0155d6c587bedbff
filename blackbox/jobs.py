"""Jobs: lists of points for one process; launched, watched, judged, and tried again where only a process died."""

import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bbo.executors.protocol import Executor, Exit, Files, Launch, Resident
from bbo.executors.slots import Slot, gpus_of
from bbo.experiment import Experiment
from bbo.space import Point
from bbo.stopping import Asked, compared_with
from bbo.store import ROOT, Result, Score, Store, write_json
from blackbox.failure import failure_file, raise_failure
from blackbox.launch import launcher
from blackbox.nodes import Notes, our_nodes
from blackbox.objective import command, is_callable
from blackbox.preflight import Preflight
from blackbox.scores.requests import Request, Wanted

ATTEMPTS = 3
"""A process killed by a signal is no verdict on its points: each is tried this often before it counts as failed."""

START_SECONDS = 300.0
"""Allowance for starting a process and loading a model, beside `resources.time_limit`."""


OF_THE_MACHINE = {"eval_runtime", "train_runtime", "peak_gib", "gpu_seconds"}
"""Metrics that depend on who else is in a pack or was in a process before."""


@dataclass(frozen=True)
class Candidate:
    """Hyperparameters to evaluate at a fidelity, with the coordinates they came from."""

    key: str
    hyperparameters: Mapping[str, Any]
    point: Point | None
    fidelity: Mapping[str, float] = field(default_factory=dict)
    parent: str | None = None
    """Key of the evaluation it goes on from, or ROOT; either way its own state is kept for children."""
    asked: Asked | None = None
    """As what of a run; None where no run asks."""


def measures_the_machine(experiment: Experiment) -> bool:
    """Whether time or memory is an objective or a constraint: then each point has a process of its own."""
    return any(output.kind != "EXTRA_O" and output.metric in OF_THE_MACHINE for output in experiment.outputs)


@dataclass(frozen=True)
class Means:
    """By what jobs are done."""

    executor: Executor
    processes: int
    """Of a job that trains."""
    resident: Callable[[Sequence[str], Path], Resident | None]
    """Of a launcher's words and a job file the process that does the job; None: one of its own."""
    files: Callable[[], Files]
    """What all jobs read."""
    keeps: Callable[[Result], bool]
    """Whose weights are wanted here, where they are made elsewhere."""


class Jobs:
    """Trains and scores candidates whose claims are held and whose folders are ready.

    Who has a result is only scored, by its adapter. Scoring is the work of one process: where training takes several,
    it is a job of its own.
    """

    def __init__(
        self, experiment: Experiment, store: Store, wanted: Mapping[str, Wanted], preflight: Preflight, means: Means
    ) -> None:
        """`wanted` are the scores among the outputs."""
        self.experiment = experiment
        self.store = store
        self.wanted = wanted
        self.requests = {each.request.name: each.request for each in wanted.values()}
        self.preflight = preflight
        self.means = means
        self._attempts: dict[tuple[str, bool], int] = {}

    def run(self, candidates: Sequence[Candidate], finished: Callable[[], None]) -> None:
        """Record for each its result and scores, or where it was stopped. `finished` is called when one may be new.

        Raises MachineError or InputError, with what the process said, when a job could not do its work.
        """
        jobs = self._share(candidates)
        while jobs:
            jobs = self._round(jobs, finished)

    def _round(self, jobs: Sequence[Sequence[Candidate]], finished: Callable[[], None]) -> list[list[Candidate]]:
        """Run these jobs; what has to be tried again comes back."""
        launches = [self._launch(job) for job in jobs]
        points = {each.job: job for each, job in zip(launches, jobs, strict=True)}

        def started(each: Launch, pid: int | None) -> None:
            for candidate in points[each.job]:
                self.store.evaluation(candidate.key).claim.add(pid)

        again = []
        for ended, how in self.means.executor.run(launches, started, finished):
            again += self._judge(ended, how, points[ended.job])
            finished()
        return again

    def _share(self, candidates: Sequence[Candidate]) -> list[list[Candidate]]:
        """Deal the block out over the slots, at most `resources.pack` points to a job."""
        size = -(-len(candidates) // self.means.executor.count())
        alone = self.means.processes > 1 or measures_the_machine(self.experiment) or is_callable(self.experiment)
        size = 1 if alone else min(size, self.experiment.resources.pack or size)
        return [list(candidates[i : i + size]) for i in range(0, len(candidates), size)]

    def _launch(self, job: Sequence[Candidate]) -> Launch:
        for candidate in job:
            work = self._work(candidate)
            self._attempts[work] = self._attempts.get(work, 0) + 1
        attempt = self._attempts[self._work(job[0])]
        trained = all(self._is_trained(candidate) for candidate in job)
        processes = 1 if trained else self.means.processes
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{job[0].key[:8]}-{'score-' if trained else ''}{attempt}"
        file = self.store.jobs / f"{name}.json"

        def prepare(slot: Slot) -> None:
            write_json(file, self._describe(name, job, slot))
            if processes > 1 and (nodes := our_nodes()):
                Notes(self.store.jobs, nodes).add(str(file.absolute()))
            for candidate in [] if trained else job:
                self.store.evaluation(candidate.key).attach_log(file.with_suffix(".log"))

        limit = self.experiment.resources.time_limit
        words, environment = launcher(processes, self.means.executor.devices, self.experiment.accelerate)
        arguments = [*words, "blackbox.train", str(file.absolute())]
        seconds = None if limit is None else START_SECONDS + limit * len(job)
        if is_callable(self.experiment):
            arguments, environment = command(file.absolute())
            seconds = limit
        return Launch(
            job=name,
            arguments=arguments,
            log=file.with_suffix(".log"),
            prepare=prepare,
            environment=environment,
            seconds=seconds,
            milestones=[file for candidate in job for file in self.store.evaluation(candidate.key).milestones],
            # A point that saw a process die gets its own.
            resident=self.means.resident(words, file) if attempt == 1 else None,
            files=lambda: self._files(file.absolute(), job),
        )

    def _files(self, file: Path, job: Sequence[Candidate]) -> Files:
        """What this job reads and makes."""
        states = [Path(state) for candidate in job if (state := self._state_of(candidate.parent)) is not None]
        return replace(
            self.means.files(),
            job=file,
            along=[*states, *compared_with([candidate.asked for candidate in job], self.store)],
            evaluations=[self.store.evaluation(candidate.key).folder.absolute() for candidate in job],
            makes=[file.with_suffix(".base.json"), failure_file(file)],
            keeps=lambda _, result: self.means.keeps(Result(**result)),
        )

    def _describe(self, name: str, job: Sequence[Candidate], slot: Slot) -> dict[str, Any]:
        """The job file: all that the trainer is told."""
        trained = all(self._is_trained(candidate) for candidate in job)
        scoring = self.means.processes == 1 or trained
        known = self.preflight.base_scores()
        lacking = [asdict(request) for name, request in self.requests.items() if scoring and name not in known]
        base = lacking or not (trained or "eval_loss" in self.preflight.base())
        return {
            "id": name,
            "experiment": str(self.experiment.path.absolute()),
            "launched": time.time(),
            "slot": slot.name,
            "gpus": len(gpus_of(slot.devices)),
            "base_score": str(self.store.jobs.absolute() / f"{name}.base.json") if base else None,
            "base_scores": lacking,
            "keep_state": any(c.parent is not None for c in job),
            "evaluations": [
                {
                    "key": c.key,
                    "folder": str(self.store.evaluation(c.key).folder.absolute()),
                    "point": c.point,
                    "hyperparameters": c.hyperparameters,
                    "fidelity": c.fidelity,
                    "parent": c.parent,
                    "state": self._state_of(c.parent),
                    "attempts": self._attempts[self._work(c)],
                    "trained": self._is_trained(c),
                    "scores": [asdict(request) for request in self._missing(c)] if scoring else [],
                    "asked": None if c.asked is None else asdict(c.asked),
                }
                for c in job
            ],
        }

    def _state_of(self, parent: str | None) -> str | None:
        return None if parent in (None, ROOT) else str(self.store.evaluation(parent).state_file.absolute())

    def _is_trained(self, candidate: Candidate) -> bool:
        return self.store.evaluation(candidate.key).result() is not None

    def _missing(self, candidate: Candidate) -> list[Request]:
        """The scores that it lacks; none where its training has failed."""
        evaluation = self.store.evaluation(candidate.key)
        result = evaluation.result()
        if result is not None and result.status == "failed":
            return []
        return [request for name, request in self.requests.items() if evaluation.score(name) is None]

    def _is_unfinished(self, candidate: Candidate) -> bool:
        if not self._is_trained(candidate):
            return self.store.evaluation(candidate.key).stopped() is None
        return bool(self._missing(candidate))

    def _work(self, candidate: Candidate) -> tuple[str, bool]:
        """What is attempted."""
        return candidate.key, self._is_trained(candidate)

    def _judge(self, ended: Launch, how: Exit, job: Sequence[Candidate]) -> list[list[Candidate]]:
        """What is left to do of a job whose process has ended: its unfinished points, each alone."""
        self.preflight.keep_base(self.store.jobs / f"{ended.job}.base.json", self.wanted)
        unfinished = [candidate for candidate in job if self._is_unfinished(candidate)]
        if how.status == 0 and self.means.processes > 1 and unfinished:  # it did what it could
            return [unfinished]
        if unfinished:
            raise_failure(failure_file(self.store.jobs / f"{ended.job}.json"), ended.log)
        again = []
        for index, candidate in enumerate(unfinished):
            if how.timed_out and index == 0:
                self._fail(candidate, ended, f"took longer than resources.time_limit, see {ended.log}")
            elif self._attempts.get(self._work(candidate), 0) >= ATTEMPTS:
                self._fail(
                    candidate, ended, f"its process died {ATTEMPTS} times (status {how.status}), see {ended.log}"
                )
            else:
                again.append([candidate])
        if again and not how.timed_out:
            sentence = f"job {ended.job} died (status {how.status}): trying {len(again)} point(s) again, each alone"
            print(sentence, file=sys.stderr, flush=True)
        return again

    def _fail(self, candidate: Candidate, ended: Launch, reason: str) -> None:
        now, evaluation = time.time(), self.store.evaluation(candidate.key)
        if self._is_trained(candidate):
            for request in self._missing(candidate):
                score = Score(
                    name=request.name,
                    status="failed",
                    metrics={},
                    about=asdict(request),
                    count=0,
                    details={},
                    seconds=0.0,
                    gpu_seconds=0.0,
                    finished=now,
                    job=ended.job,
                    reason=reason,
                )
                evaluation.record_score(score)
            return
        result = Result(
            key=candidate.key,
            status="failed",
            metrics={},
            hyperparameters=dict(candidate.hyperparameters),
            point=candidate.point,
            experiment=self.experiment.name,
            seconds=0.0,
            phases={"start": 0.0, "load": 0.0, "train": 0.0, "score": 0.0},
            gpu_seconds=0.0,
            started=now,
            finished=now,
            host=socket.gethostname(),
            slot="",
            job=ended.job,
            seed=0,
            fidelity=dict(candidate.fidelity),
            attempts=self._attempts[self._work(candidate)],
            reason=reason,
            parent=candidate.parent,
        )
        evaluation.record(result)
