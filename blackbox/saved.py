"""A saved adapter, by whatever names it: its folder, an evaluation's folder, or a run, whose best is meant.

Loads torch only in `load`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbo.best import Good, read_searched
from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.run import find_run
from bbo.store import Evaluation
from blackbox.settings import ModelSettings, read_settings

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Saved:
    """An adapter, or what all weights were trained to: a whole model."""

    folder: Path
    experiment: Experiment | None
    """What it was trained for; None for an adapter that has no experiment.yaml in or beside its folder."""
    evaluation: Evaluation | None = None
    """That it belongs to."""

    @property
    def whole(self) -> bool:
        """Whether it is a model that needs no other."""
        return not (self.folder / CONFIG).is_file()

    @property
    def task(self) -> str:
        return "instruct" if self.experiment is None else self.experiment.task

    @property
    def known(self) -> Experiment:
        """Raises InputError where nothing says what it was trained for."""
        if self.experiment is None:
            raise InputError(
                f"{self.folder}: nothing says how its prompts look: give its --experiment params/NAME.yaml"
            )
        return self.experiment

    @property
    def model(self) -> tuple[ModelSettings, Path]:
        """The base model, and what its path is relative to."""
        if self.experiment is not None:
            settings = read_settings(self.experiment)
            return settings.model, settings.base
        config = json.loads((self.folder / CONFIG).read_text())
        path = config.get("base_model_name_or_path")
        if not path:
            raise InputError(f"{self.folder / CONFIG}: names no base model: give its --experiment params/NAME.yaml")
        return ModelSettings(path=path, dtype=_dtype(Path(path))), Path.cwd()


def find(name: str, experiment: str | None = None) -> Saved:
    """What a user means. `experiment` takes the place of the copy that is found. Raises InputError."""
    path = Path(name)
    given = None if experiment is None else read_experiment(Path(experiment))
    if _is_model(path):
        evaluation = Evaluation(path.absolute().parent)
        kinds = (evaluation.adapter.name, evaluation.model.name)
        if path.absolute().name in kinds and evaluation.experiment_file.is_file():
            return Saved(path, given or read_experiment(evaluation.experiment_file), evaluation)
        own = path / "experiment.yaml"
        return Saved(path, given or (read_experiment(own) if own.is_file() else None))
    if (path / "experiment.yaml").is_file():
        return of_evaluation(Evaluation(path), given)
    if find_run(name).log_file.is_file():
        return of_good(read_searched(name).best(), given)
    raise InputError(f"{name}: no adapter ({CONFIG}), no evaluation's folder, and no run")


def worst(name: str) -> Saved:
    """Of a run's good evaluations."""
    if not find_run(name).log_file.is_file():
        raise InputError(f"--worst: {name} is no run, only a run has a worst evaluation")
    return of_good(read_searched(name).good[-1])


def of_good(good: Good, experiment: Experiment | None = None) -> Saved:
    return of_evaluation(good.evaluation, experiment)


def of_evaluation(evaluation: Evaluation, experiment: Experiment | None = None) -> Saved:
    """Raises InputError with the command that trains it again where its adapter was not kept."""
    experiment = experiment or read_experiment(evaluation.experiment_file)
    if not experiment.trains_a_model:
        raise InputError(f"{evaluation.folder}: no model is trained there")
    weights = evaluation.weights
    if weights is None:
        again = f"python -m blackbox.eval {evaluation.point_file} --again"
        raise InputError(f"{evaluation.folder}: its adapter was not kept (resources.keep): `{again}` trains it again")
    return Saved(weights, experiment, evaluation)


def load(saved: Saved, merge: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer on a GPU if there is one, in evaluation mode; `merge` adds the adapter to the weights."""
    if saved.task == "classification":
        from blackbox.classification import load as load_classifier  # noqa: PLC0415

        model, tokenizer = load_classifier(read_settings(saved.known), saved.folder)
    else:
        model, tokenizer = _load(saved)
    merges = merge and not saved.whole
    return (model.merge_and_unload(safe_merge=True) if merges else model).eval(), tokenizer


def load_base(saved: Saved) -> tuple[Any, Any]:
    """The same of the untouched base model."""
    from blackbox.model import find_model, load_model, load_tokenizer  # noqa: PLC0415 - heavy

    settings, base = saved.model
    folder = find_model(settings, base)
    model: Any = load_model(folder, settings)
    return model.to(device()), load_tokenizer(folder)


def device() -> str:
    import torch  # noqa: PLC0415 - heavy

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(saved: Saved) -> tuple[Any, Any]:
    from peft import PeftModel  # noqa: PLC0415 - heavy

    from blackbox.model import load_model, load_tokenizer  # noqa: PLC0415 - heavy

    if saved.whole:
        whole: Any = load_model(saved.folder, saved.model[0])
        return whole.to(device()), load_tokenizer(saved.folder)
    model, tokenizer = load_base(saved)
    try:
        return PeftModel.from_pretrained(model, saved.folder), tokenizer
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{saved.folder}: does not fit its base model {saved.model[0].path}: {first}") from None


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, "config.json"))


def _dtype(model: Path) -> Any:
    """As the base model is stored, where that is one of ours."""
    try:
        config = json.loads((model / "config.json").read_text())
    except (OSError, ValueError):
        return "float32"
    stored = config.get("dtype") or config.get("torch_dtype")
    names: Sequence[str] = ("float32", "bfloat16", "float16")
    return stored if stored in names else "float32"
