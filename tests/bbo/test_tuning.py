"""`bbo.tune` with a Python function: a run begun, followed, killed and continued from Python."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import bbo
from bbo import cli
from bbo.handle import Handle
from tests.conftest import python
from tests.runs import ours, results, walk


def objective(hyperparameters: dict[str, Any]) -> dict[str, float]:
    """A quick one."""
    import math  # noqa: PLC0415
    import time  # noqa: PLC0415

    time.sleep(hyperparameters.get("seconds", 0))
    print(f"rank {hyperparameters['lora_config.r']}")
    if hyperparameters["rate"] > hyperparameters.get("limit", 1):
        raise ValueError("the loss became nan")
    loss = (math.log10(hyperparameters["rate"]) + 2) ** 2 + (hyperparameters["lora_config.r"] - 12) ** 2 / 100
    return {"loss": loss, "accuracy": 1 - loss / 10}


SPACE = {"rate": bbo.search.loguniform(min=1e-5, max=1e-1), "lora_config.r": bbo.search.int(min=8, max=32)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tune(name: str = "trial", **others: Any) -> Handle:
    given = {"hp_space": SPACE, "objective": objective, "objective_metric_name": "loss", "max_trial_count": 4}
    return bbo.tune(name, **{**given, **others})


def test_a_callable_from_beginning_to_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handle = tune(
        objective_metric_name="accuracy", objective_type="maximize", additional_metric_names=["loss"],
        algorithm_name="tpe", algorithm_settings={"n_startup_trials": 2, "multivariate": False}, parallel_trial_count=2,
        x0={"rate": 1e-3, "lora_config.r": 10}, training_parameters={"seed": 0}, env_per_trial={"TOKEN": "secret"},
    ).wait()  # fmt: skip
    said = capsys.readouterr().out
    assert said.count("[4/4] #") == 1 and "best score" in said
    trials = handle.trials()
    assert list(trials.columns) == ["status", "rate", "lora_config.r", "accuracy", "loss", "reason", "key"]
    assert list(trials.index) == [1, 2, 3, 4] and set(trials.status) == {"ok"}
    assert (trials.loc[1, "rate"], trials.loc[1, "lora_config.r"]) == (1e-3, 10)
    assert trials.accuracy.to_list() == pytest.approx((1 - trials.loss / 10).to_list())
    best = handle.get_optimal_hyperparameters()
    assert best == {name: trials.loc[trials.accuracy.idxmax(), name] for name in ("rate", "lora_config.r")}
    assert handle.logs(1) == "rank 10\n"
    words = "bbo run runs/trial/params/trial.txt --run trial --optimizer tpe --set n_startup_trials=2"
    assert handle.command == f"{words} --set multivariate=false"
    assert not any("secret" in f.read_text(errors="replace") for f in here.rglob("*") if f.is_file())
    # The other world: the same run from the command line.
    again = bbo.attach("trial")
    assert again.get_optimal_hyperparameters() == best
    with pytest.raises(SystemExit) as status:
        cli.app(["run", *handle.command.split()[2:]])
    assert status.value.code == 0
    assert "replaying 4 of 4" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        cli.app(["confirm", "trial", "--top", "1", "--seeds", "1"])
    assert status.value.code == 0
    assert bbo.attach("trial").get_optimal_hyperparameters() == best


def test_the_same_name_resumes_after_any_kill(here: Path) -> None:
    whole = tune("whole", max_trial_count=6, parallel_trial_count=2).wait(progress=False)
    slow = {"training_parameters": {"seconds": 0.3}, "max_trial_count": 6, "parallel_trial_count": 2}
    handle = tune(**slow)
    while len(handle.run.log().answers) < 3:
        assert handle.is_running
        time.sleep(0.05)
    before = results(handle.folder)
    for process in ours(here):
        process.send_signal(signal.SIGKILL)
    with pytest.raises(bbo.RunStopped, match="its process is gone"):
        handle.wait(progress=False)
    again = tune(**slow)
    assert tune(**slow).is_running, "attached to the run that is under way"
    with pytest.raises(bbo.InputError, match="is under way with other settings"):
        tune(**slow, seed=1)
    again.wait(progress=False)
    assert before.items() <= results(handle.folder).items(), "an evaluation was repeated"
    assert [step[::2] for step in walk(handle.folder)] == [step[::2] for step in walk(whole.folder)]


def test_a_budget_that_is_extended_and_a_run_that_is_stopped() -> None:
    handle = tune(training_parameters={"seconds": 0.5}, max_trial_count=50)
    while not handle.run.log().answers:
        time.sleep(0.05)
    with pytest.raises(TimeoutError):
        handle.wait(timeout=0.1, progress=False)
    handle.stop()
    handle.wait(progress=False)
    done = len(handle.trials())
    assert 1 <= done < 50
    handle.extend(done + 1).wait(progress=False)
    trials = handle.trials()
    assert len(trials) == done + 1 and trials.loc[1, "status"] == "ok"
    with pytest.raises(bbo.InputError, match="max_trial_count: must be at least 1, got 0"):
        handle.extend(0)


def test_the_goal_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    handle = tune(objective_goal=0.9, objective_type="maximize", objective_metric_name="accuracy", max_trial_count=50)
    handle.wait()
    accuracy = handle.trials().accuracy.dropna()  # one may have been under way
    assert 1 < len(accuracy) < 50
    assert accuracy.iloc[-1] >= 0.9 > accuracy.iloc[:-1].max()
    assert "--goal 0.9 is reached: accuracy" in (handle.folder / "driver.log").read_text()
    tune(objective_goal=0.9, objective_type="maximize", objective_metric_name="accuracy", max_trial_count=50).wait()
    assert len(handle.trials().accuracy.dropna()) == len(accuracy), "reached is reached"


def test_so_many_failures_end_a_run_with_their_reasons() -> None:
    handle = tune(training_parameters={"limit": 1e-6}, max_failed_trial_count=2, max_trial_count=50)
    with pytest.raises(bbo.RunStopped, match=r"2 evaluations failed .*: ValueError: the loss became nan; `bbo retry"):
        handle.wait(progress=False)
    trials = handle.trials()
    assert list(trials.status) == ["failed", "failed"]
    assert set(trials.reason) == {"ValueError: the loss became nan"}
    assert "Traceback" in handle.logs(1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "name: must be of letters, digits, _ . and -, got 'a b'"),
    ({"objective": "finetune"}, "objective: must be a function or 'fine-tuning', got 'finetune'"),
    ({"objective_metric_name": None}, "objective_metric_name: must name the metric of the function's"),
    ({"hp_space": {"rate": 0.1}}, "hp_space: rate: must be a bbo.search object"),
    ({"hp_space": {}}, "hp_space: must have a bbo.search object at least"),
    ({"hp_space": ["rate"]}, "hp_space: must be a dictionary, got ['rate']"),
    ({"x0": [1.0]}, "x0: must be a dictionary, got [1.0]"),
    ({"env_per_trial": {"A=B": "c"}}, "env_per_trial: 'A=B': no name or value"),
    ({"objective_type": "max"}, "objective_type: must be minimize or maximize, got 'max'"),
    ({"model": "x"}, "a function finds its own model and data: leave out model and dataset"),
    ({"backend": "kubernetes"}, "backend: must be local or katib, got 'kubernetes'"),
    ({"namespace": "kubeflow", "num_workers": 4}, "namespace: is for backend='katib': a run of this machine has no"),
    ({"resources_per_trial": {"memory": "40G"}}, "resources_per_trial: memory: is not limited by the local backend"),
    ({"x0": {"rate": 1.0, "lora_config.r": 8}}, "x0: rate: 0 is outside [-5, -1]"),
    ({"algorithm_name": "bayesian"}, "algorithm_name bayesian: there are nomad, random"),
    ({"algorithm_name": "tpe", "algorithm_settings": {"startup": 3}}, "algorithm_settings startup=3: tpe has no"),
    ({"algorithm_settings": {"DIRECTION_TYP": "ORTHO 2N"}}, "DIRECTION_TYP: is no keyword of NOMAD: did you mean"),
    ({"algorithm_settings": {"seed": 1}}, "algorithm_settings: SEED: other arguments of tune say it"),
    ({"early_stopping": "median"}, "early_stopping: means nothing to a callable: it has no epochs"),
    ({"num_procs_per_worker": 2}, "num_procs_per_worker: means nothing to a callable: it is called in one process"),
    ({"objective_goal": "0.1"}, "objective_goal: must be a number, got '0.1'"),
    ({"env_per_trial": {"TOKEN": 1}}, "env_per_trial: TOKEN: must be text, got 1"),
    ({"resources_per_trial": {"gpu": 64}}, "resources_per_trial: gpu: 64 asked for, but this machine shows"),
    ({"algorithm_name": "pbt"}, "hp_space: pbt needs a variable that may change within a training"),
    ({"max_failed_trial_count": 0}, "max_failed_trial_count: input should be greater than or equal to 1, got 0"),
    ({"parallel_trial_count": 0}, "parallel_trial_count: must be at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_calls_say_what_is_wrong_and_leave_nothing(here: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(bbo.InputError) as error:
        tune(**{"name": "trial", **arguments})
    assert str(error.value).startswith(said)
    assert not list(here.iterdir())


def test_no_such_argument() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_trials'"):
        tune(max_trials=3)


def test_a_run_with_another_function_is_refused_and_kept(here: Path) -> None:
    def other(hyperparameters: dict[str, Any]) -> dict[str, float]:
        return {"loss": 0.0}

    handle = tune(max_trial_count=1).wait(progress=False)
    before = {file: file.read_text() for file in handle.run.parameters.iterdir()}
    with pytest.raises(bbo.InputError, match=r"begun with other settings: experiment\.model\.callable was"):
        tune(objective=other, max_trial_count=1)
    assert {file: file.read_text() for file in handle.run.parameters.iterdir()} == before
    assert len(handle.trials()) == 1


def test_importing_bbo_loads_nothing_heavy() -> None:
    code = "import sys, bbo; bbo.search.int(1, 2); print([m for m in ('pydantic', 'yaml', 'rich') if m in sys.modules])"
    assert os.popen(f'{python("x")[0]} -c "{code}"').read() == "[]\n"
    assert json.dumps(bbo.search.int(1, 3)) == "2"
