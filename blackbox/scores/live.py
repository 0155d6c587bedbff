"""Score a job's adapters on the base model that is loaded, and write each score beside its evaluation."""

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel

from bbo.experiment import Experiment
from bbo.store import Evaluation, Score, write_json
from blackbox.full import with_model
from blackbox.model import with_adapters
from blackbox.outcome import failed
from blackbox.scores import qa
from blackbox.scores.requests import Request, Scored
from blackbox.scores.settings import HUMANEVAL
from blackbox.settings import Settings, read_settings
from blackbox.setup import Setup

Names = Sequence[str | None]
"""Of adapters; None is the base model without any."""


def score_job(setup: Setup, experiment: Experiment, job: Mapping[str, Any]) -> None:
    """Score what a job's evaluations lack, those together that want the same, and with them the base model."""
    scoring = _Scoring(setup, read_settings(experiment), job)
    if not scoring.trained or not setup.accelerator.is_main_process:
        return
    if scoring.settings.training.method == "full":
        for name in (*scoring.trained, None):
            scoring.score_model(name)
        return
    with with_adapters(setup.base, scoring.trained) as model:
        for request, names in scoring.wanting.values():
            scoring.score(model, request, names)


@dataclass
class _Scoring:
    """What is to be scored of a job."""

    setup: Setup
    settings: Settings
    job: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.evaluations: dict[str | None, Evaluation] = {}
        self.trained: dict[str, Path] = {}
        """Where each one's adapter, or its model, lies."""
        self.wanting: dict[str, tuple[Request, list[str | None]]] = {}
        """Name of the request -> who lacks it."""
        for number, item in enumerate(self.job["evaluations"]):
            self._add(f"member{number}", Evaluation(Path(item["folder"])), item.get("scores", []))
        if self.job["base_score"] is not None:
            for request in (Request(**about) for about in self.job.get("base_scores", [])):
                self.wanting.setdefault(request.name, (request, []))[1].append(None)

    def _add(self, name: str, evaluation: Evaluation, scores: Sequence[Mapping[str, Any]]) -> None:
        result = evaluation.result()
        weights = evaluation.weights
        if not scores or result is None or result.status == "failed" or weights is None:
            return
        self.evaluations[name], self.trained[name] = evaluation, weights
        for request in (Request(**about) for about in scores):
            if evaluation.score(request.name) is None:
                self.wanting.setdefault(request.name, (request, []))[1].append(name)

    def score_model(self, name: str | None) -> None:
        """All that is wanted of a model whose weights were all trained, or of the base model."""
        requests = [request for request, names in self.wanting.values() if name in names]
        if requests:
            with with_model(self.setup, self.settings, name, None if name is None else self.trained[name]) as model:
                for request in requests:
                    self.score(model, request, [name])

    def score(self, model: PeftModel, request: Request, names: Names) -> None:
        for name in names:
            if name is not None:
                steps = self.evaluations[name].epochs()[-1]["step"]
                self.evaluations[name].progress({"step": steps, "steps": steps, "scoring": request.task})
        began = time.monotonic()
        found = self._found(model, request, names, self.settings.scores.batch_size)
        seconds = (time.monotonic() - began) / len(names)
        for name, scored in found.items():
            if name is None:
                self._note_base(request, scored)
            else:
                self.evaluations[name].record_score(self._score(request, scored, seconds))

    def _found(
        self, model: PeftModel, request: Request, names: Names, batch_size: int
    ) -> dict[str | None, Scored | str]:
        """What a scorer found, or why it could not: together, else each alone, else row by row."""
        scores = self.settings.scores.model_copy(update={"batch_size": batch_size})
        try:
            return {**self._evaluate(model, request, names, replace(self.settings, scores=scores))}
        except Exception as error:
            reason = failed(error).reason or ""
            traceback.print_exc()
        if len(names) > 1:
            print(f"{reason}: scoring {len(names)} adapters one by one", file=sys.stderr, flush=True)
            return {name: self._found(model, request, [name], batch_size)[name] for name in names}
        if batch_size > 1:
            print(f"{reason}: scoring row by row", file=sys.stderr, flush=True)
            return self._found(model, request, names, 1)
        return {names[0]: reason}

    def _evaluate(
        self, model: PeftModel, request: Request, names: Names, settings: Settings
    ) -> dict[str | None, Scored]:
        if request.task == qa.TASK:
            return qa.evaluate(model, self.setup.tokenizer, names, request, settings)
        from blackbox.scores import harness, humaneval  # noqa: PLC0415 - lm-eval takes seconds

        evaluate = humaneval.evaluate if request.task == HUMANEVAL else harness.evaluate
        return evaluate(model, self.setup.tokenizer, names, request, settings.scores, settings.base)

    def _score(self, request: Request, scored: Scored | str, seconds: float) -> Score:
        wrong = isinstance(scored, str)
        known = Scored({}, 0, {}) if isinstance(scored, str) else scored
        return Score(
            name=request.name,
            status="failed" if wrong else "ok",
            metrics=known.metrics,
            about=asdict(request),
            count=known.count,
            details=known.details,
            seconds=seconds,
            gpu_seconds=seconds * self.job["gpus"],
            finished=time.time(),
            job=self.job["id"],
            reason=scored if isinstance(scored, str) else None,
        )

    def _note_base(self, request: Request, scored: Scored | str) -> None:
        """Add a score of the base model to what the job says about it; a failed one is left out."""
        if isinstance(scored, str):
            return
        file = Path(self.job["base_score"])
        base = json.loads(file.read_text()) if file.is_file() else {}
        write_json(file, base | {"scores": base.get("scores", {}) | {request.name: scored.metrics}})
