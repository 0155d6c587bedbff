"""The quickstart on Ray: a Ray of this machine, and two machines without a shared folder; each with its deaths."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from bbo.run import Run
from bbo.store import Store
from tests.bbo.executors.nodes import Nodes, require_ray, two_machines
from tests.conftest import python
from tests.runs import kind, results, start, walk
from tests.test_quickstart import write_pair

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

MOST = 240.0

MARK = "FOLDER_OF_THIS_TEST"
"""In the environment of all that a test starts."""


def write(folder: Path, **resources: Any) -> Path:
    """The small quickstart with these resources, and one core for each job, so that sums have one order."""
    text = write_pair(folder / "params", budget=3)
    file = text.with_suffix(".yaml")
    content = json.loads(file.read_text())
    content["resources"] = {"cpus_per_job": 1, "keep": "best 1", **resources}
    file.write_text(json.dumps(content))
    return text


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python("bbo.nomad", "params/quickstart.txt"), cwd=folder, capture_output=True, text=True, check=False,
        timeout=MOST,
    )  # fmt: skip


def told(folder: Path) -> list[tuple[object, object]]:
    return [(point, values) for point, _, values in walk(folder / "runs/quickstart")]


def until(condition: Callable[[], object], seconds: float = MOST) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def under_way(folder: Path) -> list[Path]:
    """Evaluations that train: an epoch is noted and there is no result."""
    evals = (folder / "runs/quickstart/evals").glob("[0-9a-f]*")
    return [each for each in evals if (each / "progress.jsonl").is_file() and not (each / "result.json").exists()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, object]]:
    """What the local executor walks."""
    require_ray()
    folder = tmp_path_factory.mktemp("local")
    write(folder)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return told(folder)


def test_a_ray_of_this_machine(
    whole: list[tuple[object, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of a worker, then of the driver, then to the end: the same walk, nothing twice, nothing left behind."""
    monkeypatch.setenv(MARK, str(tmp_path))
    write(tmp_path, executor="ray")
    process = start(tmp_path, "params/quickstart.txt")
    until(lambda: under_way(tmp_path) or process.poll() is not None)
    killed = [p for p in of_the_run(tmp_path) if kind(p) == "trainer"]
    for worker in killed:
        worker.kill()
    until(lambda: results(tmp_path / "runs/quickstart") or process.poll() is not None)
    trained = results(tmp_path / "runs/quickstart")
    process.kill()
    process.communicate()
    until(lambda: not of_the_run(tmp_path), 60)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert killed and trained.items() <= results(tmp_path / "runs/quickstart").items()
    assert told(tmp_path) == whole
    until(lambda: not of_the_run(tmp_path), 60)


def of_the_run(folder: Path) -> list[psutil.Process]:
    """All living processes that work for it, Ray's own too, wherever they are."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            living = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if living and process.environ().get(MARK) == str(folder):
                found.append(process)
    return found


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    require_ray()
    with two_machines(tmp_path / "machines", forbidden=str(tmp_path / "mine")) as nodes:
        yield nodes


def test_two_machines_without_a_shared_folder(whole: list[tuple[object, object]], tmp_path: Path, nodes: Nodes) -> None:
    """One of them dies in mid-run. Reading below this machine's folder fails there (tests/bbo/executors/nodes.py)."""
    mine = tmp_path / "mine"
    mine.mkdir()
    write(mine, executor="ray", ray={"address": nodes.address})
    process = start(mine, "params/quickstart.txt")

    def busy() -> list[int]:
        jobs = [list(machine.glob("tmp/bbo-ray-*/jobs/*/*/.log")) for machine in nodes.folders]
        return [number for number, found in enumerate(jobs) if found]

    until(lambda: (under_way(mine) and busy()) or process.poll() is not None)
    before = results(mine / "runs/quickstart")
    nodes.kill(busy()[-1])
    said, errors = process.communicate(timeout=MOST)
    assert process.returncode == 0, said + errors
    assert any("blackbox." in line for line in nodes.trapped()), "the trap was set where models are trained"
    assert before.items() <= results(mine / "runs/quickstart").items()
    assert told(mine) == whole
    stored = [(evaluation, evaluation.result()) for evaluation in Store(Run(mine / "runs/quickstart").evals)]
    assert 2 in [result.attempts for _, result in stored if result], "who was on the machine that died"
    best = min(stored, key=lambda each: each[1].metrics["eval_loss"])[0]  # type: ignore[union-attr]
    assert [evaluation.key for evaluation, _ in stored if evaluation.weights] == [best.key]
    assert all(evaluation.applied_file.is_file() and evaluation.epochs() for evaluation, _ in stored)
    assert not list(mine.rglob("*.in")) and not list(mine.rglob("state.safetensors"))
