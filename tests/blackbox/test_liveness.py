"""A variable that changes nothing is named before the first evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError
from bbo.experiment import read_experiment
from blackbox import checks, liveness

SPACE = {
    "lora_rank": {"choice": [2, 4]}, "lora_alpha": {"int": [1, 64]}, "lora_dropout": {"choice": [0, 0.1]},
    "learning_rate": {"log10": [-4, -2]}, "weight_decay": {"float": [0, 0.5]}, "warmup_steps": {"choice": [0, 0.5]},
    "lr_scheduler_type": {"choice": ["linear", "cosine"]}, "label_smoothing_factor": {"float": [0, 0.2]},
    "max_grad_norm": {"choice": [1.0e-3, 1]}, "adam_beta2": {"choice": [0.9, 0.999]}, "seed": {"int": [0, 9]},
    "target_modules": {"choice": ["q_proj", "all-linear"]}, "num_train_epochs": {"int": [1, 3]},
    "global_batch_size": {"choice": [4, 8]},
}  # fmt: skip


@pytest.mark.usefixtures("on_cpu")
def test_living_variables_pass(experiment: Callable[..., Path]) -> None:
    report = checks.full(read_experiment(experiment(sections={"space": SPACE})))
    assert report["variables_that_change_the_training"] == sorted(SPACE)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("name", "variable", "training", "what"),
    [
        ("per_device_train_batch_size", {"choice": [2, 4]}, {}, "the same steps over the same batches"),
        ("num_train_epochs", {"float": [1.01, 1.02]}, {}, "the same steps over the same batches"),
        ("max_grad_norm", {"choice": [1.0e6, 1.0e7]}, {}, "the same adapter after 10 steps"),
        ("adam_beta1", {"choice": [0.8, 0.9]}, {"learning_rate": 0}, "the same adapter after 10 steps"),
    ],
)
def test_a_dead_variable_is_refused_by_name(
    name: str, variable: dict[str, Any], training: dict[str, Any], what: str, experiment: Callable[..., Path]
) -> None:
    space = {"lora_rank": {"choice": [2, 4]}, name: variable}
    with pytest.raises(InputError, match=f"space.{name}: changes nothing: .* give {what}"):
        checks.full(read_experiment(experiment(sections={"space": space}, **training)))
    checks.full(read_experiment(experiment(sections={"space": space, "allow_dead": [name]}, **training)))


@pytest.mark.usefixtures("on_cpu")
def test_a_setting_that_the_trainer_overlooks_is_dead(
    experiment: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    members_of = liveness.members_of
    monkeypatch.setattr(
        liveness,
        "members_of",
        lambda setup, trainings, evaluations: members_of(
            setup, [training.model_copy(update={"weight_decay": 0.0}) for training in trainings], evaluations
        ),
    )
    with pytest.raises(InputError) as error:
        checks.full(read_experiment(experiment(sections={"space": SPACE})))
    assert [message.split(":")[0] for message in error.value.messages] == ["space.weight_decay"]
