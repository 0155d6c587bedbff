"""`bbo run` with an optimizer that is asked and told: budget, replay, kills, refusals. The real blackbox program."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bbo.runlog import RunLog
from tests.conftest import ROOT
from tests.runs import MINE, kind, ours, results, start, walk

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]
RUN = ("run", "params/toy.txt", "--optimizer", "mine:Mine")
BLOCKS = {"SEED           0": "SEED 0\nBB_MAX_BLOCK_SIZE 4"}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)


def log_of(tmp_path: Path, run: str = "toy-Mine") -> RunLog:
    return RunLog(tmp_path / "runs" / run / "log.jsonl")


def holds(tmp_path: Path, command: Command, *arguments: str) -> bool:
    """Whether a fresh optimizer, led through the record, proposes it again and goes on: one evaluation more."""
    before = log_of(tmp_path).asks
    done = command("bbo.cli", *RUN, *arguments, "--budget", str(len(before) + 1))
    assert done.returncode == 0, done.stderr
    return log_of(tmp_path).asks[:-1] == before and f"replaying {len(before)} of {len(before) + 1}" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--parallel", "3")], ids=["blocks", "asynchronous"])
def test_exact_budget_resume_and_summary(
    toy: Toy, command: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    toy(in_text=BLOCKS)
    done = command("bbo.cli", *RUN, *arguments, "--budget", "9", "--seed", "5")
    assert done.returncode == 0, done.stderr
    asks = log_of(tmp_path).asks
    assert [ask.number for ask in asks] == list(range(1, 10))
    assert "[9/9]" in done.stdout and "X0's score" in done.stdout
    assert sorted({ask.block for ask in asks}) == ([1, 5, 9] if not arguments else list(range(1, 10)))
    assert [ask.told for ask in asks][:1] == [0]
    assert holds(tmp_path, command, *arguments, "--seed", "5")
    before = (tmp_path / "runs/toy-Mine/log.jsonl").read_bytes()
    again = command("bbo.cli", *RUN, *arguments, "--budget", "10", "--seed", "5")
    assert (again.returncode, (tmp_path / "runs/toy-Mine/log.jsonl").read_bytes()) == (0, before)


def test_the_seed_decides(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=4)
    for run, seed in (("one", "1"), ("again", "1"), ("two", "2")):
        assert command("bbo.cli", *RUN, "--run", run, "--seed", seed, "--store", "shared").returncode == 0
    one, again, two = ([ask.point for ask in log_of(tmp_path, run).asks] for run in ("one", "again", "two"))
    assert one == again != two
    assert {answer.source for answer in log_of(tmp_path, "again").answers.values()} == {"store"}
    other = command("bbo.cli", *RUN, "--run", "two", "--seed", "3", "--store", "shared")
    assert (other.returncode, "seed was 2 and is 3" in other.stderr) == (1, True)


@pytest.mark.parametrize("victim", ["driver", "blackbox", "all"])
@pytest.mark.parametrize("arguments", [(), ("--parallel", "3")], ids=["blocks", "asynchronous"])
def test_kill_9_changes_nothing(
    toy: Toy, command: Command, tmp_path: Path, arguments: tuple[str, ...], victim: str
) -> None:
    toy(seconds=0.03, in_text=BLOCKS)
    draw, budget = random.Random(victim), ("--budget", "10")
    trained: dict[str, float] = {}
    recorded: list[object] = []
    for _ in range(3):
        process = start(tmp_path, *RUN, *arguments, *budget, module="bbo.cli")
        deadline = time.monotonic() + draw.uniform(0.5, 3.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        victims = [p for p in ours(tmp_path) if victim in ("all", kind(p))]
        now = results(tmp_path / "runs/toy-Mine")
        for target in victims:
            with suppress(psutil.NoSuchProcess):
                target.kill()
        if victim in ("driver", "all"):
            process.wait(20)  # and start the next at once, while orphans may still be dying
        else:
            assert process.wait(60) == 0, process.stderr.read()  # type: ignore[union-attr]
        assert trained.items() <= now.items(), "a finished evaluation was trained again"
        trained, asks = now, log_of(tmp_path).asks
        assert asks[: len(recorded)] == recorded, "the record was changed"
        recorded = list(asks)
    assert command("bbo.cli", *RUN, *arguments, *budget).returncode == 0
    assert trained.items() <= results(tmp_path / "runs/toy-Mine").items()
    assert [ask.number for ask in log_of(tmp_path).asks] == sorted(log_of(tmp_path).answers) == list(range(1, 11))
    assert len(log_of(tmp_path).arrived) == 10, "told twice"
    assert holds(tmp_path, command, *arguments)
    if not arguments:  # in which order asynchronous answers come in is an accident
        assert command("bbo.cli", *RUN, "--budget", "11", "--run", "whole").returncode == 0
        assert walk(tmp_path / "runs/whole") == walk(tmp_path / "runs/toy-Mine")
    end = time.monotonic() + 5
    while ours(tmp_path):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.05)


DIES = """
import os, pathlib, sys
if sys.argv[0].endswith("-m") and "blackbox" in sys.orig_argv:
    mark = pathlib.Path(__file__).with_name("deaths")
    with mark.open("a") as file:
        file.write("x")
    if len(mark.read_text()) <= TIMES:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("times", "status"), [(2, 0), (99, 3)])
