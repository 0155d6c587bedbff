"""What values a hyperparameter may take, for `bbo.tune`.

A search object of numbers is a number itself, in the middle of its range: so it can stand where
transformers.TrainingArguments or peft.LoraConfig want one.
"""

import builtins
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bbo.errors import InputError


class Search:
    """Something to be searched. `variable` says what, as a variable of the YAML's space does."""

    variable: Mapping[str, Any]

    def __init__(self, variable: Mapping[str, Any]) -> None:
        self.variable = variable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.variable})"


class SearchedFloat(float, Search):
    """A float to be searched."""

    def __new__(cls, value: float, variable: Mapping[str, Any]) -> "SearchedFloat":
        self = super().__new__(cls, value)
        self.variable = variable
        return self

    def __init__(self, value: float, variable: Mapping[str, Any]) -> None:
        pass

    def __getnewargs__(self) -> tuple[Any, ...]:  # TrainingArguments may be copied
        return float(self), self.variable

    __repr__ = Search.__repr__


class SearchedInt(builtins.int, Search):
    """A whole number to be searched."""

    def __new__(cls, value: builtins.int, variable: Mapping[str, Any]) -> "SearchedInt":
        self = super().__new__(cls, value)
        self.variable = variable
        return self

    def __init__(self, value: builtins.int, variable: Mapping[str, Any]) -> None:
        pass

    def __getnewargs__(self) -> tuple[Any, ...]:
        return builtins.int(self), self.variable

    __repr__ = Search.__repr__


def double(min: float, max: float) -> SearchedFloat:
    """A number from `min` to `max`."""
    low, high = _ordered("double", min, max, (builtins.int, float))
    return SearchedFloat((low + high) / 2, {"float": [float(low), float(high)]})


def int(min: builtins.int, max: builtins.int) -> SearchedInt:
    """A whole number from `min` to `max`."""
    low, high = _ordered("int", min, max, (builtins.int,))
    return SearchedInt((low + high) // 2, {"int": [low, high]})


def loguniform(min: float, max: float) -> SearchedFloat:
    """A number from `min` to `max`, searched by its logarithm."""
    low, high = _ordered("loguniform", min, max, (builtins.int, float))
    if not low > 0:
        raise InputError(f"search.loguniform: min must be above 0, got {low!r}")
    return SearchedFloat(math.sqrt(low * high), {"log10": [math.log10(low), math.log10(high)]})


def categorical(list: Sequence[Any]) -> Any:
    """One of these values. Words cannot stand in TrainingArguments: such a search goes into hp_space."""
    values = [*list] if not isinstance(list, str) else []
    if len(values) < 2:
        raise InputError(f"search.categorical: must have at least two values, got {list!r}")
    variable = {"choice": [[*value] if isinstance(value, tuple) else value for value in values]}
    kinds, middle = {type(value) for value in values}, values[(len(values) - 1) // 2]
    if kinds == {builtins.int}:
        return SearchedInt(middle, variable)
    return SearchedFloat(middle, variable) if kinds <= {builtins.int, float} else Search(variable)


def _ordered(name: str, low: Any, high: Any, kinds: tuple[type, ...]) -> tuple[Any, Any]:
    for value in (low, high):
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if not fits or not math.isfinite(value):
            what = "whole numbers" if kinds == (builtins.int,) else "finite numbers"
            raise InputError(f"search.{name}: min and max must be {what}, got {value!r}")
    if not low < high:
        raise InputError(f"search.{name}: min must be below max, got {low!r} and {high!r}")
    return low, high
