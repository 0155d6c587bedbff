"""Where rows come from: local files and data sets of the hub, through `datasets`; and what identifies their content."""

import json
import tempfile
from collections.abc import Iterator
from glob import escape
from hashlib import file_digest
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.settings import Source

SHOWN = 5  # row numbers that an error message lists


def fingerprint(source: Source, base: Path) -> str:
    """What identifies a source's rows: a file's bytes, a hub data set's commit; and the slice that is read.

    Raises InputError where the file is missing, or the commit is known neither here nor to the hub.
    """
    file = source.file(base)
    content = f"{source.path}@{_commit(source)}/{source.name or ''}" if file is None else _digest(file)
    return f"{content} {source.split}"


def read_rows(source: Source, base: Path, place: str, keep_empty: bool = False) -> list[dict[str, Any]]:
    """All rows of a source. `place` (data.train, data.valid) opens the sentence of the InputError it raises.

    In a CSV file the words None, NA or null are nothing, as pandas has it, unless `keep_empty` leaves them as they are.
    """
    import datasets  # noqa: PLC0415 - takes 0.6 s, and a fingerprint does without

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    file = source.file(base)
    try:
        if file is None:
            rows = datasets.load_dataset(source.path, source.name, split=source.split, revision=source.revision)
        else:
            check_text(file, source.file_type, place)
            with tempfile.TemporaryDirectory() as cache:  # parsing is quicker than a cache that grows for ever
                rows = datasets.load_dataset(
                    source.file_type,
                    data_files=escape(str(file)),
                    split=source.split,
                    cache_dir=cache,
                    keep_in_memory=True,
                    **({"keep_default_na": False} if keep_empty and source.file_type == "csv" else {}),
                )
    except InputError:
        raise
    except Exception as error:  # whatever pyarrow, pandas or the hub's client raise: the user's file or id is at fault
        raise InputError(f"{place}: {_cause(source, file, error)}") from None
    if len(rows) == 0:
        raise InputError(f"{place}: no rows in {source.path} ({source.split})")
    found: list[dict[str, Any]] = rows.to_list()
    return found


def numbers(rows: list[int]) -> str:
    """Row or line numbers for a message: `3, 8, 12 (and 40 more)`."""
    more = f" (and {len(rows) - SHOWN} more)" if len(rows) > SHOWN else ""
    return ", ".join(map(str, rows[:SHOWN])) + more


def _digest(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"data: no such file: {file}")
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _commit(source: Source) -> str:
    """The commit of a hub data set: as given, as the hub says, or else as the local cache remembers it."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - only where a data set of the hub is named
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    revision = source.revision or "main"
    if len(revision) == 40:
        return revision
    if not HF_HUB_OFFLINE:
        try:
            return str(HfApi().dataset_info(source.path, revision=revision, timeout=10).sha)
        except (HfHubHTTPError, OSError):
            pass  # no network, or gated: what was downloaded before still has its name
    remembered = Path(HF_HUB_CACHE) / f"datasets--{source.path.replace('/', '--')}" / "refs" / revision
    if not remembered.is_file():
        raise InputError(f"data: {_hub_advice(source)}")
    return remembered.read_text().strip()


def check_text(file: Path, file_type: str | None, place: str) -> None:
    """Raise InputError unless the file is there and, if it is text, UTF-8 throughout."""
    if not file.is_file():
        raise InputError(f"{place}: no such file: {file}")
    if file_type == "parquet":
        return
    content = file.read_bytes()
    if not content.strip():
        raise InputError(f"{place}: {file} is empty")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        wrong = [number for number, line in enumerate(content.split(b"\n"), 1) if not _is_utf8(line)]
        raise InputError(f"{place}: {file} is not UTF-8 text in line {numbers(wrong)}") from None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _cause(source: Source, file: Path | None, error: Exception) -> str:
    """Why `datasets` could not read the source, in one sentence."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, ValueError) and "split" in first.lower():
        known = " (a file has only train, or a slice of it, as train[:3000])" if file else ""
        return f"cannot read split {source.split!r} of {source.path}{known}: {first}"
    if file is None:
        return _hub_advice(source)
    wrong = list(_bad_lines(file)) if source.file_type == "json" else []
    if wrong:
        return f"{file} is not JSON with one object per row in line {numbers(wrong)}"
    inner = str(error.__cause__ or first).strip().splitlines()[0]
    return f"cannot read {file} as {source.file_type}: {inner}"


def _bad_lines(file: Path) -> Iterator[int]:
    """Lines that are no JSON object, of a file that is JSON lines; none for one that is a JSON array."""
    text = file.read_text(encoding="utf-8")
    try:
        if isinstance(json.loads(text), list):
            return
    except ValueError as error:
        if text.lstrip().startswith("[") and isinstance(error, json.JSONDecodeError):
            yield error.lineno
            return
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                yield number
        except ValueError:
            yield number


def _hub_advice(source: Source) -> str:
    return (
        f"cannot get the data set {source.path} ({source.name or 'default'}, {source.split}): check its name and your "
        f"network or HF_TOKEN; on a machine with network, `hf download --repo-type dataset {source.path}` fetches it"
    )
