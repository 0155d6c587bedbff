"""The variables of a NOMAD 4 parameter file: how many, their types, bounds and starting points."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from bbo.errors import InputError
from bbo.grammar import Faults, Setting, Settings, read_text, shorten

Point = tuple[float, ...]

BOUNDS = ("LOWER_BOUND", "UPPER_BOUND")
_LARGEST = 10_000  # variables; NOMAD is made for tens and takes memory for whatever DIMENSION says
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PARENTHESES = " (a point without a number stands in parentheses: X0 ( 1 2 ))"
_VECTOR_FORMS = "must be ( v1 v2 ... ), * v, INDEX v or FIRST-LAST v"


def read_dimension(settings: Settings, faults: Faults) -> int:
    """0 if there is none."""
    if "DIMENSION" not in settings:
        faults.add(0, "DIMENSION is missing: the number of variables")
        return 0
    setting = settings["DIMENSION"][-1]
    word = setting.values[0]
    if len(setting.values) == 1 and re.fullmatch(r"\d{1,9}", word) and 1 <= int(word) <= _LARGEST:
        return int(word)
    faults.add(setting.line, f"DIMENSION: must be a whole number from 1 to {_LARGEST}, got {shorten(setting.values)}")
    return 0


def read_input_types(settings: Settings, size: int, faults: Faults) -> tuple[str, ...]:
    """R, I or B for each variable; all R where the file is wrong."""
    if "BB_INPUT_TYPE" not in settings or not size:
        return ("R",) * size
    setting = settings["BB_INPUT_TYPE"][-1]
    words = " ".join(setting.values).upper().replace("*", "* ").split()
    if len(words) == 2 and words[0] == "*":
        letters = words[1:] * size
    elif words[:1] == ["("] and words[-1] == ")":
        letters = words[1:-1]
    else:
        faults.add(setting.line, f"BB_INPUT_TYPE: must be ( R I B ) or * R, got {shorten(setting.values)}")
        return ("R",) * size
    unknown = [letter for letter in letters if letter not in ("R", "I", "B")]
    if unknown:
        faults.add(setting.line, f"BB_INPUT_TYPE: must be of R, I (integer), B (binary), got {shorten(unknown[0])}")
    elif letters and len(letters) != size:  # NOMAD takes ( ) for * R
        faults.add(setting.line, f"BB_INPUT_TYPE: must have {size} letters (DIMENSION {size}), got {len(letters)}")
    return tuple(letters) if len(letters) == size and not unknown else ("R",) * size


def read_bounds(settings: Settings, input_types: tuple[str, ...], faults: Faults) -> tuple[Point, Point]:
    """NOMAD 4.5.1 takes `inf` for a number and proposes points with inf; here it is what it means: no bound."""
    size = len(input_types)
    bounds = [[-math.inf] * size, [math.inf] * size]
    for bound, name in zip(bounds, BOUNDS, strict=True):
        for setting in settings.get(name, ()) if size else ():
            none = -math.inf if name == "LOWER_BOUND" else math.inf
            try:
                given = _vector(setting.values, size)
                bound[:] = [_finite(given.get(index, value), none) for index, value in enumerate(bound)]
            except ValueError as error:
                faults.add(setting.line, f"{name}: {error}")
    for index, letter in enumerate(input_types):
        low, high = bounds[0][index], bounds[1][index]
        if letter == "B":  # as NOMAD does, whatever the bounds say
            bounds[0][index], bounds[1][index] = 0.0, 1.0
        if low >= high:
            line = settings["LOWER_BOUND"][-1].line
            faults.add(line, f"LOWER_BOUND[{index}]: must be below UPPER_BOUND[{index}] {high:g}, got {low:g}")
    return tuple(bounds[0]), tuple(bounds[1])


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def read_x0(
    settings: Settings, input_types: tuple[str, ...], bounds: tuple[Point, Point], faults: Faults
) -> tuple[Point, ...]:
    """The starting points; none where NOMAD finds its own (LH_SEARCH, LH_EVAL, CACHE_FILE)."""
    if "X0" not in settings:
        first = [settings[name][-1].values[0] for name in ("LH_SEARCH", "LH_EVAL") if name in settings]
        if "CACHE_FILE" not in settings and not any(word.strip("0") for word in first):
            faults.add(0, "X0 is missing: the starting point")
        return ()
    try:
        found = _points(settings["X0"], len(input_types), faults.folder) if input_types else []
    except ValueError as error:
        faults.add(error.args[1], f"X0: {error.args[0]}")
        return ()
    for number, (point, setting) in enumerate(found):
        for index, value in enumerate(point):
            rule = _x0_rule(value, input_types[index], bounds[0][index], bounds[1][index])
            if rule:
                where = f" (point {number})" if len(found) > 1 else ""
                got = "none" if math.isnan(value) else f"{value:.12g}"
                faults.add(setting.line, f"X0[{index}]{where}: must be {rule}, got {got}")
    return tuple(tuple(point) for point, _ in found)


def _x0_rule(value: float, letter: str, low: float, high: float) -> str:
    """The rule that a coordinate breaks; empty if it breaks none."""
    if not math.isfinite(value):
        return "a finite number"
    if value < low:
        return f"at least {low:.12g} (LOWER_BOUND)"
    if value > high:
        return f"at most {high:.12g} (UPPER_BOUND)"
    return f"a whole number (BB_INPUT_TYPE {letter})" if letter != "R" and value != round(value) else ""


def _number(word: str) -> float:
    """A coordinate: nan where NOMAD reads "no value" (`-`, `nan`). Raises ValueError."""
    lower = word.lower()
    if lower in ("-", "nan", "-nan"):
        return math.nan
    if lower in ("inf", "+inf", "-inf") or _NUMBER.fullmatch(word):
        return float(word)
    raise ValueError(f"must be numbers, got {shorten(word)}")


def _vector(values: Sequence[str], size: int) -> dict[int, float]:
    """The coordinates that `( 1 - 3 )`, `* 1`, `2 1` or `0-2 1` set, by index. Raises ValueError."""
    if values[0] == "(":
        if values[-1] != ")":
            raise ValueError(f"the list must be closed by ), got {shorten(values)}")
        if len(values) != size + 2:
            raise ValueError(f"must be {size} values (DIMENSION {size}), got {len(values) - 2}: {shorten(values)}")
        return {index: _number(word) for index, word in enumerate(values[1:-1])}
    if values[0] == "*" and len(values) > 1:
        return dict.fromkeys(range(size), _number(values[1]))
    indices = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", values[0])
    if len(values) != 2 or not indices:
        raise ValueError(f"{_VECTOR_FORMS}, got {shorten(values)}")
    first, last = int(indices[1]), int(indices[2] or indices[1])
    if not first <= last < size:
        raise ValueError(f"must have indices from 0 to {size - 1} in rising order, got {values[0]}")
    return dict.fromkeys(range(first, last + 1), _number(values[1]))


def _points(settings: Sequence[Setting], size: int, folder: Path) -> list[tuple[list[float], Setting]]:
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
            coordinates = _vector(setting.values[1:] if numbered else setting.values, size)
        except ValueError as error:
            advice = "" if setting.values[0] in ("(", "*") else _PARENTHESES
            raise ValueError(f"{error}{advice}", setting.line) from None
        if index > len(found):
            rule = f"must number the points 0, 1, 2 without a gap, got {index} after {len(found)} points"
            raise ValueError(rule + _PARENTHESES, setting.line)
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
    coordinates = [_number(word) for word in words]
    return [coordinates[start : start + size] for start in range(0, len(words), size)]


def statement(keyword: str, point: Point) -> str:
    """`KEYWORD ( v1 v2 - )`, exact to the bit; `-` for what is not finite."""
    words = (repr(value).removesuffix(".0") if math.isfinite(value) else "-" for value in point)
    return f"{keyword} ( {' '.join(words)} )"
