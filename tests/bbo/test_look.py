"""The commands that look at runs, on a real run of the toy."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pandas
import pytest
from typer.testing import CliRunner

from bbo import status as standing
from bbo.arguments import run_names
from bbo.cli import app
from bbo.run import Run
from bbo.runlog import Answer
from tests.bbo.reports.made import BEGAN, Made
from tests.browser import DESKTOP, chromium, errors, resize
from tests.conftest import ROOT, python

COMMANDS = ("status", "best", "list", "log", "report", "export", "dashboard")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of twelve evaluations."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "params").mkdir()
    for name, old, new in (("toy.yaml", "", ""), ("toy.txt", "MAX_BB_EVAL    40", "MAX_BB_EVAL 12")):
        (folder / "params" / name).write_text((ROOT / "params" / name).read_text().replace(old, new))
    done = subprocess.run(
        python("bbo.nomad", "params/toy.txt"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def bbo(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    status, shown = bbo(command, "--help")
    assert status == 0 and f"bbo {command}" in shown.split("Example")[1]


def test_best(here: Path) -> None:
    found = json.loads(bbo("best", "toy", "--json")[1])
    log = Run(here / "runs" / "toy").log()
    (each,) = found["evaluations"]
    assert each["outputs"]["eval_loss"] == min(a.values[0] for a in log.answers.values() if a.values)
    assert found["objectives"] == [{"metric": "eval_loss", "better": "lower"}] and found["confirmed"] is None
    status, words = bbo("best", "toy")
    assert status == 0 and f"#{each['evaluation']}  eval_loss" in words and "better than X0" in words


def test_status_of_a_run_that_is_over(here: Path) -> None:
    found = json.loads(bbo("status", "toy", "--json")[1])
    assert (found["evaluations"], found["budget"], found["driven"], found["pending"]) == (12, 12, False, [])
    status, words = bbo("status", "toy")
    assert status == 0 and "nobody drives it" in words and "12 of 12 evaluations" in words


def test_list(here: Path) -> None:
    (row,) = json.loads(bbo("list", "--json")[1])
    assert (row["run"], row["optimizer"], row["evaluations"], row["driven"]) == ("toy", "nomad", 12, False)
    assert "eval_loss" in bbo("list")[1] and " over " in bbo("list")[1]
    end = Path("runs/toy/end.json")
    end.rename("end")
    assert " stopped " in bbo("list")[1], "as after a kill"
    for reason, state in ((None, " over "), ("disk full", " stopped ")):  # None: through, and nothing good was found
        end.write_text(json.dumps({"status": 3, "reason": reason}))
        assert state in bbo("list")[1]
    Path("end").rename(end)


def test_the_budget_of_another_optimizer(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = python("bbo.cli", "run", str(home / "params/toy.txt"), "--optimizer", "random", "--budget", "3")
    subprocess.run(command, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    found = json.loads(bbo("status", "toy-random", "--json")[1])
    assert (found["evaluations"], found["budget"]) == (3, 3)


def test_a_run_that_cannot_be_read_hides_no_other(here: Path) -> None:
    damaged = here / "runs/damaged"
    damaged.mkdir()
    (damaged / "log.jsonl").write_text("garbage\n{}\n")
    rows = {row["run"]: row["trouble"] for row in json.loads(bbo("list", "--json")[1])}
    (damaged / "log.jsonl").unlink()
    damaged.rmdir()
    assert rows["toy"] is None and "damaged line" in rows["damaged"]


def test_export(here: Path) -> None:
    assert bbo("export", "toy", "--csv", "toy.csv") == (0, "toy.csv: 12 evaluations\n")
    assert len(pandas.read_csv(here / "toy.csv")) == 12


def test_report(here: Path) -> None:
    status, words = bbo("report", "toy")
    assert (status, words) == (0, "runs/toy/report/report.html\n")
    assert "evaluation" in (here / words.strip()).read_text()


def test_log_by_number_and_by_key(here: Path) -> None:
    run = Run(here / "runs" / "toy")
    ask = run.log().asks[2]
    (run.evals / ask.key / "train.log").write_text("step 1 of 4\n")
    for what in ("3", "#3", ask.key[:6]):
        assert bbo("log", "toy", what) == (0, "step 1 of 4\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "nothing"), "runs/nothing: no run there"),
        (("best", "nothing"), "runs/nothing: no run there"),
        (("report", "toy", "nothing"), "runs/nothing: no run there"),
        (("log", "toy", "99"), "has evaluations 1 to 12, by number or key: 99 is none of them"),
        (("log", "toy", "1"), "#1: no "),
    ],
)
def test_mistakes_are_a_sentence_and_status_1(here: Path, words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(python("bbo.cli", *words), cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_nothing_good_is_status_3(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", ROOT / "params" / "toy.yaml")
    run.ask((3, 16, 3, -4.5))
    run.end(1, None)
    assert bbo("best", str(run.run.folder))[0] == 3


def test_names_of_runs_are_completed(here: Path) -> None:
    nested = Path("runs/compare-toy/tpe/1")
    nested.mkdir(parents=True, exist_ok=True)
    (nested / "log.jsonl").touch()
    assert list(run_names("")) == ["runs/compare-toy/tpe/1", "toy"] and list(run_names("t")) == ["toy"]
    (nested / "log.jsonl").unlink()
    shell = {"_BBO_COMPLETE": "complete_bash", "COMP_WORDS": "bbo report t", "COMP_CWORD": "2"}
    program = [sys.executable, "-c", "import sys; sys.argv = ['bbo']; from bbo.cli import main; main()"]
    done = subprocess.run(program, env=os.environ | shell, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["toy"]


def test_a_look_is_no_driver(tmp_path: Path) -> None:
    """Somebody who asks whether a run is driven must not keep a driver out."""
    run = Run(tmp_path / "run")
    with run.driven():
        pass
    looking = run.lock_file.open("rb")
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, looking.close).start()
    with run.driven():
        assert run.is_driven()
    assert not run.is_driven()


def test_status_of_a_run_under_way(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", ROOT / "params" / "toy.yaml")
    run.ask((3, 16, 3, -4.5), (4, 16, 3, -4.5))
    run.end(1, 2.0)
    run.curve(2, 2.5, 2.25)
    with run.run.driven():
        found = standing.as_json(standing.look(str(run.run.folder)))
    assert found["driven"] and found["driver"].startswith(f"process {os.getpid()} on")
    (pending,) = found["pending"]
    assert pending["evaluation"] == 2 and pending["progress"]["eval_loss"] == 2.25
    assert (pending["progress"]["step"], pending["progress"]["steps"]) == (20, 40)


def test_words_in_brackets_are_no_markup(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", ROOT / "params" / "toy.yaml")
    run.ask((3, 16, 3, -4.5))
    run.log.answer(Answer(1, (float("inf"), 0.0), "failed", BEGAN, "job", "[Errno 28] [/]"))
    assert "failed: [Errno 28] [/]" in bbo("status", str(run.run.folder))[1]


def test_status_before_the_first_evaluation(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.driven():
        status, words = bbo("status", str(run.folder), "--json")
    assert status == 0 and json.loads(words)["evaluations"] == 0


def test_a_log_is_followed_until_the_evaluation_is_over(tmp_path: Path) -> None:
    run = Made(tmp_path / "run", ROOT / "params" / "toy.yaml")
    run.ask((3, 16, 3, -4.5))
    log = run.store.evaluation("K1").log_file

    def train() -> None:
        log.write_text("step 1\n")
        time.sleep(0.5)
        with log.open("a") as file:
            file.write("step 2\n")
        run.end(1, 2.0)

    with run.run.driven():
        threading.Timer(0.5, train).start()
        assert bbo("log", str(run.run.folder), "1", "--follow") == (0, "step 1\nstep 2\n")


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[tuple[Made, str]]:
    """The command on a run under way, with the address that it prints."""
    run = Made(tmp_path / "run", ROOT / "params" / "toy.yaml")
    run.ask((3, 16, 3, -4.5), (4, 16, 3, -4.0))
    run.curve(1, 2.5, 2.0)
    run.end(1, 1.875)
    words = python("bbo.cli", "dashboard", str(run.run.folder), "--port", "0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield run, process.stdout.readline().split()[0]
        process.terminate()


@pytest.mark.browser
def test_the_dashboard_follows_a_run(dashboard: tuple[Made, str], tmp_path: Path) -> None:
    run, address = dashboard
    assert address.startswith("http://127.0.0.1:")
    study = address.rpartition("/")[2]

    def trials() -> list[dict[str, object]]:
        with urlopen(f"{address.partition('/dashboard')[0]}/api/studies/{study}?after=0") as answer:
            return list(json.load(answer)["trials"])

    assert [trial["state"] for trial in trials()] == ["Complete", "Running"]
    with chromium(tmp_path / "profile") as page:
        resize(page, DESKTOP)
        page.get(f"{address}/trials")
        _wait_for(page, "2 Trials", "Trial 1", "Running", "1.875", "lora_rank 8")
        run.end(2, 1.625)
        run.ask((5, 16, 3, -3.5))
        run.end(3, 1.375)
        _wait_for(page, "3 Trials", "Trial 2")
        page.get(address)
        _wait_for(page, "History", "eval_loss")
        assert errors(page) == []
    assert [trial["state"] for trial in trials()] == ["Complete"] * 3


def _wait_for(page: Any, *words: str, seconds: float = 100) -> None:
    """Until all of them stand on the page."""
    end = time.monotonic() + seconds
    while missing := [each for each in words if each not in page.find_element("tag name", "body").text]:
        assert time.monotonic() < end, missing
        time.sleep(0.3)
