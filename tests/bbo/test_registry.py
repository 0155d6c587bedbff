"""Names of optimizers, classes of the user's, and what `--set` takes."""

import re
from pathlib import Path
from typing import Literal

import pytest

from bbo.errors import InputError
from bbo.optimizers.registry import OPTIMIZERS, Entry, find, read_settings, versions
from tests.conftest import ROOT


class Whole:
    """Every kind of setting."""

    def __init__(  # noqa: PLR0913 - that is what it is for
        self,
        *,
        space: object,
        x0: object,
        budget: int,
        seed: int,
        k: int = 3,
        eta: float = 0.5,
        how: Literal["fast", "slow"] = "fast",
        sizes: tuple[int, ...] = (),
        most: int | None = None,
        word: str = "",
        on: bool = False,
    ) -> None:
        pass

    def ask(self, count: int) -> list[object]:
        return []

    def tell(self, outcome: object) -> None:
        pass


GOOD = {
    "k=4": 4,
    "eta=1": 1.0,
    "eta=1e-3": 1e-3,
    "how=slow": "slow",
    "sizes=[1, 2]": (1, 2),
    "most=null": None,
    "most=2": 2,
    "word=3": "3",
    "word=a=b": "a=b",
    "on=true": True,
}


@pytest.mark.parametrize("statement", GOOD)
def test_settings_have_the_types_of_the_class(statement: str) -> None:
    ((_, value),) = read_settings("whole", Whole, [statement]).items()
    assert value == GOOD[statement] and type(value) is type(GOOD[statement])


BAD = {
    "k=3.0": "--set k: input should be a valid integer, got '3.0'",
    "k=three": "--set k: input should be a valid integer, got 'three'",
    "k=": "--set k: input should be a valid integer, got ''",
    "on=1": "--set on: input should be a valid boolean, got '1'",
    "how=quick": "--set how: input should be 'fast' or 'slow', got 'quick'",
    "k": "--set k: must be NAME=VALUE, each name once",
    "seed=3": "--set seed=3: whole has no setting seed; there are k (int, default 3), eta (float, default 0.5), how (",
    "kk=3": "--set kk=3: whole has no setting kk; there are k (int, default 3)",
}


@pytest.mark.parametrize("statement", BAD)
def test_bad_settings_are_refused_and_the_good_are_listed(statement: str) -> None:
    with pytest.raises(InputError) as refused:
        read_settings("whole", Whole, [statement])
    assert str(refused.value).startswith(BAD[statement])


def test_all_mistakes_at_once() -> None:
    with pytest.raises(InputError) as refused:
        read_settings("whole", Whole, ["k=x", "k=1", "k=2", "foo=1"])
    assert len(refused.value.messages) == 3


MODULES = {
    "tpee": "did you mean tpe? there are nomad, random,",
    "nothing:Mine": "nothing cannot be imported: No module named 'nothing'",
    "ours:Nobody": "ours has no Nobody",
    "ours:number": "must be a class with ask and tell, got 3",
    "ours:Deaf": "must be a class with ask and tell",
    "ours:Few": "must take the keywords space, x0, budget, seed, lacks x0, seed",
    "broken:Mine": "broken cannot be imported: no such thing",
}


@pytest.mark.parametrize("name", MODULES)
def test_what_is_no_optimizer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    verbs = "\n    def ask(self, count): pass\n"
    few = f"class Few:\n    def __init__(self, space, budget): pass{verbs}    def tell(self, outcome): pass\n"
    (tmp_path / "ours.py").write_text(f"number = 3\nclass Deaf:{verbs}{few}")
    (tmp_path / "broken.py").write_text("raise ImportError('no such thing')")
    with pytest.raises(InputError, match="--optimizer ") as refused:
        find(name)
    assert MODULES[name] in str(refused.value)


def test_the_table_of_who_takes_what() -> None:
    """Docs/objectives.md."""
    text = (ROOT / "Docs/objectives.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (yes|no)\b", text, re.MULTILINE)
    said = {name.strip("`"): takes == "yes" for names, takes in rows for name in names.split(", ")}
    assert said == {name: entry.several for name, entry in OPTIMIZERS.items()}


def test_versions_of_what_is_there() -> None:
    assert list(versions(Entry("x", "X", ("pydantic", "no-such-library")))) == ["pydantic"]
    assert {"nomad", "random", "tpe", "gp", "bohb", "pbt"} <= set(OPTIMIZERS)
