"""`python -m blackbox.retrain REQUEST`: a run's best point once more, to be used. What `bbo retrain` calls.

Trains in a hidden folder beside OUT, from where a killed one goes on, and renames the finished adapter to OUT:

    runs/NAME/final/   adapter_config.json  adapter_model.safetensors (PEFT)  README.md (the model card)
                       retrained.json (the card for scripts)  experiment.yaml (how its prompts are rendered)
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bbo.best import Good, Searched, read_searched
from bbo.errors import InputError, MachineError
from bbo.executors.protocol import Files, Launch
from bbo.executors.slots import Slot, gpus_of
from bbo.experiment import Experiment
from bbo.store import Evaluation, Result, key_of, write_json
from blackbox.block import Blackbox
from blackbox.card import About, card
from blackbox.eval import progress_of
from blackbox.failure import failure_file, raise_failure
from blackbox.launch import launch_command
from blackbox.program import status_of
from blackbox.recipe import Fingerprints, common
from blackbox.settings import Training

RETRAINED = "retrained.json"


def run(request: Mapping[str, Any]) -> None:
    """Raises InputError where OUT is there already with something else in it, and then changes nothing."""
    searched = read_searched(request["run"])
    plan = _plan(searched, searched.best(), request)
    known = _known(plan.out)
    if known is not None and known["key"] == plan.key:
        print(f"{plan.out}: is there already", file=sys.stderr)
    elif plan.out.exists():
        what = "another training of the run" if known else "something else"
        raise InputError(f"{plan.out}: holds {what}: remove it, or choose another --out")
    else:
        print(f"trains #{plan.good.ask.number} of {searched.run.folder} on {plan.words}", file=sys.stderr, flush=True)
        known = _finish(searched, plan, _train(plan))
    if request["json"]:
        print(json.dumps(known, indent=1))
    else:
        print(f"final model: {plan.out} ({plan.out / 'README.md'} says what it is)")


@dataclass(frozen=True)
class Plan:
    """What is trained, and where it goes."""

    good: Good
    experiment: Experiment
    """The search's, without its time limit: the final training may take longer."""
    blackbox: Blackbox
    hyperparameters: Mapping[str, Any]
    about: Mapping[str, Any]
    """All that determines the result."""
    everything: bool
    """Whether the validation side is trained on too."""
    out: Path

    @property
    def key(self) -> str:
        return key_of(self.about)

    @property
    def work(self) -> Path:
        return self.out.with_name(f".{self.out.name}.retrain")

    @property
    def words(self) -> str:
        seen = "training and validation rows: eval_loss is of rows that are trained on, and says nothing"
        return seen if self.everything else "the training rows"


def _plan(searched: Searched, good: Good, request: Mapping[str, Any]) -> Plan:
    good.require_whole()
    content = {**searched.experiment.document}
    content["resources"] = {k: v for k, v in content.get("resources", {}).items() if k != "time_limit"}
    resources = searched.experiment.resources.model_copy(update={"time_limit": None, "worker": "fresh"})
    source = replace(searched.experiment.source, content=content)
    experiment = replace(searched.experiment, source=source, resources=resources)
    blackbox = Blackbox(experiment, searched.store, searched.run.preflight_file)
    if blackbox.settings is None:
        raise InputError(f"{searched.run.folder}: no model is trained there")
    hyperparameters = dict(good.hyperparameters)
    if request["epochs"] is not None:
        hyperparameters["num_train_epochs"] = request["epochs"]
    training = blackbox.training(hyperparameters)
    assert isinstance(training, Training)
    try:
        shared = common(blackbox.settings, Fingerprints(searched.store))
    except InputError as error:
        raise experiment.located(error) from None
    everything = request["data"] == "all"
    about = {**shared, "training": training.determinants(blackbox.processes), "all_rows": everything}
    out = Path(request["out"] or searched.run.folder / "final").absolute()
    return Plan(good, experiment, blackbox, hyperparameters, about, everything, out)


def _known(out: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((out / RETRAINED).read_text())
    except (OSError, ValueError):
        return None
    return content


def _train(plan: Plan) -> Evaluation:
    """Raises MachineError where the same command may go on, or where the training failed."""
    evaluation = Evaluation(plan.work / plan.key)
    if evaluation.result() is None:
        for other in plan.work.glob("*"):  # of an interrupted retraining with other settings
            if other.is_dir() and other != evaluation.folder:
                shutil.rmtree(other)
        settings = {n: v for n, v in plan.hyperparameters.items() if n not in plan.experiment.space.variables}
        evaluation.begin(plan.experiment.dump(settings), "")
        with progress_of(evaluation, sys.stderr):
            _run_job(plan, evaluation)
    result = evaluation.result()
    assert result is not None
    if result.status == "failed":
        raise MachineError(f"the training failed: {result.reason}; see {evaluation.log_file}")
    return evaluation


def _run_job(plan: Plan, evaluation: Evaluation) -> None:
    file, blackbox = plan.work / "job.json", plan.blackbox
    log = file.with_suffix(".log")
    failure_file(file).unlink(missing_ok=True)

    def prepare(slot: Slot) -> None:
        entry: dict[str, Any] = {"key": plan.key, "folder": str(evaluation.folder), "point": None}
        job = {
            "id": "retrain",
            "experiment": str(evaluation.experiment_file),
            "launched": time.time(),
            "slot": slot.name,
            "gpus": len(gpus_of(slot.devices)),
            "base_score": None,
            "all_rows": plan.everything,
            "evaluations": [{**entry, "hyperparameters": plan.hyperparameters, "fidelity": {}, "attempts": 1}],
        }
        write_json(file, job)
        evaluation.attach_log(log)

    command, environment = launch_command(
        file, blackbox.processes, blackbox.executor.devices, plan.experiment.accelerate
    )

    def files() -> Files:
        reads = blackbox.files()
        (content,) = reads.documents.values()
        about = {evaluation.experiment_file: content}
        return Files(reads.reads, about, file, evaluations=[evaluation.folder], makes=[failure_file(file)])

    launch = Launch("retrain", command, log, prepare, environment, files=files)
    for _, how in blackbox.executor.run([launch], lambda launch, pid: None, lambda: None):
        if evaluation.result() is None:
            raise_failure(failure_file(file), log)
            raise MachineError(f"the training ended with status {how.status}, see {log}; the same command goes on")


def _finish(searched: Searched, plan: Plan, evaluation: Evaluation) -> dict[str, Any]:
    """Put the adapter, whole, where it belongs."""
    result = evaluation.result()
    assert isinstance(result, Result) and plan.blackbox.settings is not None
    about = About(searched, plan.good, plan.blackbox, plan.about, plan.everything, evaluation)
    content = {"key": plan.key, **about.content()}
    whole = plan.work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    assert evaluation.weights is not None, "it has just been trained"
    shutil.copytree(evaluation.weights, whole)
    shutil.copy(evaluation.experiment_file, whole / "experiment.yaml")
    (whole / "README.md").write_text(card(content), encoding="utf-8")
    write_json(whole / RETRAINED, content)
    whole.rename(plan.out)
    shutil.rmtree(plan.work)
    return content


if __name__ == "__main__":
    sys.exit(status_of(run))
