"""From Katib's values to metrics and back: what a trial evaluates is what Katib shows, and what we would have found."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.katib import katib_settings, render
from bbo.katib.parameters import hyperparameters, parameters
from bbo.points import format_point
from bbo.space import Space, Variable
from tests.bbo.katib import cluster
from tests.conftest import ROOT, python

TIED = Space(
    {
        "lora_rank": Variable(choice=(4, 8, 16)),
        "lora_alpha": Variable(int=(1, 64), times="lora_rank"),
        "learning_rate": Variable(log10=(-5, -1)),
        "weight_decay": Variable(float=(0, 0.3)),
        "target_modules": Variable(choice=(("q_proj", "v_proj"), "all-linear")),
        "use_rslora": Variable(choice=(True, False)),
        "seed": Variable(fixed=3),
    }
)


def experiment_of(file: Path, **given: Any) -> dict[str, Any]:
    settings = {"name": "trial", "base_image": "image", "max_trial_count": 4, **given}
    return render(read_experiment(file), katib_settings(**settings))


def test_values_arrive_as_katib_has_them() -> None:
    for seed in range(200):
        texts = cluster.suggest({"spec": {"parameters": parameters(TIED)}}, seed)
        point, values = hyperparameters(TIED, texts)
        assert values["learning_rate"] == float(texts["learning_rate"])
        assert values["weight_decay"] == float(texts["weight_decay"])
        assert values["lora_alpha"] == int(texts["lora_alpha"]) * int(texts["lora_rank"])
        assert values["use_rslora"] is (texts["use_rslora"] == "true")
        assert values["target_modules"] in (("q_proj", "v_proj"), "all-linear")
        near = TIED.decode(point)
        assert {**near, "learning_rate": 0.0} == {**values, "learning_rate": 0.0}
        assert math.isclose(near["learning_rate"], values["learning_rate"], rel_tol=1e-14)  # type: ignore[arg-type]


def test_a_sampler_that_misses_a_bound_by_rounding() -> None:
    texts = {"lora_rank": "4", "lora_alpha": "1", "weight_decay": "0", "use_rslora": "true"}
    texts |= {"target_modules": "all-linear", "learning_rate": repr(math.exp(math.log(0.1)))}
    assert float(texts["learning_rate"]) > 0.1
    assert hyperparameters(TIED, texts)[1]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("lora_rank", "5", "--set lora_rank: must be one of 4, 8, 16, got '5'"),
        ("lora_alpha", "1.5", "--set lora_alpha: must be a whole number from 1 to 64, got 1.5"),
        ("learning_rate", "0.2", "--set learning_rate: must be a number from 1e-05 to 0.1, got 0.2"),
        ("learning_rate", "high", "--set learning_rate: must be a number, got 'high'"),
        ("beta", "1", "--set beta: no variable"),
    ],
)
def test_wrong_values(name: str, text: str, sentence: str) -> None:
    texts = cluster.suggest({"spec": {"parameters": parameters(TIED)}}, 0)
    with pytest.raises(InputError) as error:
        hyperparameters(TIED, {**texts, name: text})
    assert sentence in str(error.value)


class Pod:
    """A pod of a trial of Katib's, at work on this machine."""

    def __init__(self, template: dict[str, Any], folder: Path, environment: Mapping[str, str] = {}) -> None:
        (container,) = template["spec"]["containers"]
        self.metrics = folder / "metrics.log"
        folder.mkdir(exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its python3
        given = {each["name"]: each["value"].replace("$$(", "$(") for each in container["env"]}
        self._process = subprocess.Popen(
            cluster.wrapped(container, self.metrics),
            cwd=container["workingDir"],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **given, **environment},
        )

    def wait(self) -> int:
        """The exit status of its command."""
        return self._process.wait(timeout=400)

    @property
    def said(self) -> str:
        return self.metrics.read_text()

    @property
    def completed(self) -> bool:
        """Whether the metrics collector is told so."""
        return any(self.metrics.parent.glob("*.pid"))


def ours(file: Path, assignments: Mapping[str, str], folder: Path) -> list[str]:
    """The words that NOMAD would read for the same point."""
    folder.mkdir()
    point, _ = hyperparameters(read_experiment(file).space, assignments)
    (folder / "point.txt").write_text(format_point(point) + "\n")
    command = python("blackbox", str(file), str(folder / "point.txt"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=400
    ).stdout.split()


def test_the_toy(toy: Callable[..., Path], tmp_path: Path) -> None:
    file = toy().with_suffix(".yaml")
    experiment = experiment_of(file, storage_config={"mount_path": str(tmp_path)})
    assignments = cluster.suggest(experiment, seed=3) | {"learning_rate": "0.001"}  # 10**-3 exactly
    pod = Pod(cluster.substitute(experiment, assignments)["spec"]["template"], tmp_path / "pod")
    assert (pod.wait(), pod.completed) == (0, True), pod.said
    found = cluster.collect(pod.metrics, experiment["spec"]["objective"])
    assert [found["eval_loss"], found["train_loss"]] == ours(file, assignments, tmp_path / "ours")


def test_a_point_that_fails_is_a_failed_trial(toy: Callable[..., Path], tmp_path: Path) -> None:
    assignments = {"lora_rank": "2", "lora_alpha": "64", "lora_dropout": "0", "learning_rate": "0.1"}
    experiment = experiment_of(toy().with_suffix(".yaml"), storage_config={"mount_path": str(tmp_path)})
    pod = Pod(cluster.substitute(experiment, assignments)["spec"]["template"], tmp_path / "pod")
    assert (pod.wait(), pod.completed) == (1, False)
    assert cluster.collect(pod.metrics, experiment["spec"]["objective"]) == {}
    assert "failed: the loss became nan in epoch 1" in pod.said


def small_quickstart(folder: Path) -> Path:
    """The pair's YAML, with less to do, in a project folder of its own."""
    content = (ROOT / "params" / "quickstart.yaml").read_text()
    for old, new in {"train[:320]": "train[:48]", "num_train_epochs: 2": "num_train_epochs: 1"}.items():
        assert old in content
        content = content.replace(old, new)
    file = workspace(folder) / "params" / "quickstart.yaml"
    file.parent.mkdir()
    file.write_text(content)
    return file


def workspace(folder: Path) -> Path:
    """A folder with the model and the data, where the YAML's relative paths lead."""
    folder.mkdir()
    (folder / "blackbox").symlink_to(ROOT / "blackbox")
    return folder


def test_a_real_training_on_two_machines(tmp_path: Path) -> None:
    file = small_quickstart(tmp_path / "project")
    volume = workspace(tmp_path / "volume")
    experiment = experiment_of(file, storage_config={"mount_path": str(volume)}, num_workers=2)
    assignments = {"lora_rank": "4", "lora_alpha": "16", "lora_dropout": "0", "learning_rate": "0.01"}
    replicas = cluster.substitute(experiment, assignments)["spec"]["pytorchReplicaSpecs"]
    operator = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    pods = [
        Pod(each["template"], tmp_path / f"pod{rank}", {**operator, "PET_NODE_RANK": str(rank)})
        for rank, each in enumerate(replicas.values())
    ]
    assert [(pod.wait(), pod.completed) for pod in pods] == [(0, True)] * 2, pods[0].said
    found = cluster.collect(pods[0].metrics, experiment["spec"]["objective"])
    values = [float(found[name]) for name in ("eval_loss", "train_loss")]
    assert values == pytest.approx([float(word) for word in ours(file, assignments, tmp_path / "ours")], abs=1e-5)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
