"""A params pair as a Katib Experiment (kubeflow.org/v1beta1), by Katib's own field names.

Each trial is a pod (several workers: a PyTorchJob) that runs `python -m blackbox.trial` with Katib's values and prints
`name=value` for Katib's StdOut metrics collector. The experiment's YAML travels with it, as an environment variable.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bbo.errors import InputError
from bbo.experiment import Experiment
from bbo.katib.algorithms import algorithm
from bbo.katib.parameters import metric_name, parameters
from bbo.katib.settings import KatibSettings, Storage

EXPERIMENT = "BBO_EXPERIMENT"
"""The environment variable with the text of the YAML, and the one with its name."""
NAME = "BBO_EXPERIMENT_NAME"

CONTAINER = {False: "training-container", True: "pytorch"}
"""The primary container; the training operator wants the second name in a PyTorchJob."""

RETRIES = 2
"""Of a pod that the machine failed; a point's own failure (exit status 1) is tried no more."""


def manifests(experiment: Experiment, settings: KatibSettings) -> list[dict[str, Any]]:
    """What is to be created: the volume's claim where none is named, and the Katib Experiment. Raises InputError."""
    storage = settings.storage_config
    claims = [_claim(settings, storage)] if storage is not None and storage.claim is None else []
    return [*claims, render(experiment, settings)]


