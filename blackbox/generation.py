"""Text that a model writes: many prompts at once, each answered as it would be alone."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from unittest.mock import patch

import torch
from torch import Generator, Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from bbo.errors import InputError
from blackbox.data import prompt_tokens


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    seed: int = 0,
    temperature: float = 0.0,
) -> list[str]:
    """What the model, in evaluation mode, writes after each prompt, without special tokens; it ends with EOS.

    Prompts are padded on the left, as far as rounding an answer is the one that its prompt has alone: temperature 0
    takes the likeliest token, above it each prompt draws by `seed` and its own text. A prompt that leaves no room in
    the model loses its beginning.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's layers stay in it
    rows = cut(model, prompt_tokens(prompts, tokenizer), max_new_tokens)
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))  # little padding; memory fails early
    settings = _settings(model, tokenizer, max_new_tokens)
    found = [""] * len(rows)
    # The folder's own settings (a temperature, a penalty) would fill what ours leave open.
    with torch.no_grad(), patch.object(model, "generation_config", GenerationConfig()):
        for first in range(0, len(order), batch_size):
            mine = order[first : first + batch_size]
            ids, mask = _padded([rows[row] for row in mine], settings.pad_token_id, model.device)
            drawing = [_Drawing([_generator(seed, prompts[row]) for row in mine], temperature)] if temperature else []
            written = model.generate(
                ids, attention_mask=mask, generation_config=settings, logits_processor=LogitsProcessorList(drawing)
            )
            texts = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
            for row, text in zip(mine, texts, strict=True):
                found[row] = text
    return found


def cut(model: Any, rows: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Tokens of prompts, from the end as many as leave room for an answer. Raises InputError where none do."""
    # BLOOM, say, has no such number: its positions are distances.
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        return list(rows)
    if longest <= max_new_tokens:
        raise InputError(f"max_new_tokens: {max_new_tokens} leaves no room for a prompt in {longest} positions")
    return [row[max_new_tokens - longest :] for row in rows]


def _settings(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    if tokenizer.eos_token_id is None:
        raise InputError("model.path: its tokenizer has no end-of-sequence token to stop at")
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *([own] if isinstance(own, int) else own or [])}  # a chat model may have several
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.eos_token_id,  # behind an answer it is left out with it, before a prompt it is masked
    )


def _padded(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the left to the longest."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _generator(seed: int, prompt: str) -> Generator:
    digest = sha256(f"{seed}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


class _Drawing(LogitsProcessor):
    """Makes the likeliest token a drawn one, each row by its own generator (the Gumbel-max trick).

    transformers' own sampling draws for all rows of a batch together.
    """

    def __init__(self, generators: Sequence[Generator], temperature: float) -> None:
        self.generators = generators
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draws = [torch.empty(scores.shape[1]).exponential_(generator=each) for each in self.generators]
        return scores / self.temperature - torch.stack(draws).log().to(scores.device)
