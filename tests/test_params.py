"""Every shipped experiment: its two files agree, say how they are run, and mean what they should; its script starts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.pair import disagreements
from bbo.problem import experiment_file, read_problem
from tests.conftest import ROOT

PARAMS = sorted((ROOT / "params").glob("*.txt"))
SCRIPTS = sorted(path for path in (ROOT / "runs").glob("*.sh") if path.stem != "launch")

# First point and budget of the documented experiments: rank, alpha, dropout, learning rate, MAX_BB_EVAL.
DOCUMENTED = {
    "bbo1": (8, 32, 0.1, 1e-5, 50),
    "bbo2": (8, 32, 0.1, 1e-5, 50),
    "bbo2b": (8, 32, 0.1, 1e-5, 100),
    "bbo3": (8, 64, 0, 10**-3.5, 50),
}


@pytest.fixture(autouse=True)
def data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSM8K_DATA", "gsm8k.jsonl")
    monkeypatch.delenv("MIX", raising=False)
    monkeypatch.delenv("ALPACA", raising=False)


def header(path: Path) -> str:
    """The comment that a file begins with."""
    lines = path.read_text().splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_pair_agrees(path: Path) -> None:
    problem = read_problem(path)
    assert experiment_file(problem) == path.with_suffix(".yaml")
    assert disagreements(problem, read_experiment(path.with_suffix(".yaml"))) == []
    assert problem.x0, "without X0 a run starts anywhere"
    assert not problem.warnings


@pytest.mark.parametrize("path", [p for txt in PARAMS for p in (txt, txt.with_suffix(".yaml"))], ids=lambda p: p.name)
def test_header_names_the_command(path: Path) -> None:
    assert f"nomad params/{path.stem}.txt" in header(path)
    if path.suffix == ".yaml":
        assert "evaluation" in header(path), "the header says what the experiment costs"


def test_no_yaml_without_parameter_file() -> None:
    assert {path.stem for path in (ROOT / "params").glob("*.yaml")} == {path.stem for path in PARAMS}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_experiments(name: str) -> None:
    problem = read_problem(ROOT / "params" / f"{name}.txt")
    first = read_experiment(ROOT / "params" / f"{name}.yaml").space.decode(problem.x0[0])
    names = ("lora_rank", "lora_alpha", "lora_dropout", "learning_rate")
    assert (*(first[hyperparameter] for hyperparameter in names), problem.max_bb_eval) == DOCUMENTED[name]


def test_bbo3_reaches_what_was_recorded() -> None:
    """The best of the 50 recorded evaluations: rank 64, alpha 1280, dropout 1e-4, learning rate 0.00031622777."""
    values = read_experiment(ROOT / "params/bbo3.yaml").space.decode((5, 20, 2))
    assert (values["lora_rank"], values["lora_alpha"], values["lora_dropout"]) == (64, 1280, 1e-4)
    assert round(float(values["learning_rate"]), 11) == 0.00031622777


def test_dropout_1_and_mmlu_are_in_bbo1() -> None:
    experiment = read_experiment(ROOT / "params/bbo1.yaml")
    assert experiment.space.decode((1, 1, 6, -6))["lora_dropout"] == 1
    assert [(output.metric, output.sign) for output in experiment.outputs] == [("mmlu", -1)]


def test_ola_is_what_was_published() -> None:
    """Five variables, 50 evaluations, 10 of them to begin with."""
    problem, experiment = read_problem(ROOT / "params/ola.txt"), read_experiment(ROOT / "params/ola.yaml")
    bounds = {name: experiment.space.variables[name].bounds for name in experiment.space.free}
    assert bounds == {
        "lora_rank": (2, 64),
        "lora_alpha": (1, 64),
        "lora_dropout": (0, 0.5),
        "learning_rate": (-10, -1),
        "weight_decay": (-5, -1),
    }
    assert [(output.metric, output.sign, output.kind) for output in experiment.outputs] == [
        ("hellaswag", -1, "OBJ"),
        ("mmlu", 1, "EXTRA_O"),
    ]
    assert problem.x0[0] == experiment.space.middle() == (33, 32, 0.25, -5.5, -3)
    assert problem.settings["LH_SEARCH"][0].values == ("9", "0")
    assert problem.max_bb_eval == 50


def test_the_variants_of_quickstart_differ_in_their_outputs() -> None:
    document = read_experiment(ROOT / "params/quickstart.yaml").document
    for name, outputs in {
        "quickstart_constrained": ["eval_loss", "trainable_parameters <= 20480"],
        "quickstart_front": ["eval_loss", "trainable_parameters"],
    }.items():
        other = dict(read_experiment(ROOT / f"params/{name}.yaml").document)
        assert other.pop("objectives", 1) == (2 if name == "quickstart_front" else 1)
        assert other == {**document, "outputs": outputs}


def test_one_variable_in_gsm8k(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = ROOT / "params/gsm8k.yaml"
    assert re.findall(r"\$\{(\w+)", yaml.read_text()) == ["GSM8K_DATA"]
    monkeypatch.delenv("GSM8K_DATA")
    with pytest.raises(InputError, match=rf"^{re.escape(str(yaml))}:\d+: .*GSM8K_DATA is not set$"):
        read_experiment(yaml)


@pytest.fixture
def server(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that says it has 4 GPUs, without data mix and network; importing torch fails."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "MIX": str(tmp_path / "mix"),
    }


def launch(script: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    folder = environment["HF_HOME"]  # anywhere but the project's root
    return subprocess.run(
        [script, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_one_script_per_documented_experiment() -> None:
    assert {script.stem for script in SCRIPTS} == set(DOCUMENTED)
    assert all(os.access(script, os.X_OK) for script in (ROOT / "runs").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_dry_run(script: Path, server: dict[str, str]) -> None:
    done = launch(script, server, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("X0: lora_rank 8 ")
    assert "launch: python -m blackbox.train JOB.json" in done.stdout
    lacking = "mmlu" if script.stem == "bbo1" else f"no such file: {server['MIX']}/train.jsonl"
    assert re.search(rf"^not ready: .*{re.escape(lacking)}", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_without_data_says_how_to_build_it(script: Path, server: dict[str, str]) -> None:
    done = launch(script, server)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"python -m blackbox.data mix ALPACA_JSON DOLLY_JSONL --out {server['MIX']}" in done.stderr


def test_bbo1_is_refused_before_any_training(server: dict[str, str], tmp_path: Path) -> None:
    """Until scores exist."""
    (tmp_path / "mix").mkdir()
    for side in ("train", "valid"):
        (tmp_path / "mix" / f"{side}.jsonl").write_text("{}\n")
    done = launch(ROOT / "runs/bbo1.sh", server, "--run", str(tmp_path / "run"))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"\S+bbo1\.yaml:\d+: outputs: .*\bmmlu\b.*\n", done.stderr)
    assert not (tmp_path / "run").exists()


def test_a_copied_pair_that_names_the_old_yaml_is_refused(tmp_path: Path) -> None:
    for name in ("toy.txt", "toy.yaml"):
        shutil.copy(ROOT / "params" / name, tmp_path / name)
        shutil.copy(ROOT / "params" / name, tmp_path / name.replace("toy", "mine"))
    experiment = read_experiment(tmp_path / "toy.yaml")
    assert disagreements(read_problem(tmp_path / "toy.txt"), experiment) == []
    (found,) = disagreements(read_problem(tmp_path / "mine.txt"), experiment)
    assert found.endswith("BB_EXE names toy.yaml, but mine.yaml lies beside this file")
