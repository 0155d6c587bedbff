"""`bbo.tune(...)`: a run begun from Python, in the shape of Kubeflow Katib's KatibClient.tune.

It writes the params pair that a person would have written, into the run's own folder, and starts the command that a
person would have typed. So a run is the same from both sides, and nothing that somebody wrote in params/ is at risk.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bbo import draft, function, huggingface
from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.handle import Handle
from bbo.katib import tuned
from bbo.run import Run

FINE_TUNING = "fine-tuning"

OF_KATIB = {
    "namespace": "a run of this machine has no namespace",
    "base_image": "a run of this machine has no image",
    "num_workers": "a trial of this machine has one worker",
    "resources_per_worker": "a trial of this machine has one worker: resources_per_trial",
    "storage_config": "a run of this machine has its folder",
    "packages_to_install": "install them here with pip",
    "pip_index_url": "install packages here with pip",
}
"""Arguments that the local backend refuses, and why."""

OF_THIS_MACHINE = {
    "allow_dead": "a trial checks no variables",
    "store": "evaluations lie on the volume, below runs/",
    "x0": "Katib has no starting points",
}
"""Arguments that the Katib backend refuses, and why."""

ARGUMENTS = {
    "--optimizer": "algorithm_name",
    "--set": "algorithm_settings",
    "--goal": "objective_goal",
    "--stopping": "early_stopping",
    "BB_MAX_BLOCK_SIZE": "parallel_trial_count",
    "MAX_BB_EVAL": "max_trial_count",
    "SEED": "seed",
    "data": "dataset",
    "outputs": "objective_metric_name, additional_metric_names",
    "resources.cpus_per_job": "resources_per_trial: cpu",
    "resources.gpus_per_job": "resources_per_trial: gpu",
    "resources.max_failed": "max_failed_trial_count",
    "resources.processes_per_job": "num_procs_per_worker",
    "resources.time_limit": "trial_active_deadline_seconds",
    "space": "hp_space",
    "stopping": "early_stopping",
    "training": "training_parameters",
}
"""What messages begin with -> the argument of tune that says it."""


def tune(  # noqa: PLR0913 - as many as KatibClient.tune has
    name: str,
    *,
    max_trial_count: int,
    hp_space: Mapping[str, Any] = {},
    model: str | Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    objective: str | Callable[[dict[str, Any]], Any] = FINE_TUNING,
    task: str = "instruct",
    training_parameters: Any = None,
    lora_config: Any = None,
    objective_metric_name: str | None = None,
    objective_type: Literal["minimize", "maximize"] = "minimize",
    objective_goal: float | None = None,
    additional_metric_names: Sequence[str] = (),
    algorithm_name: str | None = None,
    algorithm_settings: Mapping[str, Any] = {},
    seed: int = 0,
    x0: Mapping[str, Any] | None = None,
    parallel_trial_count: int = 1,
    max_failed_trial_count: int | None = None,
    early_stopping: str | Mapping[str, Any] | None = None,
    trial_active_deadline_seconds: float | None = None,
    resources_per_trial: Mapping[str, Any] = {},
    num_procs_per_worker: int | None = None,
    retain_trials: bool = False,
    env_per_trial: Mapping[str, str] = {},
    allow_dead: Sequence[str] = (),
    store: str | Path | None = None,
    backend: Literal["local", "katib"] = "local",
    **of_katib: Any,
) -> Handle | tuned.Submitted:
    """Begin the run `name`, or continue it: Docs/python_api.md says what each argument is.

    Returns as soon as the run's own process has taken it up; with `backend="katib"` when the cluster has the Katib
    Experiment. Raises InputError for whatever is wrong with the arguments, and then leaves nothing on disk.
    """
    _check_names(name, objective, objective_type, backend, of_katib)
    _check_values(
        objective_goal,
        env_per_trial,
        {"hp_space": hp_space, "x0": x0 or {}, "algorithm_settings": algorithm_settings},
    )
    if backend == "katib":
        _check_katib(objective, {"allow_dead": allow_dead, "store": store, "x0": x0})
    local = backend == "local"
    source = None if isinstance(objective, str) else function.source_of(objective)
    run = Run((Path("runs") / name).absolute())
    folder = run.parameters.relative_to(Path.cwd())
    space, training = draft.space_of(task, training_parameters, lora_config, hp_space, source is None)
    content = {
        "task": task,
        "model": draft.model_of(model, dataset, objective, source, folder),
        "data": dict(dataset or {}),
        "space": space,
        "training": training,
        "outputs": draft.outputs_of(objective_metric_name, objective_type, additional_metric_names, source is None),
        "stopping": early_stopping,
        "allow_dead": [*allow_dead],
        "resources": draft.resources_of(resources_per_trial, source is None, parallel_trial_count)
        | {
            "processes_per_job": num_procs_per_worker,
            "keep": "all" if retain_trials else None,
            "time_limit": trial_active_deadline_seconds,
            "max_failed": max_failed_trial_count,
            "max_failed_total": max_failed_trial_count,
        }
        if local
        else {},
        "relative_to": str(Path.cwd()),
    }
    document = draft.yaml_text(name, content)
    experiment = _checked(name, document)
    if not local:
        given = {
            **of_katib,
            "name": name,
            "algorithm_name": algorithm_name,
            "algorithm_settings": algorithm_settings,
            "objective_goal": objective_goal,
            "max_trial_count": max_trial_count,
            "parallel_trial_count": parallel_trial_count,
            "max_failed_trial_count": max_failed_trial_count,
            "resources_per_trial": dict(resources_per_trial),
            "num_procs_per_worker": num_procs_per_worker,
            "env_per_trial": dict(env_per_trial),
            "retain_trials": retain_trials,
            "trial_active_deadline_seconds": trial_active_deadline_seconds,
        }
        try:
            return tuned.create(experiment, seed, given)
        except InputError as error:
            raise _in_words_of_tune(error, name, training_parameters) from None
    file = str(folder / f"{name}.txt")
    options = [f"--goal={float(objective_goal)!r}"] if objective_goal is not None else []
    options += ["--store", str(store)] if store is not None else []
    keywords = {"BB_MAX_BLOCK_SIZE": parallel_trial_count, "MAX_BB_EVAL": max_trial_count, "SEED": seed}
    if algorithm_name in (None, "nomad"):
        command, keywords = ["nomad", file], draft.keywords_of(algorithm_settings, parallel_trial_count, keywords)
    else:
        command = ["bbo", "run", file, "--run", name, "--optimizer", algorithm_name]
        command += draft.statements_of(algorithm_settings)
    files = {
        f"{name}.yaml": document,
        f"{name}.txt": draft.parameters_text(experiment, [*command, *options], keywords, x0),
        **({f"{draft.OBJECTIVE}.py": source} if source is not None else {}),
    }
    handle = Handle(run, env_per_trial)
    try:
        _begin(handle, files)
    except InputError as error:
        raise _in_words_of_tune(error, name, training_parameters) from None
    return handle


def _check_names(name: str, objective: Any, kind: str, backend: str, of_katib: Mapping[str, Any]) -> None:
    """Raise for arguments that are none of ours."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(f"name: must be of letters, digits, _ . and -, got {name!r}")
    if isinstance(objective, str) and objective != FINE_TUNING:
        raise InputError(f"objective: must be a function or {FINE_TUNING!r}, got {objective!r}")
    if kind not in ("minimize", "maximize"):
        raise InputError(f"objective_type: must be minimize or maximize, got {kind!r}")
    if backend not in ("local", "katib"):
        raise InputError(f"backend: must be local or katib, got {backend!r}")
    for argument in of_katib:
        if argument not in OF_KATIB:
            raise TypeError(f"tune() got an unexpected keyword argument {argument!r}")
    if of_katib and backend == "local":
        raise InputError(*(f"{argument}: is for backend='katib': {OF_KATIB[argument]}" for argument in of_katib))


