"""Scores are lm-eval's own, for each adapter, and leave nothing changed behind."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from bbo.errors import InputError
from blackbox.scores import harness
from blackbox.scores.requests import Scored
from blackbox.scores.settings import ScoresSettings
from tests.blackbox.scores.rows import (
    adapted,
    llama,
    own_way,
    request,
    tokenizer,
    write_arc,
    write_bbh,
    write_drop,
    write_hellaswag,
    write_mmlu,
)

SETTINGS = ScoresSettings(data_dir="data", batch_size=4)
NAMES = ["one", None, "two"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    write_mmlu(folder / "data", anatomy=11, astronomy=6)
    write_hellaswag(folder / "data", 9)
    write_arc(folder / "data", 9)
    write_bbh(folder / "data", boolean_expressions=3, navigate=1)
    write_drop(folder / "data", 4)
    return folder


@pytest.fixture(scope="module")
def model() -> PeftModel:
    return adapted(llama(), ["q_proj", "v_proj"], {"one": 4, "two": 8})


def evaluate(model: PeftModel, base: Path, asked: Any, names: Any = NAMES) -> dict[str | None, Scored]:
    return harness.evaluate(model, tokenizer(), names, asked, SETTINGS, base)


def theirs(results: Mapping[str, Any], filter_: str = "none") -> dict[str, float]:
    (metrics,) = results["results"].values()
    return {key.split(",")[0]: float(value) for key, value in metrics.items() if key.endswith(f",{filter_}")}


def test_mmlu_is_the_mean_of_lm_evals_subjects_by_size(model: PeftModel, base: Path) -> None:
    scored = evaluate(model, base, request("mmlu", 5, None, "anatomy", "astronomy"))
    assert list(scored) == NAMES
    for name, score in scored.items():
        own = {}
        for subject in ("anatomy", "astronomy"):
            folder = base / "data" / "mmlu" / subject
            data = {split: folder / f"{split}.jsonl" for split in ("dev", "test")}
            file = f"mmlu/default/mmlu_{subject}.yaml"
            own[f"mmlu_{subject}"] = theirs(own_way(model, name, file, data, num_fewshot=5, batch_size=3))
        for subject, metrics in own.items():
            assert score.details["subtasks"][subject] == pytest.approx(metrics)
        assert score.count == 17 and next(iter(score.metrics)) == "acc"
        assert score.metrics["acc"] == pytest.approx(
            (11 * own["mmlu_anatomy"]["acc"] + 6 * own["mmlu_astronomy"]["acc"]) / 17
        )
        assert score.metrics["acc_stderr"] > 0
    assert len({score.metrics["acc"] for score in scored.values()}) > 1, "the adapters differ"


@pytest.mark.parametrize(
    ("asked", "file", "splits", "first"),
    [
        (request("hellaswag"), "hellaswag/hellaswag.yaml", {"train": "validation", "validation": "validation"}, "acc"),
        (request("arc_easy", 2, 5), "arc/arc_easy.yaml", {n: n for n in ("train", "validation", "test")}, "acc"),
        (request("drop", None, 2), "drop/default.yaml", {"train": "validation", "validation": "validation"}, "em"),
    ],
    ids=lambda value: getattr(value, "task", ""),
)  # fmt: skip
def test_tasks_of_all_kinds_are_scored_as_lm_eval_does(
    model: PeftModel,
    base: Path,
    asked: Any,
    file: str,
    splits: dict[str, str],
    first: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFLM, "max_gen_toks", 16)
    folder = base / "data" / asked.task
    folder = folder / "ARC-Easy" if asked.task == "arc_easy" else folder
    data = {split: folder / f"{stem}.jsonl" for split, stem in splits.items()}
    more = {"limit": asked.limit} | ({} if asked.num_fewshot is None else {"num_fewshot": asked.num_fewshot})
    scored = evaluate(model, base, asked, ["two", None])
    for name, score in scored.items():
        assert score.metrics == pytest.approx(theirs(own_way(model, name, file, data, **more)), nan_ok=True)
        assert next(iter(score.metrics)) == first
        assert score.count == (asked.limit or 9)


def test_bbh(model: PeftModel, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a random model writes is never right: let it quote the answer of a prompt's last example."""
    monkeypatch.setattr(PeftModel, "generate", None)
    monkeypatch.setattr(harness.SharedLM, "_model_generate", _says("so the answer is True."))
    group = evaluate(model, base, request("bbh", None, None, "cot_fewshot_boolean_expressions", "cot_fewshot_navigate"))
    assert group["one"].metrics["exact_match"] == 1.0 and group["one"].count == 4
    assert set(group["one"].details["subtasks"]) == {"bbh_cot_fewshot_boolean_expressions", "bbh_cot_fewshot_navigate"}
    monkeypatch.setattr(harness.SharedLM, "_model_generate", _says("so the answer is False."))
    alone = evaluate(model, base, request("bbh_cot_fewshot_boolean_expressions", None, 2))
    assert alone["one"].metrics["exact_match"] == 0.0 and alone["one"].count == 2


def _says(text: str) -> Any:
    def generate(_: object, context: torch.Tensor, **__: object) -> torch.Tensor:
        written = torch.tensor(tokenizer().encode(text, add_special_tokens=False))
        return torch.cat([context, written.expand(len(context), -1)], dim=1)

    return generate


def test_nothing_is_left_changed(model: PeftModel, base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words: PreTrainedTokenizerBase = tokenizer()
    words.pad_token = None
    trained = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    for task in ("mmlu_anatomy", "hellaswag"):
        harness.evaluate(model, words, [None, "one"], request(task, None, 2), SETTINGS, base)
    assert expected == (random.random(), np.random.rand(), torch.rand(()))
    assert model.active_adapters == ["one", "two"]
    assert trained == [parameter.requires_grad for parameter in model.parameters()]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert words.pad_token is None and words.padding_side == tokenizer().padding_side
    assert capfd.readouterr() == ("", "")


def test_what_does_not_fit_is_said(base: Path) -> None:
    small = adapted(llama(max_position_embeddings=256), ["q_proj"], {"one": 2})
    with pytest.raises(InputError, match=r"^outputs: drop writes up to 256 tokens, the model has room for 256$"):
        evaluate(small, base, request("drop"), ["one"])
