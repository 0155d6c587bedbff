"""Rows of text with the number of their class: read, checked, split without a group on both sides, tokenized."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.data import Data, Example, position
from blackbox.prompts import Row, fill
from blackbox.settings import ClassificationSettings, Source
from blackbox.sources import numbers, read_rows


@dataclass(frozen=True)
class Labelled(Example):
    """One row as tokens, from the last of which its class is predicted; `start` is behind them, none is learnt.

    Models that see a row from both sides (BERT) predict it from the whole row.
    """

    label: int

    @property
    def first(self) -> int:
        return len(self.tokens)

    @property
    def labels(self) -> int:
        return 1

    @property
    def learnt(self) -> range:
        return range(len(self.tokens) - 1, len(self.tokens))

    @property
    def targets(self) -> tuple[int, ...]:
        return (self.label,)


@dataclass(frozen=True)
class LabelledText:
    """A row as it was read."""

    number: int
    """In its file, counted from 1 behind the line of names."""
    text: str
    label: int
    group: str | None


Pair = tuple[list[LabelledText], list[LabelledText]]
"""The training and the validation side."""


def load_data(settings: ClassificationSettings, base: Path, tokenizer: Any) -> Data:
    """Read, check, split and tokenize. Raises InputError about anything in the user's files that cannot be used."""
    return _data(read_sides(settings, base), tokenizer, settings.max_length)


def examine(settings: ClassificationSettings, base: Path, tokenizer: Any) -> tuple[Data, dict[str, Any]]:
    """The data, and what a preflight says about it. Raises InputError for rows and groups on both sides too."""
    train, valid = read_sides(settings, base)
    texts, groups = {row.text for row in train}, {row.group for row in train} - {None}
    same = [row.number for row in valid if row.text in texts]
    grouped = [row.number for row in valid if row.group in groups]
    leaks = {"texts are training texts too": same, f"rows' {settings.group} is in training rows too": grouped}
    sentences = [
        f"data.valid: {len(rows)} of {len(valid)} validation {what} (row {numbers(rows)}): the loss would flatter; "
        "remove them, or set data.allow_leak: true"
        for what, rows in leaks.items()
        if rows
    ]
    if sentences and not settings.allow_leak:
        raise InputError(*sentences)
    return _data((train, valid), tokenizer, settings.max_length), {
        "train_rows": len(train),
        "valid_rows": len(valid),
        "rows_of_each_class": {"train": _classes(train, settings), "valid": _classes(valid, settings)},
        "rows_on_both_sides": len(same),
        "rows_of_groups_on_both_sides": len(grouped),
        "repeats": {"train": len(train) - len(texts), "valid": len(valid) - len({row.text for row in valid})},
    }


def read_sides(settings: ClassificationSettings, base: Path) -> Pair:
    """Both sides. A share of the training rows falls by its group, or by its text, on the validation side."""
    train = _labelled(settings.train, settings, base, "data.train")
    if isinstance(settings.valid, Source):
        return train, _labelled(settings.valid, settings, base, "data.valid")
    share, seed = settings.valid, settings.split_seed
    on_valid = [position((row.text if row.group is None else row.group, ""), seed) < share for row in train]
    first, second = ([row for row, there in zip(train, on_valid, strict=True) if there is it] for it in (False, True))
    if not first or not second:
        count = len({row.text if row.group is None else row.group for row in train})
        of = f"{len(train)} rows" + (f" in {count} groups" if settings.group else "")
        raise InputError(f"data.valid: a share of {share:g} leaves one side of {of} empty")
    return first, second


def read_texts(source: Source, settings: ClassificationSettings, base: Path, place: str) -> list[str]:
    """The text of each row of a source, whose class nobody needs to know. Raises InputError."""
    rows = _rows(source, settings, base, place, settings.text)
    texts = _texts(rows, settings)
    _refuse([_empty(texts, settings, source)], place)
    return texts


def text_tokens(texts: Sequence[str], tokenizer: Any, max_length: int) -> list[list[int]]:
    """What the tokenizer makes of each text, its special tokens included, cut to `max_length`.

    Padding tokens at the end are left out: transformers' classifiers speak from the last token that is none.
    """
    rows = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    pad = padding_token(tokenizer)
    for row in rows:
        while len(row) > 1 and row[-1] == pad:
            row.pop()
    return rows


