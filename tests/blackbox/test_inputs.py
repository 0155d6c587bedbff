"""What a job reads of this machine: every file by content, and a YAML that names them by absolute paths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bbo.experiment import read_experiment
from blackbox.inputs import inputs_of
from blackbox.settings import read_settings
from tests.blackbox.conftest import make_rows, write_jsonl

Write = Callable[..., Path]


def inputs(file: Path) -> tuple[dict[Path, str], dict[str, Any]]:
    experiment = read_experiment(file)
    found, documents = inputs_of(experiment, read_settings(experiment), lambda path: path.name)
    (content,) = documents.values()
    return found, content


def test_model_data_prompt_and_benchmarks(tmp_path: Path, experiment: Write, small_model: Path) -> None:
    (tmp_path / "prompt.txt").write_text("{instruction}")
    (tmp_path / "bench" / "mmlu" / "anatomy").mkdir(parents=True)
    questions = write_jsonl(tmp_path / "bench" / "mmlu" / "anatomy" / "test.jsonl", make_rows(2))
    (tmp_path / "accelerate.yaml").write_text("debug: false")
    (small_model / "pytorch_model.bin").write_text("may run code")
    sections = {"scores": {"data_dir": "bench"}, "accelerate": "accelerate.yaml"}
    file = experiment(data={"prompt": "prompt.txt", "columns": {"instruction": "bench"}}, sections=sections)
    found, content = inputs(file)
    (small_model / "pytorch_model.bin").unlink()
    names = {path.name for path in small_model.iterdir()}
    ours = {"train.jsonl", "valid.jsonl", "prompt.txt", "accelerate.yaml"}
    assert set(found.values()) == names | ours | {questions.name}
    assert all(path.is_absolute() for path in found)
    assert content["data"]["train"]["path"] == str(tmp_path / "train.jsonl")
    assert content["data"]["prompt"] == str(tmp_path / "prompt.txt")
    assert content["data"]["columns"] == {"instruction": "bench"}, "a column is no folder"
    assert content["scores"]["data_dir"] == str(tmp_path / "bench")
    assert content["accelerate"] == str(tmp_path / "accelerate.yaml")
    again = tmp_path / "elsewhere" / "again.yaml"
    again.parent.mkdir()
    again.write_text(yaml.safe_dump(content))
    assert inputs(again)[0] == found


def test_what_the_hub_has_stays_there(tmp_path: Path, experiment: Write) -> None:
    file = experiment(data={"train": "somebody/rows"}, sections={"model": {"path": "somebody/model"}})
    found, content = inputs(file)
    assert set(found) == {tmp_path / "valid.jsonl"}
    assert content["model"] == {"path": "somebody/model"}
    assert content["data"]["train"] == "somebody/rows"
