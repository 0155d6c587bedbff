"""lm-eval's tasks on local files: what is wrong before any training, and the tasks as lm-eval's `evaluate` takes them.

Prompts, examples, filters and metrics stay lm-eval's. What changes is where a task's rows come from, and that a group
may be asked for some of its tasks. Loading this module takes a second or two.
"""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
from datasets.naming import camelcase_to_snakecase
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from bbo.errors import InputError
from blackbox.scores.catalogue import Index, Leaf, aggregates, chosen, index_of, metrics_of
from blackbox.scores.requests import Request
from blackbox.scores.settings import ScoresSettings
from blackbox.scores.sources import FORMATS, files_of, folder_of

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")

SHOWN = 5
"""Names in a message."""


def check(request: Request, metric: str | None, settings: ScoresSettings, base: Path) -> list[str]:
    """A sentence for everything that is wrong, each led by its place in the YAML. Loads neither rows nor a model."""
    task = request.task
    index = index_of(task)
    if task not in index:
        near = get_close_matches(task, index, n=3)
        return [f"outputs: lm-eval has no task {task}" + (f", did you mean {' or '.join(near)}?" if near else "")]
    try:
        parts = chosen(request, index)
    except InputError as error:
        return list(error.messages)
    return _refused(task, parts) or [
        *_wrong_metric(task, metric, index, parts),
        *_fixed_examples(task, settings, parts),
        *_missing(request, parts, settings, base),
    ]


def _refused(task: str, parts: Sequence[Leaf]) -> list[str]:
    for part in parts:
        if part.config.get("unsafe_code"):
            return [f"outputs: {part.name} runs what the model writes in this process (lm-eval: unsafe_code): refused"]
        if part.config.get("doc_to_image") or part.config.get("doc_to_audio"):
            return [f"outputs: {part.name} shows more than text, which no model here can take"]
    return []


def _wrong_metric(task: str, metric: str | None, index: Index, parts: Sequence[Leaf]) -> list[str]:
    known = metrics_of(index[task], parts)
    if metric is None or not known or metric in known:
        return []
    return [f"outputs: {task} has no metric {metric}, it has {', '.join(known)}"]


def _fixed_examples(task: str, settings: ScoresSettings, parts: Sequence[Leaf]) -> list[str]:
    asked = settings.tasks[task].num_fewshot if task in settings.tasks else None
    fixed = [part.name for part in parts if part.config.get("num_fewshot") == 0]
    if not asked or not fixed:
        return []
    return [f"scores.tasks.{task}.num_fewshot: lm-eval shows no examples in {_some(fixed)}, got {asked}"]


def _missing(request: Request, parts: Sequence[Leaf], settings: ScoresSettings, base: Path) -> list[str]:
    data_dir = settings.folder(base)
    folder = folder_of(request.task, data_dir)
    if folder is None:
        paths = dict.fromkeys(str(part.config.get("dataset_path") or part.name) for part in parts)
        absent = [path for path in paths if not _cached(path)]
        if data_dir is not None and absent:
            what = f"no folder {request.task} in {data_dir}"
            return [f"scores.data_dir: {what}, nor is {_some(absent)} in the cache of `datasets`"]
        if datasets.config.HF_HUB_OFFLINE and absent:
            what = f"{_some(absent)} is not in the cache of `datasets` and the hub is off (HF_HUB_OFFLINE)"
            return [f"outputs: {request.task}: {what}: set scores.data_dir, or load it once where there is a network"]
        return []
    fixed = [part.name for part in parts if not part.movable]
    if fixed:
        what = f"lm-eval's code says where {_some(fixed)} comes from, no file can stand for it"
        return [f"scores.data_dir: {what}: take {folder} away"]
    lacking = [file for part in parts for file in _lacking(part, request.num_fewshot, _place(part, request, folder))]
    return [f"scores.data_dir: no {_some([str(file) for file in lacking])}"] if lacking else []


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _cached(path: str) -> bool:
    """Whether `datasets` has a copy of a data set on the hub that it can load without a network."""
    *owner, name = path.split("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(name)])
    return folder.is_dir() or Path(path).exists()


def _place(leaf: Leaf, request: Request, folder: Path) -> Path:
    """Of the folders where its files may stand, the one that lacks the fewest."""
    return min(leaf.places(folder), key=lambda place: len(_lacking(leaf, request.num_fewshot, place)))


def _lacking(leaf: Leaf, asked: int | None, place: Path) -> list[Path]:
    there = files_of(place) if place.is_dir() else {}
    return [place / f"{split}.jsonl" for split in leaf.splits(asked) if split not in there]


def load(request: Request, settings: ScoresSettings, base: Path, cache_dir: Path) -> Any:
    """What lm-eval's `evaluate` takes: the tasks, with their rows, and their groups.

    `datasets` keeps its copies of local files in `cache_dir`. Raises InputError where rows cannot be had or read.
    """
    index = dict(index_of(request.task))
    parts = chosen(request, index)
    folder = folder_of(request.task, settings.folder(base))
    for part in parts:
        if folder is not None and part.movable:
            index[part.name] = _on_files(part, request, folder, cache_dir)
    entry = index[request.task]
    if entry.kind in (Kind.GROUP, Kind.TAG):
        config = entry.cfg or {"group": entry.name}
        members = [part.name for part in parts] if request.subtasks or not entry.cfg else config["task"]
        config = {**config, "task": members, "aggregate_metric_list": aggregates(entry, parts)}
        entry = Entry(entry.name, Kind.GROUP, None, config)
    try:
        loaded = TaskManager(include_defaults=False).load(TaskFactory().build(entry, overrides=None, registry=index))
    except Exception as error:  # a task runs templates and functions of its own on the rows
        line = (str(error).strip().splitlines() or [""])[0]
        where = f"scores.data_dir: {folder} cannot be read as" if folder else "outputs: the hub did not give"
        raise InputError(f"{where} {request.task}: {type(error).__name__}: {line}") from error
    shots = {part.name: part.shots(request.num_fewshot) for part in parts}
    for name, task in loaded["tasks"].items():
        task.set_config("num_fewshot", shots[name])  # as lm-eval's `simple_evaluate` does
    return loaded


def _on_files(leaf: Leaf, request: Request, folder: Path, cache_dir: Path) -> Entry:
    """The same task with its rows from the files in this folder."""
    assert leaf.entry is not None and leaf.entry.yaml_path is not None
    place = _place(leaf, request, folder)
    lacking = _lacking(leaf, request.num_fewshot, place)
    if lacking:
        raise InputError(f"scores.data_dir: no {_some([str(file) for file in lacking])}")
    files = files_of(place)
    config = {**load_yaml(leaf.entry.yaml_path, resolve_func=True), **leaf.given}
    # lm-eval opens every split that a task names, also those that it takes nothing from.
    config |= {name: None for name in SPLITS if config.get(name) not in files}
    examples = config.get("fewshot_config")
    if isinstance(examples, dict) and examples.get("split") not in files:
        config["fewshot_config"] = {key: value for key, value in examples.items() if key != "split"}
    splits = {config[name] for name in SPLITS} | set(leaf.splits(request.num_fewshot))
    used = {split: files[split] for split in files if split in splits}
    kind = FORMATS[Path(next(iter(used.values()))[0]).suffix]
    data = {"data_files": used, "cache_dir": str(cache_dir)}
    config |= {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": data}
    return replace(leaf.entry, yaml_path=None, cfg=config)
