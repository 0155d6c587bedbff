"""What a whole run as one job of a cluster says: a shell script for SLURM's sbatch or OAR's oarsub.

The script ends the run in order some time before the job's time is over, and has itself queued again: the same command
goes on where the run was. After a preemption the cluster does the same with it.
"""

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Scheduler = Literal["slurm", "oar"]

SUBMIT = {"slurm": ["sbatch", "--parsable"], "oar": ["oarsub", "--script"]}
"""The command that takes a script."""

TAKEN = {
    "slurm": {"time", "gpus", "output", "error", "open-mode", "signal", "nodes", "ntasks", "array", "requeue", "chdir"},
    "oar": {"stdout", "stderr", "checkpoint", "signal", "directory", "script", "array", "interactive"},
}
"""Options that the scripts depend on."""

NOTICE = 120
"""Seconds before the end of a job's time at which it is told."""

LEAST = 5 * 60
"""Seconds a job must have: clusters count in minutes, and some may be gone before it is told that its time is over."""


@dataclass(frozen=True)
class JobScript:
    """One run, `command`, as one job."""

    scheduler: Scheduler
    run: str
    """The run folder, from the folder the job starts in."""
    store: str
    command: Sequence[str]
    gpus: int | None
    seconds: int
    options: Sequence[tuple[str, str | None]]
    """More options of sbatch or oarsub, without their dashes."""
    setup: Sequence[str]
    """Shell lines before the command."""
    written_by: str

    @property
    def file(self) -> str:
        return f"{self.run}/job.{self.scheduler}"

    def output(self, job: str) -> str:
        """The log of the job with this number."""
        return f"{self.run}/{self.scheduler}-{job}.out"

    def text(self) -> str:
        head, words = (_slurm_head, SLURM) if self.scheduler == "slurm" else (_oar_head, OAR)
        about = {
            "run": shlex.quote(self.run),
            "store": shlex.quote(self.store),
            "scheduler": self.scheduler,
            "command": shlex.join(self.command),
            "setup": "\n".join(self.setup),
            "wait": WAIT,
            **words,
        }
        by_hand = f"# Or: mkdir -p {self.run}; {shlex.join(SUBMIT[self.scheduler])} THIS_FILE"
        written_by = "# " + self.written_by.replace("\n", "\n# ")
        lines = ["#!/bin/bash", written_by, by_hand, *head(self)]
        return "\n".join(lines) + BODY.format(**about)


Options = Sequence[tuple[str, str | None]]


def read_option(text: str, taken: Collection[str]) -> tuple[str, str | None]:
    """`mem=4G` or `exclusive`: a long option of a scheduler without dashes. Raises ValueError, also for those taken."""
    name, equals, value = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z-]+", name) or not re.fullmatch(r"[^\n\r]*", value) or (equals and not value):
        raise ValueError("must be KEY=VALUE or KEY, a long option without its dashes")
    if name in taken:
        raise ValueError(f"the script depends on its own --{name}")
    return name, value if equals else None


def read_time(text: str) -> int:
    """Seconds of HH:MM:SS or D-HH:MM:SS. Raises ValueError."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    if match is None:
        raise ValueError("must be HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    whole = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    if whole < LEAST:
        raise ValueError(f"must be at least 00:05:00: a job is told {NOTICE} s before the end")
    return whole


def sbatch_lines(wanted: Options, given: Options) -> list[str]:
    """The lines of a script; what is given replaces what is wanted."""
    names = {name for name, _ in given}
    lines = [(name, value) for name, value in wanted if name not in names] + list(given)
    return [f"#SBATCH --{name}" + ("" if value is None else f"={shlex.quote(value)}") for name, value in lines]


def _slurm_head(job: JobScript) -> list[str]:
    wanted: list[tuple[str, str | None]] = [("job-name", job.run.rpartition("/")[2]), ("nodes", "1"), ("ntasks", "1")]
    wanted += [("gpus", str(job.gpus))] if job.gpus else []
    wanted += [("time", clock(job.seconds)), ("output", job.output("%j")), ("open-mode", "append")]
    wanted += [("requeue", None), ("signal", f"B:USR1@{NOTICE}")]
    return sbatch_lines(wanted, job.options)


def _oar_head(job: JobScript) -> list[str]:
    """OAR reads what stands behind an option up to the line's end, as it is."""
    gpus = f"/gpu={job.gpus}" if job.gpus else ""
    wanted: list[tuple[str, str | None]] = [("name", job.run.rpartition("/")[2])]
    wanted += [("resource", f"/host=1{gpus},walltime={clock(job.seconds)}")]
    wanted += [("stdout", job.output("%jobid%")), ("stderr", job.output("%jobid%"))]
    wanted += [("type", "idempotent"), ("checkpoint", str(NOTICE))]
    given = {name for name, _ in job.options if name != "type"}  # a job has several types
    lines = [(name, value) for name, value in wanted if name not in given] + list(job.options)
    return [f"#OAR --{name}" + ("" if value is None else f" {value}") for name, value in lines]


def clock(seconds: int) -> str:
    """HH:MM:SS."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


WAIT = """\
while
  caught=
  wait "$process"
  status=$?
  [[ $caught ]]
do :; done"""
"""Lines that wait for a process, also over the traps of signals, which set `caught`."""

SLURM = {
    "number": "$SLURM_JOB_ID",
    "signal": "USR1",
    "notice": "SLURM sends USR1 when the time is nearly over, TERM when it wants the node for others or on scancel.",
    "again": 'scontrol requeue "$SLURM_JOB_ID"',
    "restart": ", restart ${SLURM_RESTART_COUNT:-0}",
}
OAR = {
    "number": "$OAR_JOB_ID",
    "signal": "USR2",
    "notice": "OAR sends USR2 when the time is nearly over; an idempotent job that ends with 99 is queued again.",
    "again": "exit 99",
    "restart": "",
}

BODY = """

# The environment.
{setup}

run={run}
stem=$run/{scheduler}-{number}
touch "$stem.started"

finish() {{
  status=$?
  trap - EXIT
  bbo export "$run" --csv "$stem.csv"
  echo "FINISH {number} $(date '+%F %T %z') status $status"
  # What the next start will not do again: results, scores, states after an epoch.
  new=$(find {store} -newer "$stem.started" \\( -name result.json -o -name stopped.json \\
    -o -name state.safetensors -o -path '*/scores/*.json' \\) -print -quit 2>/dev/null)
  rm "$stem.started"
  if [[ $out_of_time && $status == 130 && $new ]]; then
    {again}
  elif [[ $out_of_time && $status == 130 ]]; then
    echo "not queued again: the time was too short for one epoch, and would be again (--time)"
  fi
  exit "$status"
}}
trap finish EXIT

# {notice}
# The run ends in order then, and the same command goes on.
trap 'caught=yes out_of_time=yes; kill -TERM "$process" 2>/dev/null' {signal}
trap 'caught=yes; kill -TERM "$process" 2>/dev/null' TERM

echo "START {number} $(date '+%F %T %z') on $(hostname){restart}"
{command} &
process=$!
{wait}
exit "$status"
"""
