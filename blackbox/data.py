"""From the YAML's data section to token rows and to the batches of each optimizer step.

`python -m blackbox.data mix ALPACA_JSON DOLLY_JSONL --out DIR` builds the Alpaca + Dolly mix (see mix.py).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from bbo.errors import InputError
from blackbox.prompts import Row, Template, Text, chat_messages, read_template, render_chat
from blackbox.settings import DataSettings, QaSettings, Source
from blackbox.sources import numbers, read_rows
from blackbox.squad import read_questions
from blackbox.tokens import Rows, cached

MOST_DROPPED = 0.01
"""Share of rows without anything to learn above which the data is refused."""


@dataclass(frozen=True)
class Example:
    """One row as tokens: the prompt, then from `start` on the response and EOS, which alone are learnt."""

    tokens: tuple[int, ...]
    start: int

    @property
    def first(self) -> int:
        """The first token with a label: what begins a row has nothing before it that could predict it."""
        return max(self.start, 1)

    @property
    def labels(self) -> int:
        """Tokens that carry a label."""
        return max(0, len(self.tokens) - self.first)

    @property
    def learnt(self) -> range:
        """The tokens from which a label is predicted."""
        return range(self.first - 1, len(self.tokens) - 1)

    @property
    def targets(self) -> tuple[int, ...]:
        """The labels."""
        return self.tokens[self.first :]


@dataclass(frozen=True)
class Texts:
    """Both sides of the data as rendered text, and how many rows were dropped for an empty instruction or response."""

    train: list[Text]
    valid: list[Text]
    dropped: int


@dataclass(frozen=True)
class Data:
    """Both sides as tokens."""

    train: list[Example]
    valid: list[Example]
    dropped: int
    """Rows of both sides that had no label token left, or an empty field."""


@dataclass(frozen=True)
class Leak:
    """What the two sides have in common, by rendered prompt and response; row numbers count from 1."""

    shared: list[int]
    """Rows of the validation side that are in the training side too."""
    repeats_train: int
    repeats_valid: int


def load_data(settings: DataSettings, base: Path, tokenizer: Any) -> Data:
    """Read, render, split and tokenize. Raises InputError about anything in the user's files that cannot be used."""
    texts = read_texts(settings, base, tokenizer)
    sides = {"data.train": texts.train, "data.valid": texts.valid}
    train, valid = (tokenize(side, tokenizer, settings.max_length, place) for place, side in sides.items())
    lost = len(texts.train) - len(train) + len(texts.valid) - len(valid)
    return Data(train, valid, texts.dropped + lost)


def read_texts(settings: DataSettings, base: Path, tokenizer: Any = None) -> Texts:
    """Both sides as rendered text. The tokenizer is needed for `prompt: chat` alone."""
    template = None if settings.prompt == "chat" else read_template(settings.prompt, base)
    train, lost = _render_all(settings.train, settings, base, "data.train", template, tokenizer)
    if isinstance(settings.valid, Source):
        valid, lost_too = _render_all(settings.valid, settings, base, "data.valid", template, tokenizer)
        return Texts(train, valid, lost + lost_too)
    on_valid = [position(text, settings.split_seed) < settings.valid for text in train]
    sides = ([text for text, there in zip(train, on_valid, strict=True) if there is side] for side in (False, True))
    train, valid = sides
    if not train or not valid:
        raise InputError(f"data.valid: a share of {settings.valid:g} leaves one side of {len(on_valid)} rows empty")
    return Texts(train, valid, lost)


def find_leak(texts: Texts) -> Leak:
    """Rows on both sides, and repeats inside each."""
    train, valid = Counter(texts.train), Counter(texts.valid)
    shared = [number for number, text in enumerate(texts.valid, 1) if text in train]
    return Leak(shared, train.total() - len(train), valid.total() - len(valid))


def tokenize(texts: Sequence[Text], tokenizer: Any, max_length: int, place: str) -> list[Example]:
    """Token rows, cut at `max_length`; rows left without a label are dropped, above 1 % of all refused."""
    if tokenizer.eos_token_id is None:
        raise InputError("model.path: its tokenizer has no end-of-sequence token to learn")
    rows = cached(texts, tokenizer, max_length, lambda: _rows(texts, tokenizer, max_length))
    examples = [Example(tuple(tokens), start) for tokens, start in rows]
    empty = [number for number, example in enumerate(examples, 1) if not example.labels]
    if len(empty) > MOST_DROPPED * len(examples):
        raise InputError(
            f"{place}: the prompt alone fills max_length {max_length} in {len(empty)} of {len(examples)} rows, "
            f"more than 1 %: row {numbers(empty)}"
        )
    return [example for example in examples if example.labels]


