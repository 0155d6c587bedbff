"""What a job reads of this machine's files, for executors that take it to another: model, data, and the YAML itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bbo.experiment import Experiment
from blackbox.remote import MODEL_FILES
from blackbox.scores.sources import FORMATS
from blackbox.settings import DataSettings, Settings, Source


def inputs_of(
    experiment: Experiment, settings: Settings, digest: Callable[[Path], str]
) -> tuple[dict[Path, str], dict[Path, Any]]:
    """Each file with `digest` of it; and the YAML with absolute paths, for Files (bbo/executors/protocol.py).

    What the hub has is not among them: every machine downloads it itself.
    """
    content = {**experiment.document, "relative_to": str(experiment.base)}
    found: dict[Path, str] = {}
    for place, path in _named(experiment, settings):
        *sections, name = place
        inner = content
        for section in sections:  # copies: the experiment's own stays as it is
            value = inner[section]
            inner[section] = inner = dict(value) if isinstance(value, dict) else {"path": value}
        inner[name] = str(path)
        found |= {file: digest(file) for file in _files(path, name == "data_dir")}
    return found, {experiment.path.absolute(): content}


def _named(experiment: Experiment, settings: Settings) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Where the YAML names a file or folder of this machine, and which."""
    model = Path(settings.model.resolved(settings.base))
    if model.is_absolute():
        yield ("model", "path"), model
    for name in ("train", "valid"):
        source = getattr(settings.data, name)
        file = source.file(settings.base) if isinstance(source, Source) else None
        if file is not None:
            yield ("data", name, "path"), file.resolve()
    if isinstance(settings.data, DataSettings) and "\n" not in settings.data.prompt and "{" not in settings.data.prompt:
        prompt = settings.base / settings.data.prompt
        if prompt.is_file():
            yield ("data", "prompt"), prompt.resolve()
    folder = settings.scores.folder(settings.base)
    if folder is not None:
        yield ("scores", "data_dir"), folder.resolve()
    if experiment.accelerate is not None:
        yield ("accelerate",), experiment.accelerate.resolve()


def _files(path: Path, is_data: bool) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif is_data:
        yield from (file for file in sorted(path.rglob("*")) if file.suffix in FORMATS and file.is_file())
    else:
        for pattern in MODEL_FILES:
            yield from sorted(path.glob(pattern))
