"""The captured state of an evaluation: killed, stopped or followed, training goes on to the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bbo.errors import InputError
from bbo.executors.protocol import RESTARTED
from bbo.store import ROOT, Evaluation, Result
from blackbox import train
from blackbox.fit import optimizer_step
from blackbox.launch import launch_command
from blackbox.setup import Setup
from tests.blackbox.test_ddp import FSDP, write_config

__all__ = ["write_config"]

pytestmark = pytest.mark.usefixtures("on_cpu")

Write = Callable[..., Path]
Train = Callable[..., list[Evaluation]]

POINT = {"lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0.2}
OTHER = {"lora_rank": 2, "lora_dropout": 0.1, "target_modules": "all-linear", "lr_scheduler_type": "cosine"}
"""With `warmup_steps`, `weight_decay` and a schedule that moves, all that a state must hold."""
TRAINING = {"num_train_epochs": 3, "global_batch_size": 16, "warmup_steps": 2, "weight_decay": 0.1}
"""3 steps an epoch."""


class Killed(BaseException):
    """Stands for what ends a process without a word."""


@pytest.fixture
def again(tmp_path: Path, experiment: Write, write_job: Write) -> Callable[..., Train]:
    """Write a job and return what runs it, as often as wanted, each time as the parts of its file say by then."""

    def write(name: str, *points: dict[str, Any], **training: Any) -> Train:
        file = write_job(experiment(**{**TRAINING, **training}), *points, name=name)

        def run(
            parents: list[Evaluation] | None = None, each: dict[str, Any] | None = None, **parts: Any
        ) -> list[Evaluation]:
            job = json.loads(file.read_text()) | parts
            job["evaluations"] = [entry | (each or {}) for entry in job["evaluations"]]
            for entry, parent in zip(job["evaluations"], parents or [], strict=False):
                entry |= {"parent": parent.key, "state": str(parent.state_file)}
            file.write_text(json.dumps(job))
            loaded.append(train.run(file, loaded[0] if loaded else None))
            return [Evaluation(Path(entry["folder"])) for entry in job["evaluations"]]

        return run

    loaded: list[Setup] = []
    return write


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """End the process before the optimizer step with this number, once."""

    def at(step: int) -> None:
        def dying(setup: Any, pack: Any, members: Any, rows: Any) -> None:
            if members[0].counts.steps == step:
                monkeypatch.setattr("blackbox.fit.optimizer_step", optimizer_step)
                raise Killed
            optimizer_step(setup, pack, members, rows)

        monkeypatch.setattr("blackbox.fit.optimizer_step", dying)

    return at


def result_of(evaluation: Evaluation) -> Result:
    result = evaluation.result()
    assert result is not None and result.status == "ok", result
    return result


def weights_of(evaluation: Evaluation) -> dict[str, torch.Tensor]:
    return load_file(evaluation.adapter / "adapter_model.safetensors")


def assert_same(one: Evaluation, other: Evaluation) -> None:
    """The same bits, and every epoch told once."""
    for name in ("eval_loss", "train_loss"):
        assert result_of(one).metrics[name] == result_of(other).metrics[name], name
    assert weights_of(one).keys() == weights_of(other).keys()
    assert all(torch.equal(weights, weights_of(other)[name]) for name, weights in weights_of(one).items())
    assert epochs_of(one) == epochs_of(other)
    assert json.loads(one.applied_file.read_text()) == json.loads(other.applied_file.read_text())


def epochs_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The epochs that progress.jsonl tells of, but for their times."""
    lines = [json.loads(line) for line in evaluation.progress_file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines if "epoch" in line]


@pytest.mark.parametrize("step", [4, 6])
def test_a_killed_job_goes_on_to_the_same_end(
    step: int, again: Callable[..., Train], killing: Callable[[int], None]
) -> None:
    """In the middle of the second epoch, and at the beginning of the third."""
    calm = again("calm", POINT, OTHER)()
    run = again("job", POINT, OTHER)
    killing(step)
    with pytest.raises(Killed):
        run()
    killed = [Evaluation(Path(one.folder.parent.parent / "job" / f"job{n}")) for n, one in enumerate(calm)]
    assert all(one.state_file.is_file() and one.result() is None for one in killed)
    with killed[0].progress_file.open("a") as lines:  # what a killed process had begun to tell
        lines.write(json.dumps({"step": step + 1, "steps": 9}) + '\n{"ste')
    for one, other in zip(calm, run(), strict=True):
        assert_same(one, other)
        assert not list(other.folder.glob("*state*")) and not list(other.folder.glob(".*"))
    steps = [json.loads(line)["step"] for line in killed[0].progress_file.read_text().splitlines()]
    assert steps == [3, 6, 9]