def _rows(texts: Sequence[Text], tokenizer: Any, max_length: int) -> Rows:
    """Each row's tokens, and where its response starts."""
    prompts = prompt_tokens([prompt for prompt, _ in texts], tokenizer)
    responses = tokenizer([response for _, response in texts], add_special_tokens=False)["input_ids"]
    return [
        ([*prompt, *response, tokenizer.eos_token_id][:max_length], min(len(prompt), max_length))
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def prompt_tokens(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of rendered prompts, as a response is to follow them."""
    rows = []
    for tokens in tokenizer(list(prompts))["input_ids"]:
        # A chat template wrote <s>, the tokenizer added another.
        first = int(tokens[:2] == [tokenizer.bos_token_id] * 2)
        last = len(tokens) - (tokens[-1:] == [tokenizer.eos_token_id])  # some tokenizers end every text with EOS
        rows.append(tokens[first:last])
    return rows


def part_of(examples: list[Example], fraction: float) -> list[Example]:
    """This share of the examples, at least one: the same whatever their order, a smaller share inside a larger.

    No seed is in it: the members of a pack, which may have different ones, share their rows.
    """
    if fraction == 1:
        return examples

    def place(row: int) -> bytes:
        return sha256(f"{examples[row].start}\0{examples[row].tokens}".encode()).digest()

    chosen = sorted(range(len(examples)), key=place)[: max(1, round(fraction * len(examples)))]
    return [examples[row] for row in sorted(chosen)]


def label_tokens(examples: Iterable[Example]) -> int:
    return sum(example.labels for example in examples)


def epoch_steps(examples: Sequence[Example], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each optimizer step of one epoch (counted from 0), the longest rows of a step first.

    The order depends on seed and epoch alone, and a step holds the same rows however it is cut up.
    """
    generator = torch.Generator().manual_seed((seed + 1_000_003 * epoch) % 2**63)
    order = torch.randperm(len(examples), generator=generator).tolist()
    steps = (order[first : first + size] for first in range(0, len(order), size))
    return [by_length(examples, step) for step in steps]


def by_length(examples: Sequence[Example], rows: Iterable[int]) -> list[int]:
    """Rows of like length side by side, so that little is padded; the longest first, so that memory fails early."""
    return sorted(rows, key=lambda row: -len(examples[row].tokens))


def deal(rows: Sequence[int], micro: int, processes: int, rank: int) -> list[list[int]]:
    """This process's micro-batches of at most `micro` rows, as many as every other process's (some may be empty)."""
    batches = [list(rows[first : first + micro]) for first in range(0, len(rows), micro)]
    batches += [[] for _ in range(-len(batches) % processes)]
    return batches[rank::processes]


def _render_all(
    source: Source, settings: DataSettings, base: Path, place: str, template: Template | None, tokenizer: Any
) -> tuple[list[Text], int]:
    """All rows of a source as text, and the number of rows dropped because they hold nothing to learn."""
    qa = isinstance(settings, QaSettings)
    rows = read_questions(source, settings, base, place) if qa else read_rows(source, base, place)
    names = _chat_columns(rows[0], settings) if template is None else template.required
    optional = ("input", "system") if template is None else (template.optional or "",)
    mapped = {name: settings.columns.get(name, name) for name in (*names, *optional)}
    missing = sorted(mapped[name] for name in names if mapped[name] not in rows[0])
    if missing:
        raise InputError(
            f"{place}: {source.path} has no column {', '.join(missing)}, only {', '.join(rows[0])}: map it with "
            f"data.columns, or choose another data.prompt than {settings.prompt!r}"
        )
    renamed = [{name: _text(row.get(column)) for name, column in mapped.items()} for row in rows]
    _check_types(renamed, mapped, place, source)
    wanted = template.nonempty if template else names
    empty = [number for number, row in enumerate(renamed, 1) if not all(_filled(row[name]) for name in wanted)]
    if len(empty) > MOST_DROPPED * len(rows):
        columns = " or ".join(mapped[name] for name in wanted)
        raise InputError(
            f"{place}: {columns} is empty in {len(empty)} of {len(rows)} rows of {source.path}, more than 1 %: "
            f"row {numbers(empty)}"
        )
    dropped = set(empty)
    kept = (row for number, row in enumerate(renamed, 1) if number not in dropped)
    if template is None:
        return [render_chat(chat_messages(row), tokenizer) for row in kept], len(empty)
    return [template.render(row) for row in kept], len(empty)


def _chat_columns(row: Row, settings: DataSettings) -> tuple[str, ...]:
    return ("messages",) if settings.columns.get("messages", "messages") in row else ("instruction", "output")


def _text(value: Any) -> Any:
    """Numbers as text, nothing as empty text; lists (of messages) as they stand."""
    if isinstance(value, bool | int | float):
        return str(value)
    return "" if value is None else value


def _filled(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _check_types(rows: list[dict[str, Any]], mapped: dict[str, str], place: str, source: Source) -> None:
    for name, column in mapped.items():
        kind = list if name == "messages" else str
        wrong = [number for number, row in enumerate(rows, 1) if not isinstance(row[name], kind | str)]
        if wrong:
            what = "a list of messages" if kind is list else "text"
            raise InputError(f"{place}: {column} of {source.path} is not {what} in row {numbers(wrong)}")


def position(text: Text, seed: int) -> float:
    """Where in [0, 1) a row falls: the same for the same text, wherever and however often it stands."""
    prompt, response = text
    digest = sha256(f"{seed}\0{prompt}\0{response}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


if __name__ == "__main__":
    from blackbox.mix import main

    raise SystemExit(main())
