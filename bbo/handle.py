"""A run as Python code holds it: begun by `bbo.tune`, or by anybody and opened with `bbo.attach`.

The run is a process of its own with a folder of its own; whoever holds a handle may die and open another one.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bbo.best import read_searched
from bbo.display import Display
from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.guard import Watch
from bbo.run import Run, find_run
from bbo.runlog import Answer
from bbo.session import read_session
from bbo.stopping import STATUS
from bbo.store import Store

if TYPE_CHECKING:
    import pandas

POLL = 0.1
BUDGET = re.compile(r"^(MAX_BB_EVAL +)(\d+)$", re.MULTILINE)


NOT_OURS = "not begun by bbo.tune, the command that began it continues it"


class RunStopped(Exception):
    """A run ended before its time: the message says why."""


class Handle:
    """One run. Its folder has all that is known: every `bbo` command takes it too."""

    def __init__(self, run: Run, environment: Mapping[str, str] = {}) -> None:
        """`environment`: added to that of the run's process, where this handle starts one."""
        self.run = run
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<run {self.run.name} in {self.run.folder}, {'under way' if self.is_running else 'not under way'}>"

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def is_running(self) -> bool:
        """Whether anybody drives it, from here or from a terminal."""
        if self._process is not None:
            self._process.poll()  # or it stays a zombie
        return self.run.lock_file.is_file() and self.run.is_driven()

    @property
    def command(self) -> str:
        """What continues the run in a terminal, from the folder that has `runs`."""
        try:
            return self._parameter_file.read_text().splitlines()[1].removeprefix("# ")
        except FileNotFoundError:
            raise InputError(f"{self.folder}: {NOT_OURS}") from None

    def wait(self, timeout: float | None = None, progress: bool = True) -> "Handle":
        """Follow the run to its end; an interrupt ends the waiting, not the run. `progress` prints each evaluation.

        Raises InputError for what the run refuses, RunStopped where it ended early, TimeoutError after so many seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        watch, log = self._display() if progress else Watch(), self.run.log()
        try:
            while self.is_running:
                watch.update(log)
                if until is not None and time.monotonic() > until:
                    raise TimeoutError(f"{self.folder}: still under way after {timeout:g} s")
                time.sleep(POLL)
                log.refresh()
            watch.update(log)
        finally:
            if isinstance(watch, Display):
                watch.close()
        self._end(progress)
        return self

    def stop(self) -> None:
        """End the run in order; `resume` goes on where it was."""
        self.run.stop()

    def resume(self) -> "Handle":
        """Continue the run, or let one that is over replay its record. Nothing is evaluated twice."""
        if not self.is_running:
            self.start()
        return self

    def extend(self, max_trial_count: int) -> "Handle":
        """Give the run another budget and continue it."""
        if max_trial_count < 1:
            raise InputError(f"max_trial_count: must be at least 1, got {max_trial_count}")
        if not self._parameter_file.is_file():
            raise InputError(f"{self.folder}: {NOT_OURS}")
        if self.is_running:
            self.stop()
        text = self._parameter_file.read_text()
        self._parameter_file.write_text(BUDGET.sub(rf"\g<1>{max_trial_count}", text))
        return self.resume()

    def trials(self) -> "pandas.DataFrame":
        """A row for each evaluation: number, status, hyperparameters, metrics, the reason of a failure, the key."""
        import pandas  # noqa: PLC0415 - heavy

        experiment, log = self._experiment(), self.run.log()
        rows = []
        for ask in log.driven:
            answer = log.answers.get(ask.number)
            if answer is not None and answer.source == "declined":  # the surplus of a block
                continue
            status = "running" if answer is None else STATUS[answer.source]
            row = {"number": ask.number, "status": status, **experiment.space.decode(ask.point)}
            row |= _metrics(experiment, answer)
            rows.append(row | {"reason": None if answer is None else answer.reason, "key": ask.key})
        outputs = [output.metric for output in experiment.outputs]
        columns = ["number", "status", *experiment.space.variables, *outputs, "reason", "key"]
        return pandas.DataFrame(rows, columns=columns).set_index("number")

    def get_optimal_hyperparameters(self) -> dict[str, Any]:
        """Those of the best evaluation, by `bbo confirm` where it was run. Raises InputError where none is good."""
        return dict(read_searched(str(self.folder)).best().hyperparameters)

    def logs(self, trial: int) -> str:
        """What the process of an evaluation said; points that trained together have one log. Raises InputError."""
        log = self.run.log()
        asks = [ask for ask in log.driven if ask.number == trial]
        if not asks:
            raise InputError(f"{self.folder}: no trial {trial}, the numbers are those of trials()")
        file = self._store().evaluation(asks[0].key).log_file
        return file.read_text(errors="replace") if file.is_file() else ""

    def start(self) -> None:
        """Start the run's process; return once it has taken the run up. Raises InputError with what it refuses."""
        words = shlex.split(self.command)
        module = {"nomad": "bbo.nomad", "bbo": "bbo.cli"}[words[0]]
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self.run.driver_log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {module} import main; main()", *words[1:]],
                cwd=self.folder.parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self._environment},
                start_new_session=True,  # neither an interrupt of ours nor our death is the run's
            )
        while not self._taken_up(self._process.pid):
            if self._process.poll() is not None and not self._taken_up(self._process.pid):
                lines = self.run.driver_log.read_text(errors="replace").splitlines()
                raise InputError(*(line for line in lines if line.strip() and not line.startswith("warning: ")))
            time.sleep(POLL)

    @property
    def _parameter_file(self) -> Path:
        return self.run.parameters / f"{self.run.name}.txt"

    def _taken_up(self, pid: int) -> bool:
        try:
            return read_session(self.run).name.endswith(f"-{pid}")
        except FileNotFoundError:
            return False

    def _end(self, progress: bool) -> None:
        """Say how the run ended, or raise it."""
        end = self.run.end()
        if end is None:
            raise RunStopped(f"{self.folder}: its process is gone; resume() goes on where it was")
        status, reason = end
        if status == 1:
            raise InputError(*(reason or "").splitlines())
        if status == 3:
            raise RunStopped(f"{self.folder}: {reason or 'no good evaluation'}")
        if progress and self.run.driver_log.is_file():
            said = self.run.driver_log.read_text(errors="replace")
            *_, summary = re.split(r"^(?:\[\d+|replaying ).*\n", said, flags=re.MULTILINE)
            print(summary.rstrip())

    def _display(self) -> Display:
        found = BUDGET.search(self._parameter_file.read_text()) if self._parameter_file.is_file() else None
        intervals = self.run.about().get("settings", {}).get("intervals", 1)
        budget = int(found[2]) * intervals if found else None
        return Display(self.run, self._experiment(), self._store(), budget, Console(highlight=False))

    def _experiment(self) -> Experiment:
        file = self.run.parameters / f"{self.run.name}.yaml"
        return read_experiment(file) if file.is_file() else read_searched(str(self.folder)).experiment

    def _store(self) -> Store:
        return Store(Path(read_session(self.run).store)) if self.run.session_file.is_file() else Store(self.run.evals)


def attach(name: str) -> Handle:
    """The run of a name or path, whoever began it, under way or not. Raises InputError where there is none."""
    run = Run(find_run(name).folder.absolute())
    if not run.log_file.is_file():
        raise InputError(f"{run.folder}: no run there")
    return Handle(run)


def _metrics(experiment: Experiment, answer: Answer | None) -> dict[str, float]:
    """By name, as they were measured; of a trial that was stopped early its own last objective alone."""
    if answer is None or answer.values is None or answer.source == "failed":
        return {}
    if answer.source == "stopped":
        output = experiment.outputs[experiment.objective]
        return {} if answer.objective is None else {output.metric: output.sign * answer.objective}
    pairs = zip(experiment.outputs, answer.values, strict=True)
    return {output.metric: output.sign * value + output.bound for output, value in pairs}
