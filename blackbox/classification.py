"""What a saved adapter says about new rows: `task: classification`, after the search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.settings import ClassificationSettings, Settings, Source


def load(settings: Settings, adapter: Path) -> tuple[Any, Any]:
    """The experiment's base model with this saved adapter and its head, on the first GPU if there is one; its tokenizer.

    Raises InputError.
    """
    raise InputError("being built")


def texts_of(settings: Settings, source: Source, base: Path, place: str) -> list[str]:
    """The text of each row of a CSV (or what else a Source reads), joined as in training; it needs no label.

    `place` opens the sentences of the InputError it raises; paths are relative to `base`.
    """
    raise InputError("being built")


def probabilities(model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, batch_size: int = 32) -> list[list[float]]:
    """(texts, classes) by softmax, in the order of the texts; each row sums to 1. `model` and `tokenizer` as of `load`."""
    raise InputError("being built")
