"""The texts of a params pair, made of what Python callers say."""

import json
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from bbo import huggingface
from bbo.errors import InputError
from bbo.executors.slots import cores, visible_gpus
from bbo.experiment import Experiment
from bbo.search import Search
from bbo.space import Space
from bbo.variables import statement

BY_TUNE = "Written by bbo.tune"

OBJECTIVE = "objective"
"""Stem of the file that has a function's source."""

DEFAULTS = {"NM_SEARCH": "no", "SPECULATIVE_SEARCH": "no"}
"""NOMAD's keywords as in params/quickstart.txt; Docs/regret.md says why."""

OURS = {
    "DIMENSION", "BB_EXE", "BB_INPUT_TYPE", "BB_OUTPUT_TYPE", "LOWER_BOUND", "UPPER_BOUND", "X0", "BB_MAX_BLOCK_SIZE",
    "MAX_BB_EVAL", "SEED",
}  # fmt: skip
"""NOMAD's keywords that other arguments say."""


def space_of(
    task: str, parameters: Any, lora: Any, hp_space: Mapping[str, Any], trains: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The YAML's space, and its training section. Raises InputError for what is given twice, or no search object."""
    if not trains and (lora is not None or not isinstance(parameters, Mapping | None)):
        raise InputError("a function takes training_parameters as a dictionary, and no lora_config")
    settings = {} if parameters is None else huggingface.training_settings(parameters)
    given = [*settings.items(), *({} if lora is None else huggingface.lora_settings(lora, task)).items()]
    given += [
        (huggingface.setting_of(name) if trains else name, _searched(name, value)) for name, value in hp_space.items()
    ]
    names = [name for name, _ in given]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(*(f"{name}: given twice" for name in twice))
    space = {name: dict(value.variable) for name, value in given if isinstance(value, Search)}
    if not space:
        raise InputError("hp_space: must have a bbo.search object at least, got none")
    return space, {name: value for name, value in given if not isinstance(value, Search)}


def _searched(name: str, value: Any) -> Search:
    if isinstance(value, Mapping):  # the YAML's own way
        return Search(value)
    if not isinstance(value, Search):
        raise InputError(
            f"hp_space: {name}: must be a bbo.search object, as bbo.search.double(0.0, 0.1), got {value!r}"
        )
    return value


def model_of(
    model: str | Mapping[str, Any] | None, dataset: Any, objective: Any, source: str | None, folder: Path
) -> dict[str, Any]:
    if source is not None:
        if model is not None or dataset is not None:
            raise InputError("a function finds its own model and data: leave out model and dataset")
        where = f"{folder / OBJECTIVE}.py:{objective.__name__}"
        return {"callable": where, "sha256": sha256(source.encode()).hexdigest()}
    if model is None or dataset is None:
        raise InputError(
            "model and dataset: must be given, as model='folder or hub id', dataset={'train': ..., 'valid': ...}"
        )
    if not isinstance(dataset, Mapping):
        raise InputError(f"dataset: must be a dictionary, as the data section of Docs/python_api.md, got {dataset!r}")
    return {"path": str(model)} if isinstance(model, str | Path) else dict(model)


def outputs_of(metric: str | None, kind: str, additional: Sequence[str], trains: bool) -> list[str]:
    if not metric and not trains:
        raise InputError("objective_metric_name: must name the metric of the function's that is optimized")
    name = metric or "eval_loss"
    if name.startswith("-") or " " in name:
        raise InputError(f"objective_metric_name: must be a metric's name alone, got {name!r}")
    if isinstance(additional, str):
        raise InputError(f"additional_metric_names: must be a list, got {additional!r}")
    return [f"-{name}" if kind == "maximize" else name, *additional]


def resources_of(given: Mapping[str, Any], trains: bool, parallel: int) -> dict[str, Any]:
    """The YAML's, of Katib's names. Raises InputError for what nobody would see to."""
    for name in given:
        if name not in ("gpu", "cpu"):
            raise InputError(f"resources_per_trial: {name}: is not limited by the local backend: leave it out")
    if given.get("gpu") and "cpu" in given:
        raise InputError("resources_per_trial: cpu: counts for trials without a GPU: leave it out")
    if not trains and not given and not visible_gpus():
        return {"cpus_per_job": max(1, cores() // max(1, parallel))}
    return {"gpus_per_job": given.get("gpu", 0 if "cpu" in given else None), "cpus_per_job": given.get("cpu")}


def yaml_text(name: str, content: Mapping[str, Any]) -> str:
    """The params pair's YAML, without what is unset. Raises InputError for values that YAML does not have."""
    sections = {
        section: {key: value for key, value in entries.items() if value is not None}
        if section == "resources"
        else entries
        for section, entries in content.items()
    }
    kept = {section: entries for section, entries in sections.items() if entries not in (None, {}, [], "instruct")}
    try:
        return f"# {BY_TUNE}; {name}.txt has the command.\n" + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    except yaml.representer.RepresenterError as error:
        raise InputError(f"a value that a YAML file cannot hold: {error.args[-1]!r}") from None


def keywords_of(settings: Mapping[str, Any], parallel: int, ours: Mapping[str, Any]) -> dict[str, Any]:
    """NOMAD's, as algorithm_settings change them. Raises InputError for those that are not theirs to change."""
    given = {name.upper(): value_text(name, value) for name, value in settings.items()}
    if wrong := sorted(OURS & given.keys()):
        raise InputError(*(f"algorithm_settings: {name}: other arguments of tune say it" for name in wrong))
    blocks = {"MEGA_SEARCH_POLL": "yes"} if parallel > 1 else {}
    return {**ours, **DEFAULTS, **blocks, **given}


def statements_of(settings: Mapping[str, Any]) -> list[str]:
    """The same for any other optimizer, as options of `bbo run`."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value_text(name, value)}")]


def value_text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)
    except TypeError:
        raise InputError(f"algorithm_settings: {name}: must be a plain value, got {value!r}") from None


def _variable(space: Space, name: str) -> str:
    return name if name in space.variables else huggingface.setting_of(name)


def parameters_text(
    experiment: Experiment, command: Sequence[str], keywords: Mapping[str, Any], x0: Mapping[str, Any] | None
) -> str:
    """The text of the NOMAD parameter file. Raises InputError for an x0 that is no point of the space."""
    space = experiment.space
    variables = [space.variables[name] for name in space.free]
    try:
        start = (
            space.middle()
            if x0 is None
            else space.encode({_variable(space, name): value for name, value in x0.items()})
        )
    except ValueError as error:
        raise InputError(f"x0: {error}") from None
    lines = [
        f"# {BY_TUNE}. The YAML says what the numbers mean: {', '.join(space.free)}.",
        f"# {shlex.join(command)}",
        "",
        f"DIMENSION {len(variables)}",
        f'BB_EXE "$python3 $-m $blackbox {experiment.path.name}"',
        f"BB_INPUT_TYPE ( {' '.join('I' if variable.whole else 'R' for variable in variables)} )",
        f"BB_OUTPUT_TYPE {' '.join(output.kind for output in experiment.outputs)}",
        statement("LOWER_BOUND", tuple(variable.lower for variable in variables)),
        statement("UPPER_BOUND", tuple(variable.upper for variable in variables)),
        statement("X0", start),
        *(f"{name} {value}" for name, value in keywords.items()),
    ]
    return "\n".join(lines) + "\n"
