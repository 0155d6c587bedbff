"""What an executor is, and what it is given: launches in, exits out. Every executor runs the same command."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bbo.executors.slots import Slot

INPUT_REFUSED = 1
MACHINE_FAILED = 75  # EX_TEMPFAIL of sysexits.h
"""Exit statuses by which a process of ours says that it gave up."""

LAUNCHED = "BBO_LAUNCHED"
"""Environment of a job that has waited in a cluster's queue: since when it is at work, in seconds since 1970."""
RESTARTED = "BBO_RESTARTED"
"""Set where a cluster starts the very same job again: what has ended since the first start stays as it is."""


@dataclass(frozen=True)
class Resident:
    """A process that stays loaded and does one job after another: bbo/executors/resident.py."""

    arguments: Sequence[str]
    """Its command; where it listens, its devices and its idle time are added."""
    loaded: str
    """Hash of all that it keeps from job to job: what differs in it gets another process."""
    job: Path
    """The file that it is handed."""
    note: Path
    """runs/NAME/worker.json: who works on which slot, for people."""
    driven: bool
    """Whether our stdin is the lifeline of a driver, handed on by NOMAD: it ends with that, not with us."""


@dataclass(frozen=True)
class Files:
    """What a job reads and makes, for executors whose jobs see other folders than we do. Paths are absolute."""

    reads: Mapping[Path, str]
    """Model and data: each file with the sha256 of its content, by which a machine has it only once."""
    documents: Mapping[Path, Any]
    """Files of JSON or YAML with what is to be in them: where they name a path of this job's, they will name its place
    on the other machine."""
    job: Path | None = None
    """One more such file, as `prepare` writes it."""
    along: Sequence[Path] = ()
    """Other files that the job needs as they are when it starts."""
    evaluations: Sequence[Path] = ()
    """Folders that it works in, as they are when it starts; what it makes in them comes back, result.json last."""
    makes: Sequence[Path] = ()
    """Other files that come back where it has made them."""
    keeps: Callable[[Path, Mapping[str, Any]], bool] = lambda folder, result: True
    """Whether an evaluation's weights come back too, by its folder and the content of its result.json."""


@dataclass(frozen=True)
class Launch:
    """A job. `prepare` is called with the slot and writes the job file, just before the job starts."""

    job: str
    arguments: Sequence[str]
    """The command of a process of its own; the first is this Python."""
    log: Path
    """The process's stdout and stderr."""
    prepare: Callable[[Slot], None]
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    """Time after which the job is killed; while it waits for a slot none passes."""
    milestones: Sequence[Path] = ()
    """Files and folders that change when the job has done something that another start of it will not do again. Where a
    cluster limits the time of jobs, one that has changed none of them in all its time is not started again."""
    resident: Resident | None = None
    """Where there is one, the job is done by it and not by a process of its own."""
    files: Callable[[], Files] = lambda: Files({}, {})
    """Asked for after `prepare`, by executors whose jobs see other folders."""


@dataclass(frozen=True)
class Exit:
    """How a job's process ended: its exit status (negative: the signal), or that its time was over.

    A process that is gone and cannot say why was killed by SIGKILL.
    """

    status: int
    timed_out: bool = False


Started = Callable[[Launch, int | None], None]
"""Told of each job as it starts: a process id of this host that lives as long as the job, or None, before it starts,
where it is at work elsewhere and ends by itself when this process falls silent (bbo/lifeline.py). An executor that
itself puts the job's files in place tells nothing: such a job changes nothing without us."""


class Executor(Protocol):
    """Runs jobs on slots. Who has to wait for a slot is told, on stderr, for whom."""

    @property
    def devices(self) -> tuple[str, ...]:
        """What one job gets, by any names: GPUs, or cores `cpu0`, `cpu1`...; known without asking a cluster."""

    def count(self) -> int:
        """How many jobs run side by side. May ask a cluster."""

    def run(
        self, launches: Sequence[Launch], started: Started, tick: Callable[[], None]
    ) -> Iterator[tuple[Launch, Exit]]:
        """Run each job on the next free slot and yield it with its exit, in the order in which they end.

        `tick` is called some times a second. Closing the generator kills what runs, and returns when nothing of it
        can write any more. Raises MachineError where no job can be run.
        """
