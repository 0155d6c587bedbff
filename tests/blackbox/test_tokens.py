"""The cache of token rows: hit by equal content alone, and never in the way."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from blackbox import data, tokens
from blackbox.data import tokenize

TEXTS = [("ab", "cde"), ("f", "g")]


@pytest.fixture
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Grows with each tokenization."""
    calls: list[int] = []
    rows = data._rows
    monkeypatch.setattr(data, "_rows", lambda *arguments: calls.append(1) or rows(*arguments))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_the_same_content_is_tokenized_once(tokenizer: Any, made: list[int]) -> None:
    first = tokenize(TEXTS, tokenizer, 64, "data.train")
    assert tokenize(TEXTS, tokenizer, 64, "data.train") == first
    assert len(made) == 1


@pytest.mark.parametrize("texts", [TEXTS[::-1], [("ab", "cd"), ("ef", "g")], [("abc", "de"), ("f", "g")]])
def test_other_content_is_another_entry(texts: list[tuple[str, str]], tokenizer: Any, made: list[int]) -> None:
    tokenize(TEXTS, tokenizer, 64, "data.train")
    tokenize(texts, tokenizer, 64, "data.train")
    tokenize(TEXTS, tokenizer, 6, "data.train")
    assert len(made) == 3


def test_damage_and_a_folder_that_takes_nothing_cost_time_alone(
    tokenizer: Any, made: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenize(TEXTS, tokenizer, 64, "data.train")
    (file,) = tokens.folder().iterdir()
    file.write_bytes(b"torn")
    assert tokenize(TEXTS, tokenizer, 64, "data.train") == first
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # a file, no folder
    assert tokenize(TEXTS, tokenizer, 64, "data.train") == first
    assert len(made) == 3
