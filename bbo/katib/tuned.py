"""`bbo.tune(..., backend="katib")`: from the arguments of `tune` to an Experiment on the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bbo.errors import InputError
from bbo.experiment import Experiment
from bbo.katib.algorithms import ALGORITHMS, SEED
from bbo.katib.client import submit
from bbo.katib.render import manifests
from bbo.katib.settings import katib_settings

DEFAULT = "tpe"
"""Katib has no NOMAD."""


@dataclass(frozen=True)
class Submitted:
    """A Katib Experiment that was created; its SDK, kubectl and dashboard know it by this name."""

    namespace: str
    name: str
    documents: list[dict[str, Any]]
    """What was created: the volume's claim where none was named, and the Experiment."""


def create(experiment: Experiment, seed: int, given: Mapping[str, Any]) -> Submitted:
    """Render and create it; `given` by the names of `katib_settings`. Raises InputError and MachineError."""
    name = given["algorithm_name"] or DEFAULT
    algorithm = ALGORITHMS.get(name)
    seeds = {SEED: str(seed)} if algorithm and SEED in algorithm.settings else {}
    of_algorithm = seeds | dict(given["algorithm_settings"])
    settings = katib_settings(**{**given, "algorithm_name": name, "algorithm_settings": of_algorithm})
    documents = manifests(experiment, settings)
    try:
        return Submitted(settings.namespace, submit(documents), documents)
    except InputError as error:
        raise InputError(*(message.replace("--submit:", "backend: katib:") for message in error.messages)) from None
