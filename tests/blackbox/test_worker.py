"""The resident worker: warm jobs, every way to die, nobody left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bbo.errors import MachineError
from bbo.executors import resident, slots
from bbo.executors.local import Local
from bbo.executors.protocol import INPUT_REFUSED, MACHINE_FAILED, Exit, Launch, Resident
from bbo.executors.serve import say
from bbo.experiment import read_experiment
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.store import Result, Store, write_json
from blackbox.block import Blackbox
from blackbox.recipe import Fingerprints, loaded
from blackbox.settings import read_settings
from tests.conftest import python

Write = Callable[..., Path]
Hand = Callable[..., Exit]

STUB = """
import json, os, sys, time
from pathlib import Path
from bbo import lifeline
from bbo.executors import serve
serve.LOOK, serve.PATIENCE, serve.HELLO = 0.1, 0.5, 0.5
file = Path(sys.argv[1])
lifeline.watch(lambda: serve.vanish(file))
def work(job):
    print(f"{job.stem} done by {os.getpid()}", flush=True)
    told = json.loads(job.read_text())
    time.sleep(told["seconds"])
    return told["status"]
serve.serve(file, sys.argv[2].split(","), float(sys.argv[3]), work)
"""
"""A worker that loads nothing and sleeps for its jobs."""

LAUNCHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUB!r}, *sys.argv[1:]])"
"""As accelerate's, which waits for the worker and hands stdin on."""


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Locks and sockets of this test alone; the processes that work for it end with it."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder) and process.pid != os.getpid():
                process.kill()


def launch(tmp_path: Path, name: str, seconds: float, status: int, limit: float | None, content: str) -> Launch:
    """A job for the stub."""
    file = tmp_path / f"{name}.json"
    write_json(file, {"seconds": seconds, "status": status})
    arguments, driven = [sys.executable, "-c", LAUNCHER], RUN in os.environ
    by = Resident(arguments, content, file, tmp_path / "worker.json", driven)
    return Launch(name, [], file.with_suffix(".log"), lambda slot: None, seconds=limit, resident=by)


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    """Have a job done by the stub on the slot (x, y): hand("name", seconds=1.0, status=75)."""

    def run(
        name: str = "job", seconds: float = 0.0, status: int = 0, limit: float | None = None, content: str = "this",
        tick: Callable[[], None] = lambda: None,
    ) -> Exit:  # fmt: skip
        job = launch(tmp_path, name, seconds, status, limit, content)
        ((_, how),) = Local([("x", "y")]).run([job], lambda each, pid: None, tick)
        return how

    return run


def note(tmp_path: Path) -> dict[str, Any]:
    """worker.json's entry for the slot."""
    entry: dict[str, Any] = json.loads((tmp_path / "worker.json").read_text())["gpu x y"]
    return entry


def slot_is_free() -> bool:
    slot = slots.acquire([("x", "y")])
    if slot is not None:
        slot.release()
    return slot is not None


