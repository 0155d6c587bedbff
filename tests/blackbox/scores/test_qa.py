"""exact_match and f1: what is asked, whose answers count, and what makes another score of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.store import Store
from blackbox.block import Blackbox
from blackbox.scores import qa
from blackbox.settings import QaSettings
from tests.blackbox.squad_data import questions, write_squad

Write = Callable[..., Experiment]


@pytest.fixture
def squad(tmp_path: Path, small_bloom: Path) -> Write:
    """An experiment on 12 training and 6 validation questions: squad(outputs=[...], data={...}, training={...})."""

    def write(**sections: Any) -> Experiment:
        write_squad(tmp_path / "train.json", questions(12))
        write_squad(tmp_path / "dev.json", questions(6, first=40))
        data = {"train": "train.json", "valid": "dev.json", "max_length": 160, "max_new_tokens": 6}
        content = {
            "task": "qa",
            "model": {"path": str(small_bloom)},
            "space": {"lora_rank": {"int": [1, 64]}},
            "outputs": ["eval_loss", "exact_match", "f1"],
            **sections,
            "data": {**data, **sections.get("data", {})},
        }
        training = {"num_train_epochs": 1, "global_batch_size": 4, "target_modules": "all-linear"}
        content["training"] = {**training, **sections.get("training", {})}
        file = tmp_path / "squad.yaml"
        file.write_text(yaml.safe_dump(content))
        return read_experiment(file)

    return write


def blackbox(experiment: Experiment) -> Blackbox:
    return Blackbox(experiment, Store(experiment.base / "evals"), experiment.base / "preflight.json")


def key(experiment: Experiment) -> str:
    return blackbox(experiment).candidate({"lora_rank": 2}, None).key


def test_both_outputs_are_one_request(squad: Write) -> None:
    found = blackbox(squad()).wanted
    assert list(found) == ["exact_match", "f1"]
    assert found["exact_match"].request == found["f1"].request
    assert found["f1"].value({"exact_match": 1.0, "f1": 2.0}) == 2.0
    assert blackbox(squad(outputs=["eval_loss"])).wanted == {}


def test_what_the_answers_depend_on_makes_another_score_and_no_other_evaluation(squad: Write) -> None:
    few = {"path": "dev.json", "split": "train[:3]"}
    different = [{}, {"max_new_tokens": 7}, {"valid": few}, {"prompt": "Q{question}"}, {"valid": 0.5}]
    different.append({"valid": 0.5, "split_seed": 1})
    names = [blackbox(squad(data=data)).wanted["f1"].request.name for data in different]
    assert len(set(names)) == 6
    other = {"train": {"path": "train.json", "split": "train[:3]"}, "max_length": 200}
    assert blackbox(squad(data=other)).wanted["f1"].request.name == names[0]
    assert key(squad(data={"max_new_tokens": 7})) == key(squad()) != key(squad(data=other))


def test_only_a_qa_experiment_has_them(squad: Write) -> None:
    assert isinstance(blackbox(squad()).settings.data, QaSettings)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="max_new_tokens: no such setting"):
        blackbox(squad(task="instruct"))
    with pytest.raises(InputError, match=r"exactmatch cannot be measured \(did you mean exact_match"):
        blackbox(squad(outputs=["exactmatch"]))


def test_every_validation_question_has_all_its_answers(squad: Write, tmp_path: Path) -> None:
    rows = questions(6, first=40)
    rows[2]["answers"]["text"][1] = "other"
    rows.append({**rows[2], "answers": {"text": [rows[2]["answers"]["text"][0], "more"], "answer_start": [0, 0]}})
    data = squad().section("data", QaSettings)
    write_squad(tmp_path / "dev.json", rows)
    found = qa.questions(data, tmp_path, None)
    assert len(found) == 7
    assert found[0] == ("Question: Which town is old? Context: The town of Oslo number 20 is old. Ann 20 lives in it. "
                        "Answer:", ["Oslo number 20", "Oslo"])  # fmt: skip
    assert found[2][1] == ["Paris number 21", "other", "Paris number 21", "more"], "the same row twice"
    share = data.model_copy(update={"train": data.valid, "valid": 0.5})
    part = qa.questions(share, tmp_path, None)
    assert 0 < len(part) < 7 and all(each in found for each in part)


def test_scores_follow_training_and_answer_a_finished_run_without_training(
    on_cpu: None, squad: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job as the blackbox writes it: first the loss alone, then exact_match and f1 of the adapters that are kept."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - heavy

    from blackbox import generation, train  # noqa: PLC0415 - heavy

    asked: list[list[str]] = []

    def answers(model: Any, tokenizer: Any, prompts: list[str], *_: Any) -> list[str]:
        """Two right answers and a part of one from the adapter, nothing from the base model."""
        asked.append(list(prompts))
        assert not model.training
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        return [""] * 6 if layers[0].disable_adapters else ["the OSLO number 20!", "Ann", "Paris is old", "", "", ""]

    monkeypatch.setattr(generation, "answers", answers)
    experiment = squad()
    about = blackbox(experiment).wanted["f1"].request
    folder = tmp_path / "evals" / "one"
    folder.mkdir(parents=True)
    entry = {"key": "one", "folder": str(folder), "point": None, "hyperparameters": {"lora_rank": 2}, "fidelity": {}}
    job = {"id": "j", "experiment": str(experiment.path), "launched": 0.0, "slot": "cpu", "gpus": 0, "base_score": None}
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**job, "evaluations": [{**entry, "attempts": 1}]}))
    setup = train.run(file)
    assert not asked
    trained = (folder / "result.json").read_text()
    more = {"base_score": str(tmp_path / "base.json"), "base_scores": [vars(about)]}
    scored = {**entry, "attempts": 1, "trained": True, "scores": [vars(about)]}
    file.write_text(json.dumps({**job, **more, "evaluations": [scored]}))
    train.run(file, setup)
    assert (folder / "result.json").read_text() == trained and len(asked) == 2
    (written,) = (folder / "scores").glob("qa-*.json")
    score = json.loads(written.read_text())
    assert score["metrics"] == pytest.approx({"exact_match": 100 * 2 / 6, "f1": 100 * (1 + 1 + 1 / 2) / 6})
    assert (score["count"], score["about"]["max_new_tokens"], score["name"]) == (6, 6, about.name)
    base = json.loads((tmp_path / "base.json").read_text())
    assert base["scores"] == {about.name: {"exact_match": 0.0, "f1": 0.0}}
