"""The wire between an optimizer and the blackbox: point files in, one line of numbers per point out.

Reader and writer of both directions stand here and nowhere else. NOMAD's side of the protocol: positional lines, the
count of numbers equals BB_OUTPUT_TYPE, a word that is no number makes an evaluation failed for NOMAD, and `-inf` would
become the best value there is.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from bbo.errors import InputError
from bbo.space import Point

DECLINED = "declined"


def read_points(path: Path, dimension: int) -> list[Point]:
    """The rows of a point file, each of `dimension` numbers. Raises InputError naming file, line, rule and value."""
    points = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            point = tuple(float(word) for word in words)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not a number: {str(error).split(': ')[-1]}") from None
        if len(point) != dimension:
            raise InputError(f"{path}:{number}: {len(point)} numbers, the experiment has {dimension} free variables")
        if not all(math.isfinite(x) for x in point):
            raise InputError(f"{path}:{number}: coordinates must be finite, got {line.strip()}")
        points.append(point)
    if not points:
        raise InputError(f"{path}: no point in it")
    return points


def read_text(path: Path) -> str:
    """A user's small text file. Raises InputError when it is missing, a folder, binary or larger than 1 MiB."""
    try:
        if path.stat().st_size > 1 << 20:
            raise InputError(f"{path}: {path.stat().st_size} bytes, not a file of points or parameters")
        text = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None
    if "\0" in text:
        raise InputError(f"{path}: not a text file")
    return text


def format_point(point: Sequence[float]) -> str:
    """One row of a point file; reading it back gives the very same numbers."""
    return " ".join(format_number(x) for x in point)


def format_number(x: float) -> str:
    return str(int(x)) if x == int(x) and abs(x) < 1e15 else repr(float(x))


def format_answer(values: Sequence[float] | None, count: int) -> str:
    """The line NOMAD reads for one point: `count` numbers, or words that decline it (None)."""
    if values is None:
        return " ".join([DECLINED] * count)
    assert len(values) == count and all(x > -math.inf for x in values), values
    return " ".join("Inf" if x == math.inf else repr(float(x)) for x in values)


def parse_answer(line: str) -> tuple[float, ...] | None:
    """What `format_answer` wrote; None for a declined or unreadable line."""
    try:
        values = tuple(float(word) for word in line.split())
    except ValueError:
        return None
    return values if values and not any(math.isnan(x) for x in values) else None


def read_parents(path: Path, count: int) -> list[str]:
    """A line per point: the key of the evaluation that it goes on from, or -. Raises InputError with file and line."""
    parents = [line.strip() for line in read_text(path).splitlines()]
    for number, parent in enumerate(parents, start=1):
        if not re.fullmatch(r"-|[0-9a-f]{16}", parent):
            raise InputError(f"{path}:{number}: must be the key of an evaluation or -, got {parent!r}")
    if len(parents) != count:
        raise InputError(f"{path}: has {len(parents)} lines for {count} points")
    return parents
