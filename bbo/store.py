"""The truth about evaluations: one folder per evaluation, named by the hash of all that determines its result.

    evals/3f2a91c07b5d4e68/   experiment.yaml point.txt applied.json progress.jsonl train.log adapter/ result.json
                              model/ instead of adapter/ (where all weights are trained)
                              stopped.json instead of the last (where it was left early)
                              scores/ (benchmarks of the adapter, at any time after)
                              claim and state.safetensors (while somebody trains it, or goes on some day)

A result is written to a temporary name, flushed to disk and renamed: result.json is whole or it is not there.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from bbo.claims import Claim
from bbo.errors import MachineError

ROOT = "-"
"""The parent of an evaluation that has none, among those that are to have children."""

KEY_DIGITS = 16  # of the sha256: a clash among a million evaluations has a chance of 3e-8


def key_of(determinants: Mapping[str, Any]) -> str:
    """Key of an evaluation: the first digits of sha256 of the canonical JSON of all that determines its result."""
    text = json.dumps(determinants, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True)
class Result:
    """result.json: how one evaluation ended. Times in seconds, `started` and `finished` since 1970."""

    key: str
    status: Literal["ok", "failed"]
    metrics: dict[str, float]
    hyperparameters: dict[str, Any]
    point: Sequence[float] | None
    experiment: str
    seconds: float
    phases: dict[str, float]
    """Seconds of `start` (process), `load` (model and data; both shared by the job's points), `train`, `score`."""
    gpu_seconds: float
    started: float
    finished: float
    host: str
    slot: str
    job: str
    seed: int
    fidelity: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1
    reason: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    """Of an interval: key of the evaluation that it goes on from, ROOT for the first one."""


@dataclass(frozen=True)
class Stopped:
    """stopped.json: an evaluation that was left before its last epoch. Its progress and its state are kept."""

    key: str
    epoch: float
    """Epochs behind it."""
    metrics: dict[str, float]
    """Those that are measured after every epoch, of the last one."""
    reason: str
    """The rule that stopped it, or who else."""
    asked: dict[str, Any] | None
    """Who had asked for it (bbo/stopping.py): it answers nobody else."""
    seconds: float
    gpu_seconds: float
    finished: float
    job: str


@dataclass(frozen=True)
class Score:
    """scores/NAME.json: a benchmark's score of an evaluation's adapter, or why there is none."""

    name: str
    status: Literal["ok", "failed"]
    metrics: dict[str, float]
    """The first is the task's own; standard errors as NAME_stderr."""
    about: dict[str, Any]
    """All that determines it, beside the adapter."""
    count: int
    """Questions."""
    details: dict[str, Any]
    seconds: float
    """Its share of what it was scored in together with others."""
    gpu_seconds: float
    finished: float
    """Since 1970."""
    job: str
    reason: str | None = None


class Inside:
    """A path in an owner's folder, made when it is first asked for: most owners are looked up for one or two."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __set_name__(self, _: type, attribute: str) -> None:
        self._attribute = attribute

    def __get__(self, owner: Any, _: type) -> Path:
        path: Path = owner.folder / self._name
        owner.__dict__[self._attribute] = path
        return path


class Evaluation:
    """One evaluation's folder: spells every file name in it."""

    experiment_file = Inside("experiment.yaml")
    point_file = Inside("point.txt")
    applied_file = Inside("applied.json")
    progress_file = Inside("progress.jsonl")
    log_file = Inside("train.log")
    adapter = Inside("adapter")
    model = Inside("model")
    """Instead of an adapter, where all weights were trained."""
    state_file = Inside("state.safetensors")
    """Where training stands after its last whole epoch; there while it is under way, or where it is to be kept."""
    stop_file = Inside("stop")
    """While it is there, training ends at the next epoch's end, without a result."""
    stopped_file = Inside("stopped.json")
    result_file = Inside("result.json")
    scores = Inside("scores")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder.name

    @cached_property
    def claim(self) -> Claim:
        return Claim(self.folder / "claim")

    @property
    def milestones(self) -> tuple[Path, ...]:
        """What changes after an epoch, at the end and with each score: all that is never done again."""
        return self.state_file, self.stopped_file, self.result_file, self.scores

    def result(self) -> Result | None:
        """How it ended, or None while it has not."""
        try:
            return Result(**json.loads(self.result_file.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise MachineError(f"{self.result_file}: damaged; remove it to train this evaluation again") from None

    @property
    def weights(self) -> Path | None:
        """What was trained, adapter or model, while it is on disk."""
        return next((folder for folder in (self.adapter, self.model) if folder.is_dir()), None)

    def drop_weights(self) -> None:
        for folder in (self.adapter, self.model):
            shutil.rmtree(folder, ignore_errors=True)

    def record(self, result: Result) -> None:
        """Write result.json, durable and whole. The last step: its existence means all else is there."""
        assert result.key == self.key, (result.key, self.key)
        write_json(self.result_file, vars(result))

    def score(self, name: str) -> Score | None:
        """A benchmark's score, or None while there is none."""
        file = self.scores / f"{name}.json"
        try:
            return Score(**json.loads(file.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise MachineError(f"{file}: damaged; remove it to score this evaluation again") from None

    def record_score(self, score: Score) -> None:
        """Write scores/NAME.json, durable and whole."""
        write_json(self.scores / f"{score.name}.json", vars(score))

    def spent(self) -> tuple[float, float] | None:
        """Seconds and GPU-seconds of its training and of all its scores; None while it has no result."""
        result = self.result()
        if result is None:
            return None
        scores = [score for file in self.scores.glob("[!.]*.json") if (score := self.score(file.stem))]
        ended: list[Result | Score] = [result, *scores]
        return sum(each.seconds for each in ended), sum(each.gpu_seconds for each in ended)

    def stopped(self) -> Stopped | None:
        """Where it was left early by those who asked for it last; None while it is under way, and once it is over."""
        try:
            return Stopped(**json.loads(self.stopped_file.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise MachineError(f"{self.stopped_file}: damaged; remove it to go on with this evaluation") from None

    def stop(self, stopped: Stopped) -> None:
        """Write stopped.json, durable and whole."""
        write_json(self.stopped_file, vars(stopped))

    def epochs(self) -> list[dict[str, Any]]:
        """The whole lines of progress.jsonl that end an epoch."""
        try:
            lines = self.progress_file.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry for entry in entries if "epoch" in entry]

    def progress(self, entry: Mapping[str, Any]) -> None:
        """Append one line to progress.jsonl."""
        with self.progress_file.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")

    def rewind(self, step: int) -> None:
        """Cut progress.jsonl back to what stands up to this optimizer step."""
        try:
            lines = self.progress_file.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        self.progress_file.write_text("".join(kept))

    def begin(self, experiment_text: str, point_text: str) -> None:
        """Make the folder ready for training: what an earlier attempt left is removed, but for its state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in (self.result_file, self.applied_file, self.log_file, self.stop_file, self.stopped_file):
            leftover.unlink(missing_ok=True)
        self.drop_weights()
        self.experiment_file.write_text(experiment_text)
        self.point_file.write_text(point_text)

    def attach_log(self, log: Path) -> None:
        """Make train.log the output of the job's process: one file, found from each of the job's evaluations."""
        self.log_file.unlink(missing_ok=True)
        log.touch()
        try:
            os.link(log, self.log_file)
        except OSError:  # a file system without hard links
            self.log_file.symlink_to(log.absolute())


class Store:
    """All evaluations under one folder; runs may share it, also at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / ".jobs"
        """Job files and the output of their processes, by job."""
        self.fingerprints = root / ".fingerprints.json"
        """Content hashes of models and data, remembered by path, size and time."""

    def evaluation(self, key: str) -> Evaluation:
        return Evaluation(self.root / key)

    def __iter__(self) -> Iterator[Evaluation]:
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if not folder.name.startswith(".") and folder.is_dir():
                yield Evaluation(folder)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to a temporary name, flush it to disk, rename it into place."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: Path, content: str) -> None:
    """Likewise any text, as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
