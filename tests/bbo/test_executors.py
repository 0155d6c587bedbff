"""Slots are held by one job at a time; jobs end with their exit, their time or us."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bbo.errors import InputError, MachineError
from bbo.executors import slots
from bbo.executors.local import Launch, run


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of this test alone, so that a training elsewhere on the machine does not disturb it."""
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))


def job(tmp_path: Path, name: str, code: str, seconds: float | None = None) -> Launch:
    return Launch(name, [sys.executable, "-c", code], tmp_path / f"{name}.log", lambda slot: None, seconds=seconds)


def test_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    assert slots.slots_of(1, None) == [("2",), ("3",), ("5",)]
    assert slots.slots_of(None, None) == [("2",), ("3",), ("5",)]
    assert slots.slots_of(2, None) == [("2", "3")]
    with pytest.raises(InputError, match="gpus_per_job: 4 asked for, but this machine shows 3"):
        slots.slots_of(4, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(slots, "cores", lambda: 4)
    assert slots.slots_of(None, None) == [("cpu0", "cpu1", "cpu2", "cpu3")]
    assert slots.slots_of(0, 2) == [("cpu0", "cpu1"), ("cpu2", "cpu3")]


def test_a_device_has_one_holder() -> None:
    first = slots.acquire([("a", "b")])
    assert first is not None
    assert slots.acquire([("b", "c")]) is None
    second = slots.acquire([("b", "c"), ("c", "d")])
    assert second is not None
    assert second.devices == ("c", "d")
    assert "process" in slots.holders([("a",)])
    first.release()
    assert slots.acquire([("a", "b")]) is not None


def test_who_looks_at_a_device_does_not_hold_it() -> None:
    assert not slots.taken(("a", "b"))
    held = slots.acquire([("b",)])
    assert held is not None and slots.taken(("a", "b")) and not slots.taken(("a",))
    held.release()
    assert not slots.taken(("a", "b"))


def test_a_folder_of_ours_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = slots.own_folder("bbo-x")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(MachineError, match="open to others"):
        slots.own_folder("bbo-x")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(MachineError, match="belongs to somebody else"):
        slots.own_folder("bbo-x")
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    (tmp_path / f"bbo-x-{me + 1}").mkdir(mode=0o700)
    with pytest.raises(MachineError, match="belongs to somebody else"):
        slots.own_folder("bbo-x")


def test_exits_come_as_the_jobs_end(tmp_path: Path) -> None:
    launches = [
        job(tmp_path, "slow", "import time; time.sleep(0.6)"),
        job(tmp_path, "bad", "import sys; print('why'); sys.exit(3)"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
    ]
    started: list[str] = []
    ended = [
        (launch.job, how.status)
        for launch, how in run(launches, [("x",), ("y",)], lambda launch, pid: started.append(launch.job), lambda: None)
    ]
    assert started == ["slow", "bad", "killed"]
    assert ended == [("bad", 3), ("killed", -9), ("slow", 0)]
    assert (tmp_path / "bad.log").read_text() == "why\n"


def test_a_late_job_is_killed_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess; subprocess.run(['sleep', '100.25'])"
    began = time.monotonic()
    [(_, how)] = run([job(tmp_path, "late", code, seconds=0.5)], [("x",)], lambda launch, pid: None, lambda: None)
    assert how.timed_out
    assert time.monotonic() - began < 10
    assert subprocess.run(["pgrep", "-f", "sleep 100.25"], capture_output=True, check=False).returncode == 1


def test_closing_kills_what_runs(tmp_path: Path) -> None:
    pids: list[int] = []
    launches = [job(tmp_path, "a", "pass"), job(tmp_path, "b", "import time; time.sleep(100)")]
    running = run(launches, [("x",), ("y",)], lambda launch, pid: pids.append(pid), lambda: None)
    next(running)
    running.close()
    assert slots.acquire([("x", "y")]) is not None


class Elsewhere:
    """A job that is no process of ours: ends with status 7 after some looks, or never."""

    def __init__(self, launch: Launch, slot: slots.Slot) -> None:
        self.pid, self.looks, self.killed = 4711, int(launch.arguments[0]), 0

    def poll(self) -> int | None:
        self.looks -= 1
        return 7 if self.looks == 0 else None

    def kill(self) -> None:
        self.killed += 1


def test_a_job_may_be_done_elsewhere(tmp_path: Path) -> None:
    """Same slots, same time limit, same end: the executor asks for two verbs and a process id."""
    jobs: list[Elsewhere] = []
    pids: list[int] = []
    prepared: list[str] = []

    def start(launch: Launch, slot: slots.Slot) -> Elsewhere:
        assert prepared[-1] == slot.name
        jobs.append(Elsewhere(launch, slot))
        return jobs[-1]

    def launch(looks: int, seconds: float | None = None) -> Launch:
        def prepare(slot: slots.Slot) -> None:
            prepared.append(slot.name)

        return Launch(f"job{looks}", [str(looks)], tmp_path / "log", prepare, seconds=seconds, start=start)

    late, done = launch(-1, seconds=0.2), launch(2)
    ended = [how for _, how in run([done, late], [("x",)], lambda _, pid: pids.append(pid), lambda: None)]
    assert (ended[0].status, ended[0].timed_out, ended[1].timed_out) == (7, False, True)
    running = run([done, launch(-1)], [("x",), ("y",)], lambda _, pid: pids.append(pid), lambda: None)
    next(running)
    running.close()
    assert pids == [4711] * 4
    assert [job.killed for job in jobs] == [1] * 4
    assert slots.acquire([("x", "y")]) is not None


def test_a_job_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    """The lifeline, through a launcher in between, as accelerate is one."""
    trainer = "import bbo.lifeline as l, os, time; l.watch(); print(os.getpid(), flush=True); time.sleep(100)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {trainer!r}])"
    starter = (
        "import sys; from pathlib import Path; from bbo.executors.local import Launch, run\n"
        f"arguments, log = [sys.executable, '-c', {launcher!r}], Path({str(tmp_path / 'log')!r})\n"
        "launch = Launch('j', arguments, log, lambda slot: None)\n"
        "list(run([launch], [('z',)], lambda launch, pid: None, lambda: None))"
    )
    process = subprocess.Popen([sys.executable, "-c", starter])
    log = tmp_path / "log"
    deadline = time.monotonic() + 20
    while not (log.is_file() and log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int(log.read_text())
    process.kill()
    process.wait()
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
