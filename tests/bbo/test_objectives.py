"""Constraints and several objectives through NOMAD and the others, on the toy: budget, replay, kills, what is shown."""

import random
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bbo.experiment import read_experiment
from bbo.front import front_of
from bbo.runlog import RunLog
from tests.runs import (
    BOTH_TEXT,
    BOTH_YAML,
    BOUND_TEXT,
    BOUND_YAML,
    FAILING,
    FRONT_TEXT,
    FRONT_YAML,
    MINE,
    ours,
    results,
    start,
    walk,
)

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]

BLOCKS = {"X0   ": "BB_MAX_BLOCK_SIZE 4\nX0   "}
KINDS = {"bound": (BOUND_YAML, BOUND_TEXT), "front": (FRONT_YAML, FRONT_TEXT), "both": (BOTH_YAML, BOTH_TEXT)}


def front(tmp_path: Path, run: str) -> list[tuple[float, ...]]:
    """The values of a run's front."""
    experiment = read_experiment(tmp_path / "params/toy.yaml")
    return [answer.values or () for _, answer in front_of(experiment, RunLog(tmp_path / "runs" / run / "log.jsonl"))]


@pytest.mark.parametrize("kind", KINDS)
def test_nomad_survives_a_failing_x0(toy: Toy, command: Command, tmp_path: Path, kind: str) -> None:
    in_yaml, in_text = KINDS[kind]
    patient = {"model: toy": "model: toy\nresources: {max_failed: 20}"}
    toy(16, in_yaml={**in_yaml, **patient}, in_text={**in_text, **FAILING, **(BLOCKS if kind != "front" else {})})
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    log = RunLog(tmp_path / "runs/toy/log.jsonl")
    answers = [log.answers[ask.number] for ask in log.driven]
    assert sum(answer.source != "declined" for answer in answers) == 16
    assert answers[0].source == "failed"
    assert len(front(tmp_path, "toy")) >= (1 if kind == "bound" else 2)
    before = walk(tmp_path / "runs/toy")
    again = command("bbo.nomad", "params/toy.txt")
    assert (again.returncode, "replaying 16 of 16" in again.stdout) == (0, True)
    assert walk(tmp_path / "runs/toy") == before


