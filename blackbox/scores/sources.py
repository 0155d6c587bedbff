"""A task's local files: `data_dir/TASK/SPLIT.jsonl`, `data_dir/TASK/CONFIGURATION/SPLIT.jsonl` where it has several."""

from collections.abc import Callable
from pathlib import Path

from bbo.store import key_of

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""Ending -> what `datasets` calls it."""


def folder_of(task: str, data_dir: Path | None) -> Path | None:
    """The folder of a task, or of the family that it is of (mmlu for mmlu_anatomy); None where there is none."""
    if data_dir is None:
        return None
    words = task.split("_")
    names = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((data_dir / name for name in names if (data_dir / name).is_dir()), None)


def files_of(folder: Path) -> dict[str, list[str]]:
    """Split -> its files, of those that stand directly in this folder: test.jsonl, or test-00000-of-00002.parquet."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in FORMATS:
            found.setdefault(file.stem.split("-")[0], []).append(str(file))
    return found


def fingerprint(folder: Path, of_file: Callable[[Path], str]) -> str:
    """Hash over names and contents of all data files below this folder; `of_file` hashes one."""
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in FORMATS]
    return key_of({str(file.relative_to(folder)): of_file(file) for file in files})
