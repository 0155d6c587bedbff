"""`bbo run`: NOMAD with other keywords, starts from another run, refusals that change nothing on disk."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.runlog import RunLog
from tests.runs import MINE, walk

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def mine(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)


def test_nomad_is_the_very_batch_run(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=6)
    assert command("bbo.nomad", "params/toy.txt", "--run", "batch").returncode == 0
    assert command("bbo.cli", "run", "params/toy.txt", "--budget", "4").returncode == 0
    again = command("bbo.cli", "run", "params/toy.txt", "--seed", "0")
    assert again.returncode == 0, again.stderr
    assert "replaying 4 of 6 evaluations" in again.stdout
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/batch")
    refused = command("bbo.cli", "run", "params/toy.txt", "--seed", "1")
    assert (refused.returncode, 'SEED was [["0"]] and is [["1"]]' in refused.stderr) == (1, True)


def test_keywords_of_nomad(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=6)
    words = ("--set", "DIRECTION_TYPE=ORTHO 2N", "--set", "quad_model_search=no", "--parallel", "4")
    done = command("bbo.cli", "run", "params/toy.txt", *words)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "runs/toy/parameters.txt").read_text().splitlines()
    wanted = {"DIRECTION_TYPE ORTHO 2N", "QUAD_MODEL_SEARCH no", "BB_MAX_BLOCK_SIZE 4", "MEGA_SEARCH_POLL yes"}
    assert wanted <= set(lines)
    assert len({ask.block for ask in RunLog(tmp_path / "runs/toy/log.jsonl").asks}) < 6
    about = json.loads((tmp_path / "runs/toy/run.json").read_text())
    assert about["problem"]["DIRECTION_TYPE"] == [["ORTHO", "2N"]]


def test_from_another_run(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=6)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    log = RunLog(tmp_path / "runs/toy/log.jsonl")
    good = [ask for ask in log.asks if log.answers[ask.number].source == "trained"]
    best = sorted(good, key=lambda ask: log.answers[ask.number].values or ())[:3]
    words = ("run", "params/toy.txt", "--run", "warm", "--from", "toy", "--optimizer", "mine:Mine")
    done = command("bbo.cli", *words, "--budget", "4")
    assert done.returncode == 0, done.stderr
    asks = RunLog(tmp_path / "runs/warm/log.jsonl").asks
    assert [ask.point for ask in asks[:3]] == [ask.point for ask in best]
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    toy(budget=9)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0  # finds better ones: the warm run does not mind
    assert command("bbo.cli", *words, "--budget", "5").returncode == 0
    assert command("bbo.cli", "run", "params/toy.txt", "--run", "second", "--from", "toy").returncode == 0
    assert RunLog(tmp_path / "runs/second/log.jsonl").asks[0].point != asks[-1].point
    toy(in_yaml={"[0, 0.05, 0.1, 0.2]": "[0, 0.05, 0.1, 0.3]"})
    other = command("bbo.cli", "run", "params/toy.txt", "--run", "third", "--from", "toy")
    assert (other.returncode, "--from toy: its experiment has another space" in other.stderr) == (1, True)


REFUSED = [
    (["--optimizer", "tpee"], "--optimizer tpee: did you mean tpe?"),
    (["--optimizer", "mine:Mine", "--set", "copy=1"], "mine:Mine has no setting copy; there are copies (float"),
    (["--optimizer", "mine:Mine", "--from", "nobody"], "--from nobody: runs/nobody is no run"),
    (["--optimizer", "mine:Mine", "--max-gpu-hours", "1"], "--max-gpu-hours: this run uses no GPU"),
    (["--optimizer", "bohb", "--stopping", "asha"], "--stopping asha: bohb is TPE with hyperband"),
    (["--set", "DIRECTION_TYP=ORTHO 2N"], "--set DIRECTION_TYP: is no keyword of NOMAD: did you mean DIRECTION_TYPE?"),
    (["--set", "X0=1 2 3 4"], "X0 is the business of the parameter file"),
    (["--set", "QUAD_MODEL_SEARCH=perhaps"], "--set QUAD_MODEL_SEARCH: must be yes or no, got perhaps"),
    (["--set", "CACHE_FILE=c.txt"], "CACHE_FILE: the store and the run log keep"),
    (["--set", "LH_SEARCH"], "--set LH_SEARCH: must be NAME=VALUE"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_are_one_sentence(toy: Toy, command: Command, tmp_path: Path, words: list[str], said: str) -> None:
    toy()
    done = command("bbo.cli", "run", "params/toy.txt", *words)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists(), "a refused command changed the disk"


def test_a_budget_is_needed(toy: Toy, command: Command) -> None:
    toy(in_text={"MAX_BB_EVAL    40": "MAX_EVAL 40"})
    done = command("bbo.cli", "run", "params/toy.txt", "--optimizer", "mine:Mine")
    assert (done.returncode, "has no MAX_BB_EVAL: --budget N is needed" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "words", [["--budget", "0"], ["--parallel", "x"], ["--stopping", "soon"], ["--max-hours", "0"], []]
)
def test_the_command_line(command: Command, words: list[str]) -> None:
    done = command("bbo.cli", "run", *(["params/toy.txt", *words] if words else []))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help(command: Command) -> None:
    done = command("bbo.cli", "run", "--help")
    assert done.returncode == 0
    for word in ("--optimizer NAME", "my_module:MyOptimizer", "examples:", "--from RUN", "--max-gpu-hours"):
        assert word in done.stdout
    assert "stop" in command("bbo.cli", "--help").stdout


def test_what_the_session_says_of_stopping(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=2)
    for name in ("nomad", "mine:Mine"):
        words = ("run", "params/toy.txt", "--optimizer", name, "--run", name[:4], "--stopping", "none")
        assert command("bbo.cli", *words).returncode == 0
        assert json.loads((tmp_path / "runs" / name[:4] / "session.json").read_text())["stopping"] == "none"
        refused = command("bbo.cli", *words[:-2])
        assert (refused.returncode, 'stopping was "none" and is null' in refused.stderr) == (1, True)
