"""Models and data at a URL (s3://bucket/llama, hf://datasets/me/x/rows.jsonl, ...), downloaded through fsspec.

Each is downloaded once per machine, under a lock, and again where its content has changed: by its ETag, or by size and
time where the storage has none. What identifies an evaluation is the content, as with any other file.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from bbo.errors import InputError, MachineError

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What is downloaded of a model: other weight formats can run code."""


def is_url(path: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


@lru_cache
def fetch_file(url: str) -> Path:
    """The local copy of a file. Raises InputError where there is none, MachineError where it cannot be had."""
    files, path = _open(url)
    info = _asked(url, lambda: files.info(path))
    if info["type"] == "directory":
        raise InputError(f"{url}: is a folder, not a file")
    name = PurePosixPath(path).name
    return _cached(url, {name: info}, files) / name


@lru_cache
def fetch_model(url: str) -> Path:
    """The local copy of a model's folder. Raises as `fetch_file`."""
    files, path = _open(url)
    found = _asked(url, lambda: files.find(path, maxdepth=1, detail=True))
    wanted = {PurePosixPath(name).name: info for name, info in found.items()}
    wanted = {name: info for name, info in wanted.items() if any(fnmatch(name, each) for each in MODEL_FILES)}
    if not wanted:
        raise InputError(f"{url}: no model there: no such folder, or none with {', '.join(MODEL_FILES)}")
    return _cached(url, wanted, files)


def _open(url: str) -> tuple[Any, str]:
    """The URL's file system, and the path in it."""
    import fsspec  # noqa: PLC0415 - not where everything is local

    protocol = url.partition("://")[0]
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        needs = "s3:// needs pip install 'bbo[s3]'" if protocol == "s3" else str(error)
        raise InputError(f"{url}: {needs}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    return found


def _cached(url: str, wanted: Mapping[str, Mapping[str, Any]], files: Any) -> Path:
    """The folder with these files, by name; `files` has them."""
    identity = "\n".join([url, *(f"{name} {_tag(info)}" for name, info in sorted(wanted.items()))])
    root = _cache()
    folder = root / sha256(identity.encode()).hexdigest()[:16]
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{folder.name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = root / f".{folder.name}.part"
            shutil.rmtree(partial, ignore_errors=True)  # of a download that died
            partial.mkdir()
            for name, info in wanted.items():
                _asked(url, lambda info=info, name=name: files.get_file(info["name"], str(partial / name)))  # type: ignore[misc]
                with open(partial / name, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(partial, folder)
    return folder


def _cache() -> Path:
    given = os.environ.get("BBO_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bbo"


def _tag(info: Mapping[str, Any]) -> str:
    """What changes when the content does."""
    etag = info.get("ETag") or info.get("etag")
    return str(etag or (info["size"], str(info.get("LastModified") or info.get("mtime"))))


def _asked(url: str, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except FileNotFoundError:
        raise InputError(f"{url}: no such file or folder") from None
    except PermissionError:
        raise InputError(f"{url}: no access: are the credentials in the environment?") from None
    except Exception as error:  # whatever the storage's library raises: the network, the service, a full disk
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MachineError(f"{url}: cannot be read: {first}") from None
