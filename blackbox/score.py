"""`python -m blackbox.score REQUEST`: benchmark scores of a saved adapter. What `bbo score` calls.

Those of an evaluation stand beside it, scores/NAME-HASH.json, as if its run had wanted them; what stands there is not
computed again, but for what failed.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bbo.errors import InputError, MachineError
from bbo.experiment import Experiment, Output
from bbo.store import Evaluation, Result, Score, Store
from blackbox.block import METRICS
from blackbox.checks import impossible
from blackbox.program import status_of
from blackbox.recipe import Fingerprints
from blackbox.saved import Saved, find
from blackbox.scores.requests import Wanted, is_task, wanted
from blackbox.settings import Settings, read_settings


def run(request: Mapping[str, Any]) -> None:
    """Raises InputError before a model is loaded, MachineError where a score could not be computed."""
    saved = find(request["adapter"], request["experiment"])
    if saved.task == "classification":
        raise InputError(f"{saved.folder}: a classifier cannot be asked lm-eval's questions")
    experiment = _with_scores(saved.known, request)
    settings = read_settings(experiment)
    with tempfile.TemporaryDirectory() as folder:
        evaluation = saved.evaluation or _stand_in(saved, Path(folder))
        wants = _wanted(settings, request["tasks"], Fingerprints(Store(evaluation.folder.parent)))
        if problems := impossible(wants.values(), settings):
            raise InputError(*(problem.replace("outputs:", "--tasks:", 1) for problem in problems))
        scores = _scores(experiment, settings, evaluation, wants)
    if request["json"]:
        found = [{"task": task, "value": wants[task].value(s.metrics), **asdict(s)} for task, s in scores.items()]
        print(json.dumps(found, indent=1))
        return
    for task, score in scores.items():
        words = "  ".join(f"{name} {value:.5g}" for name, value in score.metrics.items())
        print(f"{task:<20}{wants[task].value(score.metrics):<10.5g} {score.count} questions   {words}")
    if saved.evaluation is not None:
        print(f"kept in {saved.evaluation.scores}")


def _with_scores(experiment: Experiment, request: Mapping[str, Any]) -> Experiment:
    """The experiment with what the command line says of its scores."""
    scores = dict(experiment.scores)
    if request["data_dir"] is not None:
        scores["data_dir"] = str(Path(request["data_dir"]).absolute())
    if request["allow_code_execution"]:
        scores["allow_code_execution"] = True
    given = {name: request[name] for name in ("limit", "num_fewshot") if request[name] is not None}
    known = scores.get("tasks", {})
    tasks = [task.removeprefix("lm_eval:").partition(".")[0] for task in request["tasks"]]
    scores["tasks"] = {**known, **{task: {**known.get(task, {}), **given} for task in tasks}}
    return replace(experiment, source=replace(experiment.source, content={**experiment.document, "scores": scores}))


def _wanted(settings: Settings, tasks: list[str], fingerprints: Fingerprints) -> Mapping[str, Wanted]:
    wrong = [task for task in tasks if not is_task(task) or task in METRICS]
    if wrong:
        raise InputError(f"--tasks: must be lm-eval's names with commas between them, got {', '.join(wrong)}")
    outputs = [Output(task, "EXTRA_O") for task in dict.fromkeys(tasks)]
    return wanted(outputs, (), settings.scores, settings.base, fingerprints.of_file)


def _scores(
    experiment: Experiment, settings: Settings, evaluation: Evaluation, wants: Mapping[str, Wanted]
) -> dict[str, Score]:
    missing: dict[str, Wanted] = {}
    for task, each in wants.items():
        score = evaluation.score(each.request.name)
        if score is not None and score.status == "failed":
            (evaluation.scores / f"{each.request.name}.json").unlink()
        if score is None or score.status == "failed":
            missing[task] = each
    if missing:
        _compute(experiment, settings, evaluation, missing)
    found = {}
    for task, each in wants.items():
        score = evaluation.score(each.request.name)
        if score is None or score.status == "failed":
            raise MachineError(f"{task}: {score.reason if score else 'no score came out'}")
        found[task] = score
    return found


def _compute(experiment: Experiment, settings: Settings, evaluation: Evaluation, missing: Mapping[str, Wanted]) -> None:
    from blackbox.data import Data  # noqa: PLC0415 - heavy
    from blackbox.model import find_model, load_model, load_tokenizer  # noqa: PLC0415 - heavy
    from blackbox.scores.live import score_job  # noqa: PLC0415 - heavy
    from blackbox.setup import Setup, start_accelerator  # noqa: PLC0415 - heavy

    accelerator = start_accelerator()
    folder = find_model(settings.model, settings.base)
    base: Any = load_model(folder, settings.loaded)
    base = base if settings.training.method == "full" else base.to(accelerator.device)
    setup = Setup(accelerator, base, Data([], [], 0), load_tokenizer(folder))
    for number, (task, each) in enumerate(missing.items(), 1):
        print(f"[{number}/{len(missing)}] scoring {task}", file=sys.stderr, flush=True)
        item = {"folder": str(evaluation.folder), "scores": [asdict(each.request)]}
        gpus = int(accelerator.device.type == "cuda")
        score_job(setup, experiment, {"id": "score", "gpus": gpus, "base_score": None, "evaluations": [item]})


def _stand_in(saved: Saved, root: Path) -> Evaluation:
    """An evaluation around an adapter that belongs to none: scores are computed for evaluations."""
    evaluation = Evaluation(root / "adapter")
    evaluation.folder.mkdir()
    (evaluation.model if saved.whole else evaluation.adapter).symlink_to(saved.folder.absolute())
    evaluation.progress({"epoch": 1, "step": 1, "steps": 1})
    unknown: dict[str, Any] = {"metrics": {}, "hyperparameters": {}, "point": None, "experiment": "", "phases": {}}
    unknown |= dict.fromkeys(("seconds", "gpu_seconds", "started", "finished"), 0.0)
    unknown |= dict.fromkeys(("host", "slot", "job"), "")
    evaluation.record(Result("adapter", "ok", **unknown, seed=0))
    return evaluation


if __name__ == "__main__":
    sys.exit(status_of(run))
