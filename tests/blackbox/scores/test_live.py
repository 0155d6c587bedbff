"""Scores beside evaluations: who is scored when, what is trained for it, and what a failure costs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError
from bbo.experiment import Output
from bbo.store import Evaluation, Score
from blackbox.scores.requests import Request, Scored, Wanted, wanted
from blackbox.scores.settings import ScoresSettings, TaskSettings
from tests.blackbox.conftest import results

Write = Callable[..., Path]
Called = list[tuple[str, list[str | None]]]

POINTS: list[dict[str, Any]] = [{"lora_rank": 2}, {"lora_rank": 3}]


def request(task: str = "arc_easy", **changes: Any) -> Request:
    about = {"num_fewshot": None, "limit": None, "subtasks": (), "num_samples": 1, "temperature": 0.0}
    return Request(**{"task": task, "data": "hub", "lm_eval": "0", **about, **changes})  # type: ignore[arg-type]


@pytest.fixture
def called(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Called]:
    """What lm-eval's place was asked: it answers with the norm of what each adapter adds, 0 for the base model."""
    import torch  # noqa: PLC0415 - heavy

    from blackbox.scores import harness  # noqa: PLC0415 - heavy

    calls: Called = []

    def evaluate(model: Any, tokenizer: Any, names: list[str | None], each: Request, *_: Any) -> dict[Any, Scored]:
        calls.append((each.task, list(names)))
        assert tokenizer("a").input_ids
        assert not model.training
        weights = {n: [p for key, p in model.named_parameters() if f"lora_B.{n}." in key] for n in names if n}
        norms = {n: float(torch.stack([p.norm() for p in each]).norm()) for n, each in weights.items()}
        return {name: Scored({"acc": norms.get(name, 0.0), "acc_stderr": 0.1}, 7, {}) for name in names}

    monkeypatch.setattr(harness, "evaluate", evaluate)
    yield calls


def ask(job: Path, *requests: Request, base: bool = False) -> Path:
    """Have all points of a job scored for these."""
    content = json.loads(job.read_text())
    for item in content["evaluations"]:
        item["scores"] = [asdict(each) for each in requests]
        item["trained"] = (Path(item["folder"]) / "result.json").is_file()
    content["base_scores"] = [asdict(each) for each in requests] if base else []
    job.write_text(json.dumps(content))
    return job


def scores(job: Path, each: Request) -> list[Score | None]:
    items = json.loads(job.read_text())["evaluations"]
    return [Evaluation(Path(item["folder"])).score(each.name) for item in items]


def test_after_training_all_adapters_are_scored_together_with_the_base_model(
    called: Called, experiment: Write, write_job: Write, tmp_path: Path
) -> None:
    from blackbox.train import run  # noqa: PLC0415 - heavy

    job = ask(write_job(experiment(), *POINTS, base_score=True), request(), base=True)
    run(job)
    assert called == [("arc_easy", ["member0", "member1", None])]
    first, second = scores(job, request())
    assert first and second and first.metrics["acc"] != second.metrics["acc"] > 0
    assert (first.status, first.count, first.about["task"]) == ("ok", 7, "arc_easy")
    base = json.loads((tmp_path / "job.base.json").read_text())
    assert base["eval_loss"] > 0 and base["scores"] == {request().name: {"acc": 0.0, "acc_stderr": 0.1}}


def test_a_new_output_is_computed_from_the_kept_adapter(called: Called, experiment: Write, write_job: Write) -> None:
    from blackbox.train import run  # noqa: PLC0415 - heavy

    job = ask(write_job(experiment(), *POINTS), request())
    setup = run(job)
    before, again = results(job), request("hellaswag", limit=100)
    run(ask(job, request(), again), setup)
    assert called[1:] == [("hellaswag", ["member0", "member1"])], "what is there is not computed again"
    assert results(job) == before, "nothing was trained"
    assert all(scores(job, again))
    assert scores(job, request("hellaswag")) == [None, None], "the first 100 questions do not answer for all"


def test_who_fails_together_is_scored_alone(
    called: Called, experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blackbox.scores import harness  # noqa: PLC0415 - heavy
    from blackbox.train import run  # noqa: PLC0415 - heavy

    good = harness.evaluate

    def weak(model: Any, tokenizer: Any, names: list[str | None], *about: Any) -> Any:
        if len(names) > 1 or names == ["member1"]:
            raise MemoryError("no room")
        return good(model, tokenizer, names, *about)

    monkeypatch.setattr(harness, "evaluate", weak)
    job = ask(write_job(experiment(), *POINTS), request())
    run(job)
    first, second = scores(job, request())
    assert first and first.status == "ok"
    assert second and (second.status, second.reason) == ("failed", "out of memory: no room")
    assert [result.status for result in results(job)] == ["ok", "ok"], "the training is none the worse"


class TestWanted:
    def test_limit_few_shots_and_data_make_another_score(self) -> None:
        names = [request().name]
        names += [request(**{name: value}).name for name, value in
                  {"limit": 100, "num_fewshot": 3, "data": "other", "subtasks": ("a",)}.items()]  # fmt: skip
        assert len(set(names)) == 5

    def test_outputs(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "mmlu" / "anatomy").mkdir(parents=True)
        (tmp_path / "data" / "mmlu" / "anatomy" / "test.jsonl").write_text("{}\n")
        settings = ScoresSettings(data_dir="data", tasks={"hellaswag": TaskSettings(limit=10)})
        names = ["eval_loss", "mmlu_anatomy", "hellaswag.acc", "lm_eval:arc_easy"]
        outputs = [Output(name, "EXTRA_O") for name in names]
        found = wanted(outputs, ["eval_loss"], settings, tmp_path, lambda file: file.read_text())
        anatomy, hellaswag, arc = found["mmlu_anatomy"], found["hellaswag.acc"], found["lm_eval:arc_easy"]
        assert (anatomy.request.task, anatomy.request.num_fewshot) == ("mmlu_anatomy", 5)
        assert anatomy.request.data != "hub"
        assert (hellaswag.request.task, hellaswag.metric, hellaswag.request.limit) == ("hellaswag", "acc", 10)
        assert (arc.request.task, arc.request.num_fewshot, arc.request.data) == ("arc_easy", None, "hub")

    def test_values(self) -> None:
        metrics = {"acc": 0.1, "acc_norm": 0.2}
        assert Wanted(request("hellaswag"), None).value(metrics) == 0.2
        assert Wanted(request("hellaswag"), "acc").value(metrics) == 0.1
        assert Wanted(request("arc_easy"), None).value(metrics) == 0.1
        with pytest.raises(InputError, match="arc_easy has no metric f1, it has acc, acc_norm"):
            Wanted(request("arc_easy"), "f1").value(metrics)
