"""`bbo confirm` as a user types it, on the toy; and the report on values that a test makes up."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from bbo.best import read_searched
from bbo.reports.confirmed import Repeated, as_json, confirm, text
from bbo.run import Run
from tests.runs import ours, results, start

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(command: Command, toy: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run of the toy."""
    done = command("bbo.nomad", str(toy(budget=8)), "--run", "runs/x")
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs" / "x"


def plant(run: Path) -> int:
    """Give the worst good point of a run the best value, as a lucky seed would. Its number."""
    log = Run(run).log()
    good = {number: a.values[0] for number, a in log.answers.items() if a.values and a.values[0] < float("inf")}
    worst = max(good, key=good.__getitem__)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in lines:
        if line.get("answer") == worst:
            line["values"][0] = min(good.values()) - 0.1
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return worst


def test_a_lucky_winner_is_demoted(command: Command, run: Path) -> None:
    lucky = plant(run)
    before = results(run)
    done = command("bbo.cli", "confirm", "x", "--top", "3", "--seeds", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Warning: the search's winner #{lucky} " in done.stdout
    content = json.loads((run / "confirmed.json").read_text())
    assert content["winner_demoted"] and content["seeds"] == [1, 2, 3, 4, 5]
    last = content["points"][-1]
    assert (last["evaluation"], last["place_in_search"], last["verdict"]) == (lucky, 1, "worse")
    means = [point["mean"] for point in content["points"]]
    assert means == sorted(means) and content["points"][0]["verdict"] == "best"
    assert len(results(run)) == len(before) + 15
    assert read_searched(str(run)).best().ask.number == content["points"][0]["evaluation"]

    # Two more seeds: what is known is not trained again, and the run's own record is not touched.
    again = command("bbo.cli", "confirm", "x", "--seeds", "7", "--json")
    assert json.loads(again.stdout)["seeds"] == [1, 2, 3, 4, 5, 6, 7]
    assert again.stderr.count("(from the store)") == 15 and len(results(run)) == len(before) + 21
    key = content["points"][0]["keys"]["1"]
    shown = command("blackbox.eval", f"runs/x/evals/{key}/point.txt")
    assert f"eval_loss              {content['points'][0]['values']['1']:.8g}\n" in shown.stdout, "its own seed's"
    assert "from the store" in shown.stdout and len(results(run)) == len(before) + 21


def test_killed_it_goes_on_where_it_was(command: Command, toy: Callable[..., Path], tmp_path: Path) -> None:
    command("bbo.nomad", str(toy(budget=4, seconds=0.04)), "--run", "runs/x")
    run = tmp_path / "runs" / "x"
    before = len(results(run))
    process = start(tmp_path, "confirm", "x", module="bbo.cli")
    while len(results(run)) < before + 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while ours(tmp_path):
        time.sleep(0.01)
    known = results(run)
    assert before + 3 <= len(known) < before + 15 and not (run / "confirmed.json").exists()
    done = command("bbo.cli", "confirm", "x")
    assert done.returncode == 0, done.stderr
    assert known.items() <= results(run).items() and len(results(run)) == before + 15


def test_refused_with_nothing_changed(command: Command, run: Path, tmp_path: Path) -> None:
    for file in run.glob("evals/*/experiment.yaml"):
        content = yaml.safe_load(file.read_text())
        content["training"]["noise"] = 0.5
        file.write_text(yaml.safe_dump(content, sort_keys=False))
    (run / "run.json").unlink()  # so that nothing else says what the run was about
    done = command("bbo.cli", "confirm", "x")
    assert done.returncode == 1 and "have changed since this was evaluated" in done.stderr
    assert "Traceback" not in done.stderr and not (run / "confirmed.json").exists()
    assert command("bbo.cli", "confirm", "nothing").stderr == "runs/nothing: no run there\n"
    shutil.rmtree(run / "evals")
    gone = command("bbo.cli", "confirm", "x")
    assert gone.returncode == 1 and "none of its evaluations" in gone.stderr


def repeated(number: int, place: int, values: Sequence[float], bad: int = 0) -> Repeated:
    seeds = range(1, len(values) + 1)
    failed = {100 + seed: "diverged" for seed in range(bad)}
    known = dict(zip(seeds, values, strict=True))
    return Repeated(number, f"{number:016x}", (1.0,), {"lora_rank": 8}, place, 0.5, known, failed)


def test_order_ties_and_failures() -> None:
    close, clear = [0.61, 0.63, 0.60, 0.62, 0.64], [0.90, 0.93, 0.89, 0.91, 0.95]
    wobbly = [0.63, 0.60, 0.63, 0.61, 0.65]
    points = [repeated(1, 1, clear), repeated(2, 2, wobbly), repeated(3, 3, close), repeated(4, 4, [0.1], bad=4)]
    report = confirm("x", "eval_loss", 1.0, [1, 2, 3, 4, 5], points)
    assert [point.number for point in report.points] == [3, 2, 1, 4]
    assert [report.verdict(point) for point in report.points] == ["best", "tie", "worse", "worse"]
    assert report.demoted is points[0]
    words = text(report, {point.name: "" for point in points})
    assert "Best mean: #3. Tied with it: #2. Warning: the search's winner #1" in words.lead[0]
    assert "#4, seed 100: diverged" in words.notes
    assert as_json(report)["points"][0]["mean"] == pytest.approx(0.62)


def test_a_maximized_metric_and_one_seed() -> None:
    report = confirm("x", "mmlu", -1.0, [1], [repeated(1, 1, [-0.4]), repeated(2, 2, [-0.5])])
    content = as_json(report)
    assert [point["evaluation"] for point in content["points"]] == [2, 1] and content["better"] == "higher"
    assert content["points"][0]["mean"] == 0.5 and content["points"][1]["verdict"] == "too few seeds"
