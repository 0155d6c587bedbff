"""A whole run as one job: what is written, what is refused, and how it goes through a real SLURM and OAR's stand-in."""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, python
from tests.runs import results, walk

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLES = [ROOT / "runs" / name for name in ("bbo3.slurm", "squad.slurm", "ola.oar")]
SLURM = ["--to", "slurm", "--time", "00:10:00"]
OAR = ["--to", "oar", "--time", "00:10:00"]
PATIENCE = 240


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_what_their_command_prints(script: Path) -> None:
    text = script.read_text()
    bbo, submit, *arguments = shlex.split(text.splitlines()[1].removeprefix("# "))
    assert (bbo, submit) == ("bbo", "submit")
    words = python("bbo.cli", submit, "--dry-run", *arguments)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == text
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "slurm", "--time", "1h"], "--time 1h: must be HH:MM:SS or D-HH:MM:SS"),
        (["--to", "slurm", "--time", "00:01:00"], "--time 00:01:00: must be at least 00:05:00"),
        ([*SLURM, "--oarsub", "queue=x"], "--oarsub queue=x: an option of another scheduler than --to slurm"),
        ([*SLURM, "--sbatch", "output=x"], "--sbatch output=x: the script depends on its own --output"),
        ([*SLURM, "--sbatch", "mem=1\nrm -rf /"], "must be KEY=VALUE or KEY"),
        ([*SLURM, "--sbatch", "-p=x"], "must be KEY=VALUE or KEY"),
        ([*SLURM, "--setup", "none.sh"], "--setup none.sh: cannot be read: No such file or directory"),
        ([*SLURM, "--", "--optimizer", "tpx"], "--optimizer tpx"),
        ([*SLURM, "--", "--run", "runs/a b"], "runs/a b: a scheduler takes no path with spaces"),
        ([*OAR, "--", "--run", "new"], "--to oar: there is no oarsub on this machine; --dry-run prints the script"),
    ],
)  # fmt: skip
def test_refused_with_one_sentence(toy: Toy, command: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    toy()
    done = command("bbo.cli", "submit", "params/toy.txt", *arguments)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") <= 2
    assert not (tmp_path / "runs").exists()


def test_more_gpus_per_job_than_the_job_has(toy: Toy, command: Command) -> None:
    toy(in_yaml={"outputs:": "resources: {gpus_per_job: 2}\noutputs:"})
    done = command("bbo.cli", "submit", "params/toy.txt", *SLURM, "--gpus", "1", "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"--gpus 1: resources.gpus_per_job of \S+toy.yaml is 2\n", done.stderr)


def test_setup_lines_come_before_the_command(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy()
    (tmp_path / "mine.sh").write_text("module load cuda\nexport X='a b'\n")
    options = ["--gpus", "2", "--sbatch", "exclusive", "--sbatch", "job-name=x", "--setup", "mine.sh"]
    done = command("bbo.cli", "submit", "params/toy.txt", *SLURM, *options, "--dry-run", "--", "--optimizer", "tpe")
    lines = done.stdout.splitlines()
    assert lines.index("export X='a b'") < lines.index("bbo run params/toy.txt --optimizer tpe &")
    given = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert given == [
        "nodes=1", "ntasks=1", "gpus=2", "time=00:10:00", "output=runs/toy-tpe/slurm-%j.out", "open-mode=append",
        "requeue", "signal=B:USR1@120", "exclusive", "job-name=x",
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def check_ended(tmp_path: Path, job: str, starts: int) -> None:
    """The log has so many starts and ends, the last one good; the CSV has all evaluations."""
    log = (tmp_path / f"runs/toy/{job}.out").read_text()
    assert len(re.findall(r"^START \d+ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", log, re.MULTILINE)) == starts, log
    assert re.findall(r"^FINISH .* status (\d+)$", log, re.MULTILINE)[-1] == "0", log
    table = rows(tmp_path / f"runs/toy/{job}.csv")
    assert len(table) == 8
    assert {"hp_learning_rate", "metric_eval_loss"} <= table[0].keys()


@pytest.mark.slurm
class TestSlurm:
    @pytest.fixture
    def job(self, toy: Toy, command: Command, tmp_path: Path) -> Iterator[str]:
        """A submitted run of the toy at work, and what an uninterrupted one walks in runs/whole."""
        toy(budget=8, seconds=0.1)
        assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
        done = command("bbo.cli", "submit", "params/toy.txt", *SLURM, "--gpus", "1")
        assert done.returncode == 0, done.stderr
        number = re.search(r": job (\d+); its log: runs/toy/slurm-\1.out", done.stdout)
        assert number
        yield number[1]
        subprocess.run(["scancel", number[1]], check=False)

    def state(self, job: str) -> str:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
        return re.search(r"JobState=(\w+)", shown)[1]  # type: ignore[index]

    def test_out_of_time_then_preempted(self, job: str, tmp_path: Path) -> None:
        """The signal before the time is over and the one that takes the node away: both times it goes on."""
        before: dict[str, float] = {}
        for take in (["scancel", "--signal=USR1", "--batch", job], ["scontrol", "requeue", job]):
            until(lambda: len(results(tmp_path / "runs/toy")) >= len(before) + 1)  # noqa: B023
            subprocess.run(take, check=True)
            until(lambda: self.state(job) == "PENDING")
            before = results(tmp_path / "runs/toy")
            assert len(before) < 8
        until(lambda: self.state(job) == "COMPLETED")
        assert before.items() <= results(tmp_path / "runs/toy").items(), "trained twice"
        assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")
        check_ended(tmp_path, f"slurm-{job}", starts=3)

    def test_a_wrong_option_is_slurms_to_refuse(self, toy: Toy, command: Command, tmp_path: Path) -> None:
        toy()
        done = command("bbo.cli", "submit", "params/toy.txt", *SLURM, "--sbatch", "partition=nowhere")
        assert done.returncode == 1
        said = "sbatch refused the job: Batch job submission failed: Invalid partition name specified\n"
        assert done.stderr == said
        assert not (tmp_path / "runs").exists()


OARSUB = r'''#!PYTHON
"""Takes a script as OAR does, runs it, and runs it again under another number while it ends with status 99."""
import os, pathlib, re, subprocess, sys
option, script = sys.argv[1:]
assert option == "--script" and os.access(script, os.X_OK)
given = {}
for line in pathlib.Path(script).read_text().splitlines():
    if line.startswith("#OAR"):
        found = re.fullmatch(r"#OAR --(name|resource|queue|property|type|checkpoint|stdout|stderr) (\S.*)", line)
        if not found:
            sys.exit(f"/!\\ Not able to scan file line: {line}")
        given.setdefault(found[1], []).append(found[2])
assert "idempotent" in given["type"] and int(given["checkpoint"][0]) > 0
print("OAR_JOB_ID=1", flush=True)
if os.fork() == 0:
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for number in range(1, 9):
        with open(given["stdout"][0].replace("%jobid%", str(number)), "ab") as out:
            job = subprocess.Popen([os.path.abspath(script)], stdin=-3, stdout=out, stderr=out,
                                   env=os.environ | {"OAR_JOB_ID": str(number)})
        pathlib.Path(f"job{number}").write_text(str(job.pid))
        if job.wait() != 99:
            break
    pathlib.Path("over").write_text(str(job.returncode))
'''


class TestOar:
    @pytest.fixture
    def submit(self, toy: Toy, tmp_path: Path, command: Command) -> Callable[[float], None]:
        def call(seconds: float) -> None:
            toy(budget=8, seconds=seconds)
            (tmp_path / "bin").mkdir()
            (tmp_path / "bin/oarsub").write_text(OARSUB.replace("PYTHON", sys.executable))
            (tmp_path / "bin/oarsub").chmod(0o755)
            path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
            options = [
                "--oarsub",
                "queue=testing",
                "--oarsub",
                "property=cluster='chuc'",
                "--oarsub",
                "type=besteffort",
            ]
            done = command("bbo.cli", "submit", "params/toy.txt", *OAR, "--gpus", "1", *options, PATH=path)
            assert done.returncode == 0, done.stderr
            assert "job 1; its log: runs/toy/oar-1.out" in done.stdout
            written = (tmp_path / "runs/toy/job.oar").read_text()
            assert "\n#OAR --resource /host=1/gpu=1,walltime=00:10:00\n" in written
            assert "\n#OAR --property cluster='chuc'\n" in written

        return call

    def out_of_time(self, tmp_path: Path) -> None:
        os.kill(int((tmp_path / "job1").read_text()), signal.SIGUSR2)

    def test_out_of_time(self, submit: Callable[[float], None], command: Command, tmp_path: Path) -> None:
        submit(0.1)
        until(lambda: len(results(tmp_path / "runs/toy")) >= 2)
        self.out_of_time(tmp_path)
        until((tmp_path / "over").is_file)
        assert (tmp_path / "over").read_text() == "0"
        assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
        assert "status 130" in (tmp_path / "runs/toy/oar-1.out").read_text()
        assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")
        check_ended(tmp_path, "oar-2", starts=1)

    def test_no_epoch_in_its_time(self, submit: Callable[[float], None], tmp_path: Path) -> None:
        """Another start would end the same way, for ever."""
        submit(60)
        until((tmp_path / "runs/toy/log.jsonl").is_file)
        self.out_of_time(tmp_path)
        until((tmp_path / "over").is_file)
        assert (tmp_path / "over").read_text() == "130"
        assert "not queued again: the time was too short" in (tmp_path / "runs/toy/oar-1.out").read_text()
        assert not (tmp_path / "job2").exists()
