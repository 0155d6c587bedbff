"""The benchmark measures both ways on the same questions, and notices another answer."""

import json
from pathlib import Path

import pytest

from benchmarks import mmlu
from tests.blackbox.scores.rows import write_mmlu

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[int, dict[str, object]]:
    write_mmlu(tmp_path, anatomy=3, astronomy=2)
    monkeypatch.setattr(mmlu, "SHAPE", TINY)
    monkeypatch.setattr(mmlu, "CANDIDATES", (1, 2))
    words = ["--data", str(tmp_path / "mmlu"), "--repeats", "1", "--json", str(tmp_path / "x.json"), *more]
    return mmlu.main(words), json.loads((tmp_path / "x.json").read_text())


def test_both_ways_answer_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, content = run(tmp_path, monkeypatch, "--limit", "0", "--adapters", "2")
    assert (status, content["questions"], content["agreement"], content["fallback"]) == (0, 10, 1.0, 0)
    assert content["scores"]["ours"] == content["scores"]["lm-eval"]
    assert content["token_ratio"] > 1 and content["speedup"] > 0 and "gpus" in content["machine"]


def test_another_answer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = mmlu.ours

    def wrong(work: mmlu.Work, batch_size: int) -> mmlu.Measured:
        measured = ours(work, batch_size)
        (values,) = measured.values.values()
        prompt = next(iter(values))[0]
        chosen, _ = mmlu.choices(values)[prompt]
        values[prompt, [" A", " B", " C", " D"][chosen - 1]] = 0.0
        return measured

    monkeypatch.setattr(mmlu, "ours", wrong)
    status, content = run(tmp_path, monkeypatch, "--limit", "1")
    assert (status, content["disagreements"], content["questions"]) == (1, 1, 2)


def test_the_folder_is_mmlus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit):
        mmlu.main(["--data", str(tmp_path / "data")])
    assert "must be a folder called mmlu" in capsys.readouterr().err
