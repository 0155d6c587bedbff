"""Jobs as jobs of SLURM: those of a block are one array, submitted and watched with sbatch, squeue, scontrol, scancel.

A job's exit status comes back in a file beside its log, written by the script that runs it; the queue is only asked for
those that have been taken away. SLURM starts a job again that it has preempted or whose node has failed, and the script
asks for that when the job's time is nearly over: all of it is one job here, which goes on from what it has kept.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bbo import lifeline
from bbo.errors import InputError, MachineError
from bbo.executors.protocol import LAUNCHED, RESTARTED, Exit, Launch, Started
from bbo.executors.slots import Slot
from bbo.jobscript import NOTICE, WAIT, read_option, sbatch_lines
from bbo.resources import Resources

POLL = 0.2
QUEUE = 10.0
"""Seconds between two looks into the queue, which all users of the cluster share."""

OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
"""States in which a job runs no more. One that SLURM starts again is soon in another."""

PATIENCE = 120.0
"""Seconds in which cancelled jobs must be gone: SLURM kills them after its KillWait, 30 seconds unless configured."""


@dataclass(frozen=True)
class Slurm:
    """Any nodes that SLURM gives, under `resources.slurm`. Nothing is asked of it before the first job."""

    resources: Resources

    @classmethod
    def of(cls, resources: Resources) -> "Slurm":
        """Raises InputError where there is no SLURM."""
        if shutil.which("sbatch") is None:
            raise InputError("resources.executor: slurm: there is no sbatch on this machine")
        return cls(resources)

    @property
    def devices(self) -> tuple[str, ...]:
        gpus, cpus = self.resources.on_a_cluster
        return tuple(str(number) for number in range(gpus)) or tuple(f"cpu{number}" for number in range(cpus))

    def count(self) -> int:
        return self.resources.slurm.jobs

    def run(
        self, launches: Sequence[Launch], started: Started, tick: Callable[[], None]
    ) -> Iterator[tuple[Launch, Exit]]:
        if not launches:
            return
        gpus, cpus = self.resources.on_a_cluster
        slot = Slot(f"slurm {gpus} gpu" if gpus else f"slurm {cpus} cpu", self.devices, ())
        first = launches[0].log
        first.parent.mkdir(parents=True, exist_ok=True)
        lease = first.with_suffix(f".{os.getpid()}.lease").absolute()
        with lifeline.lease(lease):
            tasks = [Task(launch) for launch in launches]
            for launch in launches:
                started(launch, None)
                launch.prepare(slot)
            with closing(Array(self._submit(tasks, lease), tasks)) as array:
                while array.waiting:
                    yield from array.ended()
                    tick()
                    time.sleep(POLL)

    def _submit(self, tasks: Sequence["Task"], lease: Path) -> str:
        """The number of the array in which these are."""
        script = tasks[0].launch.log.with_suffix(".sbatch")
        script.write_text(self._script(tasks, lease))
        done = _ask("sbatch", "--parsable", str(script))
        if done.returncode:
            raise MachineError(f"sbatch: {done.stderr.strip()} ({script})")
        return done.stdout.strip().partition(";")[0]

    def _script(self, tasks: Sequence["Task"], lease: Path) -> str:
        options = self.resources.slurm
        gpus, cpus = self.resources.on_a_cluster
        folder = tasks[0].launch.log.parent.absolute()
        wanted: list[tuple[str, str | None]] = [("job-name", "bbo"), ("nodes", "1"), ("ntasks", "1")]
        wanted += [("cpus-per-task", str(cpus))] + ([("gpus", str(gpus))] if gpus else [])
        wanted += [("array", f"0-{len(tasks) - 1}%{options.jobs}")]
        wanted += [("time", options.time)] if options.time else []
        wanted += [("output", f"{folder}/slurm-%A_%a.out"), ("open-mode", "append"), ("requeue", None)]
        wanted += [("signal", f"B:USR1@{NOTICE}")]
        given = [read_option(text, ()) for text in options.sbatch]
        about = {
            "setup": "\n".join(options.setup),
            "jobs": "\n".join(f"{number}) {task.words()} ;;" for number, task in enumerate(tasks)),
            "environment": f"{lifeline.LEASE}={shlex.quote(str(lease))} {lifeline.ENVIRONMENT}=1",
            "launched": LAUNCHED,
            "restarted": RESTARTED,
            "wait": WAIT,
        }
        return "\n".join(["#!/bin/bash", *sbatch_lines(wanted, given)]) + BODY.format(**about)


class Task:
    """A job's files beside its log, and since when it is at work."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.status_file = launch.log.with_suffix(".status")
        self._started_file = launch.log.with_suffix(".started")
        self._start: tuple[int, float] | None = None
        self.forget()

    def forget(self) -> None:
        """Remove its files, for nobody else asks for them."""
        for file in (self.status_file, self._started_file):
            file.unlink(missing_ok=True)

    def words(self) -> str:
        """What the script is told of it, as words of the shell."""
        environment = (f"{name}={value}" for name, value in self.launch.environment.items())
        milestones = shlex.join(str(file.absolute()) for file in self.launch.milestones)
        base = shlex.quote(str(self.launch.log.absolute().with_suffix("")))
        log = shlex.quote(str(self.launch.log.absolute()))
        command = shlex.join(["env", *environment, *self.launch.arguments])
        return f"job={base} log={log} milestones=({milestones})\n  command=({command})"

    def status(self) -> int | None:
        """Exit status once it has ended by itself."""
        try:
            status = int(self.status_file.read_text())
        except FileNotFoundError:
            return None
        return status if status <= 128 else 128 - status  # as a shell says it of a signal

    def is_late(self) -> bool:
        """Whether its time is over. That begins anew when SLURM starts it again."""
        try:
            start = self._started_file.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if self._start is None or self._start[0] != start:
            self._start = (start, time.monotonic())
        return self.launch.seconds is not None and time.monotonic() - self._start[1] > self.launch.seconds


