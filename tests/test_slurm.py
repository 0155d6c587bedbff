"""Real trainings as jobs of a real SLURM: what is killed, taken away or out of time changes no result."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.bbo.executors.nodes import require_ray
from tests.conftest import ROOT, python
from tests.runs import kind, ours, results, start, walk
from tests.test_quickstart import write_pair

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PATIENCE = 240


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def jobs() -> list[str]:
    """Numbers of the jobs of ours in the queue."""
    asked = ["squeue", "--noheader", "--array", "--name=bbo", "--format=%i"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Write the quickstart pair for an executor: trainings of some epochs, two jobs at a time."""

    def write(executor: str) -> None:
        yaml_file = write_pair(tmp_path / "params", budget=3).with_suffix(".yaml")
        document = yaml.safe_load(yaml_file.read_text())
        document["training"]["num_train_epochs"] = 4
        document["resources"] = {"executor": executor, "cpus_per_job": 1}
        if executor == "slurm":
            document["resources"]["slurm"] = {"jobs": 2, "setup": ["export SET_UP=yes"]}
        if executor == "ray":
            document["resources"]["ray"] = {"address": "auto", "shared_folder": True}
        yaml_file.write_text(yaml.safe_dump(document, sort_keys=False))

    yield write
    for number in jobs():
        subprocess.run(["scancel", number], check=False)


def trainers(folder: Path) -> list[psutil.Process]:
    return [process for process in ours(folder) if kind(process) == "trainer"]


def test_the_same_best_whatever_happens(pair: Callable[[str], None], tmp_path: Path) -> None:
    """A trainer is killed, a job taken away after an epoch, then driver, NOMAD and blackbox are killed."""
    run = tmp_path / "runs/quickstart"
    pair("slurm")
    driver = start(tmp_path, "params/quickstart.txt")

    until(lambda: trainers(tmp_path) or driver.poll() is not None)
    trainers(tmp_path)[0].kill()
    until(lambda: list(run.glob("evals/*/state.safetensors")) or driver.poll() is not None)
    evaluation = next(run.glob("evals/*/state.safetensors")).parent
    for number in jobs():
        subprocess.run(["scontrol", "requeue", number], check=True)
    until(lambda: "goes on after epoch" in (evaluation / "train.log").read_text())

    until(lambda: results(run) and trainers(tmp_path))
    for process in ours(tmp_path):
        if process.pid not in {p.pid for p in trainers(tmp_path)} and kind(process) != "other":
            process.kill()
    driver.wait(30)
    assert trainers(tmp_path), "the job of a killed blackbox was to be at work"
    trained = results(run)
    again = subprocess.run(
        python("bbo.nomad", "params/quickstart.txt"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert trained.items() <= results(run).items(), "a finished evaluation was trained again"
    assert not jobs() and not trainers(tmp_path)
    slots = {re.search(r'"slot": "([^"]*)"', file.read_text())[1] for file in run.glob("evals/*/result.json")}  # type: ignore[index]
    assert slots == {"slurm 1 cpu"}

    assert walk(run) == on_this_machine(pair, tmp_path)


@pytest.mark.ray
def test_a_ray_within_a_job(pair: Callable[[str], None], tmp_path: Path) -> None:
    """runs/ray_on_slurm.slurm on the one node that there is."""
    require_ray()
    pair("ray")
    (tmp_path / "runs").mkdir()
    script = [str(ROOT / "runs/ray_on_slurm.slurm"), "params/quickstart.txt"]
    job = ["sbatch", "--wait", "--job-name=bbo", "--nodes=1", f"--export=ALL,VENV={sys.prefix}", *script]
    done = subprocess.run(job, cwd=tmp_path, capture_output=True, text=True, check=False)
    (log,) = (tmp_path / "runs").glob("ray-*.out")
    said = log.read_text()
    assert done.returncode == 0, said
    assert "START" in said and "FINISH" in said and "status 0" in said
    assert (tmp_path / "runs/quickstart/ray.log").is_file()
    assert walk(tmp_path / "runs/quickstart") == on_this_machine(pair, tmp_path)


def on_this_machine(pair: Callable[[str], None], folder: Path) -> list[tuple[object, ...]]:
    """The walk of the same pair under the local executor."""
    pair("local")
    command = [*python("bbo.nomad", "params/quickstart.txt"), "--run", "local"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return walk(folder / "runs/local")
