"""What every run has around its optimizer: the checked pair, the run folder, display, summary, exit status."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from bbo.display import Display
from bbo.errors import InputError, MachineError
from bbo.executors.choose import executor_of
from bbo.executors.slots import gpus_of
from bbo.experiment import FULL, Experiment
from bbo.front import front_of
from bbo.guard import Drives, Ended, Limits
from bbo.pair import fidelity_of
from bbo.run import Run, lasting
from bbo.space import Point
from bbo.store import Store
from bbo.summary import summary


@dataclass(frozen=True)
class Conduct:
    """One start of a run."""

    run: Run
    experiment: Experiment
    store: Store
    about: Mapping[str, Any]
    """What must not change between two starts: see `Run.settle`."""
    budget: int | None
    """Evaluations, for the display."""
    x0: Sequence[Point]
    command: str
    """That continues the run."""

    def until_it_ends(self, begin: Callable[[Mapping[str, str]], Drives], libraries: Mapping[str, str]) -> int:
        """Drive what `begin` makes of the libraries' versions when the run was begun. The exit status.

        Raises InputError where the run is refused, and then leaves no trace of a new one.
        """
        started, is_new = time.monotonic(), not self.run.folder.exists()
        with self.run.driven():
            drives = begin(self.run.settle(self.about, libraries))
            self.run.end_file.unlink(missing_ok=True)
            console = Console()
            display = Display(self.run, self.experiment, self.store, self.budget, console)
            status, reason = 0, None
            try:
                display.replaying(drives.log)
                drives.drive(display)
            except Ended as ended:
                status, reason = ended.status, str(ended)
            except MachineError as error:
                status, reason = 3, str(error)
            except InputError as error:
                self.run.note_end(1, str(error))
                if is_new and not drives.log.answers:
                    self.run.remove()
                raise
            finally:
                display.close()
            base, seconds = self.run.base_score(), time.monotonic() - started
            for line in summary(self.run, self.experiment, self.store, drives.log, base, seconds, self.x0):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            status = status or (0 if front_of(self.experiment, drives.log) else 3)
            self.run.note_end(status, reason)
        if reason is not None:
            errors().print(f"stopped: {reason}\ncontinue with: {self.command}")
        return status


def errors() -> Console:
    """Where sentences about a run go."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def ask_blackbox(yaml: Path, *what: str) -> None:
    """Let the blackbox check its own sections (`bbo` knows no LLM), or print its plan."""
    command = [sys.executable, "-m", "blackbox.preflight", str(yaml), *what]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError(*(done.stderr.strip().splitlines() or [f"blackbox.preflight {what[0]} failed"]))


def check_quickly(yaml: Path, budget: int | None, stopping: str | None) -> None:
    """What the blackbox can say of a run in under a second. Raises InputError."""
    given = {"--budget": budget, "--stopping": stopping}
    words = [(option, str(value)) for option, value in given.items() if value is not None]
    ask_blackbox(yaml, "--quick", *chain(*words))


def common_options() -> argparse.ArgumentParser:
    """What the commands that run something have in common."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--run", metavar="NAME_OR_PATH", help="run folder (default: runs/<FILE's stem>, with -OPTIMIZER if not NOMAD)")
    add("--store", metavar="DIR", type=Path, help="evaluations, may be shared (default: <run>/evals)")
    goal = "stop when the objective is there, at V or better, with the sign that it is measured with"
    add("--goal", metavar="V", type=float, help=goal)
    add("--max-hours", type=_positive, metavar="H", help="stop after H hours of wall time")
    add("--max-gpu-hours", type=_positive, metavar="H", help="stop after H GPU-hours of training")
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
        return int(text)

    return whole


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def limits_of(experiment: Experiment, options: argparse.Namespace) -> Limits:
    """Raises InputError for a limit that could never be reached."""
    if options.max_gpu_hours is not None and not gpus_of(executor_of(experiment.resources, Path()).devices):
        raise InputError("--max-gpu-hours: this run uses no GPU, there is nothing to count (use --max-hours)")
    if options.goal is not None and len(experiment.objectives) > 1:
        raise InputError(f"--goal: is for one objective, this run has {len(experiment.objectives)}")
    return Limits(options.max_hours, options.max_gpu_hours, options.goal)


def about_experiment(experiment: Experiment, commands: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The YAML without what may change between two starts of a run; of the fidelities those that commands name."""
    document = lasting(experiment.document)
    names = [fidelity_of(words) or FULL for words in commands]
    if used := {name: experiment.fidelity(name) for name in names if name != FULL}:
        document["fidelity"] = used
    return document
