"""`bbo score`: kept beside an evaluation, computed once, failed ones again. lm-eval's place is taken by a stand-in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError, MachineError
from blackbox import score
from blackbox.saved import find
from blackbox.scores.requests import Scored


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, imported: None) -> list[Any]:
    from blackbox.scores import harness, tasks  # noqa: PLC0415 - heavy

    calls: list[Any] = []

    def evaluate(model: Any, tokenizer: Any, names: Any, request: Any, settings: Any, base: Path) -> dict[Any, Scored]:
        calls.append((request.task, request.limit, request.num_fewshot))
        if len(calls) > 100:
            raise RuntimeError("no room")
        return {name: Scored({"acc": 0.25, "acc_stderr": 0.1}, 4, {}) for name in names}

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(harness, "evaluate", evaluate)
    monkeypatch.setattr(tasks, "check", lambda request, *_: ["outputs: no"] if request.task == "nothing" else [])
    return calls


def request(adapter: Path, *tasks: str, limit: int | None = None) -> dict[str, Any]:
    about = {"experiment": None, "num_fewshot": None, "data_dir": None, "allow_code_execution": False, "json": True}
    return {"adapter": str(adapter), "tasks": list(tasks), "limit": limit, **about}


def test_kept_beside_the_evaluation(
    searched: Path, called: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "x"
    shutil.copytree(searched, run)
    score.run(request(run, "mmlu_anatomy", "arc_easy", limit=3))
    first = json.loads(capsys.readouterr().out)
    assert [(each["task"], each["value"]) for each in first] == [("mmlu_anatomy", 0.25), ("arc_easy", 0.25)]
    assert called == [("mmlu_anatomy", 3, 5), ("arc_easy", 3, None)]
    evaluation = find(str(run)).evaluation
    assert evaluation is not None and len(list(evaluation.scores.iterdir())) == 2
    score.run(request(run, "arc_easy", "mmlu_anatomy", limit=3))
    assert len(called) == 2, "known"
    score.run(request(run, "arc_easy"))
    assert called[2:] == [("arc_easy", None, None)], "a part does not answer for the whole"


def test_a_failed_one_is_tried_again(searched: Path, called: list[Any], tmp_path: Path) -> None:
    run = tmp_path / "x"
    shutil.copytree(searched, run)
    called.extend([()] * 100)
    with pytest.raises(MachineError, match="arc_easy: RuntimeError: no room"):
        score.run(request(run, "arc_easy"))
    called.clear()
    score.run(request(run, "arc_easy"))
    assert len(called) == 1


def test_a_folder_keeps_nothing_and_bad_names_are_refused(searched: Path, called: list[Any], tmp_path: Path) -> None:
    saved = find(str(searched))
    shutil.copytree(saved.folder, tmp_path / "alone")
    assert saved.evaluation is not None
    about = {**request(tmp_path / "alone", "arc_easy"), "experiment": str(saved.evaluation.experiment_file)}
    before = sorted(tmp_path.rglob("*"))
    score.run(about)
    assert len(called) == 1 and sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="--tasks: no"):
        score.run({**about, "tasks": ["nothing"]})
    with pytest.raises(InputError, match="--tasks: must be lm-eval's names"):
        score.run({**about, "tasks": ["eval_loss"]})
