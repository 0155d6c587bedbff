"""lm-eval's HFLM with shared beginnings: what the prompts of a task begin with is computed once.

The five examples of an MMLU subject stand before each of its questions. Their keys and values are kept, and a pass
takes only what follows in each prompt, for all adapters, and projects its last position alone. The prompts, their
tokens, what is cut, the log-likelihoods and what is made of them stay lm-eval's. Whatever is no answer of one token to
a prompt that fits into the model goes lm-eval's own way.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import product
from os.path import commonprefix
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

BASE = "__base__"
"""PEFT's name for no adapter."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Nats by which the first prompt that is checked may differ from lm-eval's; 0.5 in 16 bits, which round coarsely."""

Answer = tuple[float, bool]
"""Log-likelihood, and whether it is the likeliest."""


@contextmanager
def active(model: PeftModel, name: str | None) -> Iterator[None]:
    """This adapter alone, or none."""
    if name is None:
        with model.disable_adapter():
            yield
    else:
        tuner: Any = model.base_model
        tuner.set_adapter(name, inference_mode=True)
        yield


@dataclass(frozen=True)
class Prompt:
    """A context, and answers of one token each."""

    context: str
    tokens: list[int]
    answers: dict[str, int]
    """By lm-eval's continuation."""


class Beginning(DynamicLayer):
    """One layer's keys and values that every row goes on from: kept once for each adapter, never added to.

    A pass repeats them for its rows while the layer is at work, so they are in memory for one layer at a time.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return _before(self.keys, key_states), _before(self.values, value_states)


def _before(kept: Any, fresh: Tensor) -> Tensor:
    times = len(fresh) // len(kept)
    return torch.cat([kept[None].expand(times, *kept.shape).flatten(0, 1), fresh], dim=-2)


class SharedLM(HFLM):  # type: ignore[misc]
    """Scores adapters of a PeftModel: lm-eval asks for one after the other, `name` says for which.

    A pass has `batch_size` rows, whoever's they are. The tokenizer becomes lm-eval's: hand in a copy.
    """

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, names: Sequence[str | None]
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.names = list(names)
        self.name = self.names[0]
        self.tokens = 0
        """That went through the model, padding included, for all adapters."""
        self.fallback = 0
        """Prompts with given answers that went lm-eval's own way."""
        self._answers: dict[str | None, dict[Any, Answer]] = defaultdict(dict)
        base: Any = model.get_base_model()
        self._takes = signature(base.forward).parameters
        self._trusted = bool(base._supports_default_dynamic_cache()) and not base._is_stateful
        self._checked = False

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """At the first adapter's turn all are scored."""
        known = self._answers[self.name]
        if any(request.args not in known for request in requests):
            self._answer(requests)
        return [known[request.args] for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        with active(self.model, self.name):
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        with active(self.model, self.name):
            return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: Tensor, *rest: Any, **more: Any) -> Tensor:
        self.tokens += inps.numel()
        return super()._model_call(inps, *rest, **more)

    def _answer(self, requests: Sequence[Instance]) -> None:
        by_task = defaultdict(list)
        for request in requests:
            by_task[request.task_name].append(request)
        others = []
        for mine in by_task.values():
            prompts = self._prompts(mine) if self._trusted else []
            done = {prompt.context for prompt in prompts} if prompts and self._shared(prompts) else set()
            others += [request for request in mine if request.args[0] not in done]
        self.fallback += len({request.args[0] for request in others})
        for name in self.names if others else ():
            with active(self.model, name):
                answers = super().loglikelihood(others, disable_tqdm=True)
            self._answers[name] |= {request.args: answer for request, answer in zip(others, answers, strict=True)}

    def _prompts(self, requests: Sequence[Instance]) -> list[Prompt]:
        """Those of one task whose answers are one token each and that nothing is cut off."""
        if not requests[0].args[0] or len(self._encode_pair(*requests[0].args)[1]) != 1:
            return []  # the others will be alike: not worth encoding them all to see
        asked = defaultdict(list)
        for request in requests:
            asked[request.args[0]].append(request.args[1])
        encoded = self._encoded([request.args for request in requests if request.args[0]])
        prompts = []
        for context, answers in asked.items():
            pairs = [encoded[context, answer] for answer in answers if context]
            if pairs and all(len(ending) == 1 for _, ending in pairs) and len(pairs[0][0]) <= self.max_length:
                endings = {answer: ending[0] for answer, (_, ending) in zip(answers, pairs, strict=True)}
                prompts.append(Prompt(context, pairs[0][0], endings))
        return prompts

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
        """What `_encode_pair` makes of each, with each context encoded once instead of twice for every answer.

        An answer's tokens are taken after its context's last line alone. That is tried out on three contexts for each
        last line and answer; where it fails, on whole contexts.
        """
        start = self.tokenizer.decode(self.prefix_token_id)
        usual = dict.fromkeys(c for c, _ in pairs if c == c.rstrip() and not c.startswith(start))
        tokens = dict(zip(usual, self.tokenizer(list(usual))["input_ids"] if usual else [], strict=True))
        alike = defaultdict(list)
        for context, answer in pairs:
            alike[context.rpartition("\n")[2] if context in tokens else "", answer].append(context)
        encoded: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        for (line, answer), contexts in alike.items():
            ending = self._encode_pair(line, answer)[1] if line else []
            some = {contexts[0], contexts[len(contexts) // 2], contexts[-1]}
            if line and all(self._encode_pair(each, answer) == (tokens[each], ending) for each in some):
                encoded |= {(each, answer): (tokens[each], ending) for each in contexts}
            else:
                encoded |= {(each, answer): self._encode_pair(each, answer) for each in contexts}
        return encoded

    def _shared(self, prompts: Sequence[Prompt]) -> bool:
        """Score the prompts of one task. False where this way is none for the model."""
        prompts = sorted(prompts, key=lambda prompt: -len(prompt.tokens))
        common = commonprefix([prompt.tokens for prompt in prompts])  # noqa: RUF071 - of tokens
        start = min(len(common), len(prompts[-1].tokens) - 1)
        if start == 0:
            return False
        size = int(self.batch_size)
        for first in range(0, len(self.names), size):
            names = self.names[first : first + size]
            cache = DynamicCache()
            self._last_logits([prompts[0].tokens[:start]] * len(names), names, cache)
            cache.layers = [Beginning(layer) for layer in cache.layers]
            step = size // len(names)
            for number in range(0, len(prompts), step):
                some = prompts[number : number + step]
                rows = [prompt.tokens[start:] for prompt in some for _ in names]
                self._note(some, names, self._last_logits(rows, names * len(some), cache))
                # The last row of a batch has the most padding.
                if not number and not self._checked and not self._agrees(some[-1], names):
                    self._trusted = False
                    return False
        self._checked = True
        return True

    def _note(self, prompts: Sequence[Prompt], names: Sequence[str | None], logits: Tensor) -> None:
        logs = log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        likeliest = logs.argmax(dim=-1).tolist()
        for row, (prompt, name) in enumerate(product(prompts, names)):
            found = logs[row, list(prompt.answers.values())].tolist()
            for (answer, token), value in zip(prompt.answers.items(), found, strict=True):
                self._answers[name][prompt.context, answer] = (value, token == likeliest[row])

    def _last_logits(self, rows: Sequence[list[int]], names: Sequence[str | None], cache: DynamicCache) -> Tensor:
        """(rows, vocabulary) at each row's last position; the rows go on from what is in the cache.

        Padding stands behind a row, where a causal model does not see it and every distance is right.
        """
        length = max(len(row) for row in rows)
        inputs = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.device)
        last = [len(row) - 1 for row in rows]
        kept = sorted(set(last)) if "logits_to_keep" in self._takes else list(range(length))
        more: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if len(kept) < length:
            more["logits_to_keep"] = torch.tensor(kept, device=self.device)
        self.tokens += inputs.numel()
        if len(self.names) > 1:
            with torch.no_grad():
                output = self.model(input_ids=inputs, adapter_names=[name or BASE for name in names], **more)
        else:
            with torch.no_grad(), active(self.model, self.name):
                output = self.model(input_ids=inputs, **more)
        logits: Tensor = output.logits[range(len(rows)), [kept.index(position) for position in last]]
        return logits

    def _agrees(self, prompt: Prompt, names: Sequence[str | None]) -> bool:
        """Whether lm-eval's own way gives the same for one prompt: a model may do more with its cache than is known."""
        requests = [((prompt.context, answer), prompt.tokens, [token]) for answer, token in prompt.answers.items()]
        for name in names:
            with active(self.model, name):
                own = self._loglikelihood_tokens(requests, disable_tqdm=True)
            for (pair, _, _), (value, _) in zip(requests, own, strict=True):
                if not abs(self._answers[name][pair][0] - value) <= TOLERANCE.get(self.model.dtype, 0.5):
                    return False
        return True
