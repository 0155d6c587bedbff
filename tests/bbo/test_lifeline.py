"""A process on another host lives as long as its lease is renewed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bbo import lifeline
from tests.conftest import ROOT

CHILD = """
import bbo.lifeline as l, sys, time
l.BEAT, l.PATIENCE = 0.1, 1.0
l.watch()
print("begins", flush=True)
time.sleep(100)
"""


def start(file: Path) -> subprocess.Popen[str]:
    environment = os.environ | {lifeline.LEASE: str(file)}
    return subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, env=environment, stdout=-1, text=True)


def test_it_ends_when_nobody_renews_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "BEAT", 0.1)
    with lifeline.lease(tmp_path / "lease"):
        child = start(tmp_path / "lease")
        assert child.stdout is not None and child.stdout.readline() == "begins\n"
        time.sleep(2)
        assert child.poll() is None
    assert child.wait(20) == -9


@pytest.mark.parametrize("left", [True, False], ids=["a dead one's file", "no file"])
def test_it_does_not_begin_for_nobody(tmp_path: Path, left: bool) -> None:
    if left:
        (tmp_path / "lease").write_text("4711 000000000012")
    child = start(tmp_path / "lease")
    assert child.communicate(timeout=20)[0] == ""
    assert child.returncode == -9
