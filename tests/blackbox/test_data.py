"""Rows to prompts, tokens and batches; what is dropped, refused, split and found on both sides."""

import csv
import json
import random
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from bbo.errors import InputError
from blackbox.data import (
    Example,
    Texts,
    deal,
    epoch_steps,
    find_leak,
    load_data,
    part_of,
    read_texts,
    tokenize,
)
from blackbox.mix import main as mix
from blackbox.prompts import ALPACA, DOLLY, read_template
from blackbox.settings import DataSettings, Source
from blackbox.sources import fingerprint
from tests.blackbox.conftest import Rows, make_rows, write_jsonl

ROWS = make_rows(12)


def settings(train: Any = "train.jsonl", valid: Any = "train.jsonl", **others: Any) -> DataSettings:
    return DataSettings.model_validate({"train": train, "valid": valid, **others})


def refused(base: Path, **others: Any) -> str:
    """The one sentence with which this data is refused."""
    with pytest.raises(InputError) as error:
        read_texts(settings(**others), base)
    assert len(error.value.messages) == 1
    return str(error.value)


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    write_csv(tmp_path / "c.csv", ROWS)
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "d.parquet")
    expected = [ALPACA.render(row) for row in ROWS]
    for name in ("a.jsonl", "b.json", "c.csv", "d.parquet"):
        assert read_texts(settings(name, name), tmp_path).train == expected, name
    sliced = {"path": "a.jsonl", "split": "train[2:5]"}
    assert read_texts(settings(sliced, "b.json"), tmp_path).train == expected[2:5]


def test_alpaca_and_dolly_words() -> None:
    prompt, response = ALPACA.render({"instruction": "Add.", "input": "1 2", "output": "3"})
    assert prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:") and response == "3"
    assert "further context" in prompt and "Input" not in ALPACA.render({"instruction": "a", "output": "b"})[0]
    prompt, response = DOLLY.render({"instruction": "Why?", "context": "So.", "response": "Because."})
    assert prompt.endswith("### Instruction:\nWhy?\n\nInput:\nSo.\n\n### Response:\n") and response == "Because."


def test_a_users_template_is_replaced_plainly(tmp_path: Path) -> None:
    template = '{"q": "{question}"} {} {0} => {output} ;'
    (tmp_path / "prompt.txt").write_text(template)
    row = {"question": "what is {output}?", "output": "{question}"}
    expected = ('{"q": "what is {output}?"} {} {0} => ', "{question} ;")
    for prompt in (template, "prompt.txt"):
        assert read_template(prompt, tmp_path).render(row) == expected
    assert read_template("Q: {question}\nA: ", tmp_path).render(row)[1] == "{question}"


def test_columns_are_mapped(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"question": "Q", "answer": "A", "id": "7"}])
    columns = {"instruction": "question", "output": "answer"}
    assert read_texts(settings(columns=columns), tmp_path).train == [ALPACA.render({"instruction": "Q", "output": "A"})]


@pytest.mark.parametrize(
    ("content", "others", "sentence"),
    [
        (None, {}, "data.train: no such file: "),
        (b"", {}, "train.jsonl is empty"),
        (
            b'{"instruction": "a", "output": "b"}\n{"instruction": "caf\xe9", "output": "b"}\n',
            {},
            "not UTF-8 text in line 2",
        ),
        (b'{"instruction": "a", "output": "b"}\n{"instruction": "a", \n', {}, "in line 2"),
        (b'{"instruction": "a", "text": "b"}\n', {}, "has no column output, only instruction, text: map it with"),
        (b'{"instruction": "a", "output": "b"}\n{"instruction": "", "output": "b"}\n', {}, "is empty in 1 of 2 rows"),
        (b'{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": null}\n', {}, "row 2"),
        (b'{"instruction": "a", "output": ["b"]}\n', {}, "output of train.jsonl is not text in row 1"),
        (
            b'{"instruction": "a", "output": "b"}\n',
            {"prompt": "alpacca"},
            "data.prompt: must be alpaca, dolly, qa",
        ),
        (b'{"instruction": "a", "output": "b"}\n', {"prompt": "{inst} {output}"}, "has no column inst"),
        (b'{"instruction": "a", "output": "b"}\n', {"valid": 0.5}, "leaves one side of 1 rows empty"),
        (
            b'{"instruction": "a", "output": "b"}\n',
            {"train": {"path": "train.jsonl", "split": "test"}},
            "has only train",
        ),
        (b'{"instruction": "a", "output": "b"}\n', {"train": {"path": "train.jsonl", "split": "train[5:]"}}, "no data"),
    ],
)
def test_bad_data_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes | None, others: dict[str, Any], sentence: str
) -> None:
    if content is not None:
        (tmp_path / "train.jsonl").write_bytes(content)
    assert sentence in refused(tmp_path, **others)