def _check_katib(objective: Any, of_this_machine: Mapping[str, Any]) -> None:
    """Raise for arguments that a cluster's trials cannot have."""
    if not isinstance(objective, str):
        raise InputError("objective: a function of yours runs on this machine only: leave out backend='katib'")
    if wrong := [f"{name}: {why}" for name, why in OF_THIS_MACHINE.items() if of_this_machine[name]]:
        raise InputError(*(f"{sentence}: leave it out with backend='katib'" for sentence in wrong))


def _check_values(goal: object, environment: Mapping[str, str], dictionaries: Mapping[str, object]) -> None:
    for argument, given in {**dictionaries, "env_per_trial": environment}.items():
        if not isinstance(given, Mapping):
            raise InputError(f"{argument}: must be a dictionary, got {given!r}")
    if goal is not None and (isinstance(goal, bool) or not isinstance(goal, int | float)):
        raise InputError(f"objective_goal: must be a number, got {goal!r}")
    for name, value in environment.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise InputError(f"env_per_trial: {name}: must be text, got {value!r}")
        if not name or "=" in name or "\0" in name + value:
            raise InputError(f"env_per_trial: {name!r}: no name or value that a variable of the environment may have")


def _checked(name: str, document: str) -> Experiment:
    """What the YAML means. Raises InputError in the words of `tune`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(document)
        try:
            return read_experiment(file)
        except InputError as error:
            raise _in_words_of_tune(error, name, None) from None


def _begin(handle: Handle, files: Mapping[str, str]) -> None:
    """Write the pair and start the run, but for one that is under way with the same. Raises InputError, as if never."""
    run = handle.run
    before = {name: file.read_text() if (file := run.parameters / name).is_file() else None for name in files}
    if handle.is_running:
        if before != files:
            raise InputError(f"{run.folder}: is under way with other settings: `bbo stop {run.name}` ends it")
        return
    if before != files and any(before.values()) and not run.log().answers:
        shutil.rmtree(run.folder)  # refused, or killed, before its first evaluation
    is_new, has_parameters = not run.folder.exists(), run.parameters.is_dir()
    run.parameters.mkdir(parents=True, exist_ok=True)
    try:
        for name, text in files.items():
            (run.parameters / name).write_text(text)
        handle.start()
    except InputError:
        if is_new:
            run.remove()
        elif not has_parameters:  # somebody else's run
            shutil.rmtree(run.parameters)
            run.driver_log.unlink(missing_ok=True)
        else:
            for name, old in before.items():
                if old is not None:
                    (run.parameters / name).write_text(old)
        raise


def _in_words_of_tune(error: InputError, name: str, parameters: Any) -> InputError:
    """The same mistakes without places in files that nobody has seen, and by the names of tune's arguments."""
    return InputError(*(_in_words(message, name, parameters) for message in error.messages))


def _in_words(message: str, name: str, parameters: Any) -> str:
    message = re.sub(rf"^\S*/{re.escape(name)}\.(yaml|txt)(:\d+)?: ", "", message)
    unknown = re.fullmatch(r"training\.(\w+): no such setting(?:, .*)?", message)
    if unknown and parameters is not None and not isinstance(parameters, Mapping):
        default = huggingface.default_of(parameters, unknown[1])
        return huggingface.not_offered(f"training_parameters.{unknown[1]}", default)
    for place, argument in ARGUMENTS.items():
        if re.match(rf"{re.escape(place)}\b", message):
            return argument + message.removeprefix(place)
    return message
