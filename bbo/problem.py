"""A NOMAD 4 parameter file as a checked, frozen Problem: all its mistakes are found before anything runs.

What this project itself uses (dimension, types, bounds, X0, outputs, BB_EXE) is read here; the values of all other
keywords are judged by the installed NOMAD (bbo/keywords.py), so that exactly what NOMAD accepts is accepted.
"""

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from bbo import keywords
from bbo.errors import InputError
from bbo.grammar import Setting, points, read_text, shorten, split, vector

Point = tuple[float, ...]

_OUTPUTS = {name: name for name in ("OBJ", "PB", "EB", "CNT_EVAL", "EXTRA_O")}
_OUTPUTS |= {"CSTR": "PB", "NOTHING": "EXTRA_O", "-": "EXTRA_O", "BBO_UNDEFINED": "EXTRA_O"}
_REPEATABLE = ("X0", "DIRECTION_TYPE", "DIRECTION_TYPE_SECONDARY_POLL", "VARIABLE_GROUP")
_BOUNDS = ("LOWER_BOUND", "UPPER_BOUND")
_READ_HERE = ("DIMENSION", "BB_EXE", "BB_INPUT_TYPE", "BB_OUTPUT_TYPE", *_BOUNDS, "X0")
_POSITIVE = ("MAX_BB_EVAL", "BB_MAX_BLOCK_SIZE")
_LARGEST = 10_000  # variables; NOMAD is made for tens and takes memory for whatever DIMENSION says


@dataclass(frozen=True)
class Problem:
    """An optimization problem as its parameter file states it; paths in it are relative to the file's `folder`.

    `lines` is what PyNomad.optimizeWithMainStep gets, besides `PROBLEM_DIR folder/`: one canonical statement per
    keyword, bounds and starting points spelt out. `-inf` and `inf` in the bounds mean none.
    """

    path: Path
    dimension: int
    input_types: tuple[str, ...]  # R, I or B
    lower: Point
    upper: Point
    x0: tuple[Point, ...]  # empty if NOMAD finds its starting points (LH_SEARCH, LH_EVAL, CACHE_FILE)
    output_types: tuple[str, ...]  # OBJ, PB, EB, CNT_EVAL or EXTRA_O
    bb_exe: tuple[str, ...]  # with their `$`
    settings: Mapping[str, tuple[Setting, ...]]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]  # what NOMAD accepts although it is hardly meant

    @property
    def folder(self) -> Path:
        return _folder(self.path)

    @property
    def max_bb_eval(self) -> int | None:
        return self._whole("MAX_BB_EVAL", None)

    @property
    def block_size(self) -> int:
        return self._whole("BB_MAX_BLOCK_SIZE", 1) or 1

    @property
    def threads(self) -> int:
        return self._whole("NB_THREADS_PARALLEL_EVAL", 1) or 1

    @property
    def seed(self) -> int:
        return self._whole("SEED", 0) or 0

    def with_settings(self, **values: object) -> "Problem":
        """The same problem with other values of scalar keywords (`MAX_BB_EVAL=20`); None removes a keyword."""
        assert not set(values) & {*_READ_HERE, *_REPEATABLE}
        new = {name: f"{name} {value}" for name, value in values.items() if value is not None}
        kept = [line for line in self.lines if line.split(maxsplit=1)[0] not in values]
        settings = {name: given for name, given in self.settings.items() if name not in values}
        settings |= {name: (Setting(0, (str(values[name]),), text),) for name, text in new.items()}
        # VARIABLE_GROUP must stay last: see _canonical.
        return replace(self, lines=(*kept[:1], *new.values(), *kept[1:]), settings=MappingProxyType(settings))

    def _whole(self, name: str, default: int | None) -> int | None:
        word = self.settings[name][-1].values[0].lstrip("+") if name in self.settings else "inf"
        return (default if name not in self.settings else None) if word.lower() == "inf" else int(word)


