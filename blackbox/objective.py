"""`model: {callable: FILE.py:FUNCTION}`: a Python function in the place of a model.

It gets hyperparameters, those of the training section too, as one dictionary, and returns metrics as another. Each
evaluation is a process of its own: `python -m blackbox.objective JOB.json`. What the function raises is the failure of
its point; a full disk is the machine's.
"""

import errno
import importlib.util
import json
import math
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import Field

import bbo
from bbo import lifeline
from bbo.errors import InputError, MachineError
from bbo.executors.protocol import INPUT_REFUSED, LAUNCHED, MACHINE_FAILED, RESTARTED
from bbo.experiment import Experiment, Stopping, read_experiment
from bbo.store import Evaluation, Result
from blackbox.failure import failure_file, write_failure
from blackbox.hyperparameters import Section
from blackbox.launch import SHARED_CORES, python_path

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class CallableSettings(Section):
    """The `model` section."""

    callable: str = Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")
    sha256: str | None = None
    """Of the file: with it, a run whose function was changed is refused."""

    def located(self, base: Path) -> tuple[Path, str]:
        """The file, and the function's name."""
        file, _, name = self.callable.rpartition(":")
        return base / file, name


def is_callable(experiment: Experiment) -> bool:
    return isinstance(experiment.model, dict) and "callable" in experiment.model


def check(experiment: Experiment, stopping: Stopping) -> None:
    """Raise InputError for what a function cannot have, rather than ignore it."""
    settings = experiment.section("model", CallableSettings)
    file, _ = settings.located(experiment.base)
    if not file.is_file():
        raise experiment.error("model.callable", f"no such file: {file}")
    if settings.sha256 not in (None, sha256(file.read_bytes()).hexdigest()):
        raise experiment.error("model.sha256", f"{file} was changed since")
    if wrong := list(_unused(experiment, stopping)):
        raise InputError(*(str(experiment.error(place, f"means nothing to a callable: {why}")) for place, why in wrong))


def _unused(experiment: Experiment, stopping: Stopping) -> Iterator[tuple[str, str]]:
    own = "the function finds its own"
    for name in ("data", "scores"):
        if experiment.document.get(name):
            yield name, own
    if experiment.task != "instruct":
        yield "task", own
    if stopping.rule != "none":
        yield "stopping", "it has no epochs that could be looked at"
    if experiment.document.get("fidelity"):
        yield "fidelity", "it is called once, in full"
    if experiment.accelerate is not None or experiment.resources.processes_per_job is not None:
        yield "accelerate" if experiment.accelerate else "resources.processes_per_job", "it is called in one process"


def determinants(
    experiment: Experiment,
    hyperparameters: Mapping[str, Any],
    fidelity: Mapping[str, float],
    parent: str | None,
    digest: Callable[[Path], str],
) -> dict[str, Any]:
    """All that is known to determine a result, for the evaluation's key. Raises InputError for a part of a training."""
    if fidelity or parent:
        what = "evaluates in full: there is no fidelity, and no interval that could go on from another"
        raise InputError(f"model.callable: a callable {what} (choose an optimizer without)")
    file, name = experiment.section("model", CallableSettings).located(experiment.base)
    about = {"source": digest(file.absolute()), "function": name}
    return {"objective": about, "hyperparameters": {**experiment.training, **hyperparameters}}


def inputs_of(
    experiment: Experiment, digest: Callable[[Path], str]
) -> tuple[dict[Path, str], dict[Path, dict[str, Any]]]:
    """As blackbox/inputs.py says it of a model: the function's file, and the YAML with its path."""
    file, name = experiment.section("model", CallableSettings).located(experiment.base)
    relative = os.path.relpath(file.resolve(), experiment.base)  # on the other machine both lie elsewhere
    model = {**experiment.document["model"], "callable": f"{relative}:{name}"}
    content = {**experiment.document, "relative_to": str(experiment.base), "model": model}
    return {file.resolve(): digest(file.resolve())}, {experiment.path.absolute(): content}


