"""`bbo predict` and `bbo generate`: prompts, files, who is who. Answers and probabilities come from stand-ins here."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bbo.errors import InputError
from blackbox import generate, predict
from blackbox.ask import prompts_of, rows_of
from blackbox.saved import find, load
from blackbox.settings import Settings, read_settings
from tests.blackbox.conftest import make_rows, write_jsonl

Answers = Callable[..., list[str]]


@pytest.fixture
def settings(searched: Path) -> Settings:
    return read_settings(find(str(searched)).known)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What blackbox/generation.py was asked; it answers with a number that the model's weights make."""
    calls: list[Any] = []

    def answers(model: Any, tokenizer: Any, prompts: Sequence[str], batch_size: int, **options: Any) -> list[str]:
        import torch  # noqa: PLC0415 - heavy

        calls.append((list(prompts), batch_size, options))
        with torch.no_grad():
            lasts = [model(input_ids=torch.tensor([tokenizer(p)["input_ids"]])).logits[0, -1].sum() for p in prompts]
        return [f" {float(last):.3f}" for last in lasts]

    module = ModuleType("blackbox.generation")
    module.answers = answers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "blackbox.generation", module)
    return calls


def table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


def requested(searched: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {"adapter": str(searched), "experiment": None, "out": str(out), "batch_size": 2, **more}


def test_prompts_are_those_of_training_without_the_answer(settings: Settings, tmp_path: Path) -> None:
    rows = [{"instruction": "Say it.", "input": ""}, {"instruction": "Say it.", "input": "now"}]
    short, long = prompts_of(rows, settings, None, "DATA")
    assert short.endswith("### Instruction:\nSay it.\n\n### Response:") and "### Input:\nnow\n" in long
    (tmp_path / "lines.txt").write_text("Say it.\n\nSay more.\n")
    lines = rows_of(str(tmp_path / "lines.txt"), settings, "instruct", "QUESTIONS")
    assert prompts_of(lines, settings, None, "QUESTIONS")[0] == short and len(lines) == 2
    with pytest.raises(InputError, match="DATA: no column instruction, only question"):
        prompts_of([{"question": "?"}], settings, None, "DATA")
    with pytest.raises(InputError, match=r"must be a file that ends with \.json"):
        rows_of(str(tmp_path / "rows.xls"), settings, "instruct", "DATA")


def test_predicted_answers(searched: Path, asked: list[Any], tmp_path: Path) -> None:
    data, out = write_jsonl(tmp_path / "test.jsonl", make_rows(5)), tmp_path / "out.csv"
    request = requested(searched, out, data=str(data), merge=False, ids=[], max_new_tokens=7)
    predict.run(request)
    (head, *rows), (prompts, size, options) = table(out), asked[0]
    assert head == ["row", "answer"] and [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert (len(prompts), size, options) == (5, 2, {"max_new_tokens": 7})
    predict.run({**request, "merge": True, "ids": ["instruction", "input"]})
    (head, *merged) = table(out)
    assert head == ["instruction", "input", "answer"]
    assert [float(r[-1]) for r in merged] == pytest.approx([float(r[-1]) for r in rows], abs=0.01)
    before = out.read_bytes()
    with pytest.raises(InputError, match="--id: no column nr"):
        predict.run({**request, "ids": ["nr"]})
    assert out.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "test.jsonl"]


def test_who_is_who_is_hidden_and_drawn_by_the_seed(searched: Path, asked: list[Any], tmp_path: Path) -> None:
    questions, out = write_jsonl(tmp_path / "q.jsonl", make_rows(6)), tmp_path / "answers.json"
    sampling = {"seed": 3, "temperature": 0.7, "max_new_tokens": 5}
    request = requested(searched, out, questions=str(questions), base=True, worst=True, **sampling)
    generate.run(request)
    shown, key = (json.loads(file.read_text()) for file in (out, tmp_path / "answers.key.json"))
    assert [len(each["answers"]) for each in shown["questions"]] == [3] * 6
    assert not any(name in out.read_text() for name in ("best", "worst", "base", "evals"))
    assert {tuple(sorted(each.values())) for each in key["key"]} == {("base", "best", "worst")}
    assert len({tuple(each.values()) for each in key["key"]}) > 1
    assert all(options == sampling for _, _, options in asked)
    # The best model's answers are told apart from the others' by the key alone.
    best, tokenizer = load(find(str(searched)))
    expected = sys.modules["blackbox.generation"].answers(best, tokenizer, asked[0][0], 2)
    letters = [next(letter for letter, name in each.items() if name == "best") for each in key["key"]]
    found = [each["answers"][letter] for each, letter in zip(shown["questions"], letters, strict=True)]
    assert found == [text.strip() for text in expected]
    before = out.read_bytes()
    generate.run(request)
    assert out.read_bytes() == before
    with pytest.raises(InputError, match="is no run"):
        generate.run({**request, "adapter": str(find(str(searched)).folder)})


def test_answers_of_a_batch_are_those_of_single_prompts(searched: Path, settings: Settings) -> None:
    generation = pytest.importorskip("blackbox.generation")
    model, tokenizer = load(find(str(searched)))
    prompts = prompts_of(make_rows(5), settings, tokenizer, "DATA")  # type: ignore[arg-type]
    options = {"max_new_tokens": 6, "seed": 1, "temperature": 0.7}
    together = generation.answers(model, tokenizer, prompts, batch_size=5, **options)
    assert together == [generation.answers(model, tokenizer, [p], batch_size=1, **options)[0] for p in prompts]


def test_class_probabilities(searched: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Columns, order and sums; the classifier itself is a stand-in."""
    from blackbox import classification  # noqa: PLC0415 - heavy

    monkeypatch.setattr(classification, "texts_of", lambda settings, source, base, place: ["a", "bb", "ccc"])
    shares = {"a": [0.7, 0.2, 0.1], "bb": [0.25, 0.5, 0.25], "ccc": [0.1, 0.1, 0.8]}

    def probabilities(model: Any, tokenizer: Any, texts: Sequence[str], *_: Any) -> list[list[float]]:
        return [shares[text] for text in texts]

    monkeypatch.setattr(classification, "probabilities", probabilities)
    monkeypatch.setattr(predict, "load", lambda saved, merge: (None, None))
    (tmp_path / "test.csv").write_text("ID,Question,target\n7,a,0\n8,bb,1\n9,ccc,0\n")
    saved = find(str(searched))

    class Data:
        label, num_labels, max_length = "target", 3, 16

    settings = type("Settings", (), {"data": Data, "base": tmp_path})
    request = requested(searched, tmp_path / "out.csv", data=str(tmp_path / "test.csv"), merge=False, ids=[])
    ids, names, rows, said = predict._classes(saved, settings, request)  # type: ignore[arg-type]
    predict._write(tmp_path / "out.csv", ids, names, rows)
    head, *body = table(tmp_path / "out.csv")
    assert head == ["ID", "target_0", "target_1", "target_2"] and [row[0] for row in body] == ["7", "8", "9"]
    assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=1e-12) for row in body)
    assert said == "log loss 1.1175, accuracy 0.66667"  # -(ln 0.7 + ln 0.5 + ln 0.1) / 3
