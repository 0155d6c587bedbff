"""Rows with labels: what is read, split and refused, with which words; what of it is part of an evaluation's key."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Store
from blackbox.labels import constant_answer, examine, load_data, read_sides, read_texts, text_tokens
from blackbox.recipe import Fingerprints, common, evaluation_key
from blackbox.settings import ClassificationSettings, Settings, Source, Training, read_settings
from tests.blackbox.conftest import write_csv


def settings(**others: Any) -> ClassificationSettings:
    about = {"train": "train.csv", "valid": 0.3, "text": ["Question", "Response"], "label": "target", "num_labels": 3}
    return ClassificationSettings.model_validate(about | others)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)


GOOD = "Question,Response,target\n"


def refused(folder: Path, content: str | bytes, **others: Any) -> tuple[str, ...]:
    """The sentences that this file is refused with."""
    content = content.encode() if isinstance(content, str) else content
    (folder / "train.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_sides(settings(**others), folder)
    return error.value.messages


@pytest.mark.parametrize(
    ("content", "others", "sentence"),
    [
        (GOOD + "a,b,0\n", {"label": "class"},
         "data.train: train.csv has no column class, only 'Question', 'Response', 'target': name its columns in "
         "data.text, data.label and data.group"),
        (GOOD + "a,b,0\n", {"group": "id"}, "data.train: train.csv has no column id, only "),
        (GOOD + "a,b,0\na,c,3\nd,e,-1\n", {},
         "data.train: target must be 0 to 2 (num_labels 3), it is not in train.csv, row 2, 3, got 3, -1"),
        (GOOD + "a,b,0\na,c,x\nd,e,1.5\n", {},
         "data.train: target is no whole number in train.csv, row 2, 3, got 'x', '1.5'"),
        (GOOD + "a,b,0\na,c,\n", {}, "data.train: target is no whole number in train.csv, row 2, got ''"),
        (GOOD + "a,b,True\nc,d,False\n", {}, "data.train: target is no whole number in train.csv, row 1, 2, got "),
        (GOOD + "a,b,0\n ,,1\n", {}, "data.train: no text in Question, Response of train.csv, row 2"),
        (GOOD + "a,b,0\n,b,1\n", {"group": "Question"}, "data.train: nothing in Question of train.csv, row 2"),
        (GOOD.encode() + b"a,b,0\na,caf\xe9,1\n", {}, "train.csv is not UTF-8 text in line 3"),
        (GOOD + "a,b,0,1,2\na,b,1\n", {}, "train.csv"),
        ("", {}, "train.csv is empty"),
        (GOOD, {}, "train.csv as csv: Instruction \"train\" corresponds to no data!"),
        (GOOD + "a,b,0\na,c,1\n", {"group": "Question"},
         "data.valid: a share of 0.3 leaves one side of 2 rows in 1 groups empty"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_clear_error(
    tmp_path: Path, content: str | bytes, others: dict[str, Any], sentence: str
) -> None:
    messages = refused(tmp_path, content, **others)
    assert len(messages) == 1 and sentence in messages[0], messages


def test_each_rule_that_is_broken_has_a_sentence(tmp_path: Path) -> None:
    rows = "".join(f"q{i},r,9\n" for i in range(8))
    assert refused(tmp_path, GOOD + rows + ",,x\n") == (
        "data.train: target is no whole number in train.csv, row 9, got 'x'",
        "data.train: target must be 0 to 2 (num_labels 3), it is not in train.csv, row 1, 2, 3, 4, 5 (and 3 more), "
        "got '9', '9', '9', '9', '9'",
        "data.train: no text in Question, Response of train.csv, row 9",
    )


def test_words_for_nothing_are_text(tmp_path: Path) -> None:
    """pandas takes None, NA and null for no value."""
    (tmp_path / "train.csv").write_text(GOOD + "None,NA,0\nnull,,1\n")
    texts = read_texts(Source(path="train.csv"), settings(), tmp_path, "data.train")
    assert texts == ["Question: None\n\nResponse: NA", "Question: null"]


def test_texts_are_joined(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", 1)
    source = Source(path="train.csv")
    about: list[tuple[dict[str, Any], str]] = [
        ({"text": "Response"}, "It is red apple, 0."),
        ({}, 'Question: What is 0, "my" dear?\n\nResponse: It is red apple, 0.'),
        ({"template": "{Response} [{Question}]"}, 'It is red apple, 0. [What is 0, "my" dear?]'),
    ]
    for others, text in about:
        assert read_texts(source, settings(**others), tmp_path, "data.train") == [text]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("template", "{Question}", "template must have each of text's columns in braces and no other"),
        ("text", [], "should have at least 1 item"),
        ("num_labels", 1, "greater than or equal to 2"),
        ("valid", 1.5, "must lie between 0 and 1"),
        ("prompt", "alpaca", "prompt: "),
    ],
)
def test_a_bad_section_is_refused_at_the_door(
    classifier: Callable[..., Path], name: str, value: Any, rule: str
) -> None:
    with pytest.raises(InputError) as error:
        read_settings(read_experiment(classifier({name: value})))
    assert rule in str(error.value)
    assert re.search(r"experiment\.yaml:\d+: data", str(error.value))


def test_no_question_is_on_both_sides(tmp_path: Path, tokenizer: Any) -> None:
    write_csv(tmp_path / "train.csv", 300)
    train, valid = read_sides(settings(group="Question"), tmp_path)
    assert len(train) + len(valid) == 300 and 60 < len(valid) < 120
    assert not {row.group for row in train} & {row.group for row in valid}
    assert all(sum(row.group == one.group for row in [*train, *valid]) == 3 for one in valid[:5])
    ungrouped, rest = read_sides(settings(), tmp_path)
    assert {row.text.split("\n")[0] for row in ungrouped} & {row.text.split("\n")[0] for row in rest}
    other, _ = read_sides(settings(group="Question", split_seed=1), tmp_path)
    assert {row.group for row in other} != {row.group for row in train}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("new,answer,1\n", None),
        ("q1,r1,2\n", "data.valid: 1 of 2 validation texts are training texts too (row 2): the loss would flatter"),
        ("q1,other,2\n", "data.valid: 1 of 2 validation rows' Question is in training rows too (row 2): "),
    ],
)
def test_a_leak_is_refused(tmp_path: Path, tokenizer: Any, rows: str, sentence: str | None) -> None:
    """Also where the label is another."""
    (tmp_path / "train.csv").write_text(GOOD + "q1,r1,0\nq2,r2,1\nq2,r2,1\n")
    (tmp_path / "valid.csv").write_text(GOOD + "q3,r3,0\n" + rows)
    about = {"valid": "valid.csv", "group": "Question"}
    if sentence is None:
        _, report = examine(settings(**about), tmp_path, tokenizer)
        assert report["repeats"] == {"train": 1, "valid": 0} and report["rows_of_each_class"]["train"] == [1, 2, 0]
        return
    with pytest.raises(InputError) as error:
        examine(settings(**about), tmp_path, tokenizer)
    assert any(message.startswith(sentence) for message in error.value.messages), error.value.messages
    data, report = examine(settings(**about, allow_leak=True), tmp_path, tokenizer)
    assert len(data.valid) == 2 and report["rows_of_groups_on_both_sides"] == 1


def test_a_row_is_learnt_at_its_last_token(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "train.csv").write_text(GOOD + "".join(f"q{i},r{i},{i % 3}\n" for i in range(30)))
    data = load_data(settings(text="Question", max_length=3), tmp_path, tokenizer)
    for row in (*data.train, *data.valid):
        assert len(row.tokens) == 3 and row.tokens[0] == tokenizer.bos_token_id, "<s> q i"
        assert (list(row.learnt), row.labels) == ([2], 1) and row.targets[0] in range(3)


class Ending:
    """A tokenizer that ends each text with what it pads with too."""

    pad_token_id, eos_token_id = None, 2

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, *map(len, text.split()), 2, 2] for text in texts]}


def test_padding_at_a_rows_end_is_left_out() -> None:
    """transformers' classifiers speak from the last token that is no padding."""
    assert text_tokens(["a bcd", "ab", ""], Ending(), 8) == [[1, 1, 3], [1], [1]]


