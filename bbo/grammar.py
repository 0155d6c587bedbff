"""The text of a NOMAD 4 parameter file, split into statements as NOMAD 4.5.1 splits it; and the mistakes found in it.

One statement per line (there is no continuation), the keyword in any case, `#` at the start of a word begins a
comment, quotes group words, brackets may touch the words inside.
"""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bbo.errors import InputError

_BLANK = " \t\n\v\f\r"
_WORD = re.compile(rf"[^{_BLANK}]+")
REPEATABLE = ("X0", "DIRECTION_TYPE", "DIRECTION_TYPE_SECONDARY_POLL", "VARIABLE_GROUP")
"""Keywords of which NOMAD takes several statements. Bounds it does not, but ours are read together."""


class Setting(NamedTuple):
    """One statement: the number of its line, its arguments as NOMAD splits them, its text without the comment."""

    line: int
    values: tuple[str, ...]
    text: str


Settings = Mapping[str, tuple[Setting, ...]]


class Faults:
    """The mistakes found so far, each with its line (0: none), and what to warn of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[int, str], None] = {}
        self.warnings: list[str] = []

    @property
    def folder(self) -> Path:
        """What relative paths in the file are relative to."""
        return Path(os.path.abspath(self.path)).parent

    def add(self, line: int, sentence: str) -> None:
        self.found[line, sentence] = None

    def place(self, line: int, sentence: str) -> str:
        return f"{self.path}:{line}: {sentence}" if line else f"{self.path}: {sentence}"

    def warn(self, line: int, sentence: str) -> None:
        self.warnings.append(self.place(line, sentence))

    def end(self) -> None:
        if self.found:
            raise InputError(*(self.place(line, sentence) for line, sentence in sorted(self.found)))


def read_text(path: Path) -> str:
    """The file's text; bytes that are not UTF-8 survive as surrogates, since old comments may hold them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    if not data.strip():
        raise InputError(f"{path}: the file is empty")
    if b"\0" in data:
        raise InputError(f"{path}: not a text file")
    return data.decode("utf-8", errors="surrogateescape")


def split(line: str) -> tuple[tuple[str, ...], str]:
    """The words of a line and its text without the comment. Raises ValueError with the broken rule.

    A word that begins with a quote goes on to the next such quote; `(1 2)` is the same as `( 1 2 )`.
    """
    words: list[str] = []
    position = 0
    while (found := _WORD.search(line, position)) and found[0][0] != "#":
        word, position = found[0], found.end()
        if words and word[0] in "\"'":
            word, position = _quoted(line, word, position)
        words += _brackets(word) if words else [word.upper()]
    text = line[: found.start()] if found else line
    return tuple(words), text.translate(dict.fromkeys(map(ord, _BLANK), " ")).strip()


def _quoted(line: str, word: str, position: int) -> tuple[str, int]:
    quote = word[0]
    if len(word) > 1 and word[-1] == quote:
        return word[1:-1], position
    end = line.find(quote, position)
    if end < 0:
        raise ValueError(f"the quote {quote} must be closed")
    return word[1:] + line[position:end], end + 1


def _brackets(word: str) -> list[str]:
    before = [word[0]] if len(word) > 1 and word[0] in "[(" else []
    word = word[len(before) :]
    after = [word[-1]] if len(word) > 1 and word[-1] in "])" else []
    return [*before, word[: len(word) - len(after)], *after]


def shorten(values: str | Sequence[str]) -> str:
    """Values as a message shows them: one line, at most 60 characters."""
    text = values if isinstance(values, str) else " ".join(values)
    text = text[:80].encode("unicode_escape").decode().replace("\\\\", "\\")
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_settings(text: str, faults: Faults) -> dict[str, tuple[Setting, ...]]:
    """All statements by keyword, in capitals and in the order of the file."""
    found: dict[str, list[Setting]] = {}
    for line, content in enumerate(text.split("\n"), start=1):
        try:
            words, statement = split(content)
        except ValueError as error:
            faults.add(line, f"{error}, got {shorten(content.strip())}")
            continue
        if not words:
            continue
        name, values = words[0], words[1:]
        if not (statement.isascii() and statement.isprintable()):
            faults.add(line, f"{shorten(name)}: must be printable ASCII outside comments, got {shorten(statement)}")
        elif not values:
            faults.add(line, f"{shorten(name)}: must have a value, got none")
        else:
            found.setdefault(name, []).append(Setting(line, values, statement))
    settings = {name: tuple(given) for name, given in found.items()}
    for name, given in settings.items():
        _check_repeated(name, given, faults)
    return settings


def _check_repeated(name: str, given: tuple[Setting, ...], faults: Faults) -> None:
    bound = name in ("LOWER_BOUND", "UPPER_BOUND")
    if bound and len(given) > 1:
        lines = ", ".join(str(setting.line) for setting in given)
        faults.warn(given[-1].line, f"{name}: lines {lines} are read together here; NOMAD alone keeps one of them")
    if bound or name in REPEATABLE:
        return
    for before, setting in pairwise(given):
        if setting.values != before.values:
            sentence = f"{name}: must be given once, got {shorten(setting.values)} after {shorten(before.values)}"
            faults.add(setting.line, f"{sentence} on line {before.line}")
