"""An index that does not fit the log or the session is begun anew; one that fits never reads a line twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bbo.errors import MachineError
from bbo.index import Index, Recorded
from bbo.replay import Unanswered
from bbo.run import Run
from bbo.runlog import Answer, RunLog
from bbo.session import Session, Superseded, open_session
from bbo.store import Store
from tests.bbo.test_replay import A, B, C, Nomad


def recorded(nomad: Nomad) -> list[Recorded]:
    index = nomad.index
    with index.locked():
        return index.at(0, 99)


def test_an_index_says_what_the_log_says(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    native = Index(nomad.run, None)
    nomad.tell(*nomad.take([A]), float("inf"))
    with native.locked():
        assert native.ask([B], ["b"], native=True)[0].number == 2
    nomad.take([B, C])
    nomad.index.answer(Answer(3, None, "declined", 0.0))
    nomad.index.answer(Answer(3, (2.0,), "store", 0.0))
    index = nomad.index
    with index.locked():
        index.ask([B], ["low b"], fidelity={"epochs_fraction": 0.5}, surrogate=True)
        index.ask([A], ["a"])
    log = RunLog(nomad.run.log_file)
    known = recorded(nomad)
    assert [each.ask for each in known] == log.replayed
    assert [each.evaluation for each in known] == [0, 1, 2, None, 3]
    assert [each.ask for each in known if each.evaluation is not None] == log.driven
    assert [each.answer for each in known] == [log.answers.get(ask.number) for ask in log.replayed]
    index = nomad.index
    with index.locked():
        assert (index.of(B), index.of(B, surrogate=True), index.of(A, surrogate=True)) == (known[1], known[3], None)
        assert [answer for _, answer in index.news()] == log.arrived
        assert index.news() == []


def test_zero_has_one_sign(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.take([(0.0, 1.0)], {(0.0, 1.0): "z"})
    index = nomad.index
    with index.locked():
        assert index.of((-0.0, 1.0)) is not None


def test_an_index_of_another_session_is_begun_anew(tmp_path: Path) -> None:
    first = Nomad(tmp_path)
    first.tell(*first.take([A]))
    again = Nomad(tmp_path)
    assert [ask.number for ask in again.take([A])] == [1]
    again.hear(A, "1.0")
    assert [ask.number for ask in again.take([B])] == [2]


def test_an_orphan_does_not_even_answer(tmp_path: Path) -> None:
    orphan = Nomad(tmp_path)
    (ask,) = orphan.take([A])
    session = Nomad(tmp_path)
    session.take([A])
    before = session.run.log_file.read_bytes(), session.run.index_file.read_bytes()
    with pytest.raises(Superseded):
        orphan.index.answer(Answer(ask.number, (1.0,), "trained", 0.0))
    assert (session.run.log_file.read_bytes(), session.run.index_file.read_bytes()) == before


@pytest.mark.parametrize("harm", ["missing", "empty", "garbage", "torn", "log cut"])
def test_what_does_not_fit_leads_to_a_replay(tmp_path: Path, harm: str) -> None:
    """The place in the session is lost with the index; what NOMAD noted shows it, and the next session goes on."""
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    nomad.tell(*nomad.take([B]))
    file, log = nomad.run.index_file, nomad.run.log_file
    if harm == "missing":
        file.unlink()
    elif harm == "log cut":
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    else:
        file.write_bytes({"empty": b"", "garbage": b"garbage" * 999, "torn": file.read_bytes()[:4096]}[harm])
    with pytest.raises((Unanswered, MachineError)):
        nomad.take([C])
    again = Nomad(tmp_path)
    for point in (A, B):
        again.tell(*again.take([point]))
    assert [ask.number for ask in again.take([C])] == [3]


def test_killed_between_the_log_and_the_index(tmp_path: Path) -> None:
    """The index then is that of before: the lines it lacks are read by the next call."""
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    (ask,) = nomad.take([B])
    before = nomad.run.index_file.read_bytes()
    nomad.tell(ask)
    nomad.run.index_file.write_bytes(before)
    assert [ask.number for ask in nomad.take([C])] == [3]
    nomad.run.index_file.write_bytes(before)  # now that call never came as far as the index, and never answered
    nomad.hear(C, "")
    with pytest.raises(Unanswered):
        nomad.take([A])


def test_kill_9_within_a_transaction(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    code = (
        "import os, sys; from pathlib import Path\n"
        "from bbo.index import Index; from bbo.run import Run; from bbo.session import read_session\n"
        "run = Run(Path(sys.argv[1])); index = Index(run, read_session(run))\n"
        "with index.locked():\n"
        "    index._db.execute('PRAGMA cache_size = 1')\n"
        "    index.ask([(float(i), 0.5) for i in range(2000)], ['k'] * 2000)\n"  # so many that pages are on disk
        "    index.state.done = 5\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert nomad.run.index_file.with_name("index.sqlite-journal").is_file(), "nothing was half-written"
    index = nomad.index
    with index.locked():
        assert index.state.done == 1
        assert [each.ask for each in index.at(0, 9999)] == RunLog(nomad.run.log_file).driven
    nomad.hear((0.0, 0.5), "")
    with pytest.raises(Unanswered, match="before NOMAD read"):
        nomad.take([C])


def test_forgetting_reaches_the_index(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    nomad.tell(*nomad.take([B]))
    RunLog(nomad.run.log_file).forget(2)
    assert [each.ask.number for each in recorded(nomad)] == [1]
    with pytest.raises(Unanswered):
        nomad.take([C])
    again = Nomad(tmp_path)
    again.tell(*again.take([A]))
    assert [(ask.number, ask.point) for ask in again.take([C])] == [(2, C)]


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    open_session(run, run.log(), Store(tmp_path), None, in_order=False)
    code = (
        "import sys; from pathlib import Path\n"
        "from bbo.index import Index; from bbo.replay import take; from bbo.run import Run\n"
        "from bbo.runlog import Answer; from bbo.session import read_session\n"
        "run = Run(Path(sys.argv[1])); session = read_session(run)\n"
        "for i in range(20):\n"
        "    index = Index(run, session)\n"
        "    (known,) = take(run, index, session, [(float(sys.argv[2]), float(i))], ['k'])\n"
        "    index.answer(Answer(known.ask.number, (1.0,), 'trained', 0.0))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    log = RunLog(run.log_file)
    assert [ask.number for ask in log.driven] == list(range(1, 81))
    assert sorted(log.answers) == list(range(1, 81))
    index = Index(run, Session(**json.loads(run.session_file.read_text())))
    with index.locked():
        assert [each.ask for each in index.at(0, 99)] == log.driven
        assert index.state.done == 80


def test_a_folder_that_takes_no_index_is_one_sentence(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    os.mkdir(nomad.run.index_file)
    with pytest.raises(MachineError, match=r"index\.sqlite: unable to open"):
        nomad.take([A])