def test_kill_9_of_nomad_with_several_objectives(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(14, seconds=0.03, in_yaml=BOTH_YAML, in_text={**BOTH_TEXT, **FAILING, **BLOCKS})
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    draw, trained = random.Random(0), dict[str, float]()
    for least in (2, 7):
        process = start(tmp_path, "params/toy.txt")
        while len(now := results(tmp_path / "runs/toy")) < least and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        for target in ours(tmp_path):
            with suppress(psutil.NoSuchProcess):
                target.kill()
        process.wait(20)
        assert trained.items() <= now.items(), "a finished evaluation was trained again"
        trained = now
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    assert trained.items() <= results(tmp_path / "runs/toy").items()
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")


def test_nomad_in_blocks_of_any_size(toy: Toy, command: Command, tmp_path: Path) -> None:
    """DMultiMads does not take the MEGA_SEARCH_POLL that fills the blocks of other runs."""
    toy(9, in_yaml=FRONT_YAML, in_text=FRONT_TEXT)
    done = command("bbo.cli", "run", "params/toy.txt", "--parallel", "4")
    assert done.returncode == 0, done.stderr
    blocks = [ask.block for ask in RunLog(tmp_path / "runs/toy/log.jsonl").asks]
    assert max(blocks.count(block) for block in blocks) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [("nsgaii", ()), ("nsgaii", ("--parallel", "3")), ("tpe", ("--parallel", "3", "--set", "n_startup_trials=5"))],
    ids=["blocks", "asynchronous", "tpe"],
)
def test_budget_front_and_replay(toy: Toy, command: Command, tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    toy(14, in_yaml=BOTH_YAML, in_text={**BOTH_TEXT, **BLOCKS})
    words = ("run", "params/toy.txt", "--optimizer", name, "--seed", "2", "--run", "one", *words)
    done = command("bbo.cli", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    asks = RunLog(tmp_path / "runs/one/log.jsonl").asks
    assert len(asks) == 14
    assert front(tmp_path, "one")
    more = command("bbo.cli", *words, "--budget", "15")
    assert more.returncode == 0, more.stderr
    assert RunLog(tmp_path / "runs/one/log.jsonl").asks[:14] == asks, "a fresh one did not propose the record"


def test_the_front_is_shown(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(14, in_yaml=BOTH_YAML, in_text=BOTH_TEXT)
    done = command("bbo.cli", "run", "params/toy.txt", "--optimizer", "random", "--seed", "2")
    found = front(tmp_path, "toy-random")
    assert f"Pareto front          {len(found)} evaluations, by eval_loss and trainable_parameters, all" in done.stdout
    shown = re.findall(
        r"^  #\d+ +eval_loss (\S+)  trainable_parameters (\d+)   \[train_loss <= 1.4: (\S+)\]   lora_rank (\d+)",
        done.stdout,
        re.MULTILINE,
    )
    told = [(f"{loss:.6g}", f"{size:.0f}", f"{bound + 1.4:.6g}", f"{size / 1024:.0f}") for loss, size, bound in found]
    assert shown == told
    assert [float(loss) for loss, *_ in shown] == sorted(float(loss) for loss, *_ in shown)
    assert re.search(r"#\d+ eval_loss \S+  trainable_parameters \d+  front [1-9]", done.stdout)
    assert re.search(r"\(train_loss <= 1.4 violated by 0.\d+\)", done.stdout)


def test_the_best_feasible_one_is_shown(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(14, in_yaml=BOUND_YAML, in_text=BOUND_TEXT)
    words = ("run", "params/toy.txt", "--optimizer", "random", "--seed", "2")
    done = command("bbo.cli", *words)
    assert done.returncode == 0, done.stderr
    assert "(trainable_parameters <= 4096 violated by 4096)  best none feasible yet" in done.stdout
    ((loss, beyond),) = front(tmp_path, "toy-random")
    assert f"best score            {loss:.6g}   (eval_loss, evaluation" in done.stdout
    assert f"constraints           trainable_parameters <= 4096: {beyond + 4096:.0f}   (all hold)" in done.stdout


def test_none_is_feasible(toy: Toy, command: Command) -> None:
    impossible = {old: new.replace("4096", "1000") for old, new in BOUND_YAML.items()}
    toy(4, in_yaml=impossible, in_text=BOUND_TEXT)
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 3
    assert "best score            no feasible evaluation; nearest is #" in done.stdout
    assert re.search(r"nearest is #\d: \S+  \(trainable_parameters <= 1000 violated by \d+\)", done.stdout)


@pytest.mark.parametrize("name", ["soo", "bohb", "mine:Mine"])
def test_who_takes_one_objective_says_so(toy: Toy, command: Command, tmp_path: Path, name: str) -> None:
    toy(in_yaml=FRONT_YAML, in_text=FRONT_TEXT)
    (tmp_path / "mine.py").write_text(MINE)
    done = command("bbo.cli", "run", "params/toy.txt", "--optimizer", name)
    able = "several are taken by nomad, random, lhs, sobol, grid, tpe, gp, nsgaii"
    assert done.returncode == 1
    assert done.stderr.startswith(f"--optimizer {name}: takes one objective, got 2; {able}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_class_of_the_users_may_take_several(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(6, in_yaml=FRONT_YAML, in_text=FRONT_TEXT)
    text = MINE.replace("copies: float", "objectives=1, copies: float").replace(
        "self.told.append(outcome)", "self.told.append(outcome); assert len(outcome.objectives) == 2, outcome"
    )
    (tmp_path / "mine.py").write_text(text)
    done = command("bbo.cli", "run", "params/toy.txt", "--optimizer", "mine:Mine")
    assert done.returncode == 0, done.stderr


def test_from_a_front(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(14, in_yaml=BOTH_YAML, in_text=BOTH_TEXT)
    words = ("run", "params/toy.txt", "--optimizer", "random", "--seed", "2")
    assert command("bbo.cli", *words).returncode == 0
    assert command("bbo.cli", *words, "--run", "warm", "--from", "toy-random", "--budget", "4").returncode == 0
    values = {point: values for point, _, values in walk(tmp_path / "runs/toy-random")}
    taken = [values[point] for point, _, _ in walk(tmp_path / "runs/warm")[:3]]
    found = front(tmp_path, "toy-random")
    assert {*taken} <= {*found} if len(found) >= 3 else {*found} <= {*taken}
    assert {found[0], found[-1]} <= {*taken}, "the ends of the front come first"
