"""The benchmark of all optimizers, with two on the toy: what it counts, and that it goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import optimizers

REFUSING = "class Refusing:\n    def __init__(self, space, x0, budget, seed): raise ValueError('not today')\n"
REFUSING += "    def ask(self, count): ...\n    def tell(self, outcome): ...\n"


def test_each_once(toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REFUSING)
    words = ["--file", str(toy()), "--budget", "3", "--json", "out.json"]
    assert optimizers.main([*words, "--optimizers", "nomad"]) == 0
    log = tmp_path / "runs" / "benchmark-optimizers" / "nomad" / "log.jsonl"
    before = log.stat().st_mtime
    assert optimizers.main([*words, "--optimizers", "nomad,mine:Refusing"]) == 1
    found = json.loads((tmp_path / "out.json").read_text())["optimizers"]
    assert log.stat().st_mtime == before
    assert found["nomad"] | {"best": 0, "seconds": 0} == {
        "best": 0, "evaluations": 3, "trained": 3, "store": 0, "failed": 0, "stopped": 0, "seconds": 0, "status": 0
    }  # fmt: skip
    assert found["mine:Refusing"]["status"] == 1 and found["mine:Refusing"]["best"] is None
    assert "not today" in (log.parent.parent / "mine:Refusing.out").read_text()
