"""What SLURM may do with a job: end its time, take its node away, let it be cancelled; and what a YAML may say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from bbo.errors import InputError
from bbo.executors import slurm
from bbo.executors.protocol import Exit, Launch
from bbo.resources import Resources, SlurmOptions

CODE = """
import os, pathlib, time
if "SLURM_RESTART_COUNT" in os.environ:
    raise SystemExit(print("again, with SET_UP", os.environ["SET_UP"]))
time.sleep(0.1)
KEEP
print(os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"], flush=True)
time.sleep(600)
"""


@pytest.mark.slurm
def test_what_slurm_does_with_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path = tmp_path / "a folder's"
    monkeypatch.setattr(slurm, "QUEUE", 1.0)
    doings = {
        "idle": (["scancel", "--signal=USR1", "--batch"], Exit(-15)),
        "preempted": (["scontrol", "requeue"], Exit(0)),
        "cancelled": (["scancel"], Exit(-9)),
        "in_time": (["scancel", "--signal=USR1", "--batch"], Exit(0)),
    }
    launches = []
    for name in doings:
        kept = tmp_path / f"{name}.kept"
        code = CODE.replace("KEEP", f"pathlib.Path({str(kept)!r}).touch()" if name == "in_time" else "")
        log = tmp_path / f"{name}.log"
        launches.append(Launch(name, [sys.executable, "-c", code], log, lambda slot: None, milestones=[kept]))
    done: set[str] = set()

    def tick() -> None:
        for name, (words, _) in doings.items():
            log = tmp_path / f"{name}.log"
            if name not in done and log.is_file() and (number := re.match(r"(\d+_\d+)\n", log.read_text())):
                subprocess.run([*words, number[1]], check=True)
                done.add(name)

    options = SlurmOptions(jobs=4, sbatch=("comment=in 'quotes'",), setup=("export SET_UP=yes",))
    executor = slurm.Slurm(Resources(executor="slurm", cpus_per_job=1, slurm=options))
    ended = {launch.job: how for launch, how in executor.run(launches, lambda launch, pid: None, tick)}
    assert ended == {name: how for name, (_, how) in doings.items()}
    for name in ("in_time", "preempted"):
        assert (tmp_path / f"{name}.log").read_text().endswith("again, with SET_UP yes\n")
    assert "not queued again: the time was too short" in (tmp_path / "idle.log").read_text()
    shown = subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True, check=True).stdout
    assert f"StdOut={tmp_path}/slurm-" in shown and "Comment=in 'quotes'" in shown
    assert not list(tmp_path.glob("*.lease")) and not list(tmp_path.glob("*.status"))


def test_times_as_yaml_reads_them() -> None:
    assert SlurmOptions(time=43200).time == "12:00:00"  # type: ignore[arg-type]
    assert SlurmOptions(time="1-04:00:00").time == "1-04:00:00"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": "4h"}, "must be HH:MM:SS or D-HH:MM:SS"),
        ({"time": "00:01:00"}, "at least 00:05:00"),
        ({"sbatch": ["--mem=4G"]}, "must be KEY=VALUE or KEY"),
        ({"sbatch": ["cpus-per-task=4"]}, "depends on its own --cpus-per-task"),
        ({"jobs": 0}, "greater than or equal to 1"),
    ],
)
def test_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SlurmOptions.model_validate(options)


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no sbatch on this machine"):
        slurm.Slurm.of(Resources(executor="slurm"))
