"""What a call of the blackbox does is the same whether 20 evaluations are stored or 600: counted, not timed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.overhead import Filled, _driver
from tests.conftest import ROOT

READ = Path("/proc/self/io")


def bytes_read() -> int:
    return int(READ.read_text().split()[1])


def work(call: Callable[[], object]) -> tuple[int, int]:
    """Lines of Python run, a loop's again and again, and bytes read."""
    lines = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += event == "line"
        return count

    before, tracer = bytes_read(), sys.gettrace()
    sys.settrace(count)  # type: ignore[arg-type]
    try:
        call()
    finally:
        sys.settrace(tracer)
    return lines, bytes_read() - before


def measured(folder: Path, count: int) -> dict[str, tuple[int, int]]:
    filled = Filled(folder, count, 2)
    filled.session(count - 3)
    filled.call(filled.points[-3], filled.in_process)  # checks what was taken before, once
    poll = _driver(filled)
    points = {"replayed": filled.points[-2], "once more": filled.points[-1], "stored": filled.stored[0]}
    points |= {"warm": filled.point(), "new": filled.point()}
    found = {name: work(partial(filled.call, point, filled.in_process)) for name, point in points.items()}
    return {**found, "poll with news": work(poll), "poll": work(poll)}


@pytest.mark.skipif(not READ.is_file(), reason="only Linux counts what a process reads")
def test_no_call_walks_over_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBO_SESSION", "")
    few, many = measured(tmp_path / "few", 20), measured(tmp_path / "many", 600)
    for name in ("replayed", "stored", "new", "poll with news", "poll"):
        lines, read = (new - old for old, new in zip(few[name], many[name], strict=True))
        assert lines < 100, f"{name}: {few[name]} -> {many[name]}"
        assert read < 100_000, f"{name}: {few[name]} -> {many[name]}"  # pages of SQLite, whose trees are deeper


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.overhead", "--counts", "4,8", "--calls", "3", "--json", "x/o.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "x/o.json").read_text())
    assert list(written["ms_per_evaluation"]) == ["4", "8"]
    assert written["machine"]["cores"] > 0
    assert written["trend"] in " ".join(done.stdout.split("\n"))
