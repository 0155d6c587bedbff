"""`nomad FILE` on the toy: budget, resume, extension, kills, refusals. Real NOMAD, the real blackbox program."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.runlog import RunLog
from tests.conftest import python
from tests.runs import BLOCKS, SURROGATE_TEXT, SURROGATE_YAML, ours, results, start, surrogate_walk, walk

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("in_text", [{}, BLOCKS], ids=["sequential", "blocks"])
def test_exact_budget_and_summary(toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str]) -> None:
    toy(budget=14, in_text=in_text)
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 0, done.stderr
    told = [values for _, _, values in walk(tmp_path / "runs/toy")]
    assert sum(values is not None for values in told) == 14
    assert len(results(tmp_path / "runs/toy")) == 14
    for words in (
        "[14/14]",
        "X0's score",
        "best hyperparameters",
        "14   (",
        "trained",
        "wall time",
        "next                  bbo report toy",
    ):
        assert words in done.stdout
    best = min(values[0] for values in told if values)
    assert f"best score            {best:.6g}" in done.stdout


@pytest.mark.parametrize("in_text", [{}, BLOCKS], ids=["sequential", "blocks"])
def test_extending_keeps_the_prefix(toy: Toy, command: Command, tmp_path: Path, in_text: dict[str, str]) -> None:
    toy(budget=20, in_text=in_text)
    assert command("bbo.nomad", "params/toy.txt", "--run", "whole").returncode == 0
    toy(budget=9, in_text=in_text)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    before = results(tmp_path / "runs/toy")
    toy(budget=20, in_text=in_text)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    extended, whole = walk(tmp_path / "runs/toy"), walk(tmp_path / "runs/whole")
    assert [e for e in extended if e[2]] == [e for e in whole if e[2]]
    assert before.items() <= results(tmp_path / "runs/toy").items()


def test_same_command_replays(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy()
    command("bbo.nomad", "params/toy.txt")
    before, log = results(tmp_path / "runs/toy"), (tmp_path / "runs/toy/log.jsonl").read_bytes()
    again = command("bbo.nomad", "params/toy.txt")
    assert again.returncode == 0
    assert "replaying 12 of 12 evaluations" in again.stdout
    assert (results(tmp_path / "runs/toy"), (tmp_path / "runs/toy/log.jsonl").read_bytes()) == (before, log)


def test_a_shared_store_trains_nothing_twice(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy()
    assert command("bbo.nomad", "params/toy.txt", "--run", "one", "--store", "shared").returncode == 0
    two = command("bbo.nomad", "params/toy.txt", "--run", "two", "--store", "shared")
    assert "(0 trained, 12 from the store" in two.stdout or "from the store, 1 failed)" in two.stdout, two.stdout
    assert [w[0] for w in walk(tmp_path / "runs/one")] == [w[0] for w in walk(tmp_path / "runs/two")]


def test_concurrent_runs_share_the_work(toy: Toy, tmp_path: Path) -> None:
    toy(budget=10, seconds=0.02)
    both = [start(tmp_path, "params/toy.txt", "--run", name, "--store", "shared") for name in ("one", "two")]
    assert [process.wait(100) for process in both] == [0, 0]
    answers = [RunLog(tmp_path / "runs" / name / "log.jsonl").answers.values() for name in ("one", "two")]
    trained = [answer for log in answers for answer in log if answer.source == "trained"]
    assert len(trained) == len([w for w in walk(tmp_path / "runs/one") if w[2] and w[2][0] < float("inf")])


def test_a_smaller_budget_is_no_error(toy: Toy, command: Command) -> None:
    toy(budget=9)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    toy(budget=5)
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 0, done.stderr
    assert "replaying 9" in done.stdout


def test_nohup_is_respected(toy: Toy, tmp_path: Path) -> None:
    toy(seconds=0.05)
    words = " ".join(f"'{word}'" for word in python("bbo.nomad", "params/toy.txt"))
    process = subprocess.Popen(["sh", "-c", f"trap '' HUP; exec {words}"], cwd=tmp_path, stdout=-1, stderr=-1)
    while not results(tmp_path / "runs/toy"):
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


def test_ctrl_c_once(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(seconds=0.2)
    process = start(tmp_path, "params/toy.txt")
    while not results(tmp_path / "runs/toy"):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "continue with: nomad params/toy.txt" in errors
    assert not ours(tmp_path)
    toy(seconds=0.2)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0


def test_a_second_driver_is_refused(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(seconds=0.1)
    process = start(tmp_path, "params/toy.txt")
    while not results(tmp_path / "runs/toy"):
        time.sleep(0.05)
    second = command("bbo.nomad", "params/toy.txt")
    assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
    assert f"driven by process {process.pid}" in second.stderr
    assert process.wait(60) == 0


def test_max_hours_ends_in_order(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(seconds=0.2)
    done = command("bbo.nomad", "params/toy.txt", "--max-hours", str(2.5 / 3600))
    assert done.returncode == 0, done.stderr
    assert "--max-hours" in done.stderr
    assert 0 < len(results(tmp_path / "runs/toy")) < 12


def test_failures_in_a_row_stop_the_run(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_yaml={"[-5, -1]": "[-1, 1]"}, in_text={"1 1 -5 )": "1 1 -1 )", "64 4 -1 )": "64 4 1 )", "3 -4.5": "3 0"})
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 3
    assert "5 evaluations in a row failed (resources.max_failed): the loss became nan" in done.stderr
    assert len(results(tmp_path / "runs/toy")) < 12


def test_retry_forgets_the_failed(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_yaml={"[-5, -1]": "[-1, 1]"}, in_text={"1 1 -5 )": "1 1 -1 )", "64 4 -1 )": "64 4 1 )", "3 -4.5": "3 0"})
    command("bbo.nomad", "params/toy.txt")
    assert len(results(tmp_path / "runs/toy")) >= 5
    done = command("bbo.cli", "retry", "toy")
    assert done.returncode == 0, done.stderr
    assert not [f for f in (tmp_path / "runs/toy").glob("evals/*/result.json") if '"failed"' in f.read_text()]
    assert command("bbo.nomad", "params/toy.txt").returncode == 3  # it is a bad problem still
    assert command("bbo.cli", "retry", "nobody").returncode == 1


def test_a_changed_pair_is_refused_and_names_the_change(toy: Toy, command: Command) -> None:
    toy()
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    toy(in_yaml={"num_train_epochs: 4": "num_train_epochs: 3"})
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 1
    assert "experiment.training.num_train_epochs was 4 and is 3" in done.stderr
    toy(in_yaml={"model: toy": "model: toy\nresources: {max_failed: 9}"}, in_text={"SEED": "DISPLAY_DEGREE 1\nSEED"})
    assert command("bbo.nomad", "params/toy.txt").returncode == 0


BAD = [
    ("text", "MAX_BB_EVAL 12", "MAX_BB_EVALS 12", "toy.txt:13:"),
    ("text", "MAX_BB_EVAL 12", "MAX_BB_EVAL twelve", "toy.txt:13:"),
    ("text", "( 3 16 3 -4.5 )", "( 3 16 3 -7 )", "toy.txt:11: X0"),
    ("text", "( 3 16 3 -4.5 )", "( 3 16 3 )", "toy.txt:11: X0"),
    ("text", "SEED ", "NB_THREADS_OPENMP 4\nSEED ", "NB_THREADS_PARALLEL_EVAL"),
    ("text", "toy.yaml", "toys.yaml", "toy.txt:5:"),
    ("text", "OBJ EXTRA_O ", "OBJ ", "toy.txt:7: BB_OUTPUT_TYPE is OBJ, but the outputs"),
    ("text", "( 6 64 4 -1 )", "( 5 64 4 -1 )", "toy.txt:10: UPPER_BOUND of variable 1 is 5"),
    ("yaml", "lora_rank: ", "lora_rang: ", "toy.yaml"),
    ("yaml", "eval_loss, ", "mmlu, ", "toy.yaml:11: outputs: mmlu cannot be measured"),
    ("yaml", "num_train_epochs: 4", "num_train_epochs: many", "toy.yaml:10: training.num_train_epochs"),
    ("yaml", "space:", "spaces:", "toy.yaml:5: spaces: no such setting"),
    ("yaml", "train_loss]", "peak_gib]", "toy.yaml:11: outputs: peak_gib cannot be measured"),
    ("text", "SEED ", "CACHE_FILE c.txt\nSEED ", "toy.txt:14: CACHE_FILE: the store and the run log keep"),
    ("text", 'toy.yaml"', 'toy.yaml $more"', "toy.txt:5: BB_EXE must be"),
    ("text", "$blackbox toy.yaml", "$blackbox", "toy.txt:5: BB_EXE must be"),
]


@pytest.mark.parametrize(("file", "old", "new", "said"), BAD)
def test_bad_input_is_one_clear_message(
    toy: Toy, command: Command, tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    path = toy()
    path = path if file == "text" else path.with_suffix(".yaml")
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 1, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists(), "a refused command changed the disk"


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 99, "DIMENSION ❤".encode(), b"X0 ((((", None])
def test_nonsense_parameter_files(command: Command, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.txt").write_bytes(content)
    done = command("bbo.nomad", "x.txt")
    assert done.returncode == 1
    assert done.stderr.startswith("x.txt")
    assert "Traceback" not in done.stderr


def test_dry_run_runs_nothing(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy()
    done = command("bbo.nomad", "params/toy.txt", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "X0: lora_rank 8  lora_alpha 16  lora_dropout 0.1  learning_rate 3.162e-05" in done.stdout
    assert "launch:" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [(["-v"], 0, "4.5.1"), (["-i"], 0, "NOMAD"), (["-h"], 0, "--max-hours"), (["-h", "MAX_BB_EVAL"], 0, "budget"),
     ([], 2, "name a parameter file"), (["--max-hours", "-1", "x"], 2, "must be above 0")],
)  # fmt: skip
def test_other_options(command: Command, arguments: list[str], status: int, said: str) -> None:
    done = command("bbo.nomad", *arguments)
    assert done.returncode == status
    assert said in done.stdout + done.stderr


def test_bbo_nomad_is_the_same_command(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=3)
    assert command("bbo.cli", "nomad", "params/toy.txt", "--run", "other").returncode == 0
    assert len(results(tmp_path / "runs/other")) == 3


def test_native_nomad_runs_the_same_pair(toy: Toy, tmp_path: Path) -> None:
    """NOMAD without our driver, as its own executable would start it: same points, no cursor, no budget of ours."""
    toy(budget=10)
    text = (tmp_path / "params/toy.txt").read_text()
    code = f"import PyNomad; PyNomad.optimizeWithMainStep({[*text.splitlines(), f'PROBLEM_DIR {tmp_path}/params/']!r})"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PATH": path}, check=False, timeout=60,
            capture_output=True, text=True,
        )  # fmt: skip
        assert "Blackbox evaluations:" in done.stdout
    log = RunLog(tmp_path / "runs/toy/log.jsonl")
    assert [ask.native for ask in log.asks] == [True] * 20
    assert len(results(tmp_path / "runs/toy")) == 10
    assert [ask.point for ask in log.asks[:10]] == [ask.point for ask in log.asks[10:]]


def test_foreign_blackbox(tmp_path: Path, command: Command) -> None:
    (tmp_path / "bb.py").write_text("import sys\nprint(sum(float(x) ** 2 for x in open(sys.argv[1]).read().split()))\n")
    (tmp_path / "p.txt").write_text(
        'DIMENSION 2\nBB_EXE "$python3 bb.py"\nBB_OUTPUT_TYPE OBJ\nX0 ( 1 1 )\nLOWER_BOUND * -2\nMAX_BB_EVAL 9\n'
    )
    done = command("bbo.nomad", "p.txt")
    assert done.returncode == 0
    assert "Blackbox evaluations:    9" in done.stdout


def test_a_foreign_blackbox_is_not_run_by_a_dry_run(tmp_path: Path, command: Command) -> None:
    (tmp_path / "bb.py").write_text("open('ran', 'w')")
    (tmp_path / "p.txt").write_text(
        'DIMENSION 1\nBB_EXE "$python3 bb.py"\nBB_OUTPUT_TYPE OBJ\nX0 ( 1 )\nMAX_BB_EVAL 3\n'
    )
    done = command("bbo.nomad", "p.txt", "--dry-run")
    assert (done.returncode, (tmp_path / "ran").exists()) == (1, False)


@pytest.mark.parametrize("folder", ["with space", "runs/é", "a;b", "params/toy.txt"])
def test_unusable_run_folders(toy: Toy, command: Command, folder: str) -> None:
    toy()
    done = command("bbo.nomad", "params/toy.txt", "--run", folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_nothing_feasible_is_no_success(toy: Toy, command: Command) -> None:
    toy(in_yaml={"train_loss]": "train_loss <= 0.1]"}, in_text={"OBJ EXTRA_O ": "OBJ PB "})
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 3
    assert "no feasible evaluation" in done.stdout


def test_several_calls_in_flight(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_text={"SEED  ": "NB_THREADS_PARALLEL_EVAL 3\nSEED  "})
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "runs/toy")) <= 12
    assert command("bbo.nomad", "params/toy.txt").returncode == 0


def test_run_log_is_strict_json(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=8)
    command("bbo.nomad", "params/toy.txt")

    def refuse(name: str) -> float:
        raise ValueError(name)

    for line in (tmp_path / "runs/toy/log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_surrogate_sorts_and_counts_for_nothing(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_text=SURROGATE_TEXT, in_yaml=SURROGATE_YAML)
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 0, done.stderr
    told, surrogates = walk(tmp_path / "runs/toy"), surrogate_walk(tmp_path / "runs/toy")
    assert len(told) == 12
    assert f"+ {len({key for _, _, key, _ in surrogates})} surrogate" in done.stdout
    assert not {key for _, key, _ in told} & {key for _, _, key, _ in surrogates}
    assert f"best score            {min(values[0] for _, _, values in told if values):.6g}" in done.stdout
    stored = [json.loads(file.read_text()) for file in (tmp_path / "runs/toy").glob("evals/*/result.json")]
    low = {"epochs_fraction": 0.5, "train_fraction": 0.25}
    assert {r["key"] for r in stored if r["fidelity"] == low} == {key for _, _, key, _ in surrogates}
    assert {r["key"] for r in stored if r["fidelity"] == {}} == {key for _, key, _ in told}
    toy(in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt", "--run", "plain", "--store", "runs/toy/evals").returncode == 0
    assert walk(tmp_path / "runs/plain") != told, "the surrogate made no difference"


def test_a_run_with_surrogate_replays_and_is_extended(toy: Toy, command: Command, tmp_path: Path) -> None:
    for budget, run in ((14, "whole"), (7, "toy"), (7, "toy"), (14, "toy"), (9, "toy")):
        toy(budget=budget, in_text=SURROGATE_TEXT, in_yaml=SURROGATE_YAML)
        before = {run: walk(tmp_path / f"runs/{run}") for run in ("whole", "toy") if (tmp_path / "runs" / run).exists()}
        done = command("bbo.nomad", "params/toy.txt", "--run", run)
        assert done.returncode == 0, done.stderr
        assert walk(tmp_path / "runs" / run)[: len(before.get(run, []))] == before.get(run, [])
    assert walk(tmp_path / "runs/toy") == walk(tmp_path / "runs/whole")
    assert surrogate_walk(tmp_path / "runs/toy") == surrogate_walk(tmp_path / "runs/whole")


def test_a_fidelity_may_be_that_of_all_evaluations(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(budget=3, in_text={'toy.yaml"': 'toy.yaml $--fidelity $low"'}, in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    asks = RunLog(tmp_path / "runs/toy/log.jsonl").driven
    assert [ask.fidelity for ask in asks] == [{"epochs_fraction": 0.5, "train_fraction": 0.25}] * 3


def test_a_fidelity_counts_by_value(toy: Toy, command: Command) -> None:
    """What no command names may change, and a name may; what is named may not."""
    toy(budget=3)
    assert command("bbo.nomad", "params/toy.txt").returncode == 0
    toy(budget=3, in_yaml=SURROGATE_YAML)
    assert "replaying 3" in command("bbo.nomad", "params/toy.txt").stdout
    toy(budget=3, in_text=SURROGATE_TEXT, in_yaml=SURROGATE_YAML)
    assert command("bbo.nomad", "params/toy.txt", "--run", "other").returncode == 0
    (old, new), *_ = SURROGATE_YAML.items()
    toy(budget=3, in_text=SURROGATE_TEXT, in_yaml={old: new.replace("0.25", "0.5")})
    done = command("bbo.nomad", "params/toy.txt", "--run", "other")
    assert "fidelity.low.train_fraction was 0.25 and is 0.5" in done.stderr


SURROGATE_BAD = [
    ("toy.yaml $--fidelity $low", "other.yaml $--fidelity $low", "toy.txt:15: SURROGATE_EXE must name the experiment"),
    ("$--fidelity $low", "$--fidelity $lo", "fidelity: no fidelity 'lo', there are full, low"),
    ("$--fidelity $low", "$--fidelity", "toy.txt:15: SURROGATE_EXE must be $python3 $-m $blackbox NAME.yaml"),
    ("$--fidelity $low", "--fidelity low", "toy.txt:15: SURROGATE_EXE: an option must begin with $"),
    ("$python3 $-m $blackbox toy.yaml $--fidelity $low", "$echo", "toy.txt:15: SURROGATE_EXE must be"),
    ("EVAL_QUEUE_SORT SURROGATE", "", "SURROGATE_EXE is defined but not used"),
]


@pytest.mark.parametrize(("old", "new", "said"), SURROGATE_BAD)
def test_a_bad_surrogate_is_one_clear_message(
    toy: Toy, command: Command, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = toy(in_text=SURROGATE_TEXT, in_yaml=SURROGATE_YAML)
    (path.parent / "other.yaml").write_text(path.with_suffix(".yaml").read_text())
    content = path.read_text()
    head, found, tail = content.rpartition(old)
    assert found
    path.write_text(head + new + tail)
    done = command("bbo.nomad", "params/toy.txt")
    assert done.returncode == 1, done.stdout
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_evaluations_by_the_surrogate_alone_are_refused(toy: Toy, command: Command) -> None:
    path = toy(in_text=SURROGATE_TEXT, in_yaml=SURROGATE_YAML)
    text = path.read_text().replace("MAX_BB_EVAL", "MAX_SURROGATE_EVAL_OPTIMIZATION")
    path.write_text(text.replace("EVAL_QUEUE_SORT SURROGATE", "EVAL_SURROGATE_OPTIMIZATION yes"))
    done = command("bbo.nomad", "params/toy.txt")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "EVAL_SURROGATE_OPTIMIZATION: every evaluation would be the surrogate's: name its --fidelity" in done.stderr
