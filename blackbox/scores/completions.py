"""What a model writes for HumanEval's prompts: lm-eval's generation, on the model that is loaded."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import lm_eval.tasks
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from peft import PeftModel
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from bbo.errors import InputError
from blackbox.scores.requests import Request


def complete(
    model: PeftModel, tokenizer: Any, name: str | None, prompts: Sequence[str], request: Request, batch_size: int
) -> list[list[str]]:
    """Of each prompt the completions by one adapter (None: the model without any), `num_samples` each.

    A completion depends on adapter, prompt and its number alone, not on what else is written in the same batch.
    """
    settings = generation(sampled=request.temperature > 0)
    with speaking(model, name):
        lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=batch_size)
        if settings["max_gen_toks"] >= lm.max_length:
            most = settings["max_gen_toks"]
            raise InputError(f"outputs: humaneval writes up to {most} tokens, the model has room for {lm.max_length}")
        if request.temperature == 0:
            return [[text] * request.num_samples for text in _generate(lm, prompts, settings)]
        return [_sample(lm, prompt, request, settings, batch_size) for prompt in prompts]


def generation(sampled: bool) -> dict[str, Any]:
    """lm-eval's generation_kwargs for HumanEval: of its task with one completion, or of the one with 64."""
    file = Path(lm_eval.tasks.__file__).parent / "humaneval" / f"humaneval{'_64' if sampled else ''}.yaml"
    kwargs: dict[str, Any] = load_yaml(file, resolve_func=False)["generation_kwargs"]
    return kwargs


def _sample(lm: HFLM, prompt: str, request: Request, settings: Mapping[str, Any], batch_size: int) -> list[str]:
    """The completions of one prompt, drawn from as much of the probability as lm-eval's `top_p` says."""
    own = {key: value for key, value in settings.items() if key not in ("temperature", "top_p")}
    texts: list[str] = []
    while len(texts) < request.num_samples:
        numbers = range(len(texts), min(len(texts) + batch_size, request.num_samples))
        seeds = [int.from_bytes(sha256(f"{number}\0{prompt}".encode()).digest()[:7], "big") for number in numbers]
        drawing = LogitsProcessorList([Draw(seeds, request.temperature, settings["top_p"])])
        texts += _generate(lm, [prompt] * len(seeds), {**own, "do_sample": False, "logits_processor": drawing})
    return texts


def _generate(lm: HFLM, prompts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    instances = [Instance("generate_until", {}, (prompt, dict(settings)), 0) for prompt in prompts]
    return lm.generate_until(instances, disable_tqdm=True)


class Draw:
    """Turns logits (rows, vocabulary) into scores whose largest is a draw by the row's own generator.

    With p the probabilities and e exponentially distributed, the argmax of p / e is distributed as p. Own generators
    make a row's draws independent of the others, and leave the global one alone.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self.seeds = seeds
        self.warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.generators:  # not before: lm-eval copies its arguments, and a generator cannot be copied
            self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        chances = self.warpers(input_ids, scores).softmax(-1)  # type: ignore[arg-type]
        waits = [torch.empty(scores.shape[-1]).exponential_(generator=generator) for generator in self.generators]
        return chances / torch.stack(waits).to(scores.device)


@contextmanager
def speaking(model: PeftModel, name: str | None) -> Iterator[None]:
    """The model with this adapter alone, or without any; afterwards as it was, also in what trains."""
    tuner: Any = model.base_model
    active, trained = tuner.active_adapter, [parameter.requires_grad for parameter in model.parameters()]
    try:
        if name is None:
            with model.disable_adapter():
                yield
        else:
            tuner.set_adapter(name, inference_mode=True)
            yield
    finally:
        tuner.set_adapter(active)
        for parameter, was in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(was)
