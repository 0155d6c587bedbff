"""Encoding is exact both ways; what lies outside is refused with the variable's name."""

import random

import pytest
from pydantic import ValidationError

from bbo.space import Space, Variable, dependence_error


def space(**variables: object) -> Space:
    return Space({name: Variable.model_validate(v) for name, v in variables.items()})


FULL = space(
    rank={"choice": [4, 8, 16]},
    alpha={"int": [1, 64], "times": "rank"},
    dropout={"choice": [0, 1e-4, 0.1]},
    lr={"log10": [-6, -3]},
    decay={"float": [0, 0.1]},
    seed={"fixed": 7},
    twice={"fixed": 2, "times": "rank"},
)


def test_decode_follows_the_kinds() -> None:
    assert FULL.free == ("rank", "alpha", "dropout", "lr", "decay")
    decoded = FULL.decode((2, 8, 1, -4.0, 0.05))
    assert decoded == {"rank": 8, "alpha": 64, "dropout": 0, "lr": 10**-4.0, "decay": 0.05, "seed": 7, "twice": 16}
    assert list(decoded) == list(FULL.variables)


def test_round_trip_is_exact() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        point = (
            draw.randint(1, 3), draw.randint(1, 64), draw.randint(1, 3), draw.uniform(-6, -3), draw.uniform(0, 0.1)
        )  # fmt: skip
        decoded = FULL.decode(point)
        assert FULL.encode(decoded) == point
        assert FULL.decode(FULL.encode(decoded)) == decoded


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ((4, 8, 1, -4, 0), "rank: 4 is outside"),
        ((1.5, 8, 1, -4, 0), "rank: 1.5 is not an integer"),
        ((1, 8, 1, float("nan"), 0), "lr: nan is outside"),
        ((1, 8, 1), "has 3 coordinates, the space has 5"),
    ],
)
def test_decode_refuses(point: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FULL.decode(point)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 5}, "rank: 5 is none of"),
        ({"rank": True}, "rank: True is none of"),
        ({"alpha": 9}, "alpha: 9 is not an integer multiple of rank = 8"),
        ({"lr": 0}, "lr: 0 has no logarithm"),
        ({"lr": 1.0}, "lr: .* is not|lr: "),
        ({"seed": 8}, "seed: 8 given, but it is fixed at 7"),
        ({"more": 1}, "no such hyperparameter: more"),
    ],
)
def test_encode_refuses(change: dict[str, object], said: str) -> None:
    good = FULL.decode((2, 8, 1, -4.0, 0.05))
    with pytest.raises(ValueError, match=said):
        FULL.encode({**good, **change})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "variable",
    [{}, {"choice": []}, {"choice": [1, 1]}, {"int": [3, 1]}, {"int": [1, 2], "fixed": 3}, {"log10": [-1e4, 0]},
     {"float": [0, float("inf")]}, {"choice": ["a"], "times": "b"}],
)  # fmt: skip
def test_bad_variables(variable: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Variable.model_validate(variable)


def test_times_must_name_a_number() -> None:
    def v(**content: object) -> Variable:
        return Variable.model_validate(content)

    assert dependence_error({"a": v(int=[1, 2], times="b")}) == ("a", "times names 'b', which is not in space")
    words = {"a": v(int=[1, 2], times="b"), "b": v(choice=["x", "y"])}
    assert dependence_error(words) == ("a", "times names 'b', whose values are not numbers")
    assert dependence_error(dict(FULL.variables)) is None
