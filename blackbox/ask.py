"""Rows of a user's file as the prompts that a model was trained on, and its answers to many of them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.prompts import PLACEHOLDER, Template, chat_messages, read_template
from blackbox.settings import FILE_TYPES, DataSettings, Settings, Source
from blackbox.sources import read_rows

CHUNK = 8
"""Batches between two looks at how far it is."""

Row = dict[str, Any]


def source_of(file: str, place: str) -> Source:
    """A file given on the command line. Raises InputError."""
    path = Path(file).absolute()
    if path.suffix.lower() not in FILE_TYPES:
        raise InputError(f"{place}: must be a file that ends with {', '.join(FILE_TYPES)}, got {file}")
    return Source(path=str(path))


def rows_of(file: str, settings: Settings, task: str, place: str) -> list[Row]:
    """The rows of a file, of task qa in SQuAD's format too; lines of a .txt are questions. Raises InputError."""
    if Path(file).suffix.lower() == ".txt":
        column = _columns(settings)[0]
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        return [{column: line} for line in lines if line.strip()]
    source = source_of(file, place)
    if task == "qa" and source.path.endswith(".json"):
        from blackbox.squad import read_questions  # noqa: PLC0415

        return read_questions(source, data_of(settings), settings.base, place)
    return read_rows(source, settings.base, place)


def prompts_of(rows: Sequence[Row], settings: Settings, tokenizer: Any, place: str) -> list[str]:
    """Rendered as in training, without the answers, which need not be there. Raises InputError for a missing column."""
    data = data_of(settings)
    template = None if data.prompt == "chat" else read_template(data.prompt, settings.base)
    if template is None and data.columns.get("messages", "messages") in rows[0]:
        return [_chat(row[data.columns.get("messages", "messages")], tokenizer) for row in rows]
    names = _columns(settings)
    missing = [mine for name in names if (mine := data.columns.get(name, name)) not in rows[0]]
    if missing:
        raise InputError(f"{place}: no column {', '.join(missing)}, only {', '.join(rows[0])}")
    filled = [_Filled({name: row.get(data.columns.get(name, name)) for name in (*names, *_more(template))})
              for row in rows]  # fmt: skip
    if template is None:
        return [_chat(chat_messages(row), tokenizer) for row in filled]
    return [template.render(row)[0] for row in filled]


def answer(
    model: Any, tokenizer: Any, prompts: Sequence[str], batch_size: int, words: str, **options: Any
) -> list[str]:
    """The model's answers, with a bar on a terminal. `options` are those of blackbox/generation.py."""
    from blackbox.generation import answers  # noqa: PLC0415

    def ask(part: Sequence[str]) -> list[str]:
        return answers(model, tokenizer, part, batch_size=batch_size, **options)

    return list(chain.from_iterable(map(ask, watched(prompts, batch_size * CHUNK, words))))


def watched(items: Sequence[Any], size: int, words: str) -> Iterator[Sequence[Any]]:
    """The items in parts of `size`, with a bar on stderr."""
    from rich.console import Console  # noqa: PLC0415 - only here
    from rich.progress import track  # noqa: PLC0415 - only here

    console, parts = Console(stderr=True), [items[first : first + size] for first in range(0, len(items), size)]
    yield from track(parts, words, console=console, transient=True, disable=not console.is_terminal)


class _Filled(dict[str, Any]):
    """A row as text, empty where it has no value: the answer is not there yet."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__({name: "" if value is None else str(value) for name, value in row.items()})

    def __missing__(self, name: str) -> str:
        return ""


def data_of(settings: Settings) -> DataSettings:
    """The data section of a model that answers. Raises InputError for a classifier's."""
    if not isinstance(settings.data, DataSettings):
        raise InputError(f"task {settings.task}: this model writes no answers: `bbo predict` gives its classes")
    return settings.data


def _columns(settings: Settings) -> list[str]:
    """What a question must have."""
    data = data_of(settings)
    if data.prompt == "chat":
        return ["instruction"]
    template = read_template(data.prompt, settings.base)
    return [name for name in dict.fromkeys(PLACEHOLDER.findall(template.prompt)) if name != template.optional]


def _more(template: Template | None) -> tuple[str, ...]:
    """What it may have."""
    return ("input", "system") if template is None else (template.optional,) if template.optional else ()


def _chat(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> str:
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