def test_a_job_that_was_really_killed_goes_on_to_the_same_end(
    tmp_path: Path, experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of an epoch: the process says when it is there and waits for it."""
    file = experiment(**TRAINING)
    calm, job = write_job(file, POINT, OTHER, name="calm"), write_job(file, POINT, OTHER)
    train.run(calm)
    (tmp_path / "waiting.py").write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from blackbox import fit, train\n"
        "step = fit.optimizer_step\n"
        "def waiting(setup, pack, members, rows):\n"
        "    if members[0].counts.steps == 5:\n"
        "        Path('there').touch()\n"
        "        time.sleep(100)\n"
        "    step(setup, pack, members, rows)\n"
        "fit.optimizer_step = waiting\n"
        "train.run(Path(sys.argv[1]))\n"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with subprocess.Popen([sys.executable, "waiting.py", str(job)], cwd=tmp_path) as process:
        end = time.monotonic() + 100
        while not (tmp_path / "there").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / "there").exists()
    train.run(job)
    for number in range(2):
        folders = [Evaluation(tmp_path / name / f"{name}{number}") for name in ("calm", "job")]
        assert_same(*folders)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 9, None])
def test_without_a_readable_state_training_starts_over(
    damage: bytes | None, again: Callable[..., Train], killing: Callable[[int], None], tmp_path: Path
) -> None:
    """None: the file is torn."""
    (calm,) = again("calm", POINT)()
    run = again("job", POINT)
    killing(4)
    with pytest.raises(Killed):
        run()
    file = Evaluation(tmp_path / "job" / "job0").state_file
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert_same(calm, *run())


def test_one_whose_state_is_lost_joins_no_pack_of_the_others(
    again: Callable[..., Train], killing: Callable[[int], None], tmp_path: Path
) -> None:
    calm = again("calm", POINT, OTHER, {"lora_rank": 1})()
    run = again("job", POINT, OTHER, {"lora_rank": 1})
    killing(4)
    with pytest.raises(Killed):
        run()
    Evaluation(tmp_path / "job" / "job1").state_file.unlink()
    for one, other in zip(calm, run(), strict=True):
        assert_same(one, other)


def test_a_killed_job_may_go_on_in_other_batches(
    again: Callable[..., Train], killing: Callable[[int], None], experiment: Write
) -> None:
    """How a step is cut up is no part of a point: it may change between two attempts."""
    point = {**POINT, "lora_dropout": 0}
    (calm,) = again("calm", point)()
    run = again("job", point)
    killing(4)
    with pytest.raises(Killed):
        run()
    experiment(**TRAINING, per_device_train_batch_size=4, per_device_eval_batch_size=3, gradient_checkpointing=True)
    (done,) = run()
    assert result_of(done).metrics["eval_loss"] == pytest.approx(result_of(calm).metrics["eval_loss"], rel=1e-5)
    assert json.loads(done.applied_file.read_text())["per_device_train_batch_size"] == 4


def test_time_that_a_killed_attempt_took_counts(
    again: Callable[..., Train], killing: Callable[[int], None], experiment: Write, tmp_path: Path
) -> None:
    """And for its own evaluation alone: the companion may have had less."""
    run = again("job", POINT, OTHER)
    killing(4)
    with pytest.raises(Killed):
        run()
    slow = Evaluation(tmp_path / "job" / "job0")
    with safe_open(slow.state_file, "pt") as state:
        standing = json.loads(state.metadata()["standing"]) | {"train_seconds": 1e4}
    save_file(load_file(slow.state_file), slow.state_file, {"standing": json.dumps(standing)})
    experiment(sections={"resources": {"time_limit": 1000}}, **TRAINING)
    _, other = run()
    result = slow.result()
    assert result is not None and result.reason == "took longer than resources.time_limit 1000 s, at step 4 of 9"
    assert result_of(other).phases["train"] < 1000


def test_a_state_is_kept_where_the_job_says_so(again: Callable[..., Train], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last capture and the result, it is neither trained nor validated again."""
    calm = again("calm", POINT, OTHER)(keep_state=True)
    assert all(one.state_file.is_file() for one in calm)
    run = again("job", POINT, OTHER)

    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "_end", dying)
        run(keep_state=True)
    monkeypatch.setattr("blackbox.fit.optimizer_step", dying)
    for one, other in zip(calm, run(keep_state=True), strict=True):
        assert_same(one, other)
        assert other.state_file.is_file()