class Array:
    """Submitted jobs. Closing it cancels what is left of them and waits until that is gone."""

    def __init__(self, number: str, tasks: Sequence[Task]) -> None:
        self.number = number
        self.waiting = dict(enumerate(tasks))
        self._asked = time.monotonic()
        self._gone: set[int] = set()
        """Those that were over at the last look into the queue, without a status."""

    def ended(self) -> Iterator[tuple[Launch, Exit]]:
        """Those that have ended since, in that order."""
        known = [(index, status) for index, task in self.waiting.items() if (status := task.status()) is not None]
        for index, status in sorted(known, key=lambda each: self.waiting[each[0]].status_file.stat().st_mtime_ns):
            yield self._over(index), Exit(status)
        late = [index for index, task in self.waiting.items() if task.is_late()]
        if late:
            self._cancel(late)
            for index in late:
                yield self._over(index), Exit(-signal.SIGKILL, timed_out=True)
        if self.waiting and time.monotonic() - self._asked > QUEUE:
            yield from self._taken_away()

    def close(self) -> None:
        if self.waiting:
            self._cancel(list(self.waiting))

    def _over(self, index: int) -> Launch:
        task = self.waiting.pop(index)
        task.forget()
        return task.launch

    def _taken_away(self) -> Iterator[tuple[Launch, Exit]]:
        """Those that have been over for two looks, and have not said how they ended."""
        states = self._states()
        self._asked = time.monotonic()
        if states is None:
            return
        gone = {index for index in self.waiting if states.get(index, "COMPLETED") in OVER}
        for index in gone & self._gone:
            if self.waiting[index].status() is None:
                yield self._over(index), Exit(-signal.SIGKILL)
        self._gone = gone

    def _states(self) -> dict[int, str] | None:
        """By index; SLURM forgets jobs some minutes after their end. None where it does not answer."""
        done = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={self.number}", "--format=%i|%T")
        if done.returncode:
            return {} if "Invalid job id" in done.stderr else None
        lines = (line.strip().partition("|") for line in done.stdout.splitlines())
        return {int(name.rpartition("_")[2]): state for name, _, state in lines}

    def _cancel(self, indices: Collection[int]) -> None:
        _ask("scancel", *(f"{self.number}_{index}" for index in indices))
        deadline = time.monotonic() + PATIENCE
        while (states := self._states()) is None or any(states.get(i, "COMPLETED") not in OVER for i in indices):
            if time.monotonic() > deadline:
                print(f"SLURM has not ended job {self.number} after scancel", file=sys.stderr, flush=True)
                return
            time.sleep(0.5)


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


BODY = """

# The environment.
{setup}

case $SLURM_ARRAY_TASK_ID in
{jobs}
esac

# SLURM sends USR1 when the time is nearly over, TERM when it takes the node away.
trap 'caught=yes out_of_time=yes; kill -TERM "$process" 2>/dev/null' USR1
trap 'caught=yes taken_away=yes; kill -TERM "$process" 2>/dev/null' TERM

rm -f "$job.status"
touch "$job.started"
export {environment} {launched}=$(date +%s)
if [[ ${{SLURM_RESTART_COUNT:-0}} != 0 ]]; then
  export {restarted}=1
fi
"${{command[@]}}" >>"$log" 2>&1 &
process=$!
{wait}

if ((status > 128)); then
  sleep 1 # TERM goes to all processes, and may reach this one last
fi
if [[ $taken_away ]]; then
  exit "$status" # SLURM starts it again, or somebody has cancelled it
fi
if [[ $out_of_time && $status != 0 ]]; then
  for file in "${{milestones[@]}}"; do
    if [[ $file -nt $job.started ]]; then
      # The number of the last job is that of the array too.
      scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
      exit
    fi
  done
  echo "not queued again: the time was too short for one epoch, and would be again (resources.slurm.time)" >>"$log"
fi
echo "$status" >"$job.status.new"
mv "$job.status.new" "$job.status"
"""
