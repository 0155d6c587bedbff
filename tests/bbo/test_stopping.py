"""Stopping rules over a run's log and a store, without a training; and runs of the toy under real NOMAD with one."""

import json
import math
import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from bbo.errors import InputError
from bbo.experiment import Experiment, Stopping, read_experiment
from bbo.front import front_of
from bbo.guard import Guard, Limits, failed_in_a_row
from bbo.run import Run
from bbo.runlog import Answer, RunLog
from bbo.stopping import BY_HAND, Asked, Judge, Study, refusal, stopping_of, told_for
from bbo.store import Evaluation, Stopped, Store
from tests.runs import BLOCKS, kind, ours, results, start, walk

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]

ASHA, MEDIAN = Stopping(rule="asha"), Stopping(rule="median", n_startup=2)

NEVER = 99
"""An epoch after the last."""


class Record:
    """A run whose evaluations are said with a line of losses each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.store = RunLog(Run(folder).log_file), Store(folder / "evals")

    def ask(self, *keys: str) -> list[int]:
        with self.log.locked():
            return [ask.number for ask in self.log.ask([(0.0,)] * len(keys), keys)]

    def train(self, key: str, *losses: float, steps: int = 60) -> Evaluation:
        """Epochs of ten steps."""
        evaluation = self.store.evaluation(key)
        evaluation.folder.mkdir(parents=True, exist_ok=True)
        evaluation.rewind(0)
        for epoch, loss in enumerate(losses, start=1):
            evaluation.progress({"step": 10 * epoch - 5, "steps": steps})
            evaluation.progress({"epoch": float(epoch), "step": 10 * epoch, "steps": steps, "eval_loss": loss})
        return evaluation

    def answer(self, number: int, loss: float | None, source: str = "trained", epoch: float | None = None) -> None:
        values = None if loss is None else (loss, 0.0)
        self.log.answer(Answer(number, values, source, 0.0, epoch=epoch))  # type: ignore[arg-type]

    def whole(self, key: str, *losses: float, steps: int = 60) -> None:
        """One that is asked for, trained and answered."""
        (number,) = self.ask(key)
        self.train(key, *losses, steps=steps)
        self.answer(number, losses[-1])

    def stops(self, number: int, stopping: Stopping, *losses: float, block: int | None = None, steps: int = 60) -> int:
        """After which of these epochs the evaluation of this ask is stopped."""
        asked = Asked(str(self.folder), number, block or number, stopping.model_dump())
        judge = Judge(asked, self.store.evaluation(self.log.asks[number - 1].key))
        for epoch in range(1, len(losses) + 1):
            self.train(judge.evaluation.key, *losses[:epoch], steps=steps)
            again = Judge(asked, judge.evaluation).verdict()
            assert again == judge.verdict(), "one that was resumed must decide the same"
            if again is not None:
                assert again == stopping.rule
                return epoch
        return NEVER


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path)


class TestRules:
    def test_asha_lets_the_best_third_of_a_rung_pass(self, record: Record) -> None:
        """Rungs after 1 and 3 epochs. Of less than three the best."""
        record.whole("a", 3.0, 2.5, 2.0, 1.9, 1.8, 1.7)
        record.ask("b")
        assert record.stops(2, ASHA, 3.1, 1.0, 1.0) == 1
        record.answer(2, 3.1, "stopped", 1.0)
        record.ask("c")
        assert record.stops(3, ASHA, 3.05, 1.0) == 1
        assert record.stops(3, ASHA, 2.9, 2.8, 2.1, 0.0) == 3
        assert record.stops(3, ASHA, 2.9, 2.8, 1.9, 2.0, 9.0) == NEVER

    def test_rungs(self, record: Record) -> None:
        for key, loss in (("a", 2.0), ("b", 3.0), ("c", 4.0)):
            record.whole(key, loss, loss, loss, loss)
        record.ask("d")
        assert record.stops(4, ASHA, 1.9, 9.0, 2.1, 2.1) == 3, "no rung after 2"
        assert record.stops(4, ASHA, 1.9, 9.0, 1.9, 9.0, 9.0) == NEVER
        assert record.stops(4, ASHA, 2.1, 0.0) == 1
        assert record.stops(4, Stopping(rule="asha", min_epochs=2), 9.0, 2.1) == 2
        assert record.stops(4, Stopping(rule="asha", reduction_factor=2), 2.1, 2.1, 9.0, 9.0) == 4, "1, 2, 4"

    def test_median(self, record: Record) -> None:
        record.whole("a", 1.0, 0.9, 0.8)
        record.ask("b")
        assert record.stops(2, MEDIAN, 9.0, 9.0) == NEVER, "one complete evaluation of two"
        record.train("b", 2.0, 1.9, 1.8)
        record.answer(2, 1.8)
        record.ask("c")
        assert record.stops(3, MEDIAN, 1.4, 1.5, 1.4) == 3, "the best so far, against 1.5, 1.4, 1.3"
        assert record.stops(3, MEDIAN, 1.6) == 1
        assert record.stops(3, Stopping(rule="median", n_startup=2, min_epochs=2), 1.6, 1.6) == 2

    def test_failed_ones_are_no_complete_ones(self, record: Record) -> None:
        record.whole("a", 1.0, 1.0)
        (number,) = record.ask("b")
        record.train("b", 1.0, math.nan)
        record.answer(number, math.inf, "failed")
        record.ask("c")
        assert record.stops(3, MEDIAN, 9.0, 9.0) == NEVER
        assert record.stops(3, ASHA, 9.0) == 1, "a rung that it reached, it reached"

    def test_hyperbands_bracket_is_of_the_place_in_the_run(self, record: Record) -> None:
        """Whoever is known by then: Optuna would take the next free number."""
        keys = [f"k{number}" for number in range(12)]
        for key in keys:
            record.whole(key, *[1.0] * 9, steps=90)
        record.ask("in flight", "also")
        rule = Stopping(rule="hyperband")
        ends = [record.stops(n, rule, *[2.0] * 8, block=13, steps=90) for n in (13, 14)]
        for number in (13, 14):
            study = Study(rule, 9)
            for _ in range(number - 1):
                study.begin()
                study.stops([1.0] * 9)
                study.end("ok")
            study.begin()
            assert ends[number - 13] == next((e for e in range(1, 9) if study.stops([2.0] * e)), NEVER)
        assert set(ends) <= {1, 3, NEVER}

    def test_no_rule_stops_nothing(self, record: Record) -> None:
        evaluation = record.train("a", 1.0)
        assert Judge(None, evaluation).verdict() is None
        assert Judge(Asked(str(record.folder), 1, 1, None), evaluation).verdict() is None
        evaluation.stop_file.touch()
        assert Judge(None, evaluation).verdict() == BY_HAND
        assert Judge(None, evaluation).rule() is None


class TestWhatCounts:
    def test_what_was_known_when_the_block_was_asked_for(self, record: Record) -> None:
        first, second = record.ask("a", "b")
        record.train("a", 1.0, 1.0)
        record.answer(first, 1.0)
        assert record.stops(second, ASHA, 2.0, block=first) == NEVER, "its companion was quicker"
        record.ask("c")
        assert record.stops(3, ASHA, 2.0) == 1

    def test_after_a_retry_the_new_ask_counts(self, record: Record) -> None:
        record.ask("a")
        record.ask("b")
        record.log.forget(2)
        record.train("a", 1.0)
        record.answer(1, 1.0)
        record.ask("b")
        assert record.stops(2, ASHA, 2.0) == 1

    def test_other_schedules_do_not(self, record: Record) -> None:
        record.whole("short", 1.0, 1.0, steps=50)
        record.ask("b")
        assert record.stops(2, ASHA, 2.0, steps=60) == NEVER
        assert record.stops(2, ASHA, 2.0, steps=50) == 1

    def test_what_others_trained_later_does_not(self, record: Record) -> None:
        """Stopped after 1 epoch; another run went on with it to the end."""
        record.ask("a")
        record.train("a", 1.0, 1.0, 1.0, 1.0)
        record.answer(1, 1.0, "stopped", 1.0)
        record.ask("b")
        assert record.stops(2, ASHA, 0.9, 9.0, 2.0, 2.0) == NEVER
        assert record.stops(2, ASHA, 1.1) == 1

    def test_a_point_asked_for_twice_counts_once(self, record: Record) -> None:
        record.whole("a", 1.0, 1.0)
        (again,) = record.ask("a")
        record.answer(again, 1.0, "store")
        record.ask("b")
        assert record.stops(3, MEDIAN, 9.0) == NEVER, "one evaluation, not two"


def toy_experiment(toy: Toy, **in_yaml: str) -> Experiment:
    return read_experiment(toy(in_yaml=in_yaml).with_suffix(".yaml"))


class TestRefusal:
    @pytest.mark.parametrize(
        ("stopping", "epochs", "budget", "said"),
        [
            (Stopping(), 1, 1, None),
            (ASHA, 2, 2, None),
            (ASHA, 2, None, None),
            (ASHA, 1, None, "asha with min_epochs 1 can stop no evaluation of 1 epoch(s)"),
            (ASHA, 2, 1, "asha with min_epochs 1 can stop no evaluation of 2 epoch(s) among 1"),
            (Stopping(rule="asha", min_epochs=4), 4, 40, "asha with min_epochs 4 can stop no evaluation of 4 epoch(s)"),
            (MEDIAN, 2, 2, "median with min_epochs 1 and n_startup 2 can stop no evaluation of 2 epoch(s) among 2"),
            (MEDIAN, 2, 3, None),
            (Stopping(rule="hyperband"), 9, 40, None),
            (Stopping(rule="hyperband"), 9, 1, "hyperband with min_epochs 1 can stop no evaluation of 9 epoch(s)"),
        ],
    )
    def test_a_rule_that_cannot_fire(
        self, toy: Toy, stopping: Stopping, epochs: int, budget: int | None, said: str | None
    ) -> None:
        wrong = refusal(toy_experiment(toy), stopping, epochs, budget)
        assert wrong is said if said is None else str(wrong).startswith(said), wrong

    @pytest.mark.parametrize("outputs", ["[train_loss, eval_loss]", "[-eval_loss]", "[eval_runtime <= 9, train_loss]"])
    def test_an_objective_that_no_epoch_measures(self, toy: Toy, outputs: str) -> None:
        experiment = toy_experiment(toy, **{"[eval_loss, train_loss]": outputs})
        assert refusal(experiment, ASHA, 4, 9) == "asha compares validation losses: eval_loss must be the one objective"
        assert refusal(experiment, Stopping(), 4, 9) is None

    def test_other_rule(self, toy: Toy) -> None:
        experiment = toy_experiment(toy, **{"outputs:": "stopping: {rule: median, min_epochs: 2}\noutputs:"})
        assert stopping_of(experiment, None) == experiment.stopping
        assert stopping_of(experiment, "asha") == Stopping(rule="asha", min_epochs=2)
        with pytest.raises(InputError, match=r"--stopping: input should be 'none', 'median', .* got 'never'"):
            stopping_of(experiment, "never")


class TestTold:
    def told(self, record: Record, experiment: Experiment, loss: float, number: int = 1) -> Answer:
        record.train("a", loss + 1, loss)
        judge = Judge(Asked(str(record.folder), number, number, None), record.store.evaluation("a"))
        judge.record(BY_HAND, 3.0, 2, "job")
        stopped = judge.evaluation.stopped()
        assert stopped is not None and judge.asked is not None
        return told_for(experiment, judge.asked, stopped)

    def test_alone_it_is_its_last_loss(self, record: Record, toy: Toy) -> None:
        """train_loss is not in this progress: 0."""
        record.ask("a")
        answer = self.told(record, toy_experiment(toy), 2.0)
        assert (answer.values, answer.source, answer.reason) == ((2.0, 0.0), "stopped", BY_HAND)
        assert (answer.epoch, answer.objective, answer.seconds, answer.gpu_seconds) == (2.0, 2.0, 3.0, 6.0)

    def test_never_better_than_the_incumbent(self, record: Record, toy: Toy) -> None:
        record.whole("x", 1.5)
        record.whole("y", 1.7)
        (number,) = record.ask("z")
        record.answer(number, 0.1, "stopped", 1.0)
        record.whole("late", 1.4)
        record.ask("a")
        for loss, said in ((2.0, 2.0), (1.0, 1.4)):
            answer = self.told(record, toy_experiment(toy), loss, 5)
            assert answer.values is not None and (answer.values[0], answer.objective) == (said, loss)

    def test_infeasible_ones_are_no_incumbents(self, record: Record, toy: Toy) -> None:
        record.ask("x")
        record.log.answer(Answer(1, (1.5, 1.0), "trained", 0.0))
        record.ask("a")
        experiment = toy_experiment(toy, **{"[eval_loss, train_loss]": "[eval_loss, eval_runtime <= 9]"})
        assert self.told(record, experiment, 1.0, 2).values == (1.0, 0.0)

    def test_of_several_objectives_none_counts(self, record: Record, toy: Toy) -> None:
        record.ask("a")
        experiment = toy_experiment(toy, **{"[eval_loss, train_loss]": "[train_loss, eval_loss]\nobjectives: 2"})
        answer = self.told(record, experiment, 1.0)
        assert (answer.values, answer.objective) == ((math.inf, math.inf), None)


def test_it_answers_those_who_asked_alone() -> None:
    rule = ASHA.model_dump()
    asked = Asked("run", 5, 4, rule)
    stopped = Stopped("k", 1.0, {}, "asha", json.loads(json.dumps(asdict(asked))), 1.0, 0.0, 0.0, "job")
    assert asked.accepts(stopped)
    assert Asked("run", 9, 9, rule).accepts(stopped), "the same point again"
    for other in (Asked("run", 4, 4, rule), Asked("other", 5, 4, rule), Asked("run", 5, 4, None)):
        assert not other.accepts(stopped)
    by_hand = Stopped("k", 1.0, {}, BY_HAND, asdict(Asked("run", 5, 4, None)), 1.0, 0.0, 0.0, "job")
    assert Asked("run", 5, 4, None).accepts(by_hand) and not Asked("run", 9, 9, None).accepts(by_hand)


def test_a_guard_counts_it(record: Record, toy: Toy) -> None:
    """Its hours are the run's, whatever becomes of the evaluation; it is no failure, and ends a row of them."""
    run = Run(record.folder)
    guard = Guard(run, toy_experiment(toy), record.store, Limits(), run.log())
    for number, source in enumerate(("failed", "stopped", "failed"), start=1):
        record.ask(f"k{number}")
        seconds = 1800.0 if source == "stopped" else None
        record.log.answer(Answer(number, (1.0, 0.0), source, 0.0, reason=source, gpu_seconds=seconds))  # type: ignore[arg-type]
    guard.log.refresh()
    assert guard._gpu_hours() == 0.5 == guard._gpu_hours()
    assert failed_in_a_row(guard.log) == ["failed"]


