"""`bbo katib`: the command, and the cluster's API server on localhost in the place of a real one."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bbo.errors import InputError, MachineError
from bbo.katib import submit
from tests.bbo.katib import cluster

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_printed_and_written_are_the_same(toy: Callable[..., Path], command: Command, tmp_path: Path) -> None:
    toy()
    words = ["katib", "params/toy.txt", "--image", "me/bbo:1", "--pvc", "data", "--resource", "gpu=1", "--set"]
    printed = command("bbo.cli", *words, "n_startup_trials=5")
    assert printed.returncode == 0, printed.stderr
    written = command("bbo.cli", *words, "n_startup_trials=5", "--out", "toy-katib.yaml")
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "toy-katib.yaml").read_text() == printed.stdout
    spec = yaml.safe_load(printed.stdout)["spec"]
    assert (spec["maxTrialCount"], spec["parallelTrialCount"]) == (12, 1)
    settings = {each["name"]: each["value"] for each in spec["algorithm"]["algorithmSettings"]}
    assert settings == {"random_state": "0", "n_startup_trials": "5"}


def test_submitted(toy: Callable[..., Path], command: Command, tmp_path: Path) -> None:
    pytest.importorskip("kubeflow.katib")
    toy()
    words = ["katib", "params/toy.txt", "--image", "me/bbo:1", "--namespace", "kubeflow"]
    with cluster.api_server(tmp_path) as created:
        done = command("bbo.cli", *words, "--submit", KUBECONFIG=str(tmp_path / "kubeconfig"))
    assert (done.returncode, done.stdout) == (0, "created: kubeflow/toy\n"), done.stderr
    ((path, experiment),) = created
    assert path == "/apis/kubeflow.org/v1beta1/namespaces/kubeflow/experiments"
    assert experiment == yaml.safe_load(command("bbo.cli", *words).stdout)


@pytest.mark.parametrize(
    ("status", "message", "kind", "sentence"),
    [
        (409, "taken", InputError, "me/toy: an experiment of this name is there already: --name, or delete it"),
        (
            403,
            "you may not create experiments",
            InputError,
            "me/toy: the cluster refuses: you may not create experiments",
        ),
        (500, "etcd is gone", MachineError, "me/toy: the cluster refuses: etcd is gone"),
    ],
)
def test_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str, kind: type[Exception], sentence: str
) -> None:
    config = pytest.importorskip("kubernetes.config.kube_config")
    monkeypatch.setattr(config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    experiment = {"metadata": {"name": "toy", "namespace": "me"}}
    with cluster.api_server(tmp_path, status, message), pytest.raises(kind) as error:
        submit([experiment])
    assert str(error.value).startswith(sentence)


def test_a_claim_that_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("kubernetes.config.kube_config")
    monkeypatch.setattr(config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    claim, experiment = ({"metadata": {"name": name, "namespace": "me"}} for name in ("volume", "toy"))
    with cluster.api_server(tmp_path, claimed=409) as created:
        assert submit([claim, experiment]) == "toy"
    assert [path.rpartition("/")[2] for path, _ in created] == ["persistentvolumeclaims", "experiments"]


def test_without_a_cluster(toy: Callable[..., Path], command: Command) -> None:
    pytest.importorskip("kubeflow.katib")
    toy()
    done = command("bbo.cli", "katib", "params/toy.txt", "--image", "i", "--submit", KUBECONFIG="none", HOME="/none")
    assert done.returncode == 1
    assert "--submit: no cluster: " in done.stderr


def test_mistakes_in_the_words_of_the_command(toy: Callable[..., Path], command: Command) -> None:
    toy()
    done = command("bbo.cli", "katib", "params/toy.txt", "--image", "i", "--optimizer", "nomad")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "--optimizer: Katib has no nomad, it has random, tpe, gp, cmaes, sobol, grid of our optimizers\n"
    )