def render(experiment: Experiment, settings: KatibSettings) -> dict[str, Any]:
    """The Katib Experiment. Raises InputError with a sentence for everything that Katib cannot be told."""
    if wrong := list(_beyond_katib(experiment, settings)):
        raise InputError(*wrong)
    names = experiment.space.free
    template: dict[str, Any] = {
        "primaryContainerName": CONTAINER[settings.num_workers > 1],
        "retain": settings.retain_trials,
        "trialParameters": [{"name": name, "reference": name, **_described(experiment, name)} for name in names],
        "trialSpec": (_pytorch_job if settings.num_workers > 1 else _job)(experiment, settings),
    }
    spec = {
        "objective": _objective(experiment, settings),
        "algorithm": algorithm(settings, experiment.space),
        "parameters": parameters(experiment.space),
        "maxTrialCount": settings.max_trial_count,
        "parallelTrialCount": settings.parallel_trial_count,
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "trialTemplate": template,
    }
    if settings.max_failed_trial_count is not None:
        spec["maxFailedTrialCount"] = settings.max_failed_trial_count
    about = {"name": settings.name, "namespace": settings.namespace}
    return {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": about, "spec": spec}


def to_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """For `kubectl apply -f`."""
    text: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as one, and puts quotes around `1e-05`, which kubectl takes for a number."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if re.match(r"[-+.]?\d", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _beyond_katib(experiment: Experiment, settings: KatibSettings) -> Iterator[str]:
    """A sentence for each thing that Katib has no room for."""
    constraints = [output.condition for output in experiment.outputs if output.kind == "PB"]
    if constraints:
        yield f"outputs: Katib knows no constraints, and there is {', '.join(constraints)}"
    if len(experiment.objectives) > 1:
        yield f"outputs: Katib optimizes one objective, and there are {len(experiment.objectives)}"
    if experiment.stopping.rule != "none":
        yield f"stopping: {experiment.stopping.rule} compares the evaluations of a run, and a trial of Katib's is alone"
    names = [metric_name(output.metric) for output in experiment.outputs]
    if len(set(names)) < len(names):
        yield f"outputs: two have one name in Katib: {', '.join(names)}"
    for place, path in _paths(experiment.document):
        inside = Path(path).is_relative_to(settings.mount_path)
        if path.startswith("~") or (path.startswith("/") and not inside):
            rule = f"a trial sees {settings.mount_path}, not this machine"
            yield f"{place}: {rule}: a path relative to {experiment.path.name}, s3:// or a hub id, got {path!r}"


def _paths(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where model and data come from, by place in the YAML."""
    model, data = document.get("model"), document.get("data", {})
    function = model.get("callable") if isinstance(model, Mapping) else None
    places = {
        "model": model,
        "model.callable": function,
        **{f"data.{side}": data.get(side) for side in ("train", "valid")},
    }
    for place, value in places.items():
        path = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(path, str):
            yield place, path


def _objective(experiment: Experiment, settings: KatibSettings) -> dict[str, Any]:
    objective = experiment.outputs[experiment.objective]
    names = [metric_name(output.metric) for output in experiment.outputs]
    name = names[experiment.objective]
    goal = {} if settings.objective_goal is None else {"goal": settings.objective_goal}
    return {
        "type": "maximize" if objective.sign < 0 else "minimize",
        **goal,
        "objectiveMetricName": name,
        "additionalMetricNames": [other for other in names if other != name],
        "metricStrategies": [{"name": each, "value": "latest"} for each in names],
    }


def _described(experiment: Experiment, name: str) -> dict[str, str]:
    times = experiment.space.variables[name].times
    return {"description": f"times {times}"} if times else {}


def _job(experiment: Experiment, settings: KatibSettings) -> dict[str, Any]:
    template = _pod(experiment, settings)
    template["spec"]["restartPolicy"] = "Never"
    failed = {"containerName": CONTAINER[False], "operator": "In", "values": [1]}
    spec = {
        "backoffLimit": RETRIES,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": failed}]},
        **_deadline(settings),
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": spec}


def _pytorch_job(experiment: Experiment, settings: KatibSettings) -> dict[str, Any]:
    counts = {"Master": 1, "Worker": settings.num_workers - 1}
    replicas = {
        role: {"replicas": count, "restartPolicy": "ExitCode", "template": _pod(experiment, settings)}
        for role, count in counts.items()
    }
    spec = {
        "nprocPerNode": str(settings.processes),
        "pytorchReplicaSpecs": replicas,
        "runPolicy": {"backoffLimit": RETRIES, **_deadline(settings)},
    }
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": spec}


def _deadline(settings: KatibSettings) -> dict[str, int]:
    seconds = settings.trial_active_deadline_seconds
    return {} if seconds is None else {"activeDeadlineSeconds": seconds}


def _pod(experiment: Experiment, settings: KatibSettings) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER[settings.num_workers > 1],
        "image": settings.base_image,
        # Katib hands the words of a command to a shell in any case, to catch what it prints: quoted they arrive.
        "command": ["sh", "-c"],
        "args": [" && ".join(map(shlex.join, _commands(experiment, settings)))],
        "workingDir": settings.mount_path,
        "env": [{"name": name, "value": value} for name, value in _environment(experiment, settings).items()],
    }
    if settings.resources:
        container["resources"] = {"requests": dict(settings.resources), "limits": dict(settings.resources)}
    spec: dict[str, Any] = {"containers": [container]}
    if settings.claim is not None:
        container["volumeMounts"] = [{"name": "workspace", "mountPath": settings.mount_path}]
        spec["volumes"] = [{"name": "workspace", "persistentVolumeClaim": {"claimName": settings.claim}}]
    # A sidecar of Istio's would outlive the training, and the trial never end.
    return {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}, "spec": spec}


def _commands(experiment: Experiment, settings: KatibSettings) -> Iterator[list[str]]:
    if settings.packages_to_install:
        index = ["--index-url", settings.pip_index_url] if settings.pip_index_url else []
        yield ["python3", "-m", "pip", "install", "--quiet", *index, *settings.packages_to_install]
    words = [f"{name}=${{trialParameters.{name}}}" for name in experiment.space.free]
    yield ["python3", "-m", "blackbox.trial", *(word for each in words for word in ("--set", each))]


def _environment(experiment: Experiment, settings: KatibSettings) -> dict[str, str]:
    # A pair lies in params/ below the workspace; where a YAML says where its paths begin, that is the workspace.
    below = "" if "relative_to" in experiment.document else f"/{experiment.base.name}"
    content = {
        **experiment.document,
        "resources": {**experiment.document.get("resources", {}), **_resources(settings)},
        "relative_to": f"{settings.mount_path}{below}",
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    # What is downloaded lies on the volume too, once for all trials.
    cache = f"{settings.mount_path}/.cache"
    caches = {} if settings.claim is None else {"HF_HOME": f"{cache}/huggingface", "BBO_CACHE": f"{cache}/bbo"}
    # Kubernetes would take $(NAME) for a variable of the container's.
    return {**caches, **settings.env_per_trial, NAME: experiment.name, EXPERIMENT: text.replace("$(", "$$(")}


def _resources(settings: KatibSettings) -> dict[str, Any]:
    """The YAML's, inside a pod."""
    processes = settings.num_workers * settings.processes
    gpus = {"gpus_per_job": settings.processes} if "nvidia.com/gpu" in settings.resources else {}
    return {
        "executor": "local",
        "worker": "fresh",
        **gpus,
        **({"processes_per_job": processes} if processes > 1 else {}),
    }


def _claim(settings: KatibSettings, storage: Storage) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": [*storage.access_modes],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    about = {"name": settings.claim, "namespace": settings.namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": spec}
