"""A run as a CSV file, read back by pandas."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from bbo.reports.export import write_csv
from bbo.store import Score
from tests.bbo.reports.made import Made

TIMES = ["asked", "answered", "started", "finished"]


@pytest.fixture
def read(made: Callable[..., Made], tmp_path: Path) -> Callable[[], pandas.DataFrame]:
    run = made()
    run.ask((3, 16, 3, -4.5))
    run.ask((4, 21, 1, -2.5), (6, 64, 1, -1), (1, 1, 1, -5), (2, 2, 2, -3))
    run.end(1, 1.25, start=5, seconds=10, gpus=2)
    score = Score("mmlu-ab12", "ok", {"acc": 0.375, "acc_stderr": 0.01}, {}, 100, {}, 3.0, 0.0, 0.0, "j")
    run.store.evaluation("K1").record_score(score)
    run.end(2, 1 / 3, slot="cpu1")
    run.end(3, None)
    run.stop(4, 2.5, 2.25, start=40)

    def back() -> pandas.DataFrame:
        assert write_csv(run.read(), tmp_path / "out.csv") == 5
        return pandas.read_csv(tmp_path / "out.csv", parse_dates=TIMES)

    return back


def test_a_row_per_evaluation_with_every_digit(read: Callable[[], pandas.DataFrame]) -> None:
    rows = read()
    assert list(rows.columns[:6]) == ["number", "block", "key", "source", "status", "reason"]
    assert rows.number.tolist() == [1, 2, 3, 4, 5] and rows.block.tolist() == [1, 2, 2, 2, 2]
    assert rows.status.tolist() == ["ok", "ok", "failed", "stopped", "pending"]
    assert rows.metric_eval_loss.tolist()[:2] == [1.25, 1 / 3]
    assert rows.hp_lora_rank.tolist() == [8, 16, 64, 2, 4] and rows.x_lora_rank.tolist() == [3, 4, 6, 1, 2]
    assert rows.hp_learning_rate.tolist()[0] == 10**-4.5
    assert rows.version_torch[0] == "2.13.0" and rows.phase_train[0] == 6


def test_scores_failures_and_what_was_stopped(read: Callable[[], pandas.DataFrame]) -> None:
    rows = read().set_index("number")
    assert rows.loc[1, "score_mmlu-ab12_acc"] == 0.375
    assert rows.loc[3, "reason"] == "out of memory: 40 GiB" and rows.loc[3, "told_eval_loss"] == math.inf
    assert rows.loc[4, ["epoch", "seconds", "metric_eval_loss", "reason"]].tolist() == [2, 4, 2.25, "median"]
    assert rows.loc[5, ["source", "job", "seconds", "told_eval_loss"]].isna().all()


def test_times_are_utc(read: Callable[[], pandas.DataFrame]) -> None:
    rows = read()
    assert rows.started[0] == pandas.Timestamp("2027-01-15 08:00:05")
    assert (rows.finished - rows.started)[0].total_seconds() == 10
    assert rows.gpu_seconds[0] == 20


def test_another_runs_result_is_not_taken_for_what_this_one_stopped(made: Callable[..., Made], tmp_path: Path) -> None:
    run = made()
    run.ask((3, 16, 3, -4.5), (3, 16, 3, -4.5), keys=["K", "K"])
    run.stop(1, 2.0)
    run.end(2, 1.0)  # as another run would have, with the same store
    write_csv(run.read(), tmp_path / "out.csv")
    rows = pandas.read_csv(tmp_path / "out.csv")
    assert rows.seconds.tolist() == [2, 10] and rows.metric_eval_loss.tolist() == [2, 1]


def test_what_holds_lists_and_constraints(made: Callable[..., Made], tmp_path: Path) -> None:
    outputs = {"outputs: [eval_loss, train_loss]": 'outputs: ["-eval_loss", "train_loss <= 1.4"]'}
    run = made(in_yaml=outputs)
    run.ask((3, 16, 3, -4.5))
    run.end(1, 1.5)
    write_csv(run.read(), tmp_path / "out.csv")
    row = pandas.read_csv(tmp_path / "out.csv").iloc[0]
    assert row["status"] == "infeasible" and row["metric_eval_loss"] == 1.5 and row["told_eval_loss"] == -1.5
    assert row["told_train_loss <= 1.4"] == pytest.approx(0.6)
