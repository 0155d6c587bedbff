"""What lm-eval has: its tasks, groups and tags, as its files say. Loading this module takes a second or two."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.api.metrics  # fills the registry
import lm_eval.tasks
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
from lm_eval.tasks._factory import GROUP_FIELD_NAMES
from lm_eval.tasks._index import Entry, Kind, TaskIndex

from bbo.errors import InputError
from blackbox.scores.requests import Request

TASKS = Path(lm_eval.tasks.__file__).parent

Index = Mapping[str, Entry]


@dataclass(frozen=True)
class Leaf:
    """A task that has no parts."""

    name: str
    entry: Entry | None
    """None where a group writes it out itself."""
    given: dict[str, Any] = field(default_factory=dict)
    """What the groups above it set."""

    @property
    def config(self) -> dict[str, Any]:
        """Functions of the task's are names here."""
        return {**((self.entry and self.entry.cfg) or {}), **self.given}

    @property
    def movable(self) -> bool:
        """Whether its data can be local files: a task that is a Python class names its data in code."""
        return self.entry is not None and self.entry.kind is Kind.TASK and not self.config.get("custom_dataset")

    def shots(self, asked: int | None) -> int:
        """Examples before a question. A task that lm-eval fixes at none has none, whatever is asked."""
        own: int | None = self.config.get("num_fewshot")
        return own or 0 if asked is None or own == 0 else asked

    def splits(self, asked: int | None) -> list[str]:
        """Those that are read, in lm-eval's order of preference."""
        config, examples = self.config, self.config.get("fewshot_config") or {}
        needed = [config.get("test_split") or config.get("validation_split")]
        if self.shots(asked):
            own = examples.get("split", config.get("fewshot_split"))
            if own or not examples.get("samples"):
                needed.append(own or config.get("training_split") or config.get("validation_split") or needed[0])
        return list(dict.fromkeys(split for split in needed if split))

    @property
    def metrics(self) -> list[str]:
        """By our names: the first filter's are bare, another's end in @FILTER."""
        config = self.config
        listed = config.get("metric_list")
        names = [str(each["metric"]).rpartition(".")[2] for each in listed or ()]
        names = names or DEFAULT_METRIC_REGISTRY[config.get("output_type", "generate_until")]
        return [name + tail for tail in self.tails.values() for name in names]

    @property
    def tails(self) -> dict[str, str]:
        """What each filter adds to the name of a metric."""
        filters = [each["name"] for each in self.config.get("filter_list") or [{"name": "none"}]]
        return {name: f"@{name}" if number else "" for number, name in enumerate(filters)}

    def places(self, folder: Path) -> list[Path]:
        """Where its files may stand in its family's folder, the likeliest first."""
        configuration = self.config.get("dataset_name")
        names = [configuration, self.name.removeprefix(f"{folder.name}_"), self.name]
        places = [folder / name for name in dict.fromkeys(names) if name]
        # Else a file in the family's folder would stand for each of its configurations.
        alone = configuration in (None, "main", "default") or folder.name == self.name
        return [*places, folder] if alone else places


def index_of(task: str) -> Index:
    """lm-eval's tasks, groups and tags by name: those of the task's family if it is whole there, else all of them.

    All are 14,000 files, ten seconds. A tag may have members anywhere.
    """
    family = _index(TASKS / task.split("_", maxsplit=1)[0])
    try:
        whole = family[task].kind is not Kind.TAG and all(leaf.entry for leaf in leaves(task, family))
    except KeyError:
        whole = False
    return family if whole else _index(TASKS)


@cache
def _index(folder: Path) -> Index:
    return TaskIndex.build([folder]) if folder.is_dir() else {}


def leaves(name: str, index: Index, given: Mapping[str, Any] = {}) -> Iterator[Leaf]:
    """The tasks below a name. Raises KeyError where the index lacks one."""
    entry = index[name]
    if entry.kind is Kind.TAG:
        for member in sorted(entry.tags):
            yield from leaves(member, index, given)
    elif entry.kind is Kind.GROUP:
        yield from _members(name, entry.cfg or {}, index, given)
    else:
        yield Leaf(name, entry, dict(given))


def _members(group: str, config: Mapping[str, Any], index: Index, given: Mapping[str, Any]) -> Iterator[Leaf]:
    """As TaskFactory._build_group_members of lm-eval goes through them."""
    common = {key: value for key, value in config.items() if key not in GROUP_FIELD_NAMES} | dict(given)
    for member in config["task"]:
        if isinstance(member, str):
            yield from leaves(member, index, common)
            continue
        name = member.get("group") or member["task"]
        own = common | {key: value for key, value in member.items() if key not in ("group", "task")}
        if name in index:
            yield from leaves(name, index, own)
        elif "group" in member:
            yield from _members(f"{group}::{name}", member, index, common)
        else:
            yield Leaf(f"{group}::{name}", None, own)


def chosen(request: Request, index: Index) -> list[Leaf]:
    """The leaves that are asked for. Raises InputError naming the parts that the task does not have."""
    all_of_it = {leaf.name: leaf for leaf in leaves(request.task, index)}
    if not request.subtasks:
        return list(all_of_it.values())
    found: dict[str, Leaf] = {}
    wrong = []
    for part in request.subtasks:
        name = f"{request.task}_{part}"
        below = [leaf.name for leaf in leaves(name, index)] if name in index and name != request.task else []
        if not below or not all_of_it.keys() >= set(below):
            wrong.append(part)
        found |= {below_it: all_of_it[below_it] for below_it in below if below_it in all_of_it}
    if wrong:
        known = [name.removeprefix(f"{request.task}_") for name in all_of_it if name != request.task]
        has = f"it has {', '.join(known)}" if known else "it is no group"
        raise InputError(f"scores.tasks.{request.task}.subtasks: no {', '.join(wrong)} in {request.task}, {has}")
    return list(found.values())


def aggregates(entry: Entry, parts: Sequence[Leaf]) -> list[dict[str, Any]]:
    """What a group's score is: as lm-eval has it, else means by size of the metrics that all its tasks have."""
    own = (entry.cfg or {}).get("aggregate_metric_list")
    if own:
        return [own] if isinstance(own, dict) else list(own)
    shared = [name for name in parts[0].metrics if all(name in part.metrics for part in parts)]
    return [{"metric": name, "weight_by_size": True} for name in shared if "@" not in name]


def metrics_of(entry: Entry, parts: Sequence[Leaf]) -> list[str]:
    """Names of a task's or group's metrics, its first first; none where only its code knows."""
    if entry.kind is Kind.PY_TASK:
        return []
    if entry.kind is Kind.TASK:
        return parts[0].metrics
    bare = [each["metric"] for each in aggregates(entry, parts)]
    return [name for name in parts[0].metrics if name.partition("@")[0] in bare]
