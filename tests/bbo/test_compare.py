"""`bbo compare` as a user types it, on the toy."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.runlog import RunLog
from bbo.store import Store
from tests.conftest import python
from tests.runs import BLOCKS, ours

Command = Callable[..., subprocess.CompletedProcess[str]]

MINE = '''
"""Optimizers of a user's."""

import os
import random

from bbo.optimizers import Outcome, Proposal


class Mine:
    """Random points, from X0 on."""

    def __init__(self, space, x0, budget, seed, *, spread: float = 1.0):
        self.random, self.first, self.spread = random.Random(seed), list(x0), spread

    def ask(self, count):
        return [Proposal(self.first.pop() if self.first else self.draw()) for _ in range(count)]

    def draw(self):
        return (3.0, float(self.random.randint(1, 64)), 3.0, -4.5 + self.spread * self.random.random())

    def tell(self, outcome):
        pass


class Broken(Mine):
    """Gives up, unless it is mended."""

    def tell(self, outcome):
        if not os.path.exists("mended") and outcome.number == 3:
            raise OSError("no space left on device")
'''


@pytest.fixture
def mine(toy: Callable[..., Path], tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return str(toy(budget=6).relative_to(tmp_path))


def points(log: Path) -> list[object]:
    return [ask.point for ask in RunLog(log).driven]


def test_report_and_going_on(command: Command, mine: str, tmp_path: Path) -> None:
    words = ("bbo.cli", "compare", mine, "--optimizers", "nomad,mine:Mine", "--seeds", "2")
    done = command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "compare-toy"
    assert re.search(r"^\[4/4\] mine:Mine, seed 2: 6 evaluations", done.stdout, re.MULTILINE)
    assert "Too few seeds to judge" in done.stdout
    assert all((folder / name).is_file() for name in ("report.md", "figure.svg", "figure.png"))

    content = json.loads((folder / "report.json").read_text())
    runs = {name: method["runs"] for name, method in content["methods"].items()}
    assert [run["evaluations"] for run in runs["nomad"]] == [[1, 2, 3, 4, 5, 6]] * 2
    # X0 is asked for by both: the second does not train it, and is charged the same.
    assert sum(run["counts"].get("store", 0) for each in runs.values() for run in each) >= 2
    assert all(runs["nomad"][seed]["seconds"][0] == runs["mine:Mine"][seed]["seconds"][0] > 0 for seed in (0, 1))
    # Another seed of the training: other evaluations, of the same points.
    keys = [{ask.key for ask in RunLog(folder / "nomad" / str(seed) / "log.jsonl").driven} for seed in (1, 2)]
    assert not keys[0] & keys[1]
    assert {evaluation.result().seed for evaluation in Store(folder / "evals")} == {1, 2}  # type: ignore[union-attr]

    before = {file: file.stat().st_mtime for file in folder.rglob("log.jsonl")}
    again = command(*words[:-1], "3")
    assert again.returncode == 0 and "4 of 6 runs are finished already" in again.stdout
    assert {file: file.stat().st_mtime for file in before} == before
    assert "[5/6]" in again.stdout and "[4/6]" not in again.stdout

    other = command(*words, "--budget", "7")
    assert other.returncode == 1 and "budget was 6 and is 7" in other.stderr and "another --out" in other.stderr


def test_what_failed_is_reported_and_tried_again(command: Command, mine: str, tmp_path: Path) -> None:
    words = ("bbo.cli", "compare", mine, "--optimizers", "mine:Broken,mine:Mine", "--seeds", "1", "--jobs", "2")
    done = command(*words, "--set", "mine:Mine.spread=0.5")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "mine:Broken, seed 1: failed, left out: no space left on device" in done.stdout
    assert "mine:Mine: with spread=0.5." in done.stdout
    log = tmp_path / "runs" / "compare-toy" / "mine:Broken" / "1" / "log.jsonl"
    assert len(points(log)) < 6
    (tmp_path / "mended").touch()
    done = command(*words, "--set", "mine:Mine.spread=0.5")
    assert done.returncode == 0 and "1 of 2 runs are finished already" in done.stdout and len(points(log)) == 6


def test_killed_it_leaves_nobody_and_goes_on(
    command: Command, mine: str, toy: Callable[..., Path], tmp_path: Path
) -> None:
    toy(budget=6, seconds=0.05)
    words = ("compare", mine, "--optimizers", "nomad,mine:Mine", "--seeds", "1", "--jobs", "2")
    logs = [tmp_path / "runs" / "compare-toy" / method / "1" / "log.jsonl" for method in ("nomad", "mine:Mine")]
    with subprocess.Popen(python("bbo.cli", *words), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: all(log.is_file() for log in logs))
        process.kill()
    wait_until(lambda: not ours(tmp_path))
    before = [points(log) for log in logs]
    done = command("bbo.cli", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    after = [points(log) for log in logs]
    assert [walk[: len(old)] for walk, old in zip(after, before, strict=True)] == before
    assert [len(walk) for walk in after] == [6, 6]


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_other_settings_are_no_finished_run(command: Command, mine: str) -> None:
    words = ("bbo.cli", "compare", mine, "--optimizers", "mine:Mine", "--seeds", "1")
    assert command(*words).returncode == 0
    done = command(*words, "--set", "mine:Mine.spread=0.5")
    assert done.returncode == 3 and "begun with other settings: settings.spread was 1.0 and is 0.5" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optimizers", "nomad,tpo"], "--optimizer tpo: did you mean tpe?"),
        (["--optimizers", "nomad,mine:Nobody"], "--optimizer mine:Nobody: mine has no Nobody"),
        (["--optimizers", "nomad,mine:Mine,nomad"], "--optimizers: each can be named once, got nomad twice"),
        (["--optimizers", "nomad", "--seeds", "0"], "--seeds: must be at least 1, got 0"),
        (["--optimizers", "nomad", "--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--optimizers", "nomad", "--budget", "0"], "--budget: must be at least 1, got 0"),
        (["--optimizers", "nomad", "--levels", "1,x"], "--levels: must be numbers with commas between them, got 1,x"),
        (["--optimizers", "nomad", "--levels", "nan"], "--levels: must be numbers with commas between them, got nan"),
        (["--optimizers", "nomad", "--set", "tpe.k=1"], "--set: must be METHOD.NAME=VALUE, a method of nomad"),
    ],
)
def test_refusals_change_nothing(command: Command, mine: str, tmp_path: Path, words: list[str], sentence: str) -> None:
    done = command("bbo.cli", "compare", mine, *words)
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


SIX = ("nomad", "random", "lhs", "sobol", "tpe", "soo")


@pytest.mark.timeout(600)
def test_six_methods_with_ten_seeds(toy: Callable[..., Path], tmp_path: Path) -> None:
    """On the toy, in blocks: less than two minutes on two cores of one's own."""
    toy(budget=8, in_text=BLOCKS)
    words = ["compare", "params/toy.txt", "--optimizers", ",".join(SIX), "--jobs", "2"]
    words += ["--set", "tpe.n_startup_trials=4"]
    done = subprocess.run(
        python("bbo.cli", *words), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=590
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "runs" / "compare-toy" / "report.json").read_text())
    assert set(content["methods"]) == set(SIX)
    assert all(len(method["runs"]) == 10 for method in content["methods"].values())
    assert all(run["evaluations"][-1] <= 8 for method in content["methods"].values() for run in method["runs"])
    assert len(content["pairs"]) == 15
    assert {pair["verdict"] for pair in content["pairs"]} <= {"better", "worse", "tie"}
    assert all(pair["seeds"] == 10 for pair in content["pairs"])
