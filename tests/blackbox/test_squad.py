"""SQuAD's files as rows, what is refused of them, and the scores of the official script."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from bbo.errors import InputError
from blackbox.data import read_texts
from blackbox.settings import QaSettings
from blackbox.squad import exact, normalize, overlap, read_questions, score
from tests.blackbox.squad_data import nested, questions, write_squad

ROWS = questions(8)


def settings(train: Any = "train.json", valid: Any = "train.json", **others: Any) -> QaSettings:
    return QaSettings.model_validate({"train": train, "valid": valid, **others})


def test_all_shapes_give_the_same_prompts(tmp_path: Path) -> None:
    write_squad(tmp_path / "official.json", ROWS)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    first = (
        "Question: Which town is old? Context: The town of Oslo number 0 is old. Ann 0 lives in it. Answer:",
        " Oslo number 0",
    )
    for name in ("official.json", "rows.json", "rows.jsonl", "rows.parquet"):
        texts = read_texts(settings(name, {"path": name, "split": "train[2:5]"}), tmp_path)
        assert texts.train[0] == first and len(texts.train) == 8, name
        assert texts.valid == texts.train[2:5], name
        source = settings(name).train
        assert [row["answers"] for row in read_questions(source, settings(), tmp_path, "data.train")][:2] == [
            ["Oslo number 0", "Oslo"],
            ["Ann 0", "Ann"],
        ], name


def test_slices_are_those_of_datasets(tmp_path: Path) -> None:
    write_squad(tmp_path / "official.json", ROWS)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for split in ("train", "train[:3]", "train[-2:]", "train[25%:50%]"):
        found = []
        for name in ("official.json", "rows.jsonl"):
            source = settings({"path": name, "split": split}).train
            found.append([row["id"] for row in read_questions(source, settings(), tmp_path, "data.train")])
        assert found[0] == found[1] != [], split


def test_other_templates_know_the_columns(tmp_path: Path) -> None:
    write_squad(tmp_path / "train.json", ROWS)
    own = read_texts(settings(prompt="{context} {question} ->{output}"), tmp_path).train[1]
    assert own == ("The town of Oslo number 0 is old. Ann 0 lives in it. Who lives in Oslo? ->", "Ann 0")
    columns = {"instruction": "question", "input": "context"}
    assert (
        "### Input:\nThe town of Oslo" in read_texts(settings(prompt="alpaca", columns=columns), tmp_path).train[0][0]
    )


def broken(**changes: Any) -> list[dict[str, Any]]:
    """The rows, the third of them with these changes."""
    return [*ROWS[:2], {**ROWS[2], **changes}, *ROWS[3:]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (nested(broken(question=" ")), "data.train: question of train.json is empty or no text in row 3"),
        (broken(context=""), "data.train: context of train.json is empty or no text in row 3"),
        (nested(broken(answers={"text": [], "answer_start": []})), "train.json has no answer in row 3: questions that"),
        (broken(answers={"text": ["a", " "], "answer_start": [0, 1]}), "with texts that are not empty in row 3"),
        ([{**row, "answers": {"texts": ["a"]}} for row in ROWS], "texts that are not empty in row 1, 2, 3, 4, 5 (and"),
        ([{"question": "a", "context": "b"}], "data.train: train.json has no column answers, only question, context"),
        ([{"question": "a", "answers": {"text": ["b"]}}], "data.train: train.json has no column context"),
        ({"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}, "follows row 0 has no 'answers'"),
        ({"data": [{"paragraphs": 3}]}, "what follows row 0 is of another shape"),
        ({"data": []}, "data.train: no questions in"),
        ("not json", "train.json is not JSON with one object per row in line 1"),
        (b'{"data": "caf\xe9"}', "train.json is not UTF-8 text in line 1"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / "train.json").write_bytes(raw)
    with pytest.raises(InputError) as error:
        read_texts(settings(), tmp_path)
    assert sentence in str(error.value) and len(error.value.messages) == 1


@pytest.mark.parametrize("split", ["test", "train[a:b]"])
def test_a_bad_slice_of_an_official_file_is_refused(tmp_path: Path, split: str) -> None:
    write_squad(tmp_path / "train.json", ROWS)
    with pytest.raises(InputError, match=r"data\.train: cannot read split"):
        read_texts(settings({"path": "train.json", "split": split}), tmp_path)


# By the rules of the official evaluate-v1.1.py: lower case, no punctuation, no articles, single spaces.
CASES: list[tuple[str, list[str], float, float]] = [
    ("Paris", ["Paris"], 100, 100),
    (" the  PARIS. ", ["Paris"], 100, 100),
    ("Paris", ["Rome", "Paris"], 100, 100),  # the best of the gold answers
    ("in Paris", ["Paris"], 0, 200 / 3),
    ("Paris Paris", ["Paris"], 0, 200 / 3),  # a word counts as often as both have it
    ("Paris Paris", ["Paris Paris France"], 0, 80),
    ("Rome", ["Paris"], 0, 0),
    ("", ["Paris"], 0, 0),
    ("a", ["the"], 100, 0),  # nothing is left of either: equal, without a common word
    ("theatre", ["the atre"], 0, 0),  # only a whole word is an article
    ("a.b", ["ab"], 100, 100),  # punctuation is taken out before articles are looked for
    ("a b", ["b"], 100, 100),
    ("a-b", ["b"], 0, 0),
    ("l'été", ["lété"], 100, 100),
    ("“Paris”", ["Paris"], 0, 0),  # only ASCII's punctuation goes
    ("10,000 men", ["10000 men"], 100, 100),
    ("the cat an the dog", ["dog cat"], 0, 100),
    ("one\ntwo\tthree", ["One two three!"], 100, 100),
    ("the quick brown fox", ["brown fox jumps", "a lazy dog"], 0, 200 / 3),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold", "exact_match", "f1"), CASES)
def test_scores_are_the_official_scripts(answer: str, gold: list[str], exact_match: float, f1: float) -> None:
    assert score([answer], [gold]) == pytest.approx({"exact_match": exact_match, "f1": f1})


def test_scores_are_means_over_the_questions() -> None:
    answers, gold = [case[0] for case in CASES], [case[1] for case in CASES]
    means = {
        "exact_match": sum(case[2] for case in CASES) / len(CASES),
        "f1": sum(case[3] for case in CASES) / len(CASES),
    }
    assert score(answers, gold) == pytest.approx(means)


def test_single_answers() -> None:
    assert normalize("  The U.S. of A, an idea ") == "us of idea"
    assert (exact("An Apple", "apple"), overlap("red apple", "apple")) == (1, pytest.approx(2 / 3))
