"""The model card of a retrained adapter or model: what it was trained on and how, and what is known of its quality."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bbo.best import Good, Searched
from bbo.store import Evaluation
from blackbox.block import Blackbox


@dataclass(frozen=True)
class About:
    """Where the card's facts come from."""

    searched: Searched
    good: Good
    blackbox: Blackbox
    determinants: Mapping[str, Any]
    everything: bool
    evaluation: Evaluation
    """The retraining's."""

    def content(self) -> dict[str, Any]:
        """The card as data."""
        settings, result = self.blackbox.settings, self.evaluation.result()
        assert settings is not None and result is not None
        searched = self.blackbox.whole(self.good.evaluation)
        outputs = [output.metric for output in self.searched.experiment.outputs]
        applied = json.loads(self.evaluation.applied_file.read_text())
        return {
            "run": self.searched.run.name,
            "evaluation": self.good.ask.number,
            "searched_key": self.good.evaluation.key,
            "task": self.determinants["task"],
            "base_model": settings.model.path,
            "base_model_hash": self.determinants["model"],
            "dtype": settings.model.dtype,
            "data": self.determinants["data"],
            "rows": "train + validation" if self.everything else "train",
            "hyperparameters": dict(self.good.hyperparameters),
            "applied": applied,
            "scores": {name: searched.metrics[name] for name in outputs if searched and name in searched.metrics},
            "own_scores": {} if self.everything else {"eval_loss": result.metrics["eval_loss"]},
            "train_loss": result.metrics["train_loss"],
            "base_scores": self.searched.run.base_score() or {},
            "confirmed": self._confirmed(),
            "seconds": result.seconds,
            "versions": result.versions,
        }

    def _confirmed(self) -> dict[str, Any] | None:
        confirmed = self.searched.confirmed()
        if confirmed is None:
            return None
        mine = next((p for p in confirmed["points"] if p["key"] == self.good.evaluation.key), None)
        names = ("mean", "standard_error", "verdict")
        return mine and {"metric": confirmed["metric"], "seeds": confirmed["seeds"], **{n: mine[n] for n in names}}


def card(about: Mapping[str, Any]) -> str:
    """As Markdown with the hub's header."""
    # A folder of this machine means nothing to others, and is nobody's business.
    local = about["base_model"].startswith((".", "/", "~"))
    base = Path(about["base_model"]).name if local else about["base_model"]
    full = about["applied"].get("method") == "full"
    header = {
        "library_name": "transformers" if full else "peft",
        "tags": [about["task"]] if full else ["lora", about["task"]],
    }
    header |= {} if local else {"base_model": about["base_model"]}
    parts = [
        f"---\n{yaml.safe_dump(header)}---",
        f"# {'All weights' if full else 'LoRA adapter'} of {base}, found by the search {about['run']}",
        f"Evaluation #{about['evaluation']} of the search, trained again on its {about['rows']} rows.",
        "## Scores",
        "\n".join(_scores(about)),
        "## Hyperparameters, as read back from the live training",
        _table(about["applied"]),
        "## Data",
        _table(dict(_flat(about["data"]))),
        "## Base model and versions",
        _table({"base model": base, "hash": about["base_model_hash"], "dtype": about["dtype"], **about["versions"]}),
        f"Trained in {about['seconds']:.4g} s; final training loss {about['train_loss']:.5g}.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(about: Mapping[str, Any]) -> Iterator[str]:
    if about["own_scores"]:
        yield from (f"- {name} of this model: {value:.6g}" for name, value in about["own_scores"].items())
    else:
        yield (
            "- This model has no validation score: the validation rows were trained on. What follows is about "
            "trainings with the same hyperparameters on the training rows alone."
        )
    for name, value in about["scores"].items():
        base = about["base_scores"].get(name)
        than = "" if base is None else f" (untouched base model: {base:.6g})"
        yield f"- {name} in the search: {value:.6g}{than}"
    if (confirmed := about["confirmed"]) is not None and confirmed["mean"] is not None:
        error = confirmed["standard_error"]
        spread = "" if error is None else f" ± {error:.2g}"
        seeds = f"{len(confirmed['seeds'])} other training seeds"
        yield f"- {confirmed['metric']} with {seeds}: {confirmed['mean']:.6g}{spread} (mean, standard error)"
    else:
        yield "- Not confirmed with other seeds: the search's value is the best of many, and is too good."


def _flat(content: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{name}.")
        elif value is not None:
            yield f"{place}{name}", value


def _table(rows: Mapping[str, Any]) -> str:
    cells = (str(value).replace("|", "\\|").replace("\n", "\\n") for value in rows.values())
    lines = (f"| {name} | {value} |" for name, value in zip(rows, cells, strict=True))
    return "\n".join(["| | |", "|---|---|", *lines])