class TestJobs:
    def test_one_worker_does_them_all(self, tmp_path: Path, own_folder: Path, hand: Hand) -> None:
        assert hand("one").status == 0
        entry = note(tmp_path)
        assert slot_is_free()
        assert hand("two").status == 0
        assert note(tmp_path) == entry
        for name in ("one", "two"):
            assert (tmp_path / f"{name}.log").read_text() == f"{name} done by {entry['pid']}\n"
        folder = own_folder / f"bbo-workers-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert Path(entry["socket"]).parent == folder

    def test_a_mistake_leaves_it_and_the_machines_failure_ends_it(self, tmp_path: Path, hand: Hand) -> None:
        assert hand(status=INPUT_REFUSED).status == INPUT_REFUSED
        first = note(tmp_path)["pid"]
        assert hand(status=MACHINE_FAILED).status == MACHINE_FAILED
        assert not lives(first)
        assert hand().status == 0
        assert note(tmp_path)["pid"] != first

    def test_other_content_has_another(self, tmp_path: Path, hand: Hand) -> None:
        hand()
        first = note(tmp_path)
        hand(content="that")
        assert note(tmp_path)["socket"] != first["socket"]

    def test_killed_in_mid_job(self, tmp_path: Path, hand: Hand) -> None:
        """The socket is left behind; who comes next starts another worker on it."""

        def kill() -> None:
            if (tmp_path / "job.log").is_file() and "done by" in (tmp_path / "job.log").read_text():
                with suppress(ProcessLookupError):
                    os.kill(note(tmp_path)["pid"], signal.SIGKILL)

        assert hand(seconds=60, tick=kill).status < 0
        first = note(tmp_path)
        assert Path(first["socket"]).exists()
        assert hand("next").status == 0
        assert note(tmp_path)["pid"] != first["pid"]

    def test_late(self, tmp_path: Path, hand: Hand) -> None:
        hand()
        assert hand(seconds=60, limit=0.3).timed_out
        assert not lives(note(tmp_path)["pid"]) and slot_is_free()

    def test_who_waits_is_told_for_whom(
        self, tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A worker that hangs is waited for, not taken for dead."""
        monkeypatch.setattr(resident, "HELLO", 0.2)
        hand()
        pid, said = note(tmp_path)["pid"], ""
        os.kill(pid, signal.SIGSTOP)

        def look() -> None:
            nonlocal said
            said += capsys.readouterr().err
            if said:
                os.kill(pid, signal.SIGCONT)

        assert hand(tick=look).status == 0
        assert f"waiting for worker {pid}, which does not answer" in said
        assert note(tmp_path)["pid"] == pid

    def test_a_worker_that_cannot_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", "/nowhere")
        job = launch(tmp_path, "job", 0, 0, None, "this")
        assert job.resident is not None
        job = replace(job, resident=replace(job.resident, arguments=[sys.executable, "-c", "exit(3)"]))
        ((_, how),) = Local([("x", "y")]).run([job], lambda each, pid: None, lambda: None)
        assert how.status < 0

    def test_more_locks_than_one_message_takes(self, tmp_path: Path, hand: Hand) -> None:
        many = tuple(f"cpu{number}" for number in range(300))
        job = launch(tmp_path, "many", 0, 0, None, "this")
        ((_, how),) = Local([many]).run([job], lambda each, pid: None, lambda: None)
        assert how.status == 0


class TestEnd:
    def test_after_an_idle_time(self, tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resident, "IDLE_ALONE", 0.5)
        hand()
        entry = note(tmp_path)
        until(lambda: not lives(entry["pid"]), 5)
        assert not Path(entry["socket"]).exists()

    def test_after_the_machines_failure(self, tmp_path: Path, hand: Hand) -> None:
        """By itself: the one that handed the job over may be gone."""
        hand()
        entry, job = note(tmp_path), tmp_path / "lost.json"
        write_json(job, {"seconds": 0, "status": MACHINE_FAILED})
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(entry["socket"])
            say(connection, {"job": str(job), "log": str(tmp_path / "lost.log")})
            until(lambda: not lives(entry["pid"]), 5)
            assert not Path(entry["socket"]).exists()

    def test_when_others_have_the_devices(self, tmp_path: Path, hand: Hand) -> None:
        hand()
        pid = note(tmp_path)["pid"]
        time.sleep(1)
        assert lives(pid), "nobody wanted the devices"
        slot = slots.acquire([("y", "z")])
        assert slot is not None
        until(lambda: not lives(pid), 5)
        slot.release()

    def test_not_with_a_second_blackbox(self, tmp_path: Path, hand: Hand, capfd: pytest.CaptureFixture[str]) -> None:
        """Two at once on one slot: one waits and is told for whom, then the same worker does its job."""
        other, pid = self.blackbox(tmp_path, 1)
        assert hand("mine").status == 0
        assert other.wait(5) == 0
        assert note(tmp_path)["pid"] == pid
        assert f"waiting for a device held by process {other.pid} in" in capfd.readouterr().err

    @pytest.mark.parametrize("busy", [True, False], ids=["in mid-job", "between jobs"])
    def test_with_the_driver(self, tmp_path: Path, busy: bool) -> None:
        """A worker has the stdin of the blackbox that started it: the driver's pipe. It survives that blackbox."""
        blackbox, pid = self.blackbox(tmp_path, 60 if busy else 0, BBO_LIFELINE="1", **{RUN: str(tmp_path)})
        if not busy:
            assert blackbox.wait(10) == 0
            time.sleep(0.5)
        assert lives(pid)
        assert blackbox.stdin is not None
        blackbox.stdin.close()
        until(lambda: not lives(pid), 1)
        blackbox.kill()

    def test_with_a_blackbox_that_is_killed_in_mid_job(self, tmp_path: Path) -> None:
        """Nothing is trained for nobody. Until the worker is gone the device is not free."""
        blackbox, pid = self.blackbox(tmp_path, 60)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        blackbox.kill()
        blackbox.wait()
        assert not slot_is_free()
        os.kill(pid, signal.SIGCONT)
        until(slot_is_free, 5)
        until(lambda: not lives(pid), 1)

    def blackbox(self, tmp_path: Path, seconds: float, **environment: str) -> tuple[subprocess.Popen[str], int]:
        """A process that has the stub do a job of so many seconds, and the pid of the worker that has begun it."""
        job = f"launch(Path({str(tmp_path)!r}), 'job', {seconds}, 0, None, 'this')"
        code = (
            "from pathlib import Path\nfrom bbo.executors.local import Local\n"
            "from tests.blackbox.test_worker import launch\n"
            f"list(Local([('x', 'y')]).run([{job}], lambda each, pid: None, lambda: None))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, text=True, env=os.environ | environment
        )
        until((tmp_path / "worker.json").exists)
        until(lambda: (tmp_path / "job.log").is_file() and "done by" in (tmp_path / "job.log").read_text())
        return process, note(tmp_path)["pid"]


class TestNonsense:
    @pytest.mark.parametrize(
        ("message", "said"),
        [
            (b"hello\n", "Expecting value"),
            (b"\xff\xfe\n", "decode"),
            (b"[" * 60000 + b"\n", "recursion"),
            (b"17\n", "a job must be"),
            (b'{"job": 3, "log": "x"}\n', "a job must be"),
            (b'{"job": "/no/such", "log": "x"}\n', "no such job file"),
            (b"", "one line of JSON"),
            (b"{", "timed out"),
        ],
    )
    def test_does_no_harm(self, tmp_path: Path, hand: Hand, message: bytes, said: str) -> None:
        hand()
        entry = note(tmp_path)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(entry["socket"])
            connection.settimeout(5)
            connection.sendall(message)
            if not message:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while heard := connection.recv(4096):
                answer += heard
        assert said in json.loads(answer)["error"]
        assert hand("next").status == 0
        assert note(tmp_path) == entry

    def test_a_folder_of_somebody_elses_is_refused(self, own_folder: Path, hand: Hand) -> None:
        (own_folder / f"bbo-workers-{os.getuid()}").symlink_to("/tmp")
        with pytest.raises(MachineError, match="belongs to somebody else"):
            hand()

    def test_a_long_temporary_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        deep = tmp_path / ("x" * 100)
        deep.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
        assert str(resident.socket_file("key")) == f"/tmp/bbo-workers-{os.getuid()}/key.sock"


def test_what_a_worker_keeps(tmp_path: Path, experiment: Write) -> None:
    """Training settings may differ from job to job; model, data, code and Accelerate's configuration may not."""
    config = tmp_path / "accelerate.yaml"
    config.write_text("debug: false")
    fingerprints = Fingerprints(Store(tmp_path))

    def kept(accelerate: Path | None = None, **changes: Any) -> str:
        return loaded(read_settings(read_experiment(experiment(**changes))), accelerate, fingerprints)

    assert kept() == kept(num_train_epochs=7, lora_dropout=0.1)
    model = read_experiment(experiment()).model
    assert isinstance(model, dict)
    different = [
        kept(),
        kept(data={"max_length": 300}),
        kept(sections={"model": model | {"dtype": "bfloat16"}}),
        kept(sections={"model": model | {"attn_implementation": "eager"}}),
        kept(config),
    ]
    config.write_text("debug: true")
    assert len({*different, kept(config)}) == 6


@pytest.mark.parametrize(
    ("others", "resident"), [({}, True), ({"worker": "fresh"}, False), ({"processes_per_job": 2}, False)]
)
def test_whose_jobs_go_to_a_worker(tmp_path: Path, experiment: Write, others: dict[str, Any], resident: bool) -> None:
    file = experiment(sections=resources(**others))
    blackbox = Blackbox(read_experiment(file), Store(tmp_path), tmp_path / "preflight.json")
    assert (blackbox.resident([], tmp_path) is not None) == resident


class TestTraining:
    """Real jobs of `python -m blackbox`, under `accelerate launch`."""

    def test_a_warm_job_and_a_killed_one(self, tmp_path: Path, experiment: Write) -> None:
        """Other training settings are the same worker's. Killed in mid-job, its point gets a process of its own."""
        self.evaluate(tmp_path, experiment(sections=resources()), 8)
        pid = self.worker(tmp_path)
        file = experiment(sections=resources(), lora_dropout=0.1, num_train_epochs=20)
        warm = self.evaluate(tmp_path, file, 4)
        assert lives(pid) and self.worker(tmp_path) == pid
        warm_start = self.start(tmp_path, warm)
        evaluation = Store(self.evals(tmp_path)).evaluation(warm.key)
        shutil.rmtree(evaluation.folder)

        def kill() -> None:
            if evaluation.progress_file.is_file():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        fresh = self.evaluate(tmp_path, file, 4, kill)
        assert (fresh.status, fresh.attempts) == ("ok", 2)
        assert "died (status -9): trying 1 point(s) again, each alone" in (tmp_path / "said").read_text()
        assert self.worker(tmp_path) == pid, "the retry started no worker"
        for metric in ("eval_loss", "train_loss"):
            assert warm.metrics[metric] == fresh.metrics[metric]
        print(f"warm start {warm_start:.3f} s, fresh start {self.start(tmp_path, fresh):.3f} s")
        assert warm_start < self.start(tmp_path, fresh) / 3  # measured: 0.4 s against 9; the machine may be busy

    def test_a_run_has_one_worker_and_ends_it(self, tmp_path: Path, experiment: Write) -> None:
        file = experiment(sections=resources())
        text = 'DIMENSION 1\nBB_EXE "$python3 $-m $blackbox experiment.yaml"\nBB_INPUT_TYPE ( I )\n'
        text += "BB_OUTPUT_TYPE OBJ\nLOWER_BOUND ( 1 )\nUPPER_BOUND ( 64 )\nX0 ( 8 )\nMAX_BB_EVAL 3\nSEED 0\n"
        file.with_suffix(".txt").write_text(text)
        self.pass_preflight(tmp_path, file)
        done = subprocess.run(
            python("bbo.nomad", "experiment.txt"), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        pid = self.worker(tmp_path)
        until(lambda: not lives(pid), 1)
        starts = sorted(self.start(tmp_path, result) for result in self.results(tmp_path))
        assert len(starts) == 3 and starts[1] < starts[2] / 3, "one start for three jobs"

    def evaluate(self, folder: Path, file: Path, rank: int, tick: Callable[[], None] = lambda: None) -> Result:
        """`python -m blackbox` in this folder, on one point."""
        self.pass_preflight(folder, file)
        before = {result.key for result in self.results(folder)}
        (folder / "point").write_text(f"{rank}\n")
        with (folder / "said").open("w") as said:
            process = subprocess.Popen(
                python("blackbox", str(file), "point"), cwd=folder, stdout=subprocess.PIPE, stderr=said, text=True
            )
            while process.poll() is None:
                tick()
                time.sleep(0.05)
        assert process.returncode == 0, (folder / "said").read_text()
        (result,) = [result for result in self.results(folder) if result.key not in before]
        return result

    def pass_preflight(self, folder: Path, file: Path) -> None:
        """It has its own tests and takes seconds."""
        blackbox = Blackbox(read_experiment(file), Store(self.evals(folder)), self.run(folder).preflight_file)
        preflight = blackbox.preflight()
        write_json(preflight.file, {"digest": preflight.digest, "report": {}, "base": {"eval_loss": 1.0}})

    def run(self, folder: Path) -> Run:
        return Run(folder / "runs/experiment")

    def evals(self, folder: Path) -> Path:
        return self.run(folder).evals

    def results(self, folder: Path) -> list[Result]:
        return [result for evaluation in Store(self.evals(folder)) if (result := evaluation.result())]

    def worker(self, folder: Path) -> int:
        """The pid of the only worker noted."""
        (entry,) = json.loads(self.run(folder).worker_file.read_text()).values()
        return int(entry["pid"])

    def start(self, folder: Path, result: Result) -> float:
        """Seconds of a job of one point that were neither training nor scoring: the start and a little more."""
        job = json.loads((self.evals(folder) / ".jobs" / f"{result.job}.json").read_text())
        return float(result.finished - job["launched"] - result.phases["train"] - result.phases["score"])


def resources(**others: Any) -> dict[str, Any]:
    """One core, and so one thread, whose sums have one order."""
    return {"resources": {"cpus_per_job": 1, "keep": "none", **others}}