def test_a_stopped_one_leaves_after_its_epoch_and_goes_on_later(again: Callable[..., Train], tmp_path: Path) -> None:
    calm = again("calm", POINT, OTHER)()
    run = again("job", POINT, OTHER)
    stop = Evaluation(tmp_path / "job" / "job0").stop_file
    stop.touch()
    stopped, other = run()
    assert_same(calm[1], other)
    for _ in range(2):
        assert stopped.result() is None and stopped.state_file.is_file() and not stopped.adapter.exists()
        run_of_one = again_alone(tmp_path / "job.json")
        epochs = len(epochs_of(stopped))
        if epochs == 2:
            break
        train.run(run_of_one)  # the file is still there: one epoch more
    assert [line["epoch"] for line in epochs_of(stopped)] == [1.0, 2.0]
    stop.unlink()
    train.run(again_alone(tmp_path / "job.json"))
    assert_same(calm[0], stopped)
    assert not stopped.state_file.exists()


def test_a_job_that_a_cluster_starts_again_leaves_out_what_has_ended(
    again: Callable[..., Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = again("job", POINT, OTHER)
    Evaluation(tmp_path / "job" / "job0").stop_file.touch()
    stopped, done = run()
    before = stopped.stopped(), done.result()
    monkeypatch.setenv(RESTARTED, "1")
    run()
    assert (stopped.stopped(), done.result()) == before and stopped.result() is None
    monkeypatch.delenv(RESTARTED)
    run()
    assert stopped.stopped() != before[0] and done.result() != before[1]


def again_alone(file: Path) -> Path:
    """The job with its first evaluation alone."""
    job = json.loads(file.read_text())
    alone = file.with_name("alone.json")
    alone.write_text(json.dumps(job | {"evaluations": job["evaluations"][:1]}))
    return alone


def test_a_stop_that_comes_in_the_last_epoch_changes_nothing(again: Callable[..., Train], tmp_path: Path) -> None:
    run = again("job", POINT, num_train_epochs=1)
    Evaluation(tmp_path / "job" / "job0").stop_file.touch()
    assert result_of(*run()).status == "ok"


def test_a_child_goes_on_where_its_parent_ended(again: Callable[..., Train]) -> None:
    """1, 1 and 1 epoch are 3: weights, moments, data order and dropout go over."""
    steady = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    points = [POINT, {**OTHER, "lr_scheduler_type": "constant"}]
    whole = again("whole", *points, **steady, num_train_epochs=3)()
    grandparents = again("grandparents", *points, **steady, num_train_epochs=1)(keep_state=True)
    parents = again("parents", *points, **steady, num_train_epochs=1)(grandparents, keep_state=True)
    children = again("children", *points, **steady, num_train_epochs=1)(parents)
    for one, child in zip(whole, children, strict=True):
        assert result_of(one).metrics["eval_loss"] == result_of(child).metrics["eval_loss"]
        assert all(torch.equal(weights, weights_of(child)[name]) for name, weights in weights_of(one).items())
        (line,) = epochs_of(child)
        assert line["epoch"] == 1.0 and line["train_loss"] == epochs_of(one)[2]["train_loss"]
        assert not child.state_file.exists()
    assert all(parent.state_file.is_file() for parent in parents)


@pytest.mark.parametrize("intervals", [2, 4])
def test_intervals_with_the_same_values_are_one_training(intervals: int, again: Callable[..., Train]) -> None:
    """Of a schedule that warms up and decays, over 3 epochs of 3 steps: 5 and 4 steps, or 2, 2, 3 and 2."""
    points = [{**POINT, "lr_scheduler_type": "linear"}, OTHER]
    whole = again("whole", *points)()
    part = {"fidelity": {"epochs_fraction": 1 / intervals}, "parent": ROOT}
    parents: list[Evaluation] = []
    for number in range(intervals):
        parents = again(f"part{number}", *points)(parents, keep_state=True, each=part)
        assert [result_of(one).status for one in parents] == ["ok", "ok"]
    for one, last in zip(whole, parents, strict=True):
        assert result_of(one).metrics["eval_loss"] == result_of(last).metrics["eval_loss"]
        assert all(torch.equal(weights, weights_of(last)[name]) for name, weights in weights_of(one).items())
        assert epochs_of(last)[-1]["epoch"] == 3.0
        assert epochs_of(last)[-1]["learning_rate"] == epochs_of(one)[-1]["learning_rate"]
        used = json.loads(last.applied_file.read_text())
        assert used["epochs_behind"] + used["num_train_epochs"] == 3.0


def test_a_clone_goes_on_from_its_parents_loss(again: Callable[..., Train]) -> None:
    """With other values of what may change in flight, and nearly no rate: nothing of the base model's loss is left."""
    points = [POINT, {**POINT, "learning_rate": 1e-2}]
    part = {"fidelity": {"epochs_fraction": 1 / 3}, "parent": ROOT}
    parents = again("parents", *points)(keep_state=True, each=part)
    changed = {"learning_rate": 1e-12, "weight_decay": 0.2, "lora_dropout": 0.1, "label_smoothing_factor": 0.1}
    (clone,) = again("clone", {**POINT, **changed})([parents[1]], keep_state=True, each=part)
    (fresh,) = again("fresh", {**POINT, **changed})(each=part)
    ended = result_of(parents[1]).metrics["eval_loss"]
    assert abs(result_of(fresh).metrics["eval_loss"] - ended) > 0.1, "the base model's"
    assert result_of(clone).metrics["eval_loss"] == pytest.approx(ended, abs=1e-6)
    assert result_of(clone).parent == parents[1].key
    used = json.loads(clone.applied_file.read_text())
    assert changed.items() <= used.items()


@pytest.mark.parametrize(
    ("change", "fraction", "sentence"),
    [
        ({"num_train_epochs": 2}, 1 / 3, "a part of 9 steps, 3 per epoch, cannot be followed by one of 6 steps, 3 per"),
        ({}, 0.9, "0.333333 of the training is behind it, 0.9 more is too much"),
        ({}, 0.1, "fidelity: epochs_fraction 0.1 of 9 optimizer steps is no interval: at least 2"),
    ],
)
def test_an_interval_that_does_not_fit_is_refused(
    change: dict[str, Any], fraction: float, sentence: str, again: Callable[..., Train]
) -> None:
    (parent,) = again("parent", POINT)(keep_state=True, each={"fidelity": {"epochs_fraction": 1 / 3}, "parent": ROOT})
    with pytest.raises(InputError, match=re.escape(sentence)):
        again("child", POINT, **change)([parent], each={"fidelity": {"epochs_fraction": fraction}})


def test_a_killed_child_is_no_orphan(again: Callable[..., Train], killing: Callable[[int], None]) -> None:
    """It goes on from its own state, in the data order that it had; and it can be a parent itself."""
    (parent,) = again("parent", POINT, num_train_epochs=1)(keep_state=True)
    (calm,) = again("calm", POINT, num_train_epochs=2)([parent], keep_state=True)
    run = again("job", POINT, num_train_epochs=2)
    killing(4)
    with pytest.raises(Killed):
        run([parent], keep_state=True)
    (child,) = run([parent], keep_state=True)
    assert_same(calm, child)
    one, other = (again(name, POINT, num_train_epochs=1)([start]) for name, start in (("a", calm), ("b", child)))
    assert_same(*one, *other)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lora_rank": 8}, "cannot be continued by an adapter of another shape: lora_rank and target_modules"),
        ({"target_modules": ["q_proj"]}, "cannot be continued by an adapter of another shape: lora_rank and target_m"),
        (None, "no state to start from: the parent must have been trained with keep_state"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused(
    change: dict[str, Any] | None, sentence: str, again: Callable[..., Train]
) -> None:
    """None: the parent's state is not there."""
    (parent,) = again("parent", POINT, num_train_epochs=1)(keep_state=change is not None)
    with pytest.raises(InputError, match=re.escape(f"{parent.state_file}: {sentence}")) as error:
        again("child", {**POINT, **(change or {})})([parent])
    assert len(error.value.messages) == 1


TWICE = """
import sys, time
from pathlib import Path
from blackbox import train

def run(job):
    setup = train.run(Path(job))
    setup.accelerator.wait_for_everyone()
    return setup.accelerator

calm, job, stop = sys.argv[1:]
run(calm)
accelerator = run(job)
if accelerator.is_main_process:
    Path(stop).rename("stopped")
accelerator.wait_for_everyone()
run(job).end_training()
"""


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_go_on_to_the_same_end(
    sharded: bool, tmp_path: Path, experiment: Write, write_job: Write, write_config: Write
) -> None:
    """Two of them, with 5 batches of 8 rows in the one step of an epoch: their shares differ."""
    file = experiment(
        num_train_epochs=2, global_batch_size=64, per_device_train_batch_size=8, lora_dropout=0.2, warmup_steps=1
    )
    calm, job = (write_job(file, POINT, name=name) for name in ("calm", "job"))
    folders = [Evaluation(tmp_path / name / f"{name}0") for name in ("calm", "job")]
    folders[1].stop_file.touch()
    (tmp_path / "twice.py").write_text(TWICE)
    command, environment = launch_command(job, 2, ("cpu0", "cpu1"), write_config(**FSDP) if sharded else None)
    command = [*command[: command.index("--module")], "twice.py", str(calm), str(job), str(folders[1].stop_file)]
    environment = os.environ | environment | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "stopped").exists() and not folders[1].state_file.exists()
    assert_same(*folders)
