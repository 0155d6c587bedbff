"""`bbo.tune(..., backend="katib")`: the Experiment that reaches the API server, and what is refused before."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import bbo
from tests.bbo.katib import cluster

CALL: dict[str, Any] = {
    "name": "mine",
    "model": "meta-llama/Llama-3.2-1B",
    "dataset": {"train": "data/train.jsonl", "valid": "s3://bucket/valid.jsonl", "prompt": "alpaca", "max_length": 128},
    "training_parameters": {"num_train_epochs": 1, "target_modules": ["q_proj"]},
    "hp_space": {
        "lora_config.r": bbo.search.categorical([4, 8]),
        "learning_rate": bbo.search.loguniform(min=1e-4, max=1e-2),
    },
    "max_trial_count": 6,
    "backend": "katib",
    "base_image": "me/bbo:1",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("kubernetes.config.kube_config")
    monkeypatch.setattr(config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    more = {
        "namespace": "me", "storage_config": {"claim": "data"}, "packages_to_install": ["bbo"], "seed": 3,
        "resources_per_trial": {"gpu": 1, "memory": "32Gi"}, "parallel_trial_count": 2, "max_failed_trial_count": 2,
        "objective_goal": 0.5, "env_per_trial": {"HF_HUB_OFFLINE": "1"}, "trial_active_deadline_seconds": 600,
    }  # fmt: skip
    with cluster.api_server(tmp_path) as created:
        made = bbo.tune(**CALL, **more)
    ((path, experiment),) = created
    assert path == "/apis/kubeflow.org/v1beta1/namespaces/me/experiments"
    assert (made.namespace, made.name, made.documents) == ("me", "mine", [experiment])  # type: ignore[union-attr]
    spec = experiment["spec"]
    assert {each["name"] for each in spec["parameters"]} == {"lora_rank", "learning_rate"}
    assert spec["algorithm"]["algorithmSettings"] == [{"name": "random_state", "value": "3"}]
    assert (spec["maxTrialCount"], spec["parallelTrialCount"], spec["maxFailedTrialCount"]) == (6, 2, 2)
    assert spec["objective"]["goal"] == 0.5
    job = spec["trialTemplate"]["trialSpec"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["activeDeadlineSeconds"] == 600
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "32Gi"}
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["HF_HUB_OFFLINE"] == "1"
    document = yaml.safe_load(environment["BBO_EXPERIMENT"])
    assert (document["relative_to"], document["training"]["num_train_epochs"]) == ("/workspace", 1)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"base_image": None}, "base_image: must be given"),
        ({"algorithm_name": "nomad"}, "algorithm_name: "),
        ({"objective": lambda hyperparameters: {}, "model": None, "dataset": None}, "objective: a function of yours"),
        ({"x0": {"learning_rate": 1e-3}}, "x0: Katib has no starting points"),
        ({"early_stopping": "median"}, "early_stopping: median compares"),
        ({"model": "/models/llama"}, "model: a trial sees /workspace"),
        ({"name": "My_Run"}, "name: must be at most 40 lower-case letters"),
        ({"num_workers": 2}, "num_workers: several workers need a volume"),
        ({"resources_per_trial": {"disk": 1}}, "resources_per_trial"),
    ],
)
def test_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bbo.InputError) as refused:
        bbo.tune(**{**CALL, **change})
    assert str(refused.value).startswith(sentence)
    assert not (tmp_path / "runs").exists()
