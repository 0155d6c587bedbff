"""A function's source is the function, or it is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from bbo.errors import InputError
from bbo.function import source_of


def good(hyperparameters: dict[str, Any]) -> dict[str, float]:
    """Its own imports, a name that a module has too, an inner function, itself."""
    import statistics  # noqa: PLC0415

    def inner(values: list[float]) -> float:
        return statistics.mean(values)

    math = hyperparameters.get("pytest", 1.0)
    return {"loss": inner([math, abs(-1.0)]), "name": len(good.__name__)}


def uses_a_module(hyperparameters: dict[str, Any]) -> dict[str, float]:
    return {"loss": sum(math.sqrt(x) for x in [hyperparameters["x"]])}


def from_outside(hyperparameters: dict[str, Any], most: float = math.inf) -> dict[str, float]:
    return {"loss": min(most, hyperparameters["x"])}


def closure() -> Callable[[dict[str, Any]], Any]:
    shift = 1.0
    return lambda hyperparameters: {"loss": shift}


def inner_function() -> Callable[[dict[str, Any]], Any]:
    shift = 1.0

    def objective(hyperparameters: dict[str, Any]) -> dict[str, float]:
        return {"loss": hyperparameters["x"] + shift}

    return objective


def test_its_source_is_the_function() -> None:
    space: dict[str, Any] = {}
    exec(source_of(good), space)
    assert space["good"]({"pytest": 2.0}) == good({"pytest": 2.0})


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (uses_a_module, "uses_a_module uses names from outside its body: math; import and define them inside it"),
        (inner_function(), "objective uses names from outside its body: shift"),
        (closure(), "must be a function that `def` defines"),
        (from_outside, "from_outside cannot be defined by its source alone"),
        (math.sqrt, "must be a function that `def` defines, got <built-in function sqrt>"),
    ],
)
def test_refused(function: Any, said: str) -> None:
    with pytest.raises(InputError, match=None) as error:
        source_of(function)
    assert said in str(error.value)
