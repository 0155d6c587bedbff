"""lm-eval on the model that is loaded, with the adapters that were just trained: no reload, no files, no output."""

import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import lm_eval.utils
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from bbo.errors import InputError
from blackbox.scores import tasks
from blackbox.scores.mmlu import SharedLM
from blackbox.scores.requests import Request, Scored
from blackbox.scores.settings import ScoresSettings

BOOTSTRAPS = 100
"""Drawn for the standard error of a metric that is no mean; a mean's has a formula, and draws nothing."""


def evaluate(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str | None],
    request: Request,
    settings: ScoresSettings,
    base: Path,
) -> dict[str | None, Scored]:
    """Score one task for each of these adapters of a PeftModel in evaluation mode; None is the model without any.

    Model and tokenizer are afterwards as they were. Raises InputError where the task's data is missing or unreadable,
    or what it writes does not fit into the model.
    """
    scored = {}
    with quiet(), TemporaryDirectory() as cache, unchanged(model), seeded(model):
        loaded = tasks.load(request, settings, base, Path(cache))
        lm = SharedLM(model, deepcopy(tokenizer), settings.batch_size, names)
        _check_room(lm, loaded["tasks"])
        for name in names:
            lm.name = name
            scored[name] = _scored(lm, loaded, request)
    return scored


def _scored(lm: SharedLM, loaded: Any, request: Request) -> Scored:
    _seed()
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    results: Any = lm_evaluate(
        lm=lm, task_dict=loaded, limit=request.limit, bootstrap_iters=BOOTSTRAPS, log_samples=False
    )
    filters = [filter_.name for filter_ in next(iter(loaded["tasks"].values()))._filters]
    metrics = {name: _metrics(each, filters) for name, each in results["results"].items()}
    return Scored(
        metrics=metrics.pop(request.task),
        count=sum(each["effective"] for each in results["n-samples"].values()),
        details={"subtasks": metrics, "fallback": lm.fallback, "tokens": lm.tokens},
    )


def _metrics(raw: Mapping[str, Any], filters: Sequence[str]) -> dict[str, float]:
    """lm-eval's `acc,none` as `acc`; where a task has several filters those of the others as `exact_match@FILTER`."""
    found = {}
    for key, value in raw.items():
        metric, comma, filter_ = key.partition(",")
        if comma and isinstance(value, int | float | np.number):
            found[metric if filter_ in filters[:1] else f"{metric}@{filter_}"] = float(value)
    return found


def _check_room(lm: SharedLM, loaded: Mapping[str, Any]) -> None:
    for name, task in loaded.items():
        if task.OUTPUT_TYPE == "generate_until":
            most = normalize_gen_kwargs(deepcopy(task.config.generation_kwargs), lm.max_gen_toks)["max_gen_toks"]
            if most >= lm.max_length:
                raise InputError(f"outputs: {name} writes up to {most} tokens, the model has room for {lm.max_length}")


def _seed() -> None:
    """As lm-eval's `simple_evaluate` does."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)


@contextmanager
def seeded(model: PeftModel) -> Iterator[None]:
    """lm-eval's seeds, and afterwards the random numbers go on where they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        _seed()
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def unchanged(model: PeftModel) -> Iterator[None]:
    """Afterwards the same adapters are active and the same parameters train."""
    tuner: Any = model.base_model
    names, trained = tuner.active_adapter, [parameter.requires_grad for parameter in model.parameters()]
    try:
        yield
    finally:
        tuner.set_adapter(names)
        for parameter, was in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(was)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, prints or notes of lm-eval's; and its templates are compiled once, not for every question."""
    environment = lm_eval.utils.env
    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("lm_eval", "transformers", "datasets")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(patch.object(environment, "from_string", lru_cache(4096)(environment.from_string)))
        # Bootstrapping starts no processes: this one may hold a GPU.
        stack.enter_context(patch.dict("os.environ", DISABLE_MULTIPROC="1"))
        yield
