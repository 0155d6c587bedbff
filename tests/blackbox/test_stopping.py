"""Real trainings that a run's rule stops: packs go on without them, others go on with them, to the same bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbo.executors.local import Local
from bbo.executors.protocol import Exit
from bbo.experiment import Stopping, read_experiment
from bbo.run import Run
from bbo.runlog import Answer
from bbo.stopping import BY_HAND, Asked
from bbo.store import Evaluation, Result, Stopped, Store
from blackbox import train
from blackbox.block import Blackbox
from blackbox.jobs import Candidate
from blackbox.preflight import Preflight
from tests.blackbox.test_state import OTHER, POINT, TRAINING, Killed, again, assert_same, epochs_of, killing

__all__ = ["again", "killing"]

pytestmark = pytest.mark.usefixtures("on_cpu")

Write = Callable[..., Path]
Train = Callable[..., list[Evaluation]]
Ask = Callable[[Path, int], None]

ASHA = Stopping(rule="asha").model_dump()


@pytest.fixture
def asked(tmp_path: Path) -> Ask:
    """Make the job's points asks of a run that has a rule: asked(job, n) for the n-th, in which none can be better."""

    def write(job: Path, place: int, stopping: dict[str, Any] | None = ASHA) -> None:
        content = json.loads(job.read_text())
        entry = content["evaluations"][place]
        log = Run(tmp_path / "run").log()
        with log.locked():
            log.ask([(1.0,)], ["best"])
        log.answer(Answer(1, (0.0,), "trained", 0.0))
        with log.locked():
            log.ask([(2.0,)], [entry["key"]])
        best = Evaluation(Path(entry["folder"]).parent / "best")
        best.folder.mkdir()
        for epoch in (1, 2, 3):
            best.progress({"epoch": float(epoch), "step": 3 * epoch, "steps": 9, "eval_loss": 0.0})
        entry["asked"] = vars(Asked(str(tmp_path / "run"), 2, 2, stopping))
        job.write_text(json.dumps(content))

    return write


def test_a_member_that_the_rule_stops_changes_nobody(again: Callable[..., Train], asked: Ask, tmp_path: Path) -> None:
    calm = again("calm", POINT, OTHER, {"lora_rank": 1})()
    run = again("job", POINT, OTHER, {"lora_rank": 1})
    asked(tmp_path / "job.json", 1)
    first, stopped, last = run()
    assert_same(calm[0], first)
    assert_same(calm[2], last)
    note = stopped.stopped()
    assert note is not None and (note.reason, note.epoch, note.job) == ("asha", 1.0, "job")
    assert note.metrics["eval_loss"] == epochs_of(calm[1])[0]["eval_loss"] and note.seconds > 0
    assert note.asked is not None and note.asked["number"] == 2
    assert stopped.result() is None and not stopped.adapter.exists() and stopped.state_file.is_file()
    assert [entry["epoch"] for entry in stopped.epochs()] == [1.0]
    assert first.stopped() is None


def test_another_run_goes_on_to_the_same_bits(again: Callable[..., Train], asked: Ask, tmp_path: Path) -> None:
    (calm,) = again("calm", POINT)()
    run = again("job", POINT)
    asked(tmp_path / "job.json", 0)
    (stopped,) = run()
    assert stopped.stopped() is not None and len(stopped.epochs()) == 1
    content = json.loads((tmp_path / "job.json").read_text())
    content["evaluations"][0]["asked"] = vars(Asked(str(tmp_path / "other"), 1, 1, None))
    (tmp_path / "job.json").write_text(json.dumps(content))
    stopped.begin("", "")
    assert stopped.stopped() is None
    assert_same(calm, *run())
    assert not stopped.state_file.exists()


def test_killed_before_it_could_ask(
    again: Callable[..., Train], asked: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the epoch was captured: the next attempt asks before it trains on."""
    run = again("job", POINT)
    asked(tmp_path / "job.json", 0)

    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("blackbox.fit.Fit._stop", dying)
        run()
    monkeypatch.setattr("blackbox.fit.optimizer_step", dying)
    (stopped,) = run()
    note = stopped.stopped()
    assert note is not None and note.epoch == 1.0


def test_the_last_epoch_is_never_stopped(
    again: Callable[..., Train], asked: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bbo.stopping.Judge.verdict", lambda judge: "asha" if len(judge.evaluation.epochs()) > 2 else None
    )
    run = again("job", POINT)
    asked(tmp_path / "job.json", 0)
    (done,) = run()
    result = done.result()
    assert result is not None and result.status == "ok" and done.stopped() is None


class TestJobs:
    """What the blackbox makes of a job that ends with a stopped point."""

    @pytest.fixture
    def blackbox(self, tmp_path: Path, experiment: Write, monkeypatch: pytest.MonkeyPatch) -> Blackbox:
        """Its jobs are done in this process."""
        monkeypatch.setattr(Preflight, "ensure", lambda *_: None)
        monkeypatch.setattr(Blackbox, "resident", lambda *_: None)
        self.jobs: list[str] = []

        def here(local: Local, launches: Any, started: Any, tick: Any) -> Any:
            for launch in launches:
                slot = type("Slot", (), {"name": "here", "devices": ()})()
                launch.prepare(slot)
                self.jobs.append(launch.job)
                train.run(Path(launch.log).with_suffix(".json"))
                yield launch, Exit(0)

        monkeypatch.setattr(Local, "run", here)
        file = experiment(**TRAINING, sections={"resources": {"gpus_per_job": 0, "pack": 2}})
        return Blackbox(read_experiment(file), Store(tmp_path / "evals"), tmp_path / "preflight.json")

    def evaluate(self, blackbox: Blackbox, **asked: Asked | None) -> dict[str, tuple[Result | Stopped, str]]:
        told = {}
        candidates = []
        for name, each in asked.items():
            made = blackbox.candidate({"lora_rank": int(name[1:])}, None)
            candidates.append(Candidate(made.key, made.hyperparameters, None, asked=each))
        blackbox.evaluate(candidates, lambda c, ended, source: told.update({c.key: (ended, source)}))
        return {name: told[c.key] for name, c in zip(asked, candidates, strict=True)}

    def test_a_stopped_point_is_no_dead_process(self, blackbox: Blackbox, tmp_path: Path) -> None:
        """It is answered once, to those who asked; others train it to its end."""
        by = Asked(str(tmp_path / "run"), 1, 1, None)
        key = blackbox.candidate({"lora_rank": 2}, None).key
        begin = Evaluation.begin

        def asking(evaluation: Evaluation, *texts: str) -> None:
            begin(evaluation, *texts)
            if evaluation.key == key and len(self.jobs) == 0:
                evaluation.stop_file.touch()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Evaluation, "begin", asking)
            told = self.evaluate(blackbox, r2=by, r3=Asked(str(tmp_path / "run"), 2, 1, None))
        stopped, source = told["r2"]
        assert isinstance(stopped, Stopped) and (source, stopped.reason, stopped.epoch) == ("stopped", BY_HAND, 1.0)
        assert told["r3"][1] == "trained" and len(self.jobs) == 1
        assert self.evaluate(blackbox, r2=by)["r2"] == (stopped, "stopped"), "the same ask after a kill"
        assert len(self.jobs) == 1
        ended, source = self.evaluate(blackbox, r2=Asked(str(tmp_path / "other"), 1, 1, None))["r2"]
        assert isinstance(ended, Result) and (source, ended.status) == ("trained", "ok") and len(self.jobs) == 2
        assert len(blackbox.store.evaluation(key).epochs()) == 3
        assert self.evaluate(blackbox, r2=by)["r2"] == (ended, "store")