def seed_of(experiment: Experiment) -> int:
    """The training section's. Raises InputError where the function is given none."""
    seed = experiment.training.get("seed")
    if not isinstance(seed, int):
        raise experiment.error("training", "has no seed for the callable, so other seeds would change nothing")
    return seed


def command(job_file: Path) -> tuple[list[str], dict[str, str]]:
    """Of a job's own process: arguments, and additions to the environment."""
    return [sys.executable, "-m", "blackbox.objective", str(job_file)], {"PYTHONPATH": python_path(), **SHARED_CORES}


def main() -> int:
    """Exit status 0: the evaluations have results; 1: bad input; 75: the machine's failure."""
    lifeline.watch()
    job_file = Path(sys.argv[1])
    try:
        job = json.loads(job_file.read_text())
        experiment = read_experiment(Path(job["experiment"]))
        function = _load(*experiment.section("model", CallableSettings).located(experiment.base))
        for item in job["evaluations"]:
            if RESTARTED in os.environ and Evaluation(Path(item["folder"])).result():
                continue
            _evaluate(function, experiment, job, item)
    except Exception as error:
        if not isinstance(error, InputError | MachineError):
            traceback.print_exc()
        write_failure(failure_file(job_file), error)
        return INPUT_REFUSED if isinstance(error, InputError) else MACHINE_FAILED
    return 0


def _load(file: Path, name: str) -> Callable[[dict[str, Any]], Any]:
    spec = importlib.util.spec_from_file_location("objective", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["objective"] = module  # for classes in it that are to be found again
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise InputError(f"model.callable: {file} cannot be imported: {type(error).__name__}: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"model.callable: {file} has no function {name}")
    found: Callable[[dict[str, Any]], Any] = function
    return found


def _evaluate(
    function: Callable[[dict[str, Any]], Any], experiment: Experiment, job: Mapping[str, Any], item: Mapping[str, Any]
) -> None:
    started = time.time()
    hyperparameters = {**experiment.training, **item["hyperparameters"]}
    evaluation = Evaluation(Path(item["folder"]))
    evaluation.applied_file.write_text(json.dumps(hyperparameters))
    metrics, reason = _call(function, hyperparameters, [output.metric for output in experiment.outputs])
    seconds = time.time() - started
    evaluation.record(
        Result(
            key=item["key"],
            status="ok" if reason is None else "failed",
            metrics=metrics,
            hyperparameters=dict(item["hyperparameters"]),
            point=item["point"],
            experiment=experiment.name,
            seconds=seconds,
            phases={
                "start": started - float(os.environ.get(LAUNCHED, job["launched"])),
                "load": 0.0,
                "train": seconds,
                "score": 0.0,
            },
            gpu_seconds=seconds * job["gpus"],
            started=started,
            finished=time.time(),
            host=socket.gethostname(),
            slot=job["slot"],
            job=job["id"],
            seed=seed if isinstance(seed := hyperparameters.get("seed"), int) else 0,
            attempts=item["attempts"],
            reason=reason,
            versions={"bbo": bbo.__version__, "python": platform.python_version()},
        )
    )


def _call(
    function: Callable[[dict[str, Any]], Any], hyperparameters: dict[str, Any], names: Sequence[str]
) -> tuple[dict[str, float], str | None]:
    """The finite metrics, and why the call counts as failed. Raises MachineError."""
    try:
        returned = function({**hyperparameters})
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise MachineError(f"disk: {error}") from error
        said = str(error).strip().splitlines()
        return {}, f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    if not isinstance(returned, Mapping):
        return {}, f"must return a dictionary of metrics, returned {type(returned).__name__}"
    metrics: dict[str, float] = {}
    for name, value in returned.items():
        try:
            metrics[str(name)] = float(value)
        except (TypeError, ValueError):
            return {}, f"must return numbers, returned {name} = {value!r:.60}"
    for name in names:
        if name not in metrics:
            return {}, f"returned no {name}, but {', '.join(metrics) or 'nothing'}"
        if not math.isfinite(metrics[name]):
            return {}, f"returned {name} = {metrics[name]}"
    return {name: value for name, value in metrics.items() if math.isfinite(value)}, None


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that the function left behind do not hold up the run