def padding_token(tokenizer: Any) -> int:
    """The tokenizer's, or where it has none its end of sequence, or 0."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def constant_answer(examples: Sequence[Example]) -> tuple[float, Mapping[str, float]]:
    """Log loss and accuracy of the best answer that is the same for every row: the frequencies of the classes."""
    counts = Counter(target for example in examples for target in example.targets)
    shares = [count / len(examples) for count in counts.values()]
    return -sum(share * math.log(share) for share in shares), {"accuracy": max(shares)}


def _data(sides: Pair, tokenizer: Any, max_length: int) -> Data:
    made: list[list[Example]] = []
    for rows in sides:
        tokens = text_tokens([row.text for row in rows], tokenizer, max_length)
        made.append([Labelled(tuple(mine), len(mine), row.label) for mine, row in zip(tokens, rows, strict=True)])
    train, valid = made
    return Data(train, valid, dropped=0)


def _labelled(source: Source, settings: ClassificationSettings, base: Path, place: str) -> list[LabelledText]:
    """The rows of a source. Raises InputError with a sentence for each rule that rows break."""
    wanted = (*settings.text, settings.label, *filter(None, [settings.group]))
    rows = _rows(source, settings, base, place, wanted)
    texts = _texts(rows, settings)
    labels = [_integer(row[settings.label]) for row in rows]
    groups = [None if settings.group is None else _text(row[settings.group]) for row in rows]
    shown = {number: row[settings.label] for number, row in enumerate(rows, 1)}
    known = enumerate(labels, 1)
    outside = [number for number, label in known if label is not None and not 0 <= label < settings.num_labels]
    here = f"in {source.path}"
    _refuse(
        [
            _wrong([n for n, label in enumerate(labels, 1) if label is None], shown,
                   f"{settings.label} is no whole number {here}"),
            _wrong(outside, shown, f"{settings.label} must be 0 to {settings.num_labels - 1} (num_labels "
                                   f"{settings.num_labels}), it is not {here}"),
            _empty(texts, settings, source),
            _wrong([n for n, group in enumerate(groups, 1) if group is not None and not group.strip()], {},
                   f"nothing in {settings.group} of {source.path}"),
        ],
        place,
    )  # fmt: skip
    return [
        LabelledText(number, text, label, group)
        for number, (text, label, group) in enumerate(zip(texts, labels, groups, strict=True), 1)
        if label is not None
    ]


def _rows(
    source: Source, settings: ClassificationSettings, base: Path, place: str, columns: Sequence[str]
) -> Sequence[Row]:
    rows: Sequence[Row] = read_rows(source, base, place, keep_empty=True)
    missing = [column for column in dict.fromkeys(columns) if column not in rows[0]]
    if missing:
        there = ", ".join(map(repr, rows[0]))
        raise InputError(
            f"{place}: {source.path} has no column {', '.join(missing)}, only {there}: name its columns in data.text, "
            "data.label and data.group"
        )
    return rows


def _texts(rows: Iterable[Row], settings: ClassificationSettings) -> list[str]:
    """Empty where all columns are."""
    parts = [{column: _text(row[column]) for column in settings.text} for row in rows]
    return [_joined(each, settings.template) if any(map(str.strip, each.values())) else "" for each in parts]


def _joined(parts: Mapping[str, str], template: str | None) -> str:
    if template is not None:
        return fill(template, parts)
    if len(parts) == 1:
        return next(iter(parts.values()))
    return "\n\n".join(f"{column}: {text}" for column, text in parts.items() if text.strip())


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _integer(value: Any) -> int | None:
    """A whole number, also where a CSV's column of numbers was read as text or as decimals; None for all else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[+-]?\d+\s*", value, re.ASCII) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return None if isinstance(value, bool) or not isinstance(value, int) else value


def _empty(texts: Sequence[str], settings: ClassificationSettings, source: Source) -> str | None:
    rule = f"no text in {', '.join(settings.text)} of {source.path}"
    return _wrong([n for n, text in enumerate(texts, 1) if not text], {}, rule)


def _wrong(rows: list[int], values: Mapping[int, Any], rule: str) -> str | None:
    if not rows:
        return None
    got = f", got {', '.join(repr(values[row]) for row in rows[:5])}" if values else ""
    return f"{rule}, row {numbers(rows)}{got}"


def _refuse(sentences: Sequence[str | None], place: str) -> None:
    wrong = [f"{place}: {sentence}" for sentence in sentences if sentence]
    if wrong:
        raise InputError(*wrong)


def _classes(rows: Iterable[LabelledText], settings: ClassificationSettings) -> list[int]:
    counts = Counter(row.label for row in rows)
    return [counts[label] for label in range(settings.num_labels)]
