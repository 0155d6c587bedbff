"""Small runs made by hand, whose figures can be computed by hand: no optimizer and no training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bbo.experiment import read_experiment
from bbo.record import Record, open_record
from bbo.run import Run
from bbo.runlog import Answer
from bbo.store import Result, Stopped, Store, write_json

BEGAN = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""


class Made:
    """A run of the toy's experiment, written as the blackbox would."""

    def __init__(self, folder: Path, yaml: Path) -> None:
        self.run, self.experiment = Run(folder), read_experiment(yaml)
        self.store, self.log = Store(self.run.evals), self.run.log()
        write_json(self.run.about_file, {"experiment": dict(self.experiment.document), "x0": [[3, 16, 3, -4.5]]})

    def ask(self, *points: Sequence[float], keys: Sequence[str] = (), **of_all: Any) -> list[int]:
        """A block; an evaluation's key is its number, as K1, where none is given."""
        first = len(self.log.asks) + 1
        keys = keys or [f"K{first + place}" for place in range(len(points))]
        with self.log.locked():
            asks = self.log.ask([tuple(map(float, point)) for point in points], keys, **of_all)
        for ask in asks:
            self.store.evaluation(ask.key).begin(self.experiment.dump(), "")
        return [ask.number for ask in asks]

    def end(  # noqa: PLR0913, PLR0917 - the fields of a result
        self,
        number: int,
        loss: float | None,
        start: float = 0.0,
        seconds: float = 10.0,
        slot: str = "cpu0",
        gpus: int = 0,
        source: str = "trained",
        metrics: Mapping[str, float] = {},
        parent: str | None = None,
    ) -> None:
        """Trained from `start` seconds after BEGAN; a loss of None: failed."""
        ask = self.log.asks[number - 1]
        measured = {} if loss is None else {"eval_loss": loss, "train_loss": loss + 0.5} | metrics
        result = Result(
            key=ask.key,
            status="failed" if loss is None else "ok",
            metrics=measured,
            hyperparameters=self.experiment.space.decode(ask.point),
            point=ask.point,
            experiment="toy",
            seconds=seconds,
            phases={"start": 1.0, "load": 2.0, "train": seconds - 4.0, "score": 1.0},
            gpu_seconds=gpus * seconds,
            started=BEGAN + start,
            finished=BEGAN + start + seconds,
            host="here",
            slot=slot,
            job=f"job-{ask.block}-{slot}",
            seed=0,
            reason="out of memory: 40 GiB" if loss is None else None,
            versions={"torch": "2.13.0"},
            parent=parent,
        )
        if source != "store":
            self.store.evaluation(ask.key).record(result)
        values = [o.failed if loss is None else o.value(measured) for o in self.experiment.outputs]
        source = "failed" if loss is None else source
        told = Answer(number, tuple(values), source, result.finished, result.job, result.reason)  # type: ignore[arg-type]
        self.log.answer(told)

    def curve(self, number: int, *losses: float, first: int = 1, epochs: int = 4) -> None:
        """Its validation losses, epoch by epoch."""
        evaluation = self.store.evaluation(self.log.asks[number - 1].key)
        for epoch, loss in enumerate(losses, first):
            evaluation.progress({"epoch": float(epoch), "step": 10 * epoch, "steps": 10 * epochs, "eval_loss": loss})

    def stop(self, number: int, *losses: float, start: float = 0.0, slot: str = "cpu0") -> None:
        """Left after these epochs, 2 seconds each."""
        self.curve(number, *losses)
        ask, seconds = self.log.asks[number - 1], 2.0 * len(losses)
        job, epoch = f"job-{ask.block}-{slot}", float(len(losses))
        metrics = {"eval_loss": losses[-1]}
        stopped = Stopped(ask.key, epoch, metrics, "median", None, seconds, 0.0, BEGAN + start + seconds, job)
        self.store.evaluation(ask.key).stop(stopped)
        self.log.answer(
            Answer(number, (losses[-1], 0.0), "stopped", stopped.finished, job, "median", epoch, losses[-1], seconds, 0)
        )

    def decline(self, number: int) -> None:
        self.log.answer(Answer(number, None, "declined", BEGAN))

    def read(self) -> Record:
        return open_record(str(self.run.folder))
