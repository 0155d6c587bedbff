"""What every executor must do, tried on all of them: each is made with two slots of one device."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest

from bbo.executors.choose import executor_of
from bbo.executors.local import Local
from bbo.executors.protocol import Executor, Exit, Launch
from bbo.executors.slots import cores
from bbo.executors.slurm import Slurm
from bbo.resources import Resources, SlurmOptions
from tests.bbo.executors.nodes import require_ray, two_machines
from tests.conftest import ROOT

Make = Callable[[Path], Executor]

MOST = 60.0
"""Seconds that anything may take here: a cluster is slow to start a job, and the machine may be busy."""


def local(folder: Path) -> Executor:
    return Local([("x",), ("y",)])


def ray(folder: Path, **options: str) -> Executor:
    """A Ray of this machine alone, as long as we live, which shares the cores over two slots."""
    cpus = 1 if options else max(1, cores() // 2)
    about = {"executor": "ray", "gpus_per_job": 0, "cpus_per_job": cpus, "worker": "fresh"}
    return executor_of(Resources.model_validate({**about, "ray": options}), folder / "run")


def ray_apart(folder: Path) -> Executor:
    """Two machines without a shared folder."""
    return ray(folder, address=(folder / "address").read_text())


def slurm(folder: Path) -> Executor:
    return Slurm(Resources(executor="slurm", cpus_per_job=1, slurm=SlurmOptions(jobs=2)))


EXECUTORS = {"local": local, "ray": ray, "ray_apart": ray_apart, "slurm": slurm}
"""How each is made, in a folder of the test module's."""

MARKS = {"ray": [pytest.mark.ray], "ray_apart": [pytest.mark.ray], "slurm": [pytest.mark.slurm]}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in EXECUTORS], scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def executor(name: str, own_locks: Path) -> Iterator[Executor]:
    if name.startswith("ray"):
        require_ray()
    with two_machines(own_locks) if name == "ray_apart" else nullcontext():
        yield EXECUTORS[name](own_locks)


def job(folder: Path, name: str, code: str, seconds: float | None = None) -> Launch:
    return Launch(name, [sys.executable, "-c", code], folder / f"{name}.log", lambda slot: None, seconds=seconds)


def waits_for(file: Path) -> str:
    """Code of a job that ends when this file appears."""
    return f"import pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.05)"


