"""The text of a NOMAD 4 parameter file: statements, numbers, vectors and points, split and read as NOMAD 4.5.1 does.

One statement per line (there is no continuation), the keyword in any case, `#` at the start of a word begins a
comment, quotes group words, brackets may touch the words inside.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bbo.errors import InputError

_BLANK = " \t\n\v\f\r"
_WORD = re.compile(rf"[^{_BLANK}]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_VECTOR_FORMS = "must be ( v1 v2 ... ), * v, INDEX v or FIRST-LAST v"


class Setting(NamedTuple):
    """One statement: the number of its line, its arguments as NOMAD splits them, its text without the comment."""

    line: int
    values: tuple[str, ...]
    text: str


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
        words += _brackets(word) if len(words) else [word.upper()]
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


def number(word: str) -> float:
    """A coordinate: nan where NOMAD reads "no value" (`-`, `nan`). Raises ValueError."""
    lower = word.lower()
    if lower in ("-", "nan", "-nan"):
        return math.nan
    if lower in ("inf", "+inf", "-inf") or _NUMBER.fullmatch(word):
        return float(word)
    raise ValueError(f"must be numbers, got {shorten(word)}")


def vector(values: Sequence[str], size: int) -> dict[int, float]:
    """The coordinates that `( 1 - 3 )`, `* 1`, `2 1` or `0-2 1` set, by index. Raises ValueError."""
    if values[0] == "(":
        if values[-1] != ")":
            raise ValueError(f"the list must be closed by ), got {shorten(values)}")
        if len(values) != size + 2:
            raise ValueError(f"must be {size} values (DIMENSION {size}), got {len(values) - 2}: {shorten(values)}")
        return {index: number(word) for index, word in enumerate(values[1:-1])}
    if values[0] == "*" and len(values) > 1:
        return dict.fromkeys(range(size), number(values[1]))
    indices = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", values[0])
    if len(values) != 2 or not indices:
        raise ValueError(f"{_VECTOR_FORMS}, got {shorten(values)}")
    first, last = int(indices[1]), int(indices[2] or indices[1])
    if not first <= last < size:
        raise ValueError(f"must have indices from 0 to {size - 1} in rising order, got {values[0]}")
    return dict.fromkeys(range(first, last + 1), number(values[1]))


def points(settings: Sequence[Setting], size: int, folder: Path) -> list[tuple[list[float], Setting]]:
    """The starting points that all X0 statements give together, each with the statement that gave it last.

    `X0 1 ( 3 4 )` sets point 1, without a number it is point 0: a second `X0 ( 3 4 )` overwrites the first one, as
    in NOMAD. The points of files follow those before them. Raises ValueError(sentence, line).
    """
    found: list[tuple[list[float], Setting]] = []
    for setting in settings:
        try:
            if len(setting.values) == 1:
                found += [(point, setting) for point in _points_in(setting.values[0], size, folder)]
                continue
            numbered = re.fullmatch(r"\d{1,5}", setting.values[0])
            index = int(setting.values[0]) if numbered else 0
            coordinates = vector(setting.values[1:] if numbered else setting.values, size)
        except ValueError as error:
            advice = "" if setting.values[0] in "(*" else " (a point stands in parentheses: X0 ( 1 2 ))"
            raise ValueError(f"{error}{advice}", setting.line) from None
        if index > len(found):
            raise ValueError(f"must number the points 0, 1, 2 without a gap, got {index}", setting.line)
        point = found[index][0] if index < len(found) else [math.nan] * size
        found[index : index + 1] = [([coordinates.get(i, old) for i, old in enumerate(point)], setting)]
    return found


def _points_in(name: str, size: int, folder: Path) -> list[list[float]]:
    try:
        words = read_text(folder / name).split()
    except InputError as error:
        raise ValueError(f"must be a file of points or a point: {error}") from None
    if len(words) % size:
        raise ValueError(f"must be a file with {size} numbers per point, got {len(words)} numbers in {name}")
    coordinates = [number(word) for word in words]
    return [coordinates[start : start + size] for start in range(0, len(words), size)]


def shorten(values: str | Sequence[str]) -> str:
    """Values as a message shows them: one line, at most 60 characters."""
    text = values if isinstance(values, str) else " ".join(values)
    text = text[:80].encode("unicode_escape").decode().replace("\\\\", "\\")
    return text if len(text) <= 60 else f"{text[:57]}..."
