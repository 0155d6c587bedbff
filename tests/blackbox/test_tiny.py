"""The embedded model and its data: what is shipped, and that `build` makes such a thing again."""

import json
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from typer.testing import CliRunner

from blackbox.tiny.__main__ import app
from blackbox.tiny.corpus import documents
from blackbox.tiny.tasks import TASKS, rows

TINY = Path(__file__).parents[2] / "blackbox" / "tiny"
MEGABYTE = 1_000_000


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def shipped() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load(TINY / "model")


def test_the_shipped_model_is_a_small_llama(shipped):
    model, tokenizer = shipped
    assert model.config.model_type == "llama"
    assert 1_000_000 <= model.num_parameters() <= 3_000_000
    assert model.config.max_position_embeddings >= 2048
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}
    assert model.config.vocab_size == len(tokenizer)
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert special == (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id)
    assert len(set(special)) == 3


def test_everything_shipped_fits_into_eight_megabytes():
    shipped_files = [*(TINY / "model").iterdir(), TINY / "train.jsonl", TINY / "valid.jsonl"]
    assert sum(path.stat().st_size for path in shipped_files) <= 8 * MEGABYTE


@pytest.mark.parametrize(
    "text",
    [
        "Mia went to the park.",
        "  two spaces, a tab\t, line ends \n\n\r\n and a space at the end ",
        "Ünïcödé, 日本語, عربى, 🙂👩‍👧, e\u0301 is not \u00e9, \u00a0\u200b\x00",
        "don't , can 't . 3.14 12345 def f(x):\n    return x ### Instruction:",
        "",
    ],
)
def test_every_text_comes_back_from_the_tokenizer(shipped, text):
    _, tokenizer = shipped
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_words_of_the_alpaca_prompt_are_one_token_each(shipped):
    _, tokenizer = shipped
    prompt = "Write a response that appropriately completes the request."
    assert len(tokenizer.tokenize(prompt)) == len(prompt.split()) + 1


def test_the_shipped_model_has_learnt_its_world(shipped):
    model, tokenizer = shipped
    ids = tokenizer("One dog, two", return_tensors="pt").input_ids
    assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()) == " dogs"


def test_the_shipped_data_is_what_the_seed_gives():
    assert (read(TINY / "train.jsonl"), read(TINY / "valid.jsonl")) == rows(0)


def test_the_data_is_clean():
    train, valid = read(TINY / "train.jsonl"), read(TINY / "valid.jsonl")
    assert 600 <= len(train) <= 1000
    assert 150 <= len(valid) <= 250
    both = [*train, *valid]
    assert all(set(row) == {"instruction", "input", "output"} and row["output"] for row in both)
    # No prompt twice, on either side.
    assert len({(row["instruction"], row["input"]) for row in both}) == len(both)
    train_rendered = {tuple(row.values()) for row in train}
    assert not train_rendered & {tuple(row.values()) for row in valid}
    assert len({row["instruction"] for row in train if row["input"]}) > len(TASKS)


def test_the_generators_repeat_for_a_seed_and_differ_between_seeds():
    assert list(islice(documents(3), 50)) == list(islice(documents(3), 50))
    assert list(islice(documents(3), 50)) != list(islice(documents(4), 50))
    assert rows(3, 40, 10) == rows(3, 40, 10)
    assert rows(3, 40, 10) != rows(4, 40, 10)


def test_the_pretraining_text_never_shows_the_prompt():
    assert not any("###" in text or "Below is an" in text for text in islice(documents(1), 2000))


def test_without_a_command_the_help_is_shown():
    shown = CliRunner().invoke(app, [])
    assert "build" in shown.output and "Usage" in shown.output


def test_a_miniature_build_is_complete_and_repeats(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        done = CliRunner().invoke(app, ["build", "--out", str(folder), "--steps", "2"])
        assert done.exit_code == 0, done.output
    for name in ("train.jsonl", "valid.jsonl", "model/model.safetensors", "model/tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    model, tokenizer = load(folders[0] / "model")
    assert model.config.vocab_size == len(tokenizer)