def run(
    executor: Executor, launches: Sequence[Launch], tick: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, Exit]]:
    for launch, how in executor.run(launches, lambda launch, pid: None, tick):
        yield launch.job, how


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + MOST
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def pid_in(file: Path) -> int | None:
    """What a job has written about itself."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def test_how_many_and_what(executor: Executor) -> None:
    assert executor.count() == 2
    assert executor.devices


def test_exits_come_as_the_jobs_end(executor: Executor, tmp_path: Path) -> None:
    """Each kind of end, and who started first does not end first."""
    slow, begun = job(tmp_path, "slow", waits_for(tmp_path / "go")), []
    launches = [
        slow,
        job(tmp_path, "good", "print('done')"),
        job(tmp_path, "bad", "import sys; print('why', file=sys.stderr); sys.exit(3)"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
    ]
    ended = []
    for launch, how in executor.run(launches, lambda launch, pid: begun.append(launch.job), lambda: None):
        ended.append((launch.job, how.status, how.timed_out))
        if len(ended) == 3:
            (tmp_path / "go").touch()
    assert ended == [("good", 0, False), ("bad", 3, False), ("killed", -9, False), ("slow", 0, False)]
    assert sorted(begun) in ([], ["bad", "good", "killed", "slow"])
    assert (tmp_path / "good.log").read_text() == "done\n"
    assert (tmp_path / "bad.log").read_text() == "why\n"


def test_prepared_on_its_slot_before_it_starts(executor: Executor, tmp_path: Path) -> None:
    slots = []

    def prepare(name: str) -> Callable[..., None]:
        return lambda slot: (slots.append(slot), (tmp_path / name).write_text("there"))[0]

    launches = [
        Launch(
            name, [sys.executable, "-c", f"print(open({str(tmp_path / name)!r}).read())"], tmp_path / f"{name}.log",
            prepare(name),
        )
        for name in ("one", "two", "three")
    ]  # fmt: skip
    assert sorted((name, how.status) for name, how in run(executor, launches)) == [
        ("one", 0), ("three", 0), ("two", 0),
    ]  # fmt: skip
    assert all(slot.name and slot.devices for slot in slots) and len(slots) == 3
    assert (tmp_path / "three.log").read_text() == "there\n"


def test_a_late_job_is_killed_with_its_children(executor: Executor, tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = "import pathlib, subprocess; sleep = subprocess.Popen(['sleep', '600'])\n"
    code += f"pathlib.Path({str(child)!r}).write_text(str(sleep.pid)); sleep.wait()"
    launches = [job(tmp_path, "late", code, seconds=3.0), job(tmp_path, "good", "pass", seconds=MOST)]
    ended = dict(run(executor, launches))
    assert ended["late"].timed_out and ended["late"].status < 0
    assert ended["good"] == Exit(0)
    pid = pid_in(child)
    assert pid is not None
    until(lambda: not lives(pid))


def test_closing_kills_what_runs(executor: Executor, tmp_path: Path) -> None:
    launches = [job(tmp_path, "stays", SLEEPS), job(tmp_path, "ends", waits_for(tmp_path / "stays.log"))]
    running = run(executor, launches)
    assert next(running) == ("ends", Exit(0))
    until(lambda: pid_in(tmp_path / "stays.log"))
    pid = pid_in(tmp_path / "stays.log")
    running.close()
    assert pid is not None and not lives(pid)
    more = [job(tmp_path, f"next{number}", "pass") for number in range(2)]
    assert dict(run(executor, more)) == {"next0": Exit(0), "next1": Exit(0)}


def test_a_worker_that_vanishes(executor: Executor, tmp_path: Path) -> None:
    """Whoever ends the process from outside: its job is over, the others are not."""
    launches = [job(tmp_path, "gone", SLEEPS), job(tmp_path, "good", waits_for(tmp_path / "go"))]

    def kill() -> None:
        pid = pid_in(tmp_path / "gone.log")
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    running = run(executor, launches, kill)
    assert next(running) == ("gone", Exit(-signal.SIGKILL))
    (tmp_path / "go").touch()
    assert list(running) == [("good", Exit(0))]


def test_noise(executor: Executor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever a job writes is in its log alone."""
    code = "import os, sys\nfor _ in range(2000): print('x' * 999)\n"
    code += "sys.stdout.flush(); os.write(2, bytes(range(256)) + b'end')"
    assert list(run(executor, [job(tmp_path, "loud", code)])) == [("loud", Exit(0))]
    log = (tmp_path / "loud.log").read_bytes()
    assert log.count(b"x" * 999 + b"\n") == 2000 and log.endswith(bytes(range(256)) + b"end")
    assert capfd.readouterr().out == ""


def test_many_jobs(executor: Executor, tmp_path: Path) -> None:
    """More than slots; never more at work than there are slots."""
    code = (
        "import os, pathlib, time\n"
        f"me = pathlib.Path({str(tmp_path)!r}, f'at-work-{{os.getpid()}}'); me.touch()\n"
        "assert len(list(me.parent.glob('at-work-*'))) <= 2; time.sleep(0.02); me.unlink()"
    )
    launches = [job(tmp_path, f"job{number}", code) for number in range(20)]
    ended = dict(run(executor, launches))
    assert ended == {launch.job: Exit(0) for launch in launches}


def test_a_command_that_cannot_start(executor: Executor, tmp_path: Path) -> None:
    (end,) = run(executor, [job(tmp_path, "broken", "this is no Python")])
    assert end == ("broken", Exit(1))
    assert "SyntaxError" in (tmp_path / "broken.log").read_text()


def test_jobs_end_when_their_starter_is_killed(name: str, executor: Executor, own_locks: Path, tmp_path: Path) -> None:
    """Also through a launcher in between, as accelerate is one."""
    trainer = f"import bbo.lifeline as l, os, time; l.watch(); {SLEEPS}"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {trainer!r}])"
    starter = (
        "import sys; from pathlib import Path; from tests.bbo.executors.test_conformance import EXECUTORS, job\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"launch = job(folder, 'j', {launcher!r})\n"
        f"executor = EXECUTORS[{name!r}](Path({str(own_locks)!r}))\n"
        "list(executor.run([launch], lambda launch, pid: None, lambda: None))"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=ROOT)
    until(lambda: pid_in(tmp_path / "j.log"))
    pid = pid_in(tmp_path / "j.log")
    process.kill()
    process.wait()
    assert pid is not None
    until(lambda: not lives(pid))