LONGER = {"num_train_epochs: 4": "num_train_epochs: 6", "outputs:": "stopping: asha\noutputs:"}


def sources(folder: Path) -> list[tuple[object, ...]]:
    """What a run's answers say, but for when and by which job."""
    log = RunLog(folder / "log.jsonl")
    answers = [log.answers[ask.number] for ask in log.driven]
    return [(a.number, a.values, a.source, a.epoch, a.objective, a.reason) for a in answers]


def folders(folder: Path, key: str) -> set[str]:
    return {file.name for file in (folder / "evals" / key).iterdir()}


@pytest.mark.parametrize("in_text", [{}, BLOCKS], ids=["sequential", "blocks"])
def test_nomad_with_a_rule(toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str]) -> None:
    file = toy(budget=12, in_yaml=LONGER, in_text=in_text)
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 0, done.stderr
    log = RunLog(tmp_path / "runs/toy/log.jsonl")
    stopped = [ask for ask in log.driven if log.answers[ask.number].source == "stopped"]
    assert stopped and f"{len(stopped)} stopped)" in done.stdout
    ((_, best),) = front_of(read_experiment(file.with_suffix(".yaml")), log)
    assert best.source == "trained"
    for ask in stopped:
        answer = log.answers[ask.number]
        assert answer.values is not None and best.values is not None and answer.epoch in (1.0, 3.0)
        assert answer.objective is not None and answer.values[0] >= answer.objective
        assert f"stopped at epoch {answer.epoch:g} (asha)" in done.stdout
        assert {"stopped.json", "progress.jsonl"} <= folders(tmp_path / "runs/toy", ask.key)
        assert "result.json" not in folders(tmp_path / "runs/toy", ask.key)
    again = command("bbo.nomad", "params/toy.txt")
    assert "replaying 12 of 12 evaluations" in again.stdout and again.returncode == 0