def test_an_unreachable_hub_data_set_gets_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "`hf download --repo-type dataset no/such-data` fetches it" in refused(tmp_path, train="no/such-data")


def test_few_empty_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [*make_rows(199), {"instruction": "x", "input": "", "output": " "}])
    texts = read_texts(settings(valid=0.2), tmp_path)
    assert texts.dropped == 1
    assert len(texts.train) + len(texts.valid) == 199


def test_labels_are_the_response_and_eos(tokenizer: Any) -> None:
    (example,) = tokenize([("ab", "cde")], tokenizer, 64, "data.train")
    assert tokenizer.convert_ids_to_tokens(example.tokens) == ["<s>", "a", "b", "c", "d", "e", "</s>"]
    assert (example.start, example.labels) == (3, 4)


def test_truncation_cuts_the_end_and_drops_rows_without_labels(tokenizer: Any) -> None:
    texts = [("ab", "cde")] * 199 + [("a" * 9, "b")]
    examples = tokenize(texts, tokenizer, 6, "data.train")
    assert len(examples) == 199
    assert {(len(example.tokens), example.labels) for example in examples} == {(6, 3)}  # EOS is cut off
    with pytest.raises(InputError, match=r"data.valid: the prompt alone fills max_length 6 in 1 of 50 rows.*row 50"):
        tokenize(texts[150:], tokenizer, 6, "data.valid")


