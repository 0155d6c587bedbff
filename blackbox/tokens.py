"""Tokenized once per (tokenizer, texts, length): a content-addressed cache of token rows.

In the user's cache folder ($XDG_CACHE_HOME/bbo/tokens, else ~/.cache/bbo/tokens), named by the hash of all that
determines them; deleting it costs time alone.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

Rows = list[tuple[list[int], int]]
"""Each row's tokens, and where its response starts."""


def cached(texts: Sequence[tuple[str, str]], tokenizer: Any, max_length: int, tokenize: Callable[[], Rows]) -> Rows:
    """The rows from the cache, else from `tokenize`. A slow tokenizer cannot say what it is: its rows are not kept."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenize()
    digest = sha256(backend.to_str().encode())
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, max_length)
    digest.update(json.dumps([special, texts]).encode())
    file = folder() / f"{digest.hexdigest()}.safetensors"
    try:
        content = load_file(file)
        lengths, starts = content["lengths"].tolist(), content["starts"].tolist()
        rows = torch.split(content["tokens"], lengths)
        return [(row.tolist(), start) for row, start in zip(rows, starts, strict=True)]
    except (OSError, SafetensorError, KeyError, ValueError):
        pass
    made = tokenize()
    _write(file, made)
    return made


def folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bbo" / "tokens"


def _write(file: Path, rows: Rows) -> None:
    """Whole under its name, or not at all: without a cache folder to write to there is none."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    content = {
        "tokens": torch.tensor([token for tokens, _ in rows for token in tokens], dtype=torch.int32),
        "lengths": torch.tensor([len(tokens) for tokens, _ in rows]),
        "starts": torch.tensor([start for _, start in rows]),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(content, temporary)
        os.replace(temporary, file)
    except (OSError, SafetensorError):
        with suppress(OSError):
            temporary.unlink()
