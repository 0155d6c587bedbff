"""A params pair as a Katib Experiment: the SDK's models, Katib's own rules, and what Katib has no room for."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.katib import katib_settings, manifests, render, to_yaml
from bbo.katib.algorithms import ALGORITHMS
from bbo.katib.render import EXPERIMENT
from tests.bbo.katib import cluster
from tests.conftest import ROOT

QUICKSTART = ROOT / "params" / "quickstart.yaml"


def rendered(file: Path = QUICKSTART, **given: Any) -> dict[str, Any]:
    settings = {"name": "quickstart", "base_image": "registry/bbo:1", "max_trial_count": 12, **given}
    return render(read_experiment(file), katib_settings(**settings))


def through(package: str, model: str, content: Any) -> Any:
    """Content made one of a client's objects and JSON again: unknown names are lost on the way, bad values refused."""
    api, text = pytest.importorskip(package).ApiClient(), json.dumps(content)
    if package == "kubernetes.client":
        return api.sanitize_for_serialization(api.deserialize(text, model, "application/json"))
    return api.sanitize_for_serialization(api.deserialize(type("Answer", (), {"data": text}), model))


SEVERAL = {
    "num_workers": 3,
    "num_procs_per_worker": 2,
    "resources_per_worker": {"gpu": 2, "cpu": 5, "memory": "10G"},
    "storage_config": {"size": "50Gi", "storage_class": "fast"},
}


@pytest.mark.parametrize(
    "given",
    [
        {"resources_per_trial": {"gpu": 1, "cpu": "8"}, "objective_goal": 0.5, "max_failed_trial_count": 3},
        {"storage_config": {"claim": "data"}, "trial_active_deadline_seconds": 3600, "retain_trials": True},
    ],
)
def test_the_sdk_knows_every_field(given: dict[str, Any]) -> None:
    experiment = rendered(**given)
    assert through("kubeflow.katib", "V1beta1Experiment", experiment) == experiment
    job = experiment["spec"]["trialTemplate"]["trialSpec"]
    assert through("kubernetes.client", "V1Job", job) == job
    assert yaml.safe_load(to_yaml([experiment])) == experiment


def test_the_training_operator_knows_every_field() -> None:
    experiment = rendered(**SEVERAL)
    assert through("kubeflow.katib", "V1beta1Experiment", experiment) == experiment
    job = experiment["spec"]["trialTemplate"]["trialSpec"]
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {role: each["replicas"] for role, each in replicas.items()} == {"Master": 1, "Worker": 2}
    for each in replicas.values():
        template = each.pop("template")  # its client does not read what the Kubernetes client of today has in it
        assert through("kubernetes.client", "V1PodTemplateSpec", template) == template
        text = next(entry["value"] for entry in template["spec"]["containers"][0]["env"] if entry["name"] == EXPERIMENT)
        resources = yaml.safe_load(text)["resources"]
        assert (resources["gpus_per_job"], resources["processes_per_job"]) == (2, 6)
    assert through("kubeflow.training", "KubeflowOrgV1PyTorchJob", job) == job


def test_katibs_own_rules() -> None:
    """Those of pkg/webhook/v1beta1/experiment/validator, as far as a cluster is not asked."""
    experiment = rendered(max_failed_trial_count=2, parallel_trial_count=3)
    spec, template = experiment["spec"], experiment["spec"]["trialTemplate"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", experiment["metadata"]["name"])
    assert 0 <= spec["maxFailedTrialCount"] <= spec["maxTrialCount"] >= spec["parallelTrialCount"] > 0
    assert spec["objective"]["objectiveMetricName"] not in spec["objective"]["additionalMetricNames"]
    for parameter in spec["parameters"]:
        space = parameter["feasibleSpace"]
        if parameter["parameterType"] == "categorical":
            assert list(space) == ["list"]
        else:
            assert "list" not in space
            assert float(space["min"]) < float(space["max"])
        assert all(isinstance(text, str) for text in space.get("list", [*space.values()]))
    assert spec["parameters"][-1]["feasibleSpace"]["distribution"] == "logUniform"
    containers = template["trialSpec"]["spec"]["template"]["spec"]["containers"]
    assert template["primaryContainerName"] in [container["name"] for container in containers]
    assert "metadata" not in template["trialSpec"]  # name and namespace are Katib's to give
    cluster.substitute(experiment, cluster.suggest(experiment, seed=0))  # all places, and no others


def test_numbers_that_are_text_stay_text_for_kubectl() -> None:
    """kubectl reads YAML's 1e-05 as a number, and Katib's schema wants text."""
    assert re.findall(r"min: (.*)", to_yaml([rendered()]))[-1] == "'1e-05'"


def test_the_pod() -> None:
    settings = {"packages_to_install": ("bbo[s3]",), "pip_index_url": "https://pypi.example/simple"}
    experiment = rendered(**settings, env_per_trial={"HF_TOKEN": "x"}, storage_config={"claim": "data"})
    pod = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    install, run = container["args"][0].split(" && ")
    assert install == "python3 -m pip install --quiet --index-url https://pypi.example/simple 'bbo[s3]'"
    assert run.startswith("python3 -m blackbox.trial --set 'lora_rank=${trialParameters.lora_rank}' --set ")
    assert container["volumeMounts"][0]["mountPath"] == container["workingDir"] == "/workspace"
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "data"}
    assert {"name": "HF_TOKEN", "value": "x"} in container["env"]