def test_the_best_constant_answer_is_the_frequencies(tmp_path: Path, tokenizer: Any) -> None:
    write_csv(tmp_path / "train.csv", 40)
    write_csv(tmp_path / "valid.csv", 10, first=60)
    data = load_data(settings(valid="valid.csv"), tmp_path, tokenizer)
    loss, metrics = constant_answer(data.valid)
    assert loss == pytest.approx(1.0889, abs=1e-4)  # 4, 3 and 3 of 10
    assert metrics == {"accuracy": 0.4}


def test_what_determines_a_result_is_in_the_key(tmp_path: Path, classifier: Callable[..., Path]) -> None:
    prints = Fingerprints(Store(tmp_path / "store"))

    def key(sections: dict[str, Any] | None = None, **data: Any) -> str:
        return evaluation_key(read_settings(read_experiment(classifier(data, sections))), Training(), 1, prints)

    first = key()
    assert first == key(allow_leak=True)
    changed = {"text": "Response", "template": "{Question} {Response}", "label": "Response", "num_labels": 4,
               "max_length": 99}  # fmt: skip
    assert len({first, *(key(**{name: value}) for name, value in changed.items())}) == 6
    assert key(group=None) == first, "nothing is split"
    assert key(valid=0.2, group=None) != key(valid=0.2)
    model = yaml.safe_load((tmp_path / "experiment.yaml").read_text())["model"]
    assert key({"model": model | {"quantization": "nf4"}}) != first


def test_a_key_of_instruct_data_knows_nothing_of_this(experiment: Callable[..., Path], tmp_path: Path) -> None:
    found: Settings = read_settings(read_experiment(experiment()))
    about = common(found, Fingerprints(Store(tmp_path / "store")))
    assert set(about) == {"recipe", "task", "model", "dtype", "data"} and about["task"] == "instruct"
    assert set(about["data"]) == {"train", "valid", "split_seed", "prompt", "columns", "max_length"}
