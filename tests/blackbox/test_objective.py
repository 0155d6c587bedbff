"""A Python function in the place of a model: what it may return, how it fails, what it cannot have."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.store import Evaluation, Store

Command = Callable[..., subprocess.CompletedProcess[str]]

FUNCTION = """
import errno, os, signal, time

def objective(hyperparameters):
    x = hyperparameters["x"]
    print("x is", x)
    if x == 1:
        raise ValueError("one is too much")
    if x == 2:
        return 2.0
    if x == 3:
        return {"loss": float("nan")}
    if x == 4:
        return {"accuracy": 1.0}
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 6:
        time.sleep(600)
    if x == 7:
        raise OSError(errno.ENOSPC, "No space left on device")
    if x == 8:
        raise SystemExit(4)
    if x == 9:
        return {"loss": "low"}
    return {"loss": hyperparameters["shift"] + x, "more": float("inf")}
"""

YAML = """
model: {callable: objective.py:objective}
space: {x: {float: [0, 10]}}
training: {shift: 0.25}
outputs: [loss]
resources: {cpus_per_job: 1, time_limit: 4}
"""


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    (tmp_path / "params").mkdir()
    (tmp_path / "params/objective.py").write_text(FUNCTION)
    (tmp_path / "params/mine.yaml").write_text(YAML)
    return tmp_path / "params/mine.yaml"


def evaluate(command: Command, yaml: Path, *points: float) -> subprocess.CompletedProcess[str]:
    (yaml.parent / "points").write_text("".join(f"{x}\n" for x in points))
    return command("blackbox", "params/mine.yaml", "params/points")


def stored(tmp_path: Path) -> dict[float, Evaluation]:
    found = {}
    for evaluation in Store(tmp_path / "runs/mine/evals"):
        result = evaluation.result()
        assert result is not None and result.point is not None
        found[result.point[0]] = evaluation
    return found


def test_each_way_to_end(yaml: Path, tmp_path: Path, command: Command) -> None:
    done = evaluate(command, yaml, 0.5, 1, 2, 3, 4, 5, 6, 8, 9)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.75", *["Inf"] * 8]
    ended = stored(tmp_path)
    results = {x: evaluation.result() for x, evaluation in ended.items()}
    reasons = {x: result.reason for x, result in results.items() if result and result.reason}
    assert reasons.pop(5).startswith("its process died 3 times (status -9)")
    assert reasons.pop(6).startswith("took longer than resources.time_limit")
    assert reasons == {
        1: "ValueError: one is too much",
        2: "must return a dictionary of metrics, returned float",
        3: "returned loss = nan",
        4: "returned no loss, but accuracy",
        8: "SystemExit: 4",
        9: "must return numbers, returned loss = 'low'",
    }
    good = results[0.5]
    assert good is not None and good.metrics == {"loss": 0.75}
    assert json.loads(ended[0.5].applied_file.read_text()) == {"shift": 0.25, "x": 0.5}
    assert ended[0.5].log_file.read_text() == "x is 0.5\n"
    assert "objective.py" in ended[1].log_file.read_text(), "the traceback"


def test_a_full_disk_is_no_result(yaml: Path, tmp_path: Path, command: Command) -> None:
    done = evaluate(command, yaml, 7)
    assert done.returncode == 1
    assert "disk: [Errno 28] No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/mine/evals/*/result.json"))


def test_the_source_is_part_of_the_key(yaml: Path, tmp_path: Path, command: Command) -> None:
    evaluate(command, yaml, 0.5)
    (yaml.parent / "objective.py").write_text(FUNCTION.replace('["shift"]', '["shift"] + 1'))
    assert evaluate(command, yaml, 0.5).stdout == "1.75\n"
    (yaml.parent / "objective.py").write_text(FUNCTION)
    assert evaluate(command, yaml, 0.5).stdout == "0.75\n"
    assert len([*Store(tmp_path / "runs/mine/evals")]) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("outputs", "data: {train: x}\noutputs", "params/mine.yaml:5: data: means nothing to a callable"),
        ("outputs", "stopping: median\noutputs", "5: stopping: means nothing to a callable: it has no epochs"),
        ("outputs", "fidelity: {low: {epochs_fraction: 0.5}}\noutputs", "5: fidelity: means nothing to a callable"),
        ("outputs", "task: classification\noutputs", "5: task: means nothing to a callable"),
        ("time_limit: 4", "processes_per_job: 2", "6: resources.processes_per_job: means nothing to a callable"),
        ("objective.py", "other.py", "2: model.callable: no such file"),
        ("objective.py:", "objective.py", "2: model.callable: string should match pattern"),
        (":objective}", ":objective, sha256: abc}", "2: model.sha256: "),
    ],
)
def test_what_it_cannot_have(yaml: Path, command: Command, old: str, new: str, said: str) -> None:
    yaml.write_text(YAML.replace(old, new))
    done = command("blackbox.preflight", "params/mine.yaml", "--quick")
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def objective", "def other", "objective.py has no function objective"),
        ("import errno", "import nothing_like_it", "cannot be imported: ModuleNotFoundError: No module named"),
    ],
)
def test_a_file_that_is_no_objective(yaml: Path, command: Command, old: str, new: str, said: str) -> None:
    (yaml.parent / "objective.py").write_text(FUNCTION.replace(old, new))
    done = evaluate(command, yaml, 0.5)
    assert done.returncode == 1
    assert "params/mine.yaml:2: model.callable: " in done.stderr and said in done.stderr


def test_a_part_of_a_training_is_refused(yaml: Path, command: Command) -> None:
    (yaml.parent / "points").write_text("0.5\n")
    done = command("blackbox", "params/mine.yaml", "params/points", "--fidelity", "epochs_fraction=0.5")
    assert done.returncode == 1
    assert "model.callable: a callable evaluates in full" in done.stderr