@pytest.mark.parametrize("in_text", [{}, BLOCKS], ids=["sequential", "blocks"])
def test_kills_change_no_decision(toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str]) -> None:
    toy(budget=10, seconds=0.03, in_yaml=LONGER, in_text=in_text)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    draw = random.Random(0)
    for _ in range(3):
        process = start(tmp_path, "params/toy.txt")
        deadline = time.monotonic() + draw.uniform(1.0, 4.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        for target in [p for p in ours(tmp_path) if draw.random() < 0.5 or kind(p) == "driver"]:
            with suppress(psutil.NoSuchProcess):
                target.kill()
        process.wait(20)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    assert sources(tmp_path / "runs/toy") == sources(tmp_path / "runs/whole")
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")
    assert any(source == "stopped" for _, _, source, *_ in sources(tmp_path / "runs/toy"))


DIES_ONCE = """
import os, pathlib, sys
if sys.argv[0].endswith("blackbox/__main__.py") or sys.argv[0] == "-m":
    from bbo.store import Evaluation
    stop = Evaluation.stop
    def dying(self, stopped):
        stop(self, stopped)
        mark = pathlib.Path(__file__).with_name("died")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
    Evaluation.stop = dying
"""


def test_killed_between_stopped_json_and_the_log(toy: Toy, command: Command, tmp_path: Path) -> None:
    """What was stopped for this ask is not trained again: its folder keeps the time."""
    toy(budget=8, in_yaml=LONGER)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    (tmp_path / "sitecustomize.py").write_text(DIES_ONCE)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = command("bbo.nomad", "params/toy.txt", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    died = (tmp_path / "died").stat().st_mtime
    assert "a call of the blackbox died before it answered" in done.stdout
    assert sources(tmp_path / "runs/toy") == sources(tmp_path / "runs/whole")
    first = min(file.stat().st_mtime for file in (tmp_path / "runs/toy/evals").glob("*/stopped.json"))
    assert first <= died, "written once, before the kill"


def test_another_run_goes_on_to_the_end(toy: Toy, command: Command, tmp_path: Path) -> None:
    """Points that a run with a rule left, a run without trains in full; both keep to what they were told."""
    toy(budget=7, in_yaml=LONGER)
    assert command("bbo.nomad", "params/toy.txt", "--run", "ruled", "--store", "shared").returncode == 0
    before = sources(tmp_path / "runs/ruled")
    assert any(source == "stopped" for _, _, source, *_ in before)
    toy(budget=7, in_yaml={"num_train_epochs: 4": "num_train_epochs: 6"})
    assert command("bbo.nomad", "params/toy.txt", "--run", "free", "--store", "shared").returncode == 0
    assert command("bbo.nomad", "params/toy.txt", "--run", "alone").returncode == 0
    assert walk(tmp_path / "runs/free") == walk(tmp_path / "runs/alone")
    assert all(source != "stopped" for _, _, source, *_ in sources(tmp_path / "runs/free"))
    for ask in RunLog(tmp_path / "runs/free/log.jsonl").driven:
        evaluation = Store(tmp_path / "shared").evaluation(ask.key)
        assert evaluation.result() is not None and evaluation.stopped() is None
        epochs = [entry["epoch"] for entry in evaluation.epochs()]
        assert epochs == [*range(1, len(epochs) + 1)]
    toy(budget=7, in_yaml=LONGER)
    assert command("bbo.nomad", "params/toy.txt", "--run", "ruled", "--store", "shared").returncode == 0
    assert sources(tmp_path / "runs/ruled") == before


def test_concurrent_runs_with_and_without_a_rule(toy: Toy, command: Command, tmp_path: Path) -> None:
    """The one that waits for the claim goes on where the other was stopped."""
    toy(budget=8, seconds=0.03, in_yaml=LONGER)
    ruled = start(tmp_path, "params/toy.txt", "--run", "ruled", "--store", "shared")
    while not results(tmp_path / "runs/ruled") and not list((tmp_path / "shared").glob("*/result.json")):
        time.sleep(0.02)
    toy(budget=8, seconds=0.03, in_yaml={"num_train_epochs: 4": "num_train_epochs: 6"})
    free = start(tmp_path, "params/toy.txt", "--run", "free", "--store", "shared")
    assert [process.wait(100) for process in (ruled, free)] == [0, 0]
    assert command("bbo.nomad", "params/toy.txt", "--run", "alone").returncode == 0
    assert walk(tmp_path / "runs/free") == walk(tmp_path / "runs/alone")


def test_stopped_by_hand(toy: Toy, command: Command, tmp_path: Path) -> None:
    """Without any rule: the file `stop` in an evaluation's folder."""
    toy(budget=3, seconds=0.3)
    process = start(tmp_path, "params/toy.txt")
    while not (found := list((tmp_path / "runs/toy/evals").glob("*/progress.jsonl"))):
        time.sleep(0.02)
    (found[0].parent / "stop").touch()
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert "(asked to stop)" in output and "1 stopped)" in output
    assert Evaluation(found[0].parent).stopped() is not None
    assert sources(tmp_path / "runs/toy")[0][2] == "stopped"


@pytest.mark.parametrize(
    ("rule", "budget", "said"),
    [
        ("{rule: asha, min_epochs: 4}", 9, "asha with min_epochs 4 can stop no evaluation of 4 epoch(s) among 9"),
        ("median", 5, "median with min_epochs 1 and n_startup 5 can stop no evaluation of 4 epoch(s) among 5"),
    ],
)
def test_a_useless_rule_is_refused_at_the_start(
    toy: Toy, command: Command, tmp_path: Path, rule: str, budget: int, said: str
) -> None:
    toy(budget=budget, in_yaml={"outputs:": f"stopping: {rule}\noutputs:"})
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 1 and done.stderr.endswith(f"params/toy.yaml:11: stopping: {said}\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
