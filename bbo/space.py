"""Hyperparameters <-> optimizer coordinates.

A variable of `space:` is written by its kind: `choice: [4, 8]` (the coordinate is the 1-based index), `int: [1, 64]`,
`float: [0, 0.5]`, `log10: [-6, -3]` (the coordinate is the exponent) or `fixed: 2` (no coordinate). `times: other`
multiplies the decoded number by another variable's value, as in alpha = m x rank.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = bool | int | float | str | tuple[str, ...]
Point = tuple[float, ...]
Kind = Literal["choice", "int", "float", "log10", "fixed"]


class Variable(BaseModel):
    """One hyperparameter: what values it takes and which number an optimizer sees for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choice: tuple[Value, ...] | None = None
    """A list of values; the coordinate is the index, from 1."""
    integer: tuple[int, int] | None = Field(None, alias="int")
    """[lower, upper], both included; the coordinate is the value."""
    real: tuple[float, float] | None = Field(None, alias="float")
    """[lower, upper]; the coordinate is the value."""
    log10: tuple[float, float] | None = None
    """[lower, upper] of the exponent, which is the coordinate."""
    fixed: Value | None = None
    """One value, and no coordinate."""
    times: str | None = None
    """Another variable, whose value multiplies this one: alpha = m x rank."""

    @model_validator(mode="after")
    def _consistent(self) -> "Variable":
        given = [name for name, set_to in self._kinds() if set_to is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of choice, int, float, log10, fixed, got {given or 'none'}")
        if self.choice is not None and not self.choice:
            raise ValueError("choice must not be empty, got []")
        if self.choice is not None and len({(type(v), v) for v in self.choice}) < len(self.choice):
            raise ValueError(f"choice must not repeat a value, got {list(self.choice)}")
        if self.kind not in ("choice", "fixed") and not self.lower <= self.upper:
            raise ValueError(f"{self.kind} must be [lower, upper] with lower <= upper, got {list(self.bounds)}")
        if self.kind == "log10" and not (self.lower > -300 and self.upper < 300):
            raise ValueError(f"log10 takes exponents, as in [-6, -3], got {list(self.bounds)}")
        if self.times is not None and not all(_is_number(v) for v in self.choice or (self.fixed or 0,)):
            raise ValueError("times needs numbers to multiply")
        return self

    def _kinds(self) -> tuple[tuple[Kind, Any], ...]:
        return (
            ("choice", self.choice),
            ("int", self.integer),
            ("float", self.real),
            ("log10", self.log10),
            ("fixed", self.fixed),
        )

    @cached_property
    def kind(self) -> Kind:
        return next(name for name, set_to in self._kinds() if set_to is not None)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the coordinate, both included."""
        if self.choice is not None:
            return 1, len(self.choice)
        return self.integer or self.real or self.log10 or (math.nan, math.nan)

    @property
    def lower(self) -> float:
        return self.bounds[0]

    @property
    def upper(self) -> float:
        return self.bounds[1]

    @property
    def whole(self) -> bool:
        """Whether the coordinate is an integer (NOMAD's type I or B)."""
        return self.kind in ("choice", "int")

    def decode(self, coordinate: float) -> Value:
        """The value, before `times`. Raises ValueError for a coordinate outside the variable's bounds."""
        if not self.lower <= coordinate <= self.upper:  # also refuses NaN
            raise ValueError(f"{coordinate:g} is outside [{self.lower:g}, {self.upper:g}]")
        if self.whole and coordinate != int(coordinate):
            raise ValueError(f"{coordinate!r} is not an integer")
        if self.choice is not None:
            return self.choice[int(coordinate) - 1]
        if self.kind == "log10":
            return float(10.0**coordinate)
        return int(coordinate) if self.whole else float(coordinate)

    def encode(self, value: Value) -> float:
        """The coordinate whose decoded value is nearest to `value`, equal wherever one is. Raises ValueError."""
        if self.choice is not None:
            matches = [i for i, v in enumerate(self.choice, start=1) if _same(v, value)]
            if not matches:
                raise ValueError(f"{value!r} is none of {list(self.choice)}")
            return matches[0]
        if not _is_number(value):
            raise ValueError(f"{value!r} is not a number")
        number = float(value)  # type: ignore[arg-type]
        if self.kind == "log10":
            if number <= 0:
                raise ValueError(f"{value!r} has no logarithm")
            number = _exponent(number, *self.bounds)
        self.decode(number)
        return number


@dataclass(frozen=True)
class Space:
    """The variables by name, in the order of the YAML; the free ones, in that order, are the coordinates of a point."""

    variables: Mapping[str, Variable]

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the variables that have a coordinate."""
        return tuple(name for name, variable in self.variables.items() if variable.kind != "fixed")

    def decode(self, point: Point) -> dict[str, Value]:
        """Hyperparameters of a point of `len(free)` coordinates. Raises ValueError naming the variable."""
        if len(point) != len(self.free):
            raise ValueError(f"has {len(point)} coordinates, the space has {len(self.free)}: {', '.join(self.free)}")
        coordinates = dict(zip(self.free, point, strict=True))
        values: dict[str, Value] = {}
        for name in self._by_dependence():
            variable = self.variables[name]
            try:
                value = variable.fixed if variable.kind == "fixed" else variable.decode(coordinates[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            assert value is not None
            values[name] = value if variable.times is None else value * values[variable.times]  # type: ignore[operator]
        return {name: values[name] for name in self.variables}

    def encode(self, hyperparameters: Mapping[str, Value]) -> Point:
        """The point of these hyperparameters. Raises ValueError for a missing, unknown or unreachable value."""
        missing, unknown = set(self.free) - set(hyperparameters), set(hyperparameters) - set(self.variables)
        if missing or unknown:
            what = "missing" if missing else "no such hyperparameter"
            raise ValueError(f"{what}: {', '.join(sorted(missing or unknown))}")
        point = []
        for name, variable in self.variables.items():
            value = hyperparameters.get(name)
            try:
                if variable.times is not None and value is not None:
                    value = _divide(value, hyperparameters[variable.times], variable)
                if variable.kind != "fixed":
                    assert value is not None
                    point.append(variable.encode(value))
                elif value is not None and not _same(value, variable.fixed):
                    raise ValueError(f"{value!r} given, but it is fixed at {variable.fixed!r}")
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return tuple(point)

    def middle(self) -> Point:
        """The centre of the bounds, whole where a variable is."""
        variables = [self.variables[name] for name in self.free]
        centres = [((variable.lower + variable.upper) / 2, variable.whole) for variable in variables]
        return tuple(math.floor(centre) if whole else centre for centre, whole in centres)

    def ends(self) -> Iterator[tuple[str, tuple[Point, Point]]]:
        """Each free variable with the middle of the space but for its own lowest and its own highest value."""
        centre = self.middle()
        for place, name in enumerate(self.free):
            low, high = ((*centre[:place], bound, *centre[place + 1 :]) for bound in self.variables[name].bounds)
            yield name, (low, high)

    def _by_dependence(self) -> list[str]:
        return sorted(self.variables, key=lambda name: self.variables[name].times is not None)


def dependence_error(variables: Mapping[str, Variable]) -> tuple[str, str] | None:
    """The first variable whose `times` names nothing usable, with the reason."""
    for name, variable in variables.items():
        if variable.times is None:
            continue
        other = variables.get(variable.times)
        if other is None:
            return name, f"times names {variable.times!r}, which is not in space"
        if other.times is not None:
            return name, f"times names {variable.times!r}, which itself has times"
        if not all(_is_number(v) for v in other.choice or (other.fixed or 0,)):
            return name, f"times names {variable.times!r}, whose values are not numbers"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: object, b: object) -> bool:
    """Equality by value for numbers (8 and 8.0), else also by type (1 is not True)."""
    return a == b and (type(a) is type(b) or (_is_number(a) and _is_number(b)))


def _divide(value: Value, other: Value, variable: Variable) -> Value:
    if not (_is_number(value) and _is_number(other)):
        raise ValueError(f"{value!r} is not a multiple of {other!r}")
    if other == 0:
        raise ValueError(f"{value!r} is no multiple of {variable.times} = 0")
    quotient = value / other  # type: ignore[operator]
    if variable.whole and all(isinstance(v, int) for v in variable.choice or (1,)):
        if quotient != int(quotient):
            raise ValueError(f"{value!r} is not an integer multiple of {variable.times} = {other!r}")
        return int(quotient)
    return float(quotient)


def _exponent(value: float, lower: float, upper: float) -> float:
    """x in [lower, upper] with 10**x == value, else the nearest: log10 may be a few units in the last place off."""
    low = high = min(max(math.log10(value), lower), upper)
    for _ in range(8):
        for x in (low, high):
            if 10.0**x == value and lower <= x <= upper:
                return x
        low, high = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    return math.log10(value)
