"""What is wrong with a score is said before any training; tasks read local files."""

from pathlib import Path

import datasets
import pytest

from bbo.errors import InputError
from blackbox.scores import tasks
from blackbox.scores.catalogue import TASKS, _index, index_of, leaves
from blackbox.scores.settings import ScoresSettings, TaskSettings
from tests.blackbox.scores.rows import request, write, write_arc, write_bbh, write_drop, write_hellaswag, write_mmlu

LOCAL = ScoresSettings(data_dir="data")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_mmlu(folder, anatomy=3, astronomy=2)
    write_hellaswag(folder, 3)
    write_arc(folder, 3)
    write_drop(folder, 3)
    write_bbh(folder, boolean_expressions=2, navigate=2)
    return folder


@pytest.mark.parametrize(
    "asked",
    [request("mmlu", 5, None, "anatomy", "astronomy"), request("mmlu_anatomy", 0), request("hellaswag"),
     request("drop"), request("bbh", None, None, "cot_fewshot_navigate"), request("arc_easy"),
     request("bbh_cot_fewshot", None, 1, "boolean_expressions", "navigate")],
    ids=lambda asked: f"{asked.task}",
)  # fmt: skip
def test_nothing_is_wrong_where_the_files_are(asked: tasks.Request, data: Path, tmp_path: Path) -> None:
    before = sorted(data.rglob("*"))
    assert tasks.check(asked, None, LOCAL, tmp_path) == []
    loaded = tasks.load(asked, LOCAL, tmp_path, tmp_path / "cache")
    assert len(loaded["tasks"]) == max(1, len(asked.subtasks))
    assert sorted(data.rglob("*")) == before, "nothing is written among the user's data"


def check(task: str, *subtasks: str, metric: str | None = None, base: Path, num_fewshot: int | None = None) -> str:
    own = {task: TaskSettings(num_fewshot=num_fewshot, subtasks=subtasks)}
    settings = ScoresSettings(data_dir="data", tasks=own)
    (sentence,) = tasks.check(request(task, num_fewshot, None, *subtasks), metric, settings, base)
    return sentence


def test_each_mistake_is_one_sentence(data: Path, tmp_path: Path) -> None:
    assert check("mmlu_anatomy", metric="acc_norm", base=tmp_path) == (
        "outputs: mmlu_anatomy has no metric acc_norm, it has acc"
    )
    assert check("humaneval_plus", base=tmp_path) == (
        "outputs: humaneval_plus runs what the model writes in this process (lm-eval: unsafe_code): refused"
    )
    sentence = check("mmlu", "anatomi", "stem", base=tmp_path)
    assert sentence.startswith("scores.tasks.mmlu.subtasks: no anatomi in mmlu, it has abstract_algebra, anatomy, ")
    assert check("drop", "x", base=tmp_path) == "scores.tasks.drop.subtasks: no x in drop, it is no group"
    (data / "squadv2").mkdir()
    assert check("squadv2", base=tmp_path) == (
        "scores.data_dir: lm-eval's code says where squadv2 comes from, no file can stand for it: take "
        f"{data / 'squadv2'} away"
    )
    for split in ("test", "validation", "dev"):
        write(data / "mmlu" / "anatomy" / f"{split}.jsonl", [])
    assert check("mmlu_flan_cot_zeroshot_anatomy", num_fewshot=2, base=tmp_path) == (
        "scores.tasks.mmlu_flan_cot_zeroshot_anatomy.num_fewshot: lm-eval shows no examples in "
        "mmlu_flan_cot_zeroshot_anatomy, got 2"
    )


def test_missing_files_are_one_sentence(data: Path, tmp_path: Path) -> None:
    (data / "mmlu" / "anatomy" / "dev.jsonl").unlink()
    sentence = check("mmlu", "anatomy", "astronomy", num_fewshot=5, base=tmp_path)
    assert sentence == f"scores.data_dir: no {data}/mmlu/anatomy/dev.jsonl"
    with pytest.raises(InputError, match=r"^scores\.data_dir: no .*anatomy/dev\.jsonl$"):
        tasks.load(request("mmlu", 5, None, "anatomy"), LOCAL, tmp_path, tmp_path / "cache")
    assert tasks.check(request("mmlu_anatomy", 0), None, LOCAL, tmp_path) == [], "without examples it is not needed"
    sentence = check("mmlu", num_fewshot=5, base=tmp_path)
    assert sentence.count(".jsonl") == 5 and sentence.endswith("and 106 more")


def test_a_file_of_the_family_is_not_taken_for_a_subject(data: Path, tmp_path: Path) -> None:
    (data / "mmlu" / "anatomy" / "test.jsonl").rename(data / "mmlu" / "test.jsonl")
    assert check("mmlu_anatomy", base=tmp_path) == f"scores.data_dir: no {data}/mmlu/anatomy/test.jsonl"


def test_data_of_the_hub(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked = request("gsm8k")
    assert tasks.check(asked, "exact_match@flexible-extract", ScoresSettings(), tmp_path) == []
    missing = f"scores.data_dir: no folder gsm8k in {data}, nor is openai/gsm8k in the cache of `datasets`"
    assert tasks.check(asked, None, LOCAL, tmp_path) == [missing]
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (sentence,) = tasks.check(asked, None, ScoresSettings(), tmp_path)
    assert sentence.startswith("outputs: gsm8k: openai/gsm8k is not in the cache of `datasets` and the hub is off")
    (tmp_path / "cache" / "openai___gsm8k").mkdir(parents=True)
    assert tasks.check(asked, None, ScoresSettings(), tmp_path) == tasks.check(asked, None, LOCAL, tmp_path) == []


def test_rows_of_another_schema(data: Path, tmp_path: Path) -> None:
    write(data / "mmlu" / "anatomy" / "test.jsonl", [{"text": "no question"}])
    assert tasks.check(request("mmlu_anatomy", 0), None, LOCAL, tmp_path) == []
    with pytest.raises(InputError, match=r"^scores\.data_dir: .*/data/mmlu cannot be read as mmlu_anatomy: ") as raised:
        tasks.load(request("mmlu_anatomy", 0), LOCAL, tmp_path, tmp_path / "cache")
    assert "\n" not in str(raised.value)


def test_names_among_all_tasks(data: Path, tmp_path: Path) -> None:
    assert check("mmlu_anatomi", base=tmp_path).startswith(
        "outputs: lm-eval has no task mmlu_anatomi, did you mean mmlu_anatomy or "
    )
    tag = [leaf.name for leaf in leaves("ai2_arc", index_of("ai2_arc"))]
    assert tag == ["arc_challenge", "arc_easy"]
    everything = _index(TASKS)
    for task in ("mmlu", "hellaswag", "bbh", "drop", "arc_easy"):
        quick = index_of(task)
        assert quick is not everything
        parts = list(leaves(task, everything))
        assert [leaf.name for leaf in parts] == [leaf.name for leaf in leaves(task, quick)]
        assert all(everything[leaf.name].yaml_path == quick[leaf.name].yaml_path for leaf in parts)
