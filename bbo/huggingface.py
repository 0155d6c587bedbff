"""Settings out of transformers.TrainingArguments and peft.LoraConfig, whichever the caller has imported.

What is not at its default is taken under the name that it has in the YAML's training section. Nothing of it is ignored
in silence: what is no such setting is refused by name, what only says how a Trainer reports is left out with a warning.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from bbo.errors import InputError
from bbo.search import Search

OF_LORA = {
    "r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "target_modules": "target_modules",
}
"""PEFT's names -> the YAML's."""

TASK_TYPES = {"instruct": "CAUSAL_LM", "qa": "CAUSAL_LM", "classification": "SEQ_CLS"}
"""What LoraConfig.task_type must be where it is given."""

REPORTING = {
    "disable_tqdm",
    "do_eval",
    "do_train",
    "eval_strategy",
    "log_level",
    "log_level_replica",
    "logging_dir",
    "logging_first_step",
    "logging_steps",
    "logging_strategy",
    "output_dir",
    "run_name",
    "save_steps",
    "save_strategy",
    "save_total_limit",
}
"""Of TrainingArguments: where and how often a Trainer reports and saves, which changes no result."""


def training_settings(arguments: Any) -> dict[str, Any]:
    """The YAML's training settings of a TrainingArguments, or of a mapping of such settings."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    found = dict(_changed(arguments, "training_parameters", "TrainingArguments"))
    if left_out := sorted(REPORTING & found.keys()):
        warnings.warn(
            f"TrainingArguments: {', '.join(left_out)}: left out, a run validates after each epoch and keeps its "
            "results and adapters in its own folder",
            stacklevel=4,
        )
    return {name: value for name, value in found.items() if name not in REPORTING}


def lora_settings(config: Any, task: str) -> dict[str, Any]:
    """The YAML's training settings of a LoraConfig. Raises InputError for what is not offered."""
    found = dict(_changed(config, "lora_config", "LoraConfig"))
    if found.get("task_type") == TASK_TYPES.get(task):
        found.pop("task_type", None)
    wrong = [not_offered(f"lora_config.{name}", getattr(type(config)(), name)) for name in found if name not in OF_LORA]
    if wrong:
        raise InputError(*wrong)
    return {OF_LORA[name]: value for name, value in found.items()}


def setting_of(name: str) -> str:
    """The YAML's name of a variable in `hp_space`: `lora_config.r` is lora_rank. Raises InputError."""
    section, dot, rest = name.partition(".")
    if not dot:
        return name
    if section != "lora_config" or rest not in OF_LORA:
        known = ", ".join(f"lora_config.{each}" for each in OF_LORA)
        raise InputError(f"hp_space: {name}: the names with a dot are {known}")
    return OF_LORA[rest]


def not_offered(name: str, default: Any) -> str:
    """The sentence that refuses a setting."""
    return f"{name}: not offered here: leave it at its default, {_plain(default)!r}"


def default_of(arguments: Any, name: str) -> Any:
    """Of a field of TrainingArguments."""
    return getattr(type(arguments)(), name)


def _changed(given: Any, argument: str, kind: str) -> Iterator[tuple[str, Any]]:
    """The fields that are searched, or differ from those of a fresh object; these are as plain as YAML is."""
    if not is_dataclass(given) or isinstance(given, type) or kind not in (c.__name__ for c in type(given).__mro__):
        raise InputError(f"{argument}: must be a {kind}, got {given!r}")
    fresh = type(given)()
    for each in fields(given):
        value = getattr(given, each.name)
        if isinstance(value, Search):
            yield each.name, value
        elif value != getattr(fresh, each.name):
            yield each.name, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [*value] if isinstance(value, tuple) else value
