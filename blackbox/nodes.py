"""Several machines in one training: the pods of a PyTorchJob, which all run the same command on one shared volume.

The first one does all that a single machine would. It notes each job that takes all of them in a file; the others
follow it and start their part of the same `accelerate launch`.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbo import lifeline
from bbo.errors import InputError
from bbo.processes import end

POLL = 0.5
OVER = "over "


@dataclass(frozen=True)
class Nodes:
    """The machines, and which of them we are; as the training operator says it to torchrun."""

    count: int
    rank: int
    address: str
    """Of the first."""
    port: int

    @property
    def options(self) -> list[str]:
        """Of `accelerate launch`."""
        about = {"num_machines": self.count, "machine_rank": self.rank, "main_process_port": self.port}
        words = [word for name, value in about.items() for word in (f"--{name}", str(value))]
        return [*words, "--main_process_ip", self.address]


def our_nodes(environment: Mapping[str, str] = os.environ) -> Nodes | None:
    """None where we are alone. Raises InputError for what no operator sets."""
    count = environment.get("PET_NNODES", "1")
    if count == "1":
        return None
    try:
        rank, port = int(environment["PET_NODE_RANK"]), int(environment["PET_MASTER_PORT"])
        return Nodes(int(count), rank, environment["PET_MASTER_ADDR"], port)
    except (KeyError, ValueError) as error:
        raise InputError(f"PET_NNODES is {count}, and of the other variables of torchrun's: {error}") from None


class Notes:
    """The file by which the first machine leads the others: a job file per line, then how it ended."""

    def __init__(self, folder: Path, nodes: Nodes) -> None:
        self.file = folder / f"nodes-{nodes.address}.txt"

    def begin(self) -> None:
        """Whatever an earlier attempt noted counts no more."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)

    def add(self, line: str) -> None:
        with self.file.open("a") as lines:
            lines.write(f"{line}\n")

    def last(self) -> str | None:
        """The latest whole line."""
        try:
            whole, newline, _ = self.file.read_text().rpartition("\n")
        except FileNotFoundError:
            return None
        return whole.splitlines()[-1] if newline else None

    def follow(self, rank: int, command: Callable[[Path], tuple[Sequence[str], Mapping[str, str]]]) -> int:
        """Do our part of each job, as `command` has it, until the first machine is done. Its exit status."""
        done: str | None = None
        process: subprocess.Popen[bytes] | None = None
        try:
            while True:
                last = self.last()
                if last is not None and last != done:
                    if process is not None:
                        end([process])
                    if last.startswith(OVER):
                        return int(last.removeprefix(OVER))
                    process, done = _start(Path(last), rank, *command(Path(last))), last
                time.sleep(POLL)
        finally:
            if process is not None:
                end([process])


def _start(
    job_file: Path, rank: int, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with job_file.with_suffix(f".{rank}.log").open("ab") as log:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,  # the lifeline: see bbo/lifeline.py
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, lifeline.ENVIRONMENT: "1"},
            start_new_session=True,
        )
