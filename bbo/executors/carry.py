"""What goes to a machine that sees other folders, and what comes back: this machine's side of it.

There all paths of a job stand below one folder, so that what is relative to each other stays so: /data/x.jsonl is
ROOT/data/x.jsonl, and the job's documents say so.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bbo.executors.protocol import Files, Launch
from bbo.store import Evaluation

OURS = {"claim", "train.log", "stop"}
"""Files of an evaluation that are nobody else's."""


def orders(launch: Launch, files: Files, root: str) -> dict[str, Any]:
    """What the other machine is told of a job whose paths stand below `root` there. To be called after `prepare`."""
    documents = dict(files.documents)
    if files.job is not None:
        documents[files.job] = json.loads(files.job.read_text())
    along = [*files.along, *(file for folder in files.evaluations for file in contents(folder))]
    places = _Places([*files.reads, *documents, *along, *files.evaluations, *files.makes], files.evaluations, root)
    resident = launch.resident and {
        "arguments": list(launch.resident.arguments),
        "loaded": launch.resident.loaded,
        "job": places.of(str(launch.resident.job)),
    }
    return {
        "arguments": places.of(list(launch.arguments)),
        "environment": dict(launch.environment),
        "seconds": launch.seconds,
        "resident": resident,
        "reads": {str(file): digest for file, digest in files.reads.items()},
        "texts": {str(file): json.dumps(places.of(content)) for file, content in documents.items()},
        "along": [str(file) for file in along if file.is_file()],
        "evaluations": [str(folder) for folder in files.evaluations],
        "makes": [str(file) for file in files.makes],
    }


class _Places:
    """Where paths of ours are there."""

    def __init__(self, paths: Sequence[Path], folders: Sequence[Path], root: str) -> None:
        self._named = {str(path) for known in paths for path in (known, *known.parents)} - {"/"}
        self._folders = [f"{folder}/" for folder in folders]
        self._root = root

    def of(self, value: Any) -> Any:
        """The same JSON with the places of the paths in it."""
        if isinstance(value, Mapping):
            return {key: self.of(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(each) for each in value]
        known = isinstance(value, str) and (value in self._named or any(map(value.startswith, self._folders)))
        return self._root + value if known else value


def contents(folder: Path) -> Iterator[Path]:
    """The files of an evaluation, without those that are being written."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and (name not in OURS or parent != str(folder)):
                yield Path(parent, name)


def place(arrived: Sequence[tuple[str, str]], root: str) -> None:
    """Put files that lie ready under the first names where they belong, in this order; a result is on disk by then."""
    for ready, name in arrived:
        target = Path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix in (".json", ".md"):  # stopped.json says for which run, an adapter for which model
            # Of any job: what stays loaded there may have been read by an earlier one.
            there = re.escape(str(Path(root).parent)) + "/[^/]+(?=/)"
            Path(ready).write_text(re.sub(there, "", Path(ready).read_text()))
        evaluation = Evaluation(target.parent)
        is_final = target in (evaluation.result_file, evaluation.stopped_file)
        if is_final:
            _flush(ready)
        os.replace(ready, target)
        if is_final:
            _flush(target.parent)


def _flush(path: Path | str) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