def test_a_blackbox_that_dies_is_called_again_but_not_forever(
    toy: Toy, command: Command, tmp_path: Path, times: int, status: int
) -> None:
    toy(budget=2)
    (tmp_path / "sitecustomize.py").write_text(DIES.replace("TIMES", str(times)))
    done = command("bbo.cli", *RUN, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == status, done.stderr
    assert len((tmp_path / "deaths").read_text()) == (2 + 2 if not status else 3)
    assert status == 0 or "the blackbox was ended by signal 9, 3 times for evaluation 1, see " in done.stderr


def test_what_the_blackbox_refuses_is_the_users_mistake(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy()
    (tmp_path / "mine.py").write_text(MINE.replace("point[:3] = self.told[-1].point[:3]", "point[0] = 99"))
    done = command("bbo.cli", *RUN, "--set", "copies=1.0", "--seed", "1")
    assert done.returncode == 1
    assert "the optimizer proposed Proposal(point=(99.0, " in done.stderr
    assert "lora_rank: 99 is outside [1, 6]" in done.stderr
    for nonsense in ("None", "[(1.0,)] * 9", "[Proposal(None)]"):
        text = MINE.replace("        count = min", f"        return {nonsense}\n        count = min")
        (tmp_path / "mine.py").write_text(text)
        done = command("bbo.cli", *RUN, "--run", "nonsense")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert not (tmp_path / "runs/nonsense").exists()


def test_another_proposal_is_one_sentence(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=3)
    assert command("bbo.cli", *RUN).returncode == 0
    (tmp_path / "mine.py").write_text(MINE.replace("random.Random(seed)", "random.Random(seed + 1)"))
    done = command("bbo.cli", *RUN, "--budget", "5")
    assert done.returncode == 3
    assert "stopped: the replay left the record: evaluation 2 was at (" in done.stderr and "now (" in done.stderr
    assert len(log_of(tmp_path).asks) == 3


def test_an_optimizer_may_finish_early(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_text=BLOCKS)
    done = command("bbo.cli", *RUN, "--set", "most=6")
    assert done.returncode == 0
    assert "nothing more to propose after 6 of 12" in done.stdout
    assert len(log_of(tmp_path).asks) == 6


def test_stop_from_another_terminal(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(seconds=0.1, budget=30)
    process = start(tmp_path, *RUN, module="bbo.cli")
    while len(results(tmp_path / "runs/toy-Mine")) < 2 and process.poll() is None:
        time.sleep(0.05)
    done = command("bbo.cli", "stop", "toy-Mine")
    assert done.returncode == 0, done.stderr
    assert process.wait(10) == 130
    assert "continue with: bbo run params/toy.txt --optimizer mine:Mine" in process.stderr.read()  # type: ignore[union-attr]
    assert not ours(tmp_path)
    again = command("bbo.cli", "stop", "toy-Mine")
    assert (again.returncode, again.stderr.strip()) == (1, "runs/toy-Mine: nobody drives it")
    lock = tmp_path / "runs/toy-Mine/lock"
    assert "no run there" in command("bbo.cli", "stop", "nobody").stderr
    process = start(tmp_path, *RUN, module="bbo.cli")
    while f"process {process.pid} " not in lock.read_text() and process.poll() is None:
        time.sleep(0.05)
    lock.write_text("process 1 on elsewhere")
    assert "driven by process 1 on elsewhere: stop it there" in command("bbo.cli", "stop", "toy-Mine").stderr
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 130


def test_failures_in_a_row_stop_the_run_and_retry_forgets_them(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_yaml={"[-5, -1]": "[-1, 1]"}, in_text={"1 1 -5 )": "1 1 -1 )", "64 4 -1 )": "64 4 1 )", "3 -4.5": "3 0"})
    (tmp_path / "mine.py").write_text(MINE.replace("uniform(low, -2)", "uniform(low, high)"))
    done = command("bbo.cli", *RUN)
    assert done.returncode == 3
    assert "5 evaluations in a row failed (resources.max_failed): the loss became nan" in done.stderr
    first = log_of(tmp_path).asks
    assert command("bbo.cli", "retry", "toy-Mine").returncode == 0
    assert command("bbo.cli", *RUN).returncode == 3
    assert [ask.point for ask in log_of(tmp_path).asks] == [ask.point for ask in first]


def test_max_hours(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(seconds=0.2)
    done = command("bbo.cli", *RUN, "--max-hours", str(2.5 / 3600))
    assert done.returncode == 0, done.stderr
    assert 0 < len(log_of(tmp_path).answers) < 12
