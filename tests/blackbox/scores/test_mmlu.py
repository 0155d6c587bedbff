"""Prompts with shared beginnings get lm-eval's own answers, for fewer tokens."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import BloomConfig, GPT2Config, MistralConfig

from blackbox.scores import harness, mmlu, tasks
from blackbox.scores.adapters import active
from blackbox.scores.mmlu import Prompt, SharedLM
from blackbox.scores.settings import ScoresSettings
from tests.blackbox.scores.rows import adapted, llama, request, tokenizer, write_mmlu

SIZES = {"vocab_size": 2048, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
MODELS: Mapping[str, tuple[Any, Sequence[str]]] = {
    "llama": (llama(), ["q_proj", "v_proj", "down_proj"]),
    "mistral": (
        MistralConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                      num_key_value_heads=1, sliding_window=50, max_position_embeddings=4096, **SIZES),
        ["q_proj", "k_proj"],
    ),
    "gpt2": (GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=1024, **SIZES), ["c_attn"]),
    "bloom": (BloomConfig(hidden_size=32, n_layer=2, n_head=2, **SIZES), ["query_key_value"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Instance]:
    """lm-eval's requests for the questions of two subjects."""
    base = tmp_path_factory.mktemp("mmlu")
    write_mmlu(base / "data", anatomy=7, astronomy=3)
    settings = ScoresSettings(data_dir="data")
    with harness.quiet():
        loaded = tasks.load(request("mmlu", 5, None, "anatomy", "astronomy"), settings, base, base / "cache")
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=1234)
            task.build_all_requests()
    return [instance for task in loaded["tasks"].values() for instance in task.instances]


def own_way(model: PeftModel, name: str | None, requests: list[Instance]) -> list[tuple[float, bool]]:
    with active(model, name):
        lm = HFLM(pretrained=model, tokenizer=deepcopy(tokenizer()), batch_size=4)
        return lm.loglikelihood(requests, disable_tqdm=True)


def shared(model: PeftModel, names: Sequence[str | None], batch_size: int = 4) -> SharedLM:
    return SharedLM(model, deepcopy(tokenizer()), batch_size, names)


def same(ours: Sequence[tuple[float, bool]], theirs: Sequence[tuple[float, bool]]) -> bool:
    values = [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=3e-6, abs=2e-5)
    return bool(values) and [likeliest for _, likeliest in ours] == [likeliest for _, likeliest in theirs]


@pytest.mark.parametrize("kind", MODELS)
def test_every_answer_is_lm_evals(kind: str, asked: list[Instance]) -> None:
    config, targets = MODELS[kind]
    model = adapted(config, targets, {"one": 4})
    for name in ("one", None):
        lm = shared(model, [name])
        assert same(lm.loglikelihood(asked), own_way(model, name, asked))
        whole = sum(len(lm.tok_encode(context)) for context in {request.args[0] for request in asked})
        assert (lm.fallback, lm.tokens < whole / 2) == (0, True), "one prompt is computed twice, as a check"


def test_adapters_together_get_what_each_gets_alone(asked: list[Instance]) -> None:
    model = adapted(*MODELS["llama"], {"one": 4, "two": 8, "three": 2})
    names = ["two", None, "one", "three"]
    alone = {name: own_way(model, name, asked) for name in names}
    for size in (3, 8):
        lm = shared(model, names, size)
        for name in names:
            lm.name = name
            assert same(lm.loglikelihood(asked), alone[name]), (size, name)
        assert lm.fallback == 0, "and not by each alone"


def test_what_lm_eval_cuts_goes_its_way(asked: list[Instance]) -> None:
    lengths = sorted({len(tokenizer().encode(instance.args[0])) for instance in asked})
    room = lengths[len(lengths) // 2]
    model = adapted(llama(max_position_embeddings=room), ["q_proj"], {"one": 4, "two": 2})
    lm = shared(model, ["one", "two"])
    assert same(lm.loglikelihood(asked), own_way(model, "one", asked))
    cut = {instance.args[0] for instance in asked if len(tokenizer().encode(instance.args[0])) > room}
    assert lm.fallback == len(cut) > 0


def test_a_model_that_does_more_with_its_cache_goes_lm_evals_way(
    asked: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = mmlu._before
    monkeypatch.setattr(mmlu, "_before", lambda kept, fresh: before(kept * 1.5, fresh))
    model = adapted(*MODELS["llama"], {"one": 4})
    lm = shared(model, ["one"])
    assert same(lm.loglikelihood(asked), own_way(model, "one", asked))
    assert lm.fallback == 10


def test_answers_of_several_tokens_go_lm_evals_way(asked: list[Instance]) -> None:
    longer = [Instance(i.request_type, i.doc, (i.args[0], f"{i.args[1]} and so"), i.idx, i.metadata) for i in asked]
    empty = [Instance(i.request_type, i.doc, ("", i.args[1]), i.idx, ("other", 0, 1)) for i in asked[:4]]
    model = adapted(*MODELS["llama"], {"one": 4})
    lm = shared(model, ["one"])
    assert same(lm.loglikelihood(longer + empty), own_way(model, "one", longer + empty))
    assert lm.fallback == 11


def test_a_batch_is_a_quarter_padding_at_most() -> None:
    prompts = [Prompt("", [7] * length, {}) for length in (30, 26, 25, 24, 24, 11, 10)]
    batches = [[len(prompt.tokens) for prompt in batch] for batch in mmlu._batches(prompts, 10, 3)]
    assert batches == [[30, 26, 25], [24, 24], [11], [10]]


def test_tokens_are_those_of_encode_pair() -> None:
    lm = shared(adapted(*MODELS["llama"], {"one": 4}), ["one"])
    contexts = [
        "A\nB\nAnswer:",
        "A\n\nAnswer:",
        "Answer:",
        "x\nAnswer: ",
        "x\n",
        " x\nAnswer:",
        "<s> x\nAnswer:",
        "é\n:",
    ]
    pairs = [(context, answer) for context in contexts for answer in (" A", " B", "A", "ing more", ":")]
    assert lm._encoded(pairs) == {pair: lm._encode_pair(*pair) for pair in pairs}


def test_where_the_last_line_does_not_tell_the_tokens_whole_contexts_do(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shared(adapted(*MODELS["llama"], {"one": 4}), ["one"])
    encode = lm._encode_pair
    monkeypatch.setattr(lm, "_encode_pair", lambda c, a: encode(c, a) if "\n" in c else (encode(c, a)[0], [5]))
    pairs = [(f"{start}\nAnswer:", " A") for start in "abcdefg"]
    assert lm._encoded(pairs) == {pair: encode(*pair) for pair in pairs}