class _Faults:
    """The mistakes found so far, each with its line (0: none), and what to warn of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[int, str], None] = {}
        self.warnings: list[str] = []

    def add(self, line: int, sentence: str) -> None:
        self.found[line, sentence] = None

    def place(self, line: int, sentence: str) -> str:
        return f"{self.path}:{line}: {sentence}" if line else f"{self.path}: {sentence}"

    def warn(self, line: int, sentence: str) -> None:
        self.warnings.append(self.place(line, sentence))

    def end(self) -> None:
        if self.found:
            raise InputError(*(self.place(line, sentence) for line, sentence in sorted(self.found)))


def read_problem(path: Path) -> Problem:
    """Read and check a parameter file. Raises InputError with every mistake found: `path:LINE: rule, got value`."""
    faults = _Faults(path)
    settings = _settings(read_text(path), faults)
    dimension = _dimension(settings, faults)
    input_types = _input_types(settings, dimension, faults)
    lower, upper = _bounds(settings, input_types, faults)
    x0 = _x0(settings, input_types, (lower, upper), _folder(path), faults)
    output_types = _output_types(settings, faults)
    bb_exe = _bb_exe(settings, _folder(path), faults)
    lines = _canonical(settings, input_types, lower, upper, x0)
    known = _ask_nomad(settings, dimension, lines, faults)
    faults.end()
    known_settings = MappingProxyType({name: given for name, given in settings.items() if name in known})
    lines = tuple(line for line in lines if line.split(maxsplit=1)[0] in known)
    warnings = tuple(faults.warnings)
    return Problem(
        path, dimension, input_types, lower, upper, x0, output_types, bb_exe, known_settings, lines, warnings
    )


def experiment_file(problem: Problem) -> Path | None:
    """The YAML file of a BB_EXE such as `$python3 $-m $blackbox bbo3.yaml`; None if BB_EXE is another program."""
    words = list(problem.bb_exe)
    if not re.fullmatch(r"\$(\S*/)?python(3(\.\d+)?)?", words.pop(0)):
        return None
    while words and re.fullmatch(r"\$-[a-ln-zA-Z]+", words[0]):  # -u and the like, all but -m
        words.pop(0)
    if words[:2] != ["$-m", "$blackbox"] or len(words) < 3:
        return None
    return _resolve(words[2], problem.folder)


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent


def _resolve(word: str, folder: Path) -> Path:
    """A word of BB_EXE as the blackbox's shell sees it: one without its own `$` belongs to the problem's folder."""
    return Path(os.path.abspath(word[1:] if word.startswith("$") else folder / word))


def _settings(text: str, faults: _Faults) -> dict[str, tuple[Setting, ...]]:
    settings: dict[str, tuple[Setting, ...]] = {}
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
            settings[name] = (*settings.get(name, ()), Setting(line, values, statement))
    for name, given in settings.items():
        _check_repeated(name, given, faults)
    return settings


def _check_repeated(name: str, given: tuple[Setting, ...], faults: _Faults) -> None:
    if name in _BOUNDS and len(given) > 1:
        lines = ", ".join(str(setting.line) for setting in given)
        faults.warn(given[-1].line, f"{name}: lines {lines} are read together here; NOMAD alone keeps one of them")
    if name in (*_REPEATABLE, *_BOUNDS):
        return
    for before, setting in pairwise(given):
        if setting.values != before.values:
            sentence = f"{name}: must be given once, got {shorten(setting.values)} after {shorten(before.values)}"
            faults.add(setting.line, f"{sentence} on line {before.line}")


def _dimension(settings: Mapping[str, tuple[Setting, ...]], faults: _Faults) -> int:
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


def _input_types(settings: Mapping[str, tuple[Setting, ...]], size: int, faults: _Faults) -> tuple[str, ...]:
    if "BB_INPUT_TYPE" not in settings or not size:
        return ("R",) * size
    setting = settings["BB_INPUT_TYPE"][-1]
    words = " ".join(setting.values).upper().replace("*", "* ").split()
    if words[0] == "*" and len(words) == 2:
        letters = words[1:] * size
    elif words[0] == "(" and words[-1] == ")":
        letters = words[1:-1]
    else:
        faults.add(setting.line, f"BB_INPUT_TYPE: must be ( R I B ) or * R, got {shorten(setting.values)}")
        return ("R",) * size
    unknown = [letter for letter in letters if letter not in ("R", "I", "B")]
    if unknown:
        faults.add(setting.line, f"BB_INPUT_TYPE: must be of R (real), I (integer), B (binary), got {unknown[0][:20]}")
    elif letters and len(letters) != size:  # NOMAD takes ( ) for * R
        faults.add(setting.line, f"BB_INPUT_TYPE: must have {size} letters (DIMENSION {size}), got {len(letters)}")
    return tuple(letters) if len(letters) == size and not unknown else ("R",) * size


def _bounds(
    settings: Mapping[str, tuple[Setting, ...]], input_types: tuple[str, ...], faults: _Faults
) -> tuple[Point, Point]:
    """NOMAD 4.5.1 takes `inf` for a number and proposes points with inf; here it is what it means: no bound."""
    size = len(input_types)
    bounds = [[-math.inf] * size, [math.inf] * size]
    for bound, name in zip(bounds, _BOUNDS, strict=True):
        for setting in settings.get(name, ()) if size else ():
            none = bound_value = -math.inf if name == "LOWER_BOUND" else math.inf
            try:
                for index, bound_value in vector(setting.values, size).items():
                    bound[index] = none if math.isnan(bound_value) or math.isinf(bound_value) else bound_value
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


def _x0(
    settings: Mapping[str, tuple[Setting, ...]],
    input_types: tuple[str, ...],
    bounds: tuple[Point, Point],
    folder: Path,
    faults: _Faults,
) -> tuple[Point, ...]:
    if "X0" not in settings:
        first = [settings[name][-1].values[0] for name in ("LH_SEARCH", "LH_EVAL") if name in settings]
        if "CACHE_FILE" not in settings and not any(word.strip("0") for word in first):
            faults.add(0, "X0 is missing: the starting point")
        return ()
    try:
        found = points(settings["X0"], len(input_types), folder) if input_types else []
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


def _output_types(settings: Mapping[str, tuple[Setting, ...]], faults: _Faults) -> tuple[str, ...]:
    if "BB_OUTPUT_TYPE" not in settings:
        return ("OBJ",)  # NOMAD's default
    setting = settings["BB_OUTPUT_TYPE"][-1]
    words = " ".join(setting.values).upper().split()
    kinds = tuple(_OUTPUTS.get(re.sub(r"(?<=.)-R$", "", word), "") for word in words)  # -R: revealing, for DiscoMads
    if "" in kinds:
        got = shorten(words[kinds.index("")])
        faults.add(setting.line, f"BB_OUTPUT_TYPE: must be of {', '.join(_OUTPUTS)}, got {got}")
    objectives = kinds.count("OBJ")
    several = settings["DMULTIMADS_OPTIMIZATION"][-1].values[0] if "DMULTIMADS_OPTIMIZATION" in settings else "no"
    if not objectives:
        faults.add(setting.line, f"BB_OUTPUT_TYPE: must have an OBJ, got {shorten(words)}")
    elif objectives > 1 and several.lower() not in ("y", "yes", "1", "true"):
        faults.add(setting.line, f"BB_OUTPUT_TYPE: several OBJ need DMULTIMADS_OPTIMIZATION yes, got {objectives}")
    return kinds


def _bb_exe(settings: Mapping[str, tuple[Setting, ...]], folder: Path, faults: _Faults) -> tuple[str, ...]:
    if "BB_EXE" not in settings:
        faults.add(0, 'BB_EXE is missing: the blackbox, such as BB_EXE "$python3 $-m $blackbox quickstart.yaml"')
        return ()
    setting = settings["BB_EXE"][-1]
    words = tuple(setting.values[0].split())
    if len(setting.values) > 1:
        faults.add(setting.line, f"BB_EXE: must stand in quotes if it has spaces, got {shorten(setting.values)}")
    elif not words or words[0] == "$":
        faults.add(setting.line, f"BB_EXE: must name a program, got {shorten(setting.values[0]) or 'none'}")
    else:
        for sentence in (*_program_faults(words[0], folder), *_word_faults(words[1:], folder)):
            faults.add(setting.line, f"BB_EXE: {sentence}")
    if not re.fullmatch(r"[\w@%+=:,./~-]+", str(folder), re.ASCII):
        faults.add(0, f"the folder must have a name without spaces and special characters for NOMAD, got {folder}")
    return words


def _program_faults(word: str, folder: Path) -> Iterator[str]:
    name = word.removeprefix("$")
    if not word.startswith("$"):
        file = folder / word
        if not file.is_file():
            yield f"the program must exist beside the parameter file (or have a $ to be searched on PATH), got {file}"
        elif not os.access(file, os.X_OK):
            yield f"the program must be executable (chmod +x), got {file}"
    elif not _is_shell(name) and not shutil.which(name, path=_search_path()):
        yield f"the program must be on PATH, got {name}"


def _word_faults(words: tuple[str, ...], folder: Path) -> Iterator[str]:
    for word in words:
        file = _resolve(word, folder)
        if _is_shell(word.removeprefix("$")) or file.exists():
            continue
        if word.startswith("-"):
            yield f"an option must begin with $ (${word}), or NOMAD takes it for a file, got {word}"
        elif file.suffix in (".yaml", ".yml", ".py", ".sh"):
            yield f"the file must exist, got {file}"


def _is_shell(name: str) -> bool:
    """NOMAD hands BB_EXE to a shell: assignments, variables and built-in commands are not for us to judge."""
    return bool(re.search(r"[^\w@%+:,./~-]", name)) or name in (".", "cd", "exec", "ulimit", "umask", "export")


def _search_path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _canonical(
    settings: Mapping[str, tuple[Setting, ...]],
    input_types: tuple[str, ...],
    lower: Point,
    upper: Point,
    x0: tuple[Point, ...],
) -> tuple[str, ...]:
    """Statements that mean to optimizeWithMainStep what the file says.

    It reads them one after another, each time all of the same group again: a file of points would be added again
    and again, indices of a VARIABLE_GROUP repeated (so it comes last), of two LOWER_BOUND only the last be kept.
    """
    types = ["BB_INPUT_TYPE ( " + " ".join(input_types) + " )"] if set(input_types) - {"R"} else []
    bounds = [
        f"{name} {_list(bound)}" for name, bound in zip(_BOUNDS, (lower, upper), strict=True) if any(map(math.isfinite, bound))
    ]
    rest = {name: given for name, given in settings.items() if name not in _READ_HERE or name.startswith("BB_EXE")}
    lines = [f"DIMENSION {len(input_types)}", *types, *bounds]
    lines += [f"X0 {index} {_list(point)}" for index, point in enumerate(x0)]
    return tuple(lines)


def _list(point: Point) -> str:
    words = (repr(value).removesuffix(".0") if math.isfinite(value) else "-" for value in point)
    return f"( {' '.join(words)} )"
