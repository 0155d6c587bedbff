"""A NOMAD 4 parameter file as a checked, frozen Problem: all its mistakes are found before anything runs.

What this project itself uses (dimension, types, bounds, X0, outputs, BB_EXE) is read here; the values of all other
keywords are judged by the installed NOMAD (bbo/keywords.py), so that exactly what NOMAD accepts is accepted.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from bbo import command, keywords
from bbo.errors import InputError
from bbo.grammar import REPEATABLE, Faults, Setting, Settings, read_settings, read_text, shorten
from bbo.variables import BOUNDS, Point, read_bounds, read_dimension, read_input_types, read_x0, statement

_OUTPUTS = {name: name for name in ("OBJ", "PB", "EB", "CNT_EVAL", "EXTRA_O")}
_OUTPUTS |= {"CSTR": "PB", "NOTHING": "EXTRA_O", "-": "EXTRA_O", "BBO_UNDEFINED": "EXTRA_O"}
_SPELT_OUT = ("DIMENSION", "BB_INPUT_TYPE", *BOUNDS, "X0")
READ_HERE = (*_SPELT_OUT, "BB_OUTPUT_TYPE", "BB_EXE", "SURROGATE_EXE")
_POSITIVE = ("MAX_BB_EVAL", "BB_MAX_BLOCK_SIZE")
_MANY = 1000  # NOMAD knows 190 keywords, and asking it takes 2 ms per statement


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
    surrogate_exe: tuple[str, ...]  # likewise; empty without surrogate
    settings: Settings
    lines: tuple[str, ...]
    warnings: tuple[str, ...]  # what NOMAD accepts although it is hardly meant

    @property
    def folder(self) -> Path:
        return Path(os.path.abspath(self.path)).parent

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
        assert not set(values) & {*READ_HERE}
        new = {name: f"{name} {value}" for name, value in values.items() if value is not None}
        kept = [line for line in self.lines if line.split(maxsplit=1)[0] not in values]
        settings = {name: given for name, given in self.settings.items() if name not in values}
        settings |= {name: (Setting(0, tuple(str(values[name]).split()), text),) for name, text in new.items()}
        return replace(self, lines=(*kept, *new.values()), settings=MappingProxyType(settings))

    def with_x0(self, points: Sequence[Point]) -> "Problem":
        """The same problem with other starting points."""
        kept = [line for line in self.lines if line.split(maxsplit=1)[0] != "X0"]
        lines = [statement(f"X0 {index}", point) for index, point in enumerate(points)]
        settings = {name: given for name, given in self.settings.items() if name != "X0"}
        return replace(self, x0=tuple(points), lines=(*kept, *lines), settings=MappingProxyType(settings))

    def where(self, name: str) -> str:
        """`path:LINE` of a keyword, for a message; `path` where it does not stand there."""
        line = self.settings[name][0].line if name in self.settings else 0
        return f"{self.path}:{line}" if line else str(self.path)

    def _whole(self, name: str, default: int | None) -> int | None:
        if name not in self.settings:
            return default
        word = self.settings[name][-1].values[0].lower()
        return None if word in ("inf", "+inf") else int(word)


def read_problem(path: Path) -> Problem:
    """Read and check a parameter file. Raises InputError with every mistake found: `path:LINE: rule, got value`."""
    if path.suffix in (".yaml", ".yml"):
        raise InputError(f"{path}: is the YAML of a pair; give its parameter file, {path.with_suffix('.txt')}")
    faults = Faults(path)
    settings = read_settings(read_text(path), faults)
    dimension = read_dimension(settings, faults)
    input_types = read_input_types(settings, dimension, faults)
    lower, upper = read_bounds(settings, input_types, faults)
    x0 = read_x0(settings, input_types, (lower, upper), faults)
    output_types = _output_types(settings, faults)
    bb_exe = _bb_exe(settings, faults)
    surrogate_exe = _surrogate_exe(settings, faults)
    lines = _canonical(settings, input_types, lower, upper, x0)
    known = _ask_nomad(settings, dimension, lines, faults)
    faults.end()
    return Problem(
        path=path,
        dimension=dimension,
        input_types=input_types,
        lower=lower,
        upper=upper,
        x0=x0,
        output_types=output_types,
        bb_exe=bb_exe,
        surrogate_exe=surrogate_exe,
        settings=MappingProxyType({name: given for name, given in settings.items() if name in known}),
        lines=tuple(line for line in lines if line.split(maxsplit=1)[0] in known),
        warnings=tuple(faults.warnings),
    )


def experiment_file(problem: Problem) -> Path | None:
    """The YAML file of a BB_EXE such as `$python3 $-m $blackbox bbo3.yaml`; None if BB_EXE is another program."""
    word = command.experiment_word(problem.bb_exe)
    return None if word is None else command.resolve(word, problem.folder)


def _output_types(settings: Settings, faults: Faults) -> tuple[str, ...]:
    if "BB_OUTPUT_TYPE" not in settings:
        return ("OBJ",)  # NOMAD's default
    setting = settings["BB_OUTPUT_TYPE"][-1]
    words = " ".join(setting.values).upper().split()
    kinds = tuple(_OUTPUTS.get(re.sub(r"(?<=.)-R$", "", word), "") for word in words)  # -R: an option of DiscoMads
    if "" in kinds:
        got = shorten(words[kinds.index("")])
        faults.add(setting.line, f"BB_OUTPUT_TYPE: must be of {', '.join(_OUTPUTS)}, got {got}")
    objectives = kinds.count("OBJ")
    if not objectives:
        faults.add(setting.line, f"BB_OUTPUT_TYPE: must have an OBJ, got {shorten(words)}")
    elif objectives > 1 and not _flag(settings, "DMULTIMADS_OPTIMIZATION", False):
        faults.add(setting.line, f"BB_OUTPUT_TYPE: several OBJ need DMULTIMADS_OPTIMIZATION yes, got {objectives}")
    return kinds


def _bb_exe(settings: Settings, faults: Faults) -> tuple[str, ...]:
    if "BB_EXE" not in settings:
        faults.add(0, 'BB_EXE is missing: the blackbox, such as BB_EXE "$python3 $-m $blackbox quickstart.yaml"')
        return ()
    words = _command("BB_EXE", settings["BB_EXE"][-1], faults)
    if not re.fullmatch(r"[\w@%+=:,./~-]+", str(faults.folder), re.ASCII):
        rule = "the folder's name must have no spaces and special characters, which NOMAD cannot pass on"
        faults.add(0, f"{rule}, got {faults.folder}")
    return words


def _surrogate_exe(settings: Settings, faults: Faults) -> tuple[str, ...]:
    given = settings.get("SURROGATE_EXE")
    return _command("SURROGATE_EXE", given[-1], faults) if given else ()


def _command(name: str, setting: Setting, faults: Faults) -> tuple[str, ...]:
    """The words of BB_EXE or SURROGATE_EXE."""
    words = tuple(setting.values[0].split())
    if len(setting.values) > 1:
        faults.add(setting.line, f"{name}: must stand in quotes if it has spaces, got {shorten(setting.values)}")
    elif not words or words[0] == "$":
        faults.add(setting.line, f"{name}: must name a program, got {shorten(setting.values[0]) or 'none'}")
    else:
        for sentence in command.faults(words, faults.folder):
            faults.add(setting.line, f"{name}: {sentence}")
    return words


def _canonical(
    settings: Settings,
    input_types: tuple[str, ...],
    lower: Point,
    upper: Point,
    x0: tuple[Point, ...],
) -> tuple[str, ...]:
    """Statements that mean to optimizeWithMainStep what the file says.

    It reads them one after another, each time again all of the same group: it would add a file of points again and
    again. Of two LOWER_BOUND it keeps the last.
    """
    lines = [f"DIMENSION {len(input_types)}"]
    for name, given in settings.items():
        if name not in _SPELT_OUT:
            kept = given if name in REPEATABLE else given[-1:]
            lines += [f"{name} {setting.text.split(maxsplit=1)[1]}" for setting in kept]
    if set(input_types) - {"R"}:
        lines.append(f"BB_INPUT_TYPE ( {' '.join(input_types)} )")
    for name, bound in zip(BOUNDS, (lower, upper), strict=True):
        if any(map(math.isfinite, bound)):
            lines.append(statement(name, bound))
    lines += [statement(f"X0 {index}", point) for index, point in enumerate(x0)]
    return tuple(lines)


def _ask_nomad(settings: Settings, dimension: int, lines: tuple[str, ...], faults: Faults) -> frozenset[str]:
    """Add what NOMAD has against each statement and, if nothing else is wrong, against all together."""
    asked = [(name, setting) for name, given in settings.items() if name not in READ_HERE for setting in given]
    if len(asked) > _MANY:
        faults.add(0, f"a parameter file must have at most {_MANY} statements, got {len(asked)}")
        faults.end()
    whole = [] if faults.found else [*lines, f"PROBLEM_DIR {faults.folder}/"]
    verdict = keywords.ask([setting.text for _, setting in asked], dimension or None, whole)
    object_to_unknown = faults.add if _flag(settings, "REJECT_UNKNOWN_PARAMETERS", True) else faults.warn
    for index, (name, setting) in enumerate(asked):
        if name not in verdict.keywords:
            object_to_unknown(setting.line, f"{shorten(name)}: {keywords.hint(name, verdict.keywords)}")
        elif rule := verdict.refusals.get(index) or _own_rule(name, setting):
            faults.add(setting.line, f"{name}: {rule}, got {shorten(setting.values)}")
    if verdict.objection and not faults.found:
        line = next((setting.line for name, setting in asked if _accepted_without(name, whole)), 0)
        faults.add(line, f"NOMAD refuses the problem: {verdict.objection}")
    return verdict.keywords


def _accepted_without(name: str, lines: list[str]) -> bool:
    rest = [line for line in lines if line.split(maxsplit=1)[0] != name]
    return keywords.ask([], None, rest).objection is None


def _own_rule(name: str, setting: Setting) -> str:
    """The rule that a value breaks although NOMAD can read it; empty if it breaks none."""
    if name == "VARIABLE_GROUP":  # seen with every direction type, with one group and two, with and without models
        return "must be left out, since NOMAD 4.5.1 aborts with it after the first evaluation"
    if name == "PROBLEM_DIR":
        return "must be left out, since paths are relative to this file's folder"
    return "must be at least 1" if name in _POSITIVE and not setting.values[0].strip("0") else ""


def _flag(settings: Settings, name: str, default: bool) -> bool:
    """A keyword's yes or no; NOMAD itself refuses what is neither."""
    return settings[name][-1].values[0].lower() in ("y", "yes", "1", "true") if name in settings else default