def test_a_claim_of_its_own_comes_first() -> None:
    settings = {"name": "q", "base_image": "i", "max_trial_count": 1, "storage_config": {"size": "1Gi"}}
    claim, experiment = manifests(read_experiment(QUICKSTART), katib_settings(**settings))
    assert through("kubernetes.client", "V1PersistentVolumeClaim", claim) == claim
    pod = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_maximized_scores_keep_their_sign_and_get_a_name_that_katib_reads(toy: Callable[..., Path]) -> None:
    file = toy(in_yaml={"outputs: [eval_loss, train_loss]": "outputs: [-hellaswag.acc, eval_loss]"})
    objective = rendered(file.with_suffix(".yaml"))["spec"]["objective"]
    assert (objective["type"], objective["objectiveMetricName"]) == ("maximize", "hellaswag_acc")


@pytest.mark.parametrize("optimizer", sorted(ALGORITHMS))
def test_algorithms(optimizer: str, toy: Callable[..., Path]) -> None:
    whole = {"{log10: [-5, -1]}": "{choice: [1.0e-5, 1.0e-4]}"}
    file = toy(in_yaml=whole | {"{choice: [0, 0.05, 0.1, 0.2]}": "{int: [0, 1]}"}).with_suffix(".yaml")
    algorithm = rendered(file, algorithm_name=optimizer)["spec"]["algorithm"]
    assert algorithm["algorithmName"] == ALGORITHMS[optimizer].name


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"algorithm_name": "nomad"}, "algorithm_name: Katib has no nomad, it has random, tpe"),
        ({"algorithm_name": "pbt"}, "algorithm_name: Katib has no pbt"),
        ({"algorithm_name": "sobol"}, "Katib's draws log10 variables uniformly, and there is learning_rate"),
        ({"algorithm_name": "grid"}, "Katib's takes choices and whole numbers, and there is learning_rate"),
        ({"algorithm_settings": {"gamma": 1}}, "algorithm_settings: Katib's multivariate-tpe (tpe) has no gamma"),
        ({"algorithm_settings": {"n_ei_candidates": "few"}}, "n_ei_candidates: must be a whole number of at least 0"),
        ({"parallel_trial_count": 13}, "parallel_trial_count: must not be more than max_trial_count, got 13 and 12"),
        ({"num_workers": 2}, "num_workers: several workers need a volume"),
        ({"resources_per_trial": {"disk": 1}}, "resources_per_trial.disk: input should be 'cpu', 'memory' or 'gpu'"),
        ({"name": "My_Run"}, "name: must be at most 40 lower-case letters"),
        ({"pip_index_url": "x"}, "pip_index_url: nothing is installed"),
        ({"image": "x"}, "image: no such setting, got 'x'"),
    ],
)
def test_what_katib_cannot_be_told(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        rendered(**given)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("eval_loss, train_loss]", 'eval_loss, "train_loss <= 2"]', "outputs: Katib knows no constraints"),
        ("[eval_loss, train_loss]", "[eval_loss, train_loss]\nobjectives: 2", "Katib optimizes one objective"),
        ("[eval_loss, train_loss]", "[eval_loss, train_loss]\nstopping: median", "a trial of Katib's is alone"),
        ("[0, 0.05, 0.1, 0.2]", '[0, "0"]', "two of these look alike: 0, 0"),
        ("[0, 0.05, 0.1, 0.2]", "[a b, c]", "space.lora_dropout: must be of letters, digits and"),
        ("model: toy", "model: {path: /home/me/llama}", "model: a trial sees /workspace, not this machine"),
    ],
)
def test_what_katib_has_no_room_for(toy: Callable[..., Path], old: str, new: str, sentence: str) -> None:
    file = toy(in_yaml={old: new}).with_suffix(".yaml")
    with pytest.raises(InputError) as error:
        rendered(file)
    assert sentence in str(error.value)
