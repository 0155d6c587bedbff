"""`bbo retrain`: the best point on all rows, its card, and what is left of a killed one."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bbo.best import read_searched
from bbo.errors import InputError, MachineError
from bbo.executors.local import Local
from bbo.executors.protocol import Exit, Launch
from bbo.executors.slots import Slot
from bbo.store import write_json
from blackbox import retrain
from blackbox.card import card


@pytest.fixture
def here(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Train in this process. The last number is the status of the next process that dies before its result."""
    from blackbox import train  # noqa: PLC0415 - heavy

    dying: list[int] = []

    def run(local: Local, launches: list[Launch], *_: Any) -> Iterator[tuple[Launch, Exit]]:
        (launch,) = launches
        launch.prepare(Slot("cpu0", ("cpu0",), ()))
        if dying:
            yield launch, Exit(dying.pop())
            return
        train.run(Path(launch.arguments[-1]))
        yield launch, Exit(0)

    monkeypatch.setattr(Local, "run", run)
    return dying


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched, tmp_path / "x")
    return tmp_path / "x"


def ask(run: Path, **more: Any) -> dict[str, Any]:
    return {"run": str(run), "data": "all", "epochs": None, "out": None, "json": True, **more}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_rows_and_a_card(run: Path, here: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    key = read_searched(str(run)).good[0].evaluation.key
    mine = {"key": key, "mean": 4.5, "standard_error": 0.01, "verdict": "best"}
    write_json(run / "confirmed.json", {"metric": "eval_loss", "seeds": [2, 3], "points": [mine]})
    before = files(run)
    retrain.run(ask(run))
    said = json.loads(capsys.readouterr().out)
    final = run / "final"
    assert said["rows"] == "train + validation" and said["applied"]["steps"] == 4, "32 rows in batches of 8"
    assert files(run).items() >= before.items()
    assert {path.split("/")[0] for path in files(run).keys() - before.keys()} == {"final"}
    from peft import PeftConfig  # noqa: PLC0415 - heavy

    assert PeftConfig.from_pretrained(final).r == 8
    card = (final / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header == {"library_name": "peft", "tags": ["lora", "instruct"]}
    for line in (
        "no validation score",
        "eval_loss in the search",
        "(untouched base model: 9.5)",
        "2 other training seeds: 4.5 ± 0.01",
        "| learning_rate | 0.01 |",
        said["data"]["train"]["content"],
        f"| peft | {said['versions']['peft']} |",
    ):
        assert line in card, line
    assert str(run.parent) not in card, "no folder of this machine"
    made = files(final)
    retrain.run(ask(run))
    assert files(final) == made
    with pytest.raises(InputError, match="holds another training of the run"):
        retrain.run(ask(run, epochs=2))
    assert files(final) == made


def test_train_rows_alone_repeat_the_evaluation(run: Path, here: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    retrain.run(ask(run, data="train", out=str(run / "again")))
    said = json.loads(capsys.readouterr().out)
    best = read_searched(str(run)).good[0]
    assert said["own_scores"]["eval_loss"] == pytest.approx(best.objective, abs=1e-6) and said["rows"] == "train"
    weights = [folder / "adapter_model.safetensors" for folder in (run / "again", best.evaluation.adapter)]
    assert "of this model" in (run / "again" / "README.md").read_text() and all(map(Path.is_file, weights))


def test_one_that_died_leaves_no_model_and_is_repeated(
    run: Path, here: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    here.append(-9)
    with pytest.raises(MachineError, match=r"status -9.*the same command goes on"):
        retrain.run(ask(run))
    assert not (run / "final").exists()
    retrain.run(ask(run, epochs=2))
    assert json.loads(capsys.readouterr().out)["applied"]["num_train_epochs"] == 2
    assert not list(run.glob(".final*"))
    (run / "mine").mkdir()
    with pytest.raises(InputError, match="holds something else"):
        retrain.run(ask(run, out=str(run / "mine")))


def test_the_card_of_a_whole_model(run: Path, here: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    retrain.run(ask(run))
    said = json.loads(capsys.readouterr().out)
    text = card({**said, "applied": {**said["applied"], "method": "full"}})
    assert yaml.safe_load(text.split("---")[1]) == {"library_name": "transformers", "tags": ["instruct"]}
    assert "\n# All weights of model0, found by the search x\n" in text


def test_the_toy_is_refused(command: Callable[..., Any], toy: Callable[..., Path], tmp_path: Path) -> None:
    command("bbo.nomad", str(toy(budget=2)), "--run", "runs/x")
    done = command("bbo.cli", "retrain", "x")
    assert done.returncode == 1 and done.stderr == "runs/x: no model is trained there\n"
