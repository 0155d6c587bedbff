"""training.report_to: what a tracker is told. Its library is taken by a stand-in, of accelerate's own base class."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bbo.errors import InputError
from bbo.experiment import read_experiment
from blackbox import checks, trackers, train
from blackbox.hyperparameters import Training
from tests.blackbox.conftest import results

pytestmark = pytest.mark.usefixtures("on_cpu")

Write = Callable[..., Path]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Folder of each tracker run -> the hyperparameters and epochs it was told of."""
    from accelerate import tracking  # noqa: PLC0415 - heavy

    runs: dict[str, Any] = {}

    class Noting(tracking.GeneralTracker):  # type: ignore[misc]
        name = "tensorboard"
        requires_logging_directory = True
        active: ClassVar[list[str]] = []

        def __init__(self, run_name: str, logging_dir: str) -> None:
            super().__init__()
            self.run = f"{Path(logging_dir).name}/{run_name}"

        @property
        def tracker(self) -> None:
            return None

        def start(self) -> None:
            assert not self.active, "one run at a time"
            self.active.append(self.run)
            runs[self.run] = {"steps": []}

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            assert all(isinstance(value, bool | int | float | str) for value in values.values())
            runs[self.run]["hyperparameters"] = values

        def log(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
            runs[self.run]["steps"].append((step, values))

        def finish(self) -> None:
            self.active.remove(self.run)

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Noting)
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType.TENSORBOARD])
    monkeypatch.setattr(trackers, "find_spec", lambda name: name == "tensorboard")
    return runs


def test_each_member_of_a_pack_has_a_run_of_its_own(
    told: dict[str, Any], experiment: Write, write_job: Write, tmp_path: Path
) -> None:
    job = write_job(experiment(num_train_epochs=2, report_to="tensorboard"), {"lora_rank": 4}, {"lora_rank": 8})
    train.run(job)
    assert list(told) == ["job0/experiment", "job1/experiment"]
    for number, rank in enumerate((4, 8)):
        run = told[f"job{number}/experiment"]
        assert run["hyperparameters"]["lora_rank"] == rank
        assert run["hyperparameters"]["target_modules"] == "q_proj v_proj"
        lines = (tmp_path / "job" / f"job{number}" / "progress.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        for (step, values), entry in zip(run["steps"], (e for e in entries if "epoch" in e), strict=True):
            assert step == entry["step"]
            assert {
                name: values[name] for name in ("eval_loss", "train_loss", "learning_rate")
            }.items() <= entry.items()
        assert [values["epoch"] for _, values in run["steps"]] == [1.0, 2.0]


def test_a_tracker_in_trouble_costs_no_evaluation(
    told: dict[str, Any], experiment: Write, write_job: Write, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    from accelerate import tracking  # noqa: PLC0415 - heavy

    monkeypatch.setattr(tracking.LOGGER_TYPE_TO_CLASS["tensorboard"], "log", fail)
    job = write_job(experiment(report_to=["tensorboard"]), {"lora_rank": 4}, {"lora_rank": 8})
    train.run(job)
    assert [result.status for result in results(job)] == ["ok", "ok"]
    assert "report_to: job1 is not in tensorboard: ConnectionError: no network" in capsys.readouterr().err
    assert len(told) == 2, "the first one's tracker was finished all the same"


def test_it_determines_nothing_and_is_off(told: dict[str, Any], experiment: Write, write_job: Write) -> None:
    told_of, silent = Training(report_to=("tensorboard",)), Training()
    assert told_of.determinants(1) == silent.determinants(1) and "report_to" not in silent.determinants(1)
    assert Training.model_validate({"report_to": "none"}).report_to == ()
    train.run(write_job(experiment(), {"lora_rank": 4}))
    assert not told


def test_a_missing_library_is_one_sentence_before_training(told: dict[str, Any], experiment: Write) -> None:
    file = experiment(report_to=["tensorboard", "mlflow"])
    with pytest.raises(InputError) as caught:
        checks.quick(read_experiment(file))
    (message,) = caught.value.messages
    assert message.endswith("training.report_to: mlflow is not installed: `pip install mlflow`, or leave it out")
    assert message.startswith(f"{file}:")
    with pytest.raises(InputError, match=r"training\.report_to"):
        checks.quick(read_experiment(experiment(report_to=["comet"])))
