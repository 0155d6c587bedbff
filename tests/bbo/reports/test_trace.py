"""What a comparison reads of a run: evaluations, time that is charged, the best so far."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from bbo.experiment import Experiment, read_experiment
from bbo.reports.trace import Trace, _cost, read_trace
from bbo.runlog import Answer, RunLog
from bbo.store import Result, Store

SECONDS = {"a": 10.0, "b": 20.0, "c": 40.0, "d": 5.0}


@pytest.fixture
def experiment(toy: Callable[..., Path]) -> Experiment:
    return read_experiment(toy().with_suffix(".yaml"))


def record(store: Store, key: str, gpus: int = 0) -> None:
    seconds = SECONDS[key]
    about = {"metrics": {}, "hyperparameters": {}, "point": None, "experiment": "toy", "phases": {}, "seed": 1}
    times = {"seconds": seconds, "gpu_seconds": gpus * seconds, "started": 0, "finished": seconds}
    store.evaluation(key).record(Result(key=key, status="ok", **about, **times, host="", slot="", job=""))  # type: ignore[arg-type]


def ask(log: RunLog, key: str, fidelity: Mapping[str, float] = {}, surrogate: bool = False) -> int:
    with log.locked():
        return log.ask([(1.0, 2.0, 3.0, -4.0)], [key], fidelity=fidelity, surrogate=surrogate)[0].number


def tell(log: RunLog, number: int, loss: float | None, source: str = "trained") -> None:
    log.answer(Answer(number, None if loss is None else (loss, loss), source, 0.0))  # type: ignore[arg-type]


def read(tmp_path: Path, experiment: Experiment, log: RunLog, whole: float = 1.0) -> Trace:
    return read_trace(experiment, log, Store(tmp_path / "evals"), 1, whole)


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    for key in SECONDS:
        record(Store(tmp_path / "evals"), key)
    return RunLog(tmp_path / "run" / "log.jsonl")


def test_charged_whoever_trained_it_and_once_per_run(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    for key, loss, source in (("a", 3.0, "trained"), ("b", 2.0, "store"), ("a", 3.0, "store"), ("c", 2.5, "trained")):
        tell(log, ask(log, key), loss, source)
    trace = read(tmp_path, experiment, log)
    assert trace.seconds == [10, 30, 30, 70]
    assert trace.evaluations == [1, 2, 3, 4]
    assert trace.best == [3.0, 2.0, 2.0, 2.0]
    assert trace.counts == {"trained": 2, "store": 2}
    assert trace.first == ((1.0, 2.0, 3.0, -4.0), 3.0)
    assert trace.gpu_seconds == [0, 0, 0, 0]


def test_gpus_are_charged(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    for key in ("a", "b"):
        record(Store(tmp_path / "evals"), key, gpus=4)
        tell(log, ask(log, key), 1.0)
    assert read(tmp_path, experiment, log).gpu_seconds == [40, 120]


def test_failed_and_declined(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    tell(log, ask(log, "a"), math.inf, "failed")
    tell(log, ask(log, "b"), None, "declined")
    tell(log, ask(log, "c"), 1.5)
    ask(log, "d")  # not answered yet
    trace = read(tmp_path, experiment, log)
    assert trace.best == [math.inf, 1.5]
    assert trace.seconds == [10, 50]
    assert trace.worst == 1.5 and trace.first is not None and math.isinf(trace.first[1])


def test_what_was_stopped_is_no_best(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    tell(log, ask(log, "a"), 3.0)
    tell(log, ask(log, "b"), 1.0, "stopped")
    trace = read(tmp_path, experiment, log)
    assert trace.best == [3.0, 3.0] and trace.counts["stopped"] == 1


def test_what_was_stopped_costs_what_it_ran(tmp_path: Path, log: RunLog) -> None:
    """Also where another run has trained it to its end."""
    evaluation = Store(tmp_path / "evals").evaluation("b")
    assert evaluation.result() is not None
    stopped = SimpleNamespace(source="stopped", seconds=7.0, gpu_seconds=28.0)
    assert _cost(evaluation, stopped) == (7.0, 28.0)  # type: ignore[arg-type]


def test_in_the_order_of_the_answers(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    first, second = ask(log, "a"), ask(log, "c")
    tell(log, second, 2.0)
    tell(log, first, 1.0)
    assert read(tmp_path, experiment, log).best == [2.0, 1.0]
    assert read(tmp_path, experiment, log).seconds == [40, 50]


def test_parts_of_a_training_count_as_such(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    for key in "abcd":
        tell(log, ask(log, key, {"epochs_fraction": 0.25}), 1.0)
    assert read(tmp_path, experiment, log).evaluations == [0.25, 0.5, 0.75, 1.0]
    assert read(tmp_path, experiment, log, whole=0.25).evaluations == [1, 2, 3, 4]


def test_a_surrogate_costs_time_alone(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    tell(log, ask(log, "d", surrogate=True), 0.1)
    tell(log, ask(log, "a"), 2.0)
    trace = read(tmp_path, experiment, log)
    assert (trace.evaluations, trace.seconds, trace.best) == ([1], [15], [2.0])


def test_a_time_nobody_noted(tmp_path: Path, experiment: Experiment, log: RunLog) -> None:
    tell(log, ask(log, "elsewhere"), 2.0)
    trace = read(tmp_path, experiment, log)
    assert trace.unknown == 1 and trace.seconds == [0]


def test_reaching() -> None:
    trace = Trace(1, evaluations=[1, 2, 3], best=[3.0, 2.0, 2.0])
    assert trace.reach(trace.evaluations, 2.0) == 2
    assert math.isinf(trace.reach(trace.evaluations, 1.9))
    assert math.isinf(trace.at(trace.evaluations, 0.5)) and trace.at(trace.evaluations, 2.7) == 2.0
