"""Jobs: lists of points for one process; launched, watched, judged, and tried again where only a process died."""

import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from bbo.executors import local
from bbo.executors.slots import Slot, gpus_of
from bbo.experiment import Experiment
from bbo.space import Point
from bbo.stopping import Asked
from bbo.store import ROOT, Result, Store, write_json
from blackbox.failure import failure_file, raise_failure
from blackbox.launch import launch_command, launcher
from blackbox.preflight import Preflight
from blackbox.resident import Resident

ATTEMPTS = 3
"""A process killed by a signal is no verdict on its points: each is tried this often before it counts as failed."""

START_SECONDS = 300.0
"""Allowance for starting a process and loading a model, beside `resources.time_limit`."""


OF_THE_MACHINE = {"eval_runtime", "train_runtime", "peak_gib"}
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


class Jobs:
    """Trains candidates whose claims are held and whose folders are ready."""

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        slots: Sequence[tuple[str, ...]],
        processes: int,
        preflight: Preflight,
        resident: Resident | None,
    ) -> None:
        """Without `resident` each job is a fresh process."""
        self.experiment = experiment
        self.store = store
        self.slots = slots
        self.processes = processes
        self.preflight = preflight
        self.resident = resident
        self._attempts: dict[str, int] = {}

    def run(self, candidates: Sequence[Candidate], finished: Callable[[], None]) -> None:
        """Record for every candidate its result or where it was stopped. `finished` is called whenever one may be new.

        Raises MachineError or InputError, with what the process said, when a job could not do its work.
        """
        jobs = self._share(candidates)
        while jobs:
            jobs = self._round(jobs, finished)

    def _round(self, jobs: Sequence[Sequence[Candidate]], finished: Callable[[], None]) -> list[list[Candidate]]:
        """Run these jobs; what has to be tried again comes back."""
        launches = [self._launch(job) for job in jobs]
        points = {each.job: job for each, job in zip(launches, jobs, strict=True)}

        def started(each: local.Launch, pid: int) -> None:
            for candidate in points[each.job]:
                self.store.evaluation(candidate.key).claim.add(pid)

        again = []
        for ended, how in local.run(launches, self.slots, started, finished):
            again += self._judge(ended, how, points[ended.job])
            finished()
        return again

    def _share(self, candidates: Sequence[Candidate]) -> list[list[Candidate]]:
        """Deal the block out over the slots, at most `resources.pack` points to a job."""
        size = -(-len(candidates) // len(self.slots))
        alone = self.processes > 1 or measures_the_machine(self.experiment)
        size = 1 if alone else min(size, self.experiment.resources.pack or size)
        return [list(candidates[i : i + size]) for i in range(0, len(candidates), size)]

    def _launch(self, job: Sequence[Candidate]) -> local.Launch:
        for candidate in job:
            self._attempts[candidate.key] = self._attempts.get(candidate.key, 0) + 1
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{job[0].key[:8]}-{self._attempts[job[0].key]}"
        file = self.store.jobs / f"{name}.json"

        def prepare(slot: Slot) -> None:
            write_json(file, self._describe(name, job, slot))
            for candidate in job:
                self.store.evaluation(candidate.key).attach_log(file.with_suffix(".log"))

        limit = self.experiment.resources.time_limit
        seconds = None if limit is None else START_SECONDS + limit * len(job)
        log, accelerate = file.with_suffix(".log"), self.experiment.accelerate
        if self.resident is None or self._attempts[job[0].key] > 1:  # a point that saw a process die gets its own
            arguments, environment = launch_command(file, self.processes, self.slots[0], accelerate)
            return local.Launch(name, arguments, log, prepare, environment, seconds)
        arguments, environment = launcher(self.processes, self.slots[0], accelerate)
        return local.Launch(name, arguments, log, prepare, environment, seconds, partial(self.resident.start, file))

    def _describe(self, name: str, job: Sequence[Candidate], slot: Slot) -> dict[str, Any]:
        """The job file: all that the trainer is told."""
        base = None if self.preflight.base() is not None else str(self.store.jobs.absolute() / f"{name}.base.json")
        return {
            "id": name,
            "experiment": str(self.experiment.path.absolute()),
            "launched": time.time(),
            "slot": slot.name,
            "gpus": len(gpus_of(slot.devices)),
            "base_score": base,
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
                    "attempts": self._attempts[c.key],
                    "asked": None if c.asked is None else asdict(c.asked),
                }
                for c in job
            ],
        }

    def _state_of(self, parent: str | None) -> str | None:
        return None if parent in (None, ROOT) else str(self.store.evaluation(parent).state_file.absolute())

    def _judge(self, ended: local.Launch, how: local.Exit, job: Sequence[Candidate]) -> list[list[Candidate]]:
        """What is left to do of a job whose process has ended: its unfinished points, each alone."""
        self.preflight.keep_base(self.store.jobs / f"{ended.job}.base.json")
        evaluations = [(c, self.store.evaluation(c.key)) for c in job]
        unfinished = [c for c, evaluation in evaluations if evaluation.result() is None and not evaluation.stopped()]
        if unfinished:
            raise_failure(failure_file(self.store.jobs / f"{ended.job}.json"), ended.log)
        again = []
        for index, candidate in enumerate(unfinished):
            if how.timed_out and index == 0:
                self._fail(candidate, ended, f"took longer than resources.time_limit, see {ended.log}")
            elif self._attempts[candidate.key] >= ATTEMPTS:
                self._fail(
                    candidate, ended, f"its process died {ATTEMPTS} times (status {how.status}), see {ended.log}"
                )
            else:
                again.append([candidate])
        if again and not how.timed_out:
            sentence = f"job {ended.job} died (status {how.status}): trying {len(again)} point(s) again, each alone"
            print(sentence, file=sys.stderr, flush=True)
        return again

    def _fail(self, candidate: Candidate, ended: local.Launch, reason: str) -> None:
        now = time.time()
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
            attempts=self._attempts[candidate.key],
            reason=reason,
            parent=candidate.parent,
        )
        self.store.evaluation(candidate.key).record(result)
