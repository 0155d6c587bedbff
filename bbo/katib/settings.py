"""What Katib is told beside the experiment itself: the names are those of KatibClient.tune."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from bbo.errors import InputError

PODS = {"cpu": "cpu", "memory": "memory", "gpu": "nvidia.com/gpu"}
"""Resources of a container -> Kubernetes' names for them."""

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Storage(_Model):
    """The volume with model, data and, while the trials run, their evaluations."""

    claim: str | None = None
    """An existing PersistentVolumeClaim. Unset: one named after the experiment, which `submit` makes where it lacks."""
    mount_path: str = Field("/workspace", pattern=r"^/[\w./-]+$")
    """Where the trials see it: the folder that holds params/ and runs/."""
    size: str = "10Gi"
    storage_class: str | None = None
    access_modes: tuple[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"], ...] = (
        "ReadWriteMany",
    )


class KatibSettings(_Model):
    """One Katib Experiment, but for space, outputs and training, which are the params pair's."""

    name: str
    namespace: str = "default"
    base_image: str = Field(min_length=1)
    """Has Python and this project, or gets it by `packages_to_install`."""
    algorithm_name: str = "tpe"
    """One of bbo's optimizers that Katib has (bbo/katib/algorithms.py)."""
    algorithm_settings: dict[str, Text] = {}
    """Katib's names."""
    objective_goal: float | None = None
    max_trial_count: int = Field(ge=1)
    parallel_trial_count: int = Field(1, ge=1)
    max_failed_trial_count: int | None = Field(None, ge=0)
    resources_per_trial: dict[Literal["cpu", "memory", "gpu"], Text] = {}
    num_workers: int = Field(1, ge=1)
    """Pods of one trial: more than one make it a PyTorchJob."""
    num_procs_per_worker: int | None = Field(None, ge=1)
    """Processes in each; unset: one per GPU."""
    resources_per_worker: dict[Literal["cpu", "memory", "gpu"], Text] = {}
    storage_config: Storage | None = None
    packages_to_install: tuple[str, ...] = ()
    pip_index_url: str | None = None
    env_per_trial: dict[str, Text] = {}
    retain_trials: bool = False
    """Whether pods stay when their trial has ended."""
    trial_active_deadline_seconds: int | None = Field(None, ge=1)

    @field_validator("name", "namespace")
    @classmethod
    def _is_dns(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", value):
            raise ValueError("must be at most 40 lower-case letters, digits and -, and begin with a letter")
        return value

    @property
    def mount_path(self) -> str:
        return (self.storage_config or Storage()).mount_path

    @property
    def claim(self) -> str | None:
        """The name of the volume's claim."""
        return None if self.storage_config is None else self.storage_config.claim or self.name

    @property
    def processes(self) -> int:
        """Of one pod."""
        gpus = self.resources.get(PODS["gpu"], "1")
        return self.num_procs_per_worker or (int(gpus) if gpus.isdecimal() else 1)

    @property
    def resources(self) -> Mapping[str, str]:
        """Of one pod, by Kubernetes' names."""
        given: Mapping[Any, str] = self.resources_per_worker or self.resources_per_trial
        return {PODS[name]: amount for name, amount in given.items()}


def katib_settings(**given: Any) -> KatibSettings:
    """Raises InputError with one sentence for each mistake, led by the argument's name; None means the default."""
    try:
        settings = KatibSettings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InputError(*map(_sentence, error.errors())) from None
    wrong = [
        f"{name}: must not be more than max_trial_count, got {count} and {settings.max_trial_count}"
        for name in ("parallel_trial_count", "max_failed_trial_count")
        if (count := getattr(settings, name)) is not None and count > settings.max_trial_count
    ]
    if settings.num_workers == 1 and settings.resources_per_worker:
        wrong.append("resources_per_worker: a trial of one worker has resources_per_trial")
    if settings.num_workers > 1 and settings.resources_per_trial:
        wrong.append("resources_per_trial: a trial of several workers has resources_per_worker")
    if settings.num_workers > 1 and settings.storage_config is None:
        wrong.append("num_workers: several workers need a volume that all of them see: storage_config")
    if settings.pip_index_url and not settings.packages_to_install:
        wrong.append("pip_index_url: nothing is installed: packages_to_install")
    if wrong:
        raise InputError(*wrong)
    return settings


def _sentence(item: Any) -> str:
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{item['loc'][0]}: must be given"
    known = "no such setting" if item["type"] == "extra_forbidden" else f"{message[0].lower()}{message[1:]}"
    place = ".".join(str(part) for part in item["loc"] if part != "[key]")
    return f"{place}: {known}, got {item['input']!r}"
