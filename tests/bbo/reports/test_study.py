"""A run as an Optuna study, and the copy of it that the dashboard follows."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from bbo.reports.dashboard import Mirror
from bbo.reports.optuna_figures import importances
from bbo.reports.study import distributions_of, study_of
from tests.bbo.reports.made import Made

X0 = (3, 16, 3, -4.5)


def test_trials_have_true_values_states_and_reasons(made: Callable[..., Made]) -> None:
    run = made()
    run.ask(X0, (6, 64, 1, -1), (1, 1, 1, -5), (2, 2, 2, -3), (2, 2, 2, -3))
    run.curve(1, 2.5, 2.0)
    run.end(1, 2.0)
    run.end(2, None)
    run.stop(3, 2.75, 2.5)
    run.decline(5)
    study = study_of(run.read())
    assert study.metric_names == ["eval_loss"] and study.best_value == 2.0
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING]
    assert [trial.state for trial in study.trials] == states
    first = study.trials[0]
    assert first.params == {"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.1, "learning_rate": 10**-4.5}
    assert first.intermediate_values == {10: 2.5, 20: 2.0} and first.user_attrs["evaluation"] == 1
    assert study.trials[1].user_attrs["reason"] == "out of memory: 40 GiB"
    assert study.trials[2].intermediate_values == {10: 2.75, 20: 2.5}


def test_axes(made: Callable[..., Made]) -> None:
    space = {
        "{choice: [2, 4, 8, 16, 32, 64]}": "{choice: [64, 2, 8]}",
        "{int: [1, 64]}": "{int: [1, 4], times: lora_rank}",
        "learning_rate:": "num_train_epochs: {choice: [1, 2]}\n  lr: {choice: [linear, cosine]}\n  learning_rate:",
    }
    assert distributions_of(made(in_yaml=space).experiment) == {
        "lora_rank": IntDistribution(2, 64, log=True),
        "lora_alpha / lora_rank": IntDistribution(1, 4),
        "lora_dropout": FloatDistribution(0, 0.2),
        "num_train_epochs": IntDistribution(1, 2),
        "lr": CategoricalDistribution(["linear", "cosine"]),
        "learning_rate": FloatDistribution(1e-5, 0.1, log=True),
    }


def test_constraints_and_a_maximized_metric(made: Callable[..., Made]) -> None:
    outputs = {"outputs: [eval_loss, train_loss]": 'outputs: ["-eval_loss", "train_loss <= 1.5"]'}
    run = made(in_yaml=outputs)
    run.ask(X0, (4, 16, 3, -3))
    run.end(1, 0.5)
    run.end(2, 1.25)
    study = study_of(run.read())
    assert [trial.value for trial in study.trials] == [0.5, 1.25]
    assert [trial.constraints for trial in study.trials] == [{"train_loss <= 1.5": -0.5}, {"train_loss <= 1.5": 0.25}]
    assert study.best_trial.number == 0


def test_importances_are_optunas(made: Callable[..., Made]) -> None:
    run = made()
    points = [(1 + n % 6, 1 + (7 * n) % 64, 1, -5 + n / 5) for n in range(12)]
    run.ask(*points)
    for number, point in enumerate(points, 1):
        run.end(number, 1 + (point[3] + 3) ** 2)
    names = ["lora_rank", "lora_alpha", "learning_rate"]
    study = study_of(run.read())
    found = importances(study, names)
    assert found == optuna.importance.get_param_importances(study, params=names)
    assert next(iter(found)) == "learning_rate"
    assert importances(study, []) == {}


def seen(mirror: Mirror) -> list[FrozenTrial]:
    return mirror.storage.get_all_trials(mirror.study)


def test_the_dashboards_copy_follows_a_live_run(made: Callable[..., Made]) -> None:
    run = made()
    run.ask(X0, (4, 16, 3, -3), (5, 16, 3, -3))
    mirror = Mirror(run.read())
    mirror.refresh()
    run.curve(1, 2.5)
    mirror.refresh()
    assert [trial.state for trial in seen(mirror)] == [TrialState.RUNNING] * 3
    assert seen(mirror)[0].intermediate_values == {10: 2.5}
    run.end(1, 2.0)
    run.end(2, None)
    run.decline(3)
    run.ask((1, 1, 1, -4))
    mirror.refresh()
    mirror.refresh()
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.state for trial in seen(mirror)] == states
    assert seen(mirror)[0].value == 2.0 and seen(mirror)[0].user_attrs["seconds"] == 10
    assert seen(mirror)[0].intermediate_values == {10: 2.5}


def test_what_a_retry_forgets_is_forgotten(made: Callable[..., Made]) -> None:
    run = made()
    run.ask(X0, (4, 16, 3, -3))
    run.end(1, 2.0)
    run.end(2, None)
    mirror = Mirror(run.read())
    mirror.refresh()
    run.log.forget(2)
    mirror.refresh()
    assert [trial.value for trial in seen(mirror)] == [2.0]
    run.ask((4, 16, 3, -3), keys=["K2"])
    run.end(2, 1.5)
    mirror.refresh()
    assert [trial.value for trial in seen(mirror)] == [2.0, 1.5]


@pytest.mark.parametrize("constrained", [False, True])
def test_a_constraint_comes_with_the_answer(made: Callable[..., Made], tmp_path: Path, constrained: bool) -> None:
    outputs = 'outputs: [eval_loss, "train_loss <= 1.5"]' if constrained else "outputs: [eval_loss]"
    run = made(in_yaml={"outputs: [eval_loss, train_loss]": outputs})
    run.ask(X0)
    mirror = Mirror(run.read())
    mirror.refresh()
    run.end(1, 2.0)
    mirror.refresh()
    assert seen(mirror)[0].constraints == ({"train_loss <= 1.5": 1.0} if constrained else {})
