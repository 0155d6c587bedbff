"""What a saved adapter says about new rows: `task: classification`, after the search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from bbo.errors import InputError
from blackbox import labels
from blackbox.model import find_model, load_for, load_tokenizer
from blackbox.settings import ClassificationSettings, Settings, Source


def load(settings: Settings, adapter: Path) -> tuple[Any, Any]:
    """The experiment's base model with this saved adapter and its head, on a GPU if there is one; and its tokenizer.

    Raises InputError.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"{adapter}: no adapter_config.json: not a saved adapter")
    folder = find_model(settings.model, settings.base)
    tokenizer = load_tokenizer(folder)
    base = load_for(settings, folder, tokenizer)
    model = PeftModel.from_pretrained(base, adapter).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model if settings.model.quantization else model.to(device), tokenizer


def texts_of(settings: Settings, source: Source, base: Path, place: str) -> list[str]:
    """The text of each row of a CSV (or what else a Source reads), joined as in training; it needs no label.

    `place` opens the sentences of the InputError it raises; paths are relative to `base`.
    """
    assert isinstance(settings.data, ClassificationSettings)
    return labels.read_texts(source, settings.data, base, place)


@torch.no_grad()
def probabilities(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, batch_size: int = 32
) -> list[list[float]]:
    """Of each class for each text, in their order, by softmax in float64; each row sums to 1.

    `model` and `tokenizer` are those of `load`, or a merged classifier's. Texts of like length go in one batch.
    """
    rows = labels.text_tokens(texts, tokenizer, max_length)
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    found: dict[int, list[float]] = {}
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        longest = len(rows[batch[0]])
        padded = [rows[row] + [labels.padding_token(tokenizer)] * (longest - len(rows[row])) for row in batch]
        lengths = torch.tensor([len(rows[row]) for row in batch])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        logits = model(input_ids=torch.tensor(padded).to(model.device), attention_mask=mask.to(model.device)).logits
        found |= dict(zip(batch, logits.double().softmax(-1).tolist(), strict=True))
    return [found[row] for row in range(len(rows))]
