"""One call of BB_EXE: its words, its answer, its end."""

import sys
import time
from pathlib import Path

import pytest

from bbo.evaluate import Evaluator, words
from bbo.problem import read_problem
from tests.conftest import ROOT

POINTS = ((1.0, 0.1), (2.0, -1e-9))


def call(tmp_path: Path, code: str) -> tuple[str | None, str]:
    """The fault of a call of a small program, and what it said on stderr."""
    (tmp_path / "bb.py").write_text(code)
    log = tmp_path / "log"
    with Evaluator([sys.executable, str(tmp_path / "bb.py")], tmp_path / "tmp", log, {"OURS": "1"}) as evaluator:
        running = evaluator.start(POINTS, ["--option"], {"BBO_ASK": "7"})
        running.process.wait(20)
        fault = running.fault()
        running.close()
    assert not list((tmp_path / "tmp").iterdir())
    return fault, log.read_text()


ECHO = """
import os, sys
assert (os.environ["OURS"], os.environ["BBO_ASK"], os.environ["BBO_LIFELINE"]) == ("1", "7", "1")
assert sys.argv[1] == "--option" and os.getpgid(0) == os.getpid()
sys.stderr.write("said")
print(open(sys.argv[2]).read(), end="")
"""

FAULTS = {
    ECHO: None,
    ECHO + "sys.exit(4)": "ended with status 4",
    ECHO + "os.kill(os.getpid(), 9)": "was ended by signal 9",
    "print('1 2')": "answered 1 of 2 points",
    "print('a banner')\nprint('1')\nprint('2')": "answered 1 of 2 points",
    "print('1')\nprint('nan')": "answered 1 of 2 points",
}


@pytest.mark.parametrize("code", FAULTS, ids=range(len(FAULTS)))
def test_a_call_is_judged_as_nomad_judges_it(tmp_path: Path, code: str) -> None:
    fault, said = call(tmp_path, code)
    assert fault == FAULTS[code], said
    assert said == ("said" if code.startswith(ECHO) else "")


def test_what_a_dead_call_leaves_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, subprocess; p = subprocess.Popen(['sleep', '99']); open('pid', 'w').write(str(p.pid))\n"
    code += "os.kill(os.getpid(), 9)"
    monkeypatch.chdir(tmp_path)
    assert call(tmp_path, code)[0] == "was ended by signal 9"
    deadline = time.monotonic() + 5
    while Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat").exists() and "Z" not in status(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(tmp_path: Path) -> str:
    return Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat").read_text().split()[2]


def test_words_of_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = words(read_problem(ROOT / "params/toy.txt"))
    assert found == ["python3", "-m", "blackbox", str(ROOT / "params/toy.yaml")]
