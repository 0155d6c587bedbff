"""Who trains with whom, and how many at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from blackbox import planner
from blackbox.hyperparameters import Training
from blackbox.planner import OF_THE_ADAPTER, alike, evenly, most_members, shape_of

GIB = 2**30


def test_companions_differ_in_what_is_the_adapters_alone() -> None:
    other = {"lora_rank": 4, "lora_dropout": 0.5, "learning_rate": 1.0, "seed": 1, "lr_scheduler_type": "cosine"}
    assert set(other) < OF_THE_ADAPTER < set(Training.model_fields)
    assert shape_of(Training()) == shape_of(Training(**other))
    for name, value in {"num_train_epochs": 1, "global_batch_size": 4, "gradient_checkpointing": True}.items():
        assert shape_of(Training()) != shape_of(Training(**{name: value}))


def test_parts_are_few_and_even() -> None:
    assert alike("abcde", [1, 2, 1, 3, 2]) == [["a", "c"], ["b", "e"], ["d"]]
    assert [len(part) for part in evenly(range(10), 4)] == [3, 3, 4]
    assert evenly("abc", 3) == [["a", "b", "c"]] and evenly("abc", 1) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(("free", "most"), [(100, 8), (40, 7), (11, 1), (1, 1)])
def test_as_many_as_the_memory_of_a_gpu_takes(free: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    setup: Any = SimpleNamespace(accelerator=SimpleNamespace(device=SimpleNamespace(type="cuda")))
    measured: list[int] = []

    def measure(_: Any, training: Training) -> tuple[int, int, int]:
        measured.append(training.lora_rank)
        return 13 * GIB, 18 * GIB, free * GIB

    monkeypatch.setattr(planner, "_measure", measure)
    trainings = [Training(lora_rank=rank) for rank in (4, 64, 8, 8, 8, 8, 8, 8)]
    assert most_members(setup, trainings) == most
    assert measured == [64]  # the largest adapter stands for all
