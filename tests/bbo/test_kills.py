"""SIGKILL of any process at any moment changes nothing: the same points, the same values, nothing trained twice."""

import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.runs import BLOCKS, SURROGATE_TEXT, SURROGATE_YAML, kind, ours, results, start, surrogate_walk, walk

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("victim", ["driver", "nomad", "blackbox", "all"])
@pytest.mark.parametrize("in_text", [{}, BLOCKS, SURROGATE_TEXT], ids=["sequential", "blocks", "surrogate"])
def test_kill_9_changes_nothing(
    toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str], victim: str
) -> None:
    toy(budget=10, seconds=0.03, in_text=in_text, in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    draw = random.Random(victim)
    trained: dict[str, float] = {}
    for _ in range(3):
        process = start(tmp_path, "params/toy.txt")
        deadline = time.monotonic() + draw.uniform(0.5, 3.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        victims = [p for p in ours(tmp_path) if victim in ("all", kind(p))]
        now = results(tmp_path / "runs/toy")
        for target in victims:
            with suppress(psutil.NoSuchProcess):
                target.kill()
        if victim in ("driver", "all"):
            process.wait(20)  # and start the next at once, while orphans may still be dying
        else:
            assert process.wait(60) == 0, process.stderr.read()  # type: ignore[union-attr]
        assert trained.items() <= now.items(), "a finished evaluation was trained again"
        trained = now
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    assert trained.items() <= results(tmp_path / "runs/toy").items()
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")
    assert surrogate_walk(tmp_path / "runs/toy") == surrogate_walk(tmp_path / "runs/whole")
    assert bool(surrogate_walk(tmp_path / "runs/toy")) == (in_text is SURROGATE_TEXT)
    end = time.monotonic() + 5
    while ours(tmp_path):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("in_text", [{}, SURROGATE_TEXT], ids=["sequential", "surrogate"])
def test_kill_between_the_log_and_the_print(
    toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str], number: int
) -> None:
    """The answer stands in the log, but NOMAD never reads it and takes the point for failed."""
    toy(in_text=in_text, in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    process = start(tmp_path, "params/toy.txt")
    log = tmp_path / "runs/toy/log.jsonl"
    mark = f'"answer": {number},'
    while process.poll() is None:
        if log.is_file() and mark in log.read_text():
            for target in [p for p in psutil.Process(process.pid).children(recursive=True) if kind(p) == "blackbox"]:
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    target.kill()
            break
    assert process.wait(60) == 0, process.stderr.read()  # type: ignore[union-attr]
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")


def test_kill_of_a_surrogate_that_starts(toy: Toy, command: Command, tmp_path: Path) -> None:
    """It has written nothing yet, and NOMAD notes nothing of it."""
    toy(in_text=SURROGATE_TEXT, in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    process = start(tmp_path, "params/toy.txt")
    while process.poll() is None:
        calls = [p for p in psutil.Process(process.pid).children(recursive=True) if kind(p) == "blackbox"]
        if surrogates := [p for p in calls if "--fidelity" in p.cmdline()]:
            surrogates[0].kill()
            break
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "a call of the blackbox died before NOMAD read its answer: replaying" in output
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")
    assert surrogate_walk(tmp_path / "runs/toy") == surrogate_walk(tmp_path / "runs/whole")


DIES_ONCE = """
import os, pathlib, sys
leave = os._exit
def die(status):
    if sys.argv[0].endswith("blackbox/__main__.py") and "WORD" in " ".join(sys.argv):
        calls = pathlib.Path(__file__).with_name("calls")
        with calls.open("a") as file:
            file.write("x")
        if calls.stat().st_size == NUMBER:
            os.kill(os.getpid(), 9)
    leave(status)
os._exit = die
"""


SILENT = {"SEED  ": "DISPLAY_DEGREE 0\nSEED  "}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("in_text", [{}, BLOCKS, SILENT, SURROGATE_TEXT], ids=["", "blocks", "silent", "surrogate"])
def test_kill_between_the_print_and_the_end(
    toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str], number: int
) -> None:
    """NOMAD has read the answer and notes it, but takes the point for failed."""
    toy(budget=6, in_text=in_text, in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    word = "low" if in_text is SURROGATE_TEXT else "toy"
    (tmp_path / "sitecustomize.py").write_text(DIES_ONCE.replace("WORD", word).replace("NUMBER", str(number)))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = command("bbo.nomad", "params/toy.txt", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").stat().st_size > number
    assert "died as it ended" in done.stdout
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")


def test_an_orphaned_nomad_ends(toy: Toy, tmp_path: Path) -> None:
    toy(budget=4000)
    process = start(tmp_path, "params/toy.txt")
    while len(results(tmp_path / "runs/toy")) < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    end = time.monotonic() + 3
    while ours(tmp_path):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.05)
