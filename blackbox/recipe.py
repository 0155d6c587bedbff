"""What determines a result, and so an evaluation's key. Content counts, never a path or a time."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from bbo.store import Store, key_of, write_json
from blackbox.launch import ROOT
from blackbox.settings import ClassificationSettings, DataSettings, Settings, Source, Training
from blackbox.sources import fingerprint

RECIPE = 3
"""Raised when the trainer's numbers change, so that no old result answers for the new trainer."""


class Fingerprints:
    """sha256 of files, remembered in the store by path, size and time: a model of 13 GB is read once."""

    def __init__(self, store: Store) -> None:
        self._file = store.fingerprints
        try:
            self._known: dict[str, list[Any]] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            self._known = {}

    def of_file(self, path: Path) -> str:
        try:
            now = path.stat()
            known = self._known.get(str(path))
            if known is not None and known[:2] == [now.st_size, now.st_mtime_ns]:
                return str(known[2])
            digest = sha256()
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        self._known[str(path)] = [now.st_size, now.st_mtime_ns, digest.hexdigest()]
        write_json(self._file, self._known)
        return digest.hexdigest()

    def of_model(self, settings: Settings) -> str:
        """Hash over weights, configuration and tokenizer of a folder, or the commit of a model of the hub."""
        path = settings.model.resolved(settings.base)
        if Path(path).is_absolute() and not Path(path).is_dir():
            raise InputError(f"model.path: no such model folder: {path}")
        if not Path(path).is_dir():
            return _hub_commit(path, settings.model.revision)
        files = {file.name: self.of_file(file) for file in _model_files(Path(path))}
        if "config.json" not in files:
            raise InputError(f"model.path: no config.json in this model folder: {path}")
        return key_of(files)

    def of_data(self, settings: Settings) -> Mapping[str, Any]:
        """Contents of both splits and all that turns them into tokens."""
        data, base = settings.data, settings.base
        valid = data.valid if isinstance(data.valid, float) else self._of_source(data.valid, base, "data.valid")
        about = {
            "train": self._of_source(data.train, base, "data.train"),
            "valid": valid,
            "split_seed": data.split_seed if isinstance(data.valid, float) else None,
            "max_length": data.max_length,
        }
        if isinstance(data, ClassificationSettings):
            rows = data.model_dump(include={"text", "template", "label", "num_labels"})
            return about | rows | {"group": data.group if isinstance(data.valid, float) else None}
        assert isinstance(data, DataSettings)
        return about | {"prompt": self._of_prompt(data, base), "columns": data.columns}

    def _of_source(self, source: Source, base: Path, place: str) -> Mapping[str, Any]:
        file = source.file(base)
        if file is None:
            return {"hub": fingerprint(source, base)}
        if not file.is_file():
            raise InputError(f"{place}: no such file: {file}")
        return {"content": self.of_file(file), "split": source.split}

    def _of_prompt(self, data: DataSettings, base: Path) -> str:
        file = base / data.prompt
        return (
            self.of_file(file) if "\n" not in data.prompt and "{" not in data.prompt and file.is_file() else data.prompt
        )


def evaluation_key(
    settings: Settings,
    training: Training,
    processes: int,
    fingerprints: Fingerprints,
    fidelity: Mapping[str, float] = {},
    parent: str | None = None,
) -> str:
    """Key of a point's evaluation. The fidelity counts by value, empty is the full one; a parent by its key."""
    about = {**common(settings, fingerprints), "training": training.determinants(processes), "fidelity": dict(fidelity)}
    return key_of(about if parent is None else {**about, "parent": parent})


def common(settings: Settings, fingerprints: Fingerprints) -> dict[str, Any]:
    """What all evaluations of an experiment share, whatever the point: what a preflight and a base score are about."""
    quantization = settings.model.quantization
    return {
        "recipe": RECIPE,
        "task": settings.task,
        "model": fingerprints.of_model(settings),
        "dtype": settings.model.dtype,
        "data": fingerprints.of_data(settings),
    } | ({"quantization": quantization} if quantization else {})


def loaded(settings: Settings, accelerate: Path | None, fingerprints: Fingerprints) -> str:
    """Hash of what a worker keeps from job to job, and of the code that loaded it."""
    files = [file for package in ("bbo", "blackbox") for file in (ROOT / package).rglob("*.py")]
    code = {str(file): sha256(file.read_bytes()).hexdigest() for file in [*files, *filter(None, [accelerate])]}
    sections = {"model": settings.model.model_dump(), "data": settings.data.model_dump()}
    about = {"method": settings.training.method, "sections": sections, "code": code}
    return key_of({**common(settings, fingerprints), **about})


def _model_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.safetensors", "*.json", "*.jinja", "tokenizer.model"):
        yield from sorted(folder.glob(pattern))


def _hub_commit(repository: str, revision: str | None) -> str:
    """The commit of the hub's model that lies in the local cache, else the revision asked for."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only where a hub model is named

    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    commit = Path(cached).parent.name if isinstance(cached, str) else revision
    return f"{repository}@{commit or 'main'}"
