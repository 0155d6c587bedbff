"""Answers: many prompts at once are each answered as alone, greedily or drawn."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bbo.errors import InputError
from blackbox.generation import answers
from blackbox.model import attach, load_model, load_tokenizer
from blackbox.settings import ModelSettings, Training

pytestmark = pytest.mark.usefixtures("on_cpu")

PROMPTS = ["Say often.", "a", "", "What is the capital of Norway?", "number " * 7]


@pytest.fixture(params=["small_model", "small_bloom"])
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    folder: Path = request.getfixturevalue(request.param)
    return load_model(folder, ModelSettings(path=str(folder))), load_tokenizer(folder)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7, "seed": 3}])
def test_a_batch_is_answered_as_each_prompt_alone(loaded: tuple[Any, Any], how: dict[str, Any]) -> None:
    together = answers(*loaded, PROMPTS, 12, batch_size=3, **how)
    assert together == [answers(*loaded, [prompt], 12, 1, **how)[0] for prompt in PROMPTS]
    assert len(set(together)) > 1


def test_drawn_answers_depend_on_the_seed(loaded: tuple[Any, Any]) -> None:
    found = [answers(*loaded, PROMPTS, 12, 8, seed=seed, temperature=1.0) for seed in (0, 1, 1)]
    assert found[0] != found[1] == found[2]


def greedy(model: Any, tokenizer: Any, prompt: str, count: int) -> list[int]:
    """The likeliest tokens, one pass over all that stands there for each."""
    tokens = tokenizer(prompt)["input_ids"]
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[-count:]


def test_greedy_is_the_likeliest_token_each_time(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    tokens = greedy(model, tokenizer, "Say", 6)
    assert tokenizer.eos_token_id not in tokens
    assert answers(model, tokenizer, ["Say"], 6, 1) == [tokenizer.decode(tokens)]


@pytest.mark.parametrize("of_the_model", [False, True])
def test_an_answer_ends_with_the_end_of_sequence(small_model: Path, of_the_model: bool) -> None:
    """Its third token is made one, of the tokenizer or (as chat models have more than one) of the model."""
    model, tokenizer = load_model(small_model, ModelSettings(path=str(small_model))), load_tokenizer(small_model)
    tokens = greedy(model, tokenizer, "Say", 6)
    assert tokens[2] not in tokens[:2]
    if of_the_model:
        model.generation_config.eos_token_id = [2, tokens[2]]
    else:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(tokens[2])
    assert answers(model, tokenizer, ["Say"], 6, 1) == [tokenizer.decode(tokens[:3])]


def test_the_adapter_that_is_set_speaks(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    training = Training(target_modules="all-linear", lora_rank=2)
    adapted = attach(model, {"one": training, "two": training})
    base = answers(adapted, tokenizer, PROMPTS, 8, 8)
    for name, parameter in adapted.named_parameters():
        if "lora_B.one" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    for name, same in (("one", False), ("two", True)):
        adapted.set_adapter(name)
        assert (answers(adapted, tokenizer, PROMPTS, 8, 8) == base) is same


def test_the_folders_own_sampling_is_not_ours(small_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_model, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    plain = answers(load_model(folder, ModelSettings(path=str(folder))), tokenizer, PROMPTS, 8, 8)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps(settings | {"repetition_penalty": 9.0, "do_sample": True})
    )
    model = load_model(folder, ModelSettings(path=str(folder)))
    before = model.generation_config
    assert answers(model, tokenizer, PROMPTS, 8, 8) == plain
    assert model.generation_config is before


def test_a_prompt_that_is_too_long_loses_its_beginning(small_model: Path) -> None:
    model, tokenizer = load_model(small_model, ModelSettings(path=str(small_model))), load_tokenizer(small_model)
    tail = "b" * (512 - 8)
    assert answers(model, tokenizer, ["a" * 100 + tail], 8, 1) == answers(model, tokenizer, ["c" + tail], 8, 1)
    with pytest.raises(InputError, match="max_new_tokens: 512 leaves no room for a prompt in 512 positions"):
        answers(model, tokenizer, ["a"], 512, 1)
