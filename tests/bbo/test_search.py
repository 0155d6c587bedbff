"""What a hyperparameter may be: numbers with a range behind them."""

import copy
import math
from typing import Any

import pytest

from bbo import search
from bbo.errors import InputError
from bbo.space import Variable


@pytest.mark.parametrize(
    ("found", "kind", "value", "variable"),
    [
        (search.double(min=0.0, max=0.1), float, 0.05, {"float": [0.0, 0.1]}),
        (search.int(min=8, max=64), int, 36, {"int": [8, 64]}),
        (search.loguniform(min=1e-5, max=1e-3), float, 1e-4, {"log10": [-5, -3]}),
        (search.categorical([4, 8, 16]), int, 8, {"choice": [4, 8, 16]}),
        (search.categorical([0, 0.1]), float, 0, {"choice": [0, 0.1]}),
    ],
)
def test_a_number_with_its_range(found: Any, kind: type, value: float, variable: dict[str, Any]) -> None:
    assert isinstance(found, kind) and isinstance(found, search.Search)
    assert math.isclose(found, value)
    assert found.variable == variable
    assert copy.deepcopy(found).variable == variable
    Variable.model_validate(found.variable)


def test_words_and_lists_are_no_numbers() -> None:
    assert search.categorical(["linear", "cosine"]).variable == {"choice": ["linear", "cosine"]}
    assert search.categorical([("q_proj",), ("q_proj", "v_proj")]).variable == {
        "choice": [["q_proj"], ["q_proj", "v_proj"]]
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: search.double(1, 1), "search.double: min must be below max, got 1 and 1"),
        (lambda: search.int(1, 2.5), "search.int: min and max must be whole numbers, got 2.5"),
        (lambda: search.double(0, math.inf), "search.double: min and max must be finite numbers, got inf"),
        (lambda: search.loguniform(0, 1), "search.loguniform: min must be above 0, got 0"),
        (lambda: search.categorical(["linear"]), "search.categorical: must have at least two values, got ['linear']"),
        (lambda: search.categorical("ab"), "search.categorical: must have at least two values, got 'ab'"),
    ],
)
def test_no_range(make: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == said