def test_chat_uses_the_tokenizers_own_format(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for row in ({"messages": talk}, {"instruction": "hi", "output": "ho"}):
        (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
        texts = read_texts(settings(prompt="chat"), tmp_path, tokenizer)
        assert texts.train == [("<user>hi</s><assistant>", "ho")]


def test_a_chat_prompt_is_tokenized_without_a_second_bos(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ m.role }}:{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (tmp_path / "train.jsonl").write_text(json.dumps({"instruction": "hi", "output": "ho"}) + "\n")
    example = load_data(settings(prompt="chat"), tmp_path, tokenizer).train[0]
    assert example.tokens.count(tokenizer.bos_token_id) == 1
    assert example.labels == 3  # h, o, EOS


def test_rows_on_both_sides_and_repeats_are_found() -> None:
    same, other = ("p", "r"), ("p", "s")
    leak = find_leak(Texts([same, same, other], [("q", "r"), same, same], 0))
    assert (leak.shared, leak.repeats_train, leak.repeats_valid) == ([2, 3], 1, 1)


def test_a_share_is_split_by_content(tmp_path: Path) -> None:
    rows = make_rows(400)
    write_jsonl(tmp_path / "train.jsonl", rows + rows[:50])
    first = read_texts(settings(valid=0.25), tmp_path)
    assert 0.18 < len(first.valid) / 450 < 0.32
    assert not find_leak(first).shared  # the repeated rows fell on one side each
    write_jsonl(tmp_path / "train.jsonl", random.Random(0).sample(rows + rows[:50], 450))
    again = read_texts(settings(valid=0.25), tmp_path)
    assert Counter(again.valid) == Counter(first.valid)
    other = read_texts(settings(valid=0.25, split_seed=1), tmp_path)
    assert set(other.valid) != set(first.valid)


def test_a_fingerprint_is_about_content(tmp_path: Path) -> None:
    for name, rows in {"a.jsonl": ROWS, "b.jsonl": ROWS, "c.jsonl": ROWS[1:]}.items():
        write_jsonl(tmp_path / name, rows)
    a, b, c = (fingerprint(Source(path=f"{name}.jsonl"), tmp_path) for name in "abc")
    assert a == b != c
    assert fingerprint(Source(path="a.jsonl", split="train[:3]"), tmp_path) != a
    assert fingerprint(Source(path="x/y", revision="0" * 40), tmp_path).startswith("x/y@000")
    with pytest.raises(InputError, match="no such file"):
        fingerprint(Source(path="d.jsonl"), tmp_path)


def test_a_part_is_chosen_by_content() -> None:
    examples = [Example((number, number // 7), 1) for number in range(200)]
    half, quarter = part_of(examples, 0.5), part_of(examples, 0.25)
    assert (len(half), len(quarter), len(part_of(examples, 1e-9))) == (100, 50, 1)
    assert set(quarter) < set(half) < set(part_of(examples, 1.0))
    assert half == [example for example in examples if example in set(half)], "the order is the data's"
    assert set(part_of(random.Random(0).sample(examples, 200), 0.5)) == set(half)
    assert part_of(examples, 1.0) == examples


def test_a_step_holds_the_same_rows_however_it_is_cut() -> None:
    examples = [Example(tuple(range(length % 17 + 2)), 1) for length in range(50)]
    steps = epoch_steps(examples, 16, seed=3, epoch=1)
    assert [len(step) for step in steps] == [16, 16, 16, 2]
    assert sorted(chain(*steps)) == list(range(50))
    assert steps == epoch_steps(examples, 16, seed=3, epoch=1) != epoch_steps(examples, 16, seed=3, epoch=2)
    for step in steps:
        lengths = [len(examples[row].tokens) for row in step]
        assert lengths == sorted(lengths, reverse=True)
        for processes in (1, 2, 3):
            for micro in (1, 4, 16):
                dealt = [deal(step, micro, processes, rank) for rank in range(processes)]
                assert len({len(passes) for passes in dealt}) == 1
                assert sorted(row for passes in dealt for batch in passes for row in batch) == sorted(step)
                assert all(len(batch) <= micro for passes in dealt for batch in passes)


@pytest.fixture
def public_files(tmp_path: Path) -> tuple[str, str]:
    """Small files in the shape of alpaca_data.json and databricks-dolly-15k.jsonl, with repeats and an empty row."""
    alpaca = [{"instruction": f"a{i}", "input": "", "output": f"x{i}"} for i in range(1000)]
    alpaca += [*alpaca[:7], {"instruction": "empty", "input": "", "output": ""}]
    dolly = [{"instruction": f"d{i}", "context": "c", "response": f"y{i}", "category": "qa"} for i in range(200)]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    (tmp_path / "dolly.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*dolly, dolly[0]]))
    return str(tmp_path / "alpaca.json"), str(tmp_path / "dolly.jsonl")


def read_mix(folder: Path, side: str) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / f"{side}.jsonl").read_text().splitlines()]
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    return [(row["instruction"], row["output"]) for row in rows]


def test_the_mix_repeats_dolly_only_in_training(
    tmp_path: Path, public_files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mix(["mix", *public_files, "--out", str(tmp_path / "out"), "--rows", "1000"]) == 0
    train, valid = read_mix(tmp_path / "out", "train"), read_mix(tmp_path / "out", "valid")
    assert len(train) == 1000
    assert sum(instruction[0] == "d" for instruction, _ in train) == 300
    assert len({row for row in train if row[0][0] == "d"}) == 160  # 80 % of 200, some of them twice
    assert not set(train) & set(valid)
    assert len(valid) == len(set(valid)) == 133  # 40 of Dolly are 30 %
    said = capsys.readouterr().out
    assert "Alpaca: 1008 rows read, 8 repeated or empty removed, 1000 left" in said
    assert "train: 1000 rows, 700 Alpaca and 300 Dolly (140 of them repeats)" in said


def test_the_mix_without_repeats(tmp_path: Path, public_files: tuple[str, str]) -> None:
    assert mix(["mix", *public_files, "--out", str(tmp_path / "out"), "--no-repeat"]) == 0
    train = read_mix(tmp_path / "out", "train")
    assert len(train) == len(set(train)) == 533  # 160 of Dolly are 30 %
    assert mix(["mix", *public_files, "--out", str(tmp_path / "again"), "--no-repeat"]) == 0
    assert read_mix(tmp_path / "again", "train") == train


@pytest.mark.parametrize(
    ("alpaca", "dolly", "sentence"),
    [
        (None, None, "cannot be read: No such file"),
        (b"{}", None, "not a JSON array of rows"),
        (b"[{}]", None, "row 1 has no text for instruction, input, output"),
        (b"[\xff]", None, "not UTF-8 text"),
        (b'[{"instruction": "a", "input": "", "output": "b"}]', b"oops\n", "dolly.jsonl:1: not JSON"),
        (b'[{"instruction": "a", "input": "", "output": "b"}]', b"", "dolly.jsonl: empty file"),
    ],
)
def test_the_mix_refuses_bad_files(
    tmp_path: Path, alpaca: bytes | None, dolly: bytes | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("alpaca.json", alpaca), ("dolly.jsonl", dolly)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    arguments = ["mix", str(tmp_path / "alpaca.json"), str(tmp_path / "dolly.jsonl"), "--out", str(tmp_path / "out")]
    assert mix(arguments) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)
