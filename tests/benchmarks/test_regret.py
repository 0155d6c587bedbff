"""The regret race in little: known optima, honest surrogates, and no run done twice."""

import faulthandler
import json
import math
import random
import statistics
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from bbo.errors import InputError
from benchmarks import nomad_settings, regret, surrogate
from benchmarks.batch_run import batch_run, scaled
from benchmarks.functions import FAMILIES, FOUR, instance
from benchmarks.problem import Problem, Recorder, uniform
from benchmarks.problem import regret as regret_of
from benchmarks.racers import SETTINGS_OF_BLOCKS, racers
from benchmarks.surrogate import Fitted, fit, read_table
from tests.conftest import ROOT

SPACE = "space: {rank: {choice: [4, 8, 16, 32]}, alpha: {int: [1, 9], times: rank}, rate: {log10: [-5, -1]}}\n"
BESIDE = f"{SPACE}columns: {{rate: lr}}\nx0: {{rank: 4, alpha: 4, rate: 1.0e-4}}\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "FOLDS", 3)
    monkeypatch.setattr(surrogate, "SEARCHED", 1000)


def loss(rank: int, times: int, exponent: float) -> float:
    return 1 + 0.1 * abs(math.log2(rank / 16)) + 0.02 * abs(times - 6) + 0.2 * (exponent + 3) ** 2


def written(folder: Path, rows: int = 30, above: float = 0.0, repeated: float | None = None) -> tuple[Path, Path]:
    """A table, its rows failed where the exponent is above a bound, the first repeated with an error of this size."""
    draw = random.Random(0)
    lines = ["rank,alpha,lr,loss"]
    for row in range(rows):
        rank, times, exponent = 2 ** draw.randint(2, 5), draw.randint(1, 9), draw.uniform(-5, -1)
        exponent, value = (-4.0, loss(rank, times, -4.0)) if row == 0 else (exponent, loss(rank, times, exponent))
        lines.append(f"{rank},{rank * times},{10**exponent},{'nan' if exponent > above else value}")
        if row == 0 and repeated is not None:
            lines += [f"{rank},{rank * times},{10**exponent},{value + error * repeated}" for error in (-1, 1, -1, 1)]
    table, beside = folder / "table.csv", folder / "tiny.yaml"
    table.write_text("\n".join(lines) + "\n")
    beside.write_text(BESIDE)
    return table, beside


def fitted(*files: Path, maximize: bool = False) -> Fitted:
    return fit(read_table(files[0], "loss", maximize, files[1]))


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_below_the_best_of_a_closed_form_and_x0_does_not_fail(name: str) -> None:
    for seed in range(3):
        problem = instance(name, seed)
        draw = random.Random(seed)
        values = [problem.value(uniform(problem.space, draw)) for _ in range(300)]
        assert min(values) >= problem.best
        assert problem.best < problem.value(problem.x0) < math.inf
        assert statistics.quantiles(values)[0] > min(values)
        assert instance(name, seed).x0 == problem.x0


def test_the_regret_is_of_the_true_value_where_the_observed_one_is_lowest() -> None:
    assert regret_of([3.0, 1.9, 2.0], [3.0, 2.0, 1.5], first=3.0, best=1.0) == 0.5


def test_a_point_shows_one_value_in_a_run_and_another_in_the_next() -> None:
    problem = instance("noisy", 0)
    first, again, other = (Recorder(problem, seed, 3) for seed in (1, 1, 2))
    assert first(problem.x0) == first(problem.x0) == again(problem.x0) != other(problem.x0)
    assert first.true[0] == problem.value(problem.x0) != first.observed[0]
    first(problem.x0)
    assert first(problem.x0) == math.inf and len(first.observed) == 3, "behind the budget is nothing"


def test_the_better_surrogate_is_taken_and_is_near_the_table(tmp_path: Path) -> None:
    found = fitted(*written(tmp_path))
    assert found.errors[found.model] == min(found.errors.values()) < 0.5 * found.spread
    assert found.problem.value((3, 6, -3.0)) == pytest.approx(1, abs=0.15)
    assert found.problem.best <= found.problem.value((3, 6, -3.0))
    assert "residuals" in found.noise_from and found.failed == 0
    assert found.problem.x0 == (1, 1, -4)
    upside_down = fitted(*written(tmp_path), maximize=True)
    assert upside_down.problem.best < -1.7


def test_noise_is_that_of_repeated_points(tmp_path: Path) -> None:
    found = fitted(*written(tmp_path, repeated=0.05))
    errors = [0.0, -0.05, 0.05, -0.05, 0.05]
    assert found.problem.noise == pytest.approx(statistics.stdev(errors))
    assert found.noise_from == "1 points recorded more than once"


def test_failures_are_reproduced(tmp_path: Path) -> None:
    found = fitted(*written(tmp_path, above=-2.0))
    assert found.failed > 5
    assert found.problem.value((2, 5, -1.0)) == math.inf
    assert found.problem.value((2, 5, -3.5)) < math.inf


@pytest.mark.parametrize(
    ("in_table", "in_yaml", "said"),
    [
        ({"rank,": "r,"}, {}, "table.csv:1: no such column: rank (there are r, alpha, lr, loss)"),
        ({}, {"[4, 8, 16, 32]": "[4, 8, 16]"}, "table.csv:"),
        ({}, {"rank: 4,": "rank: 5,"}, "tiny.yaml: x0: rank: 5 is none of [4, 8, 16, 32]"),
        ({}, {"times: rank": "times: rate2"}, "tiny.yaml:1: space.alpha: times names 'rate2', which is not in space"),
        ({}, {"columns": "colums"}, "tiny.yaml:2: colums: no such setting"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, in_table: dict[str, str], in_yaml: dict[str, str], said: str
) -> None:
    files = written(tmp_path)
    for file, changes in zip(files, (in_table, in_yaml), strict=True):
        text = file.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
    with pytest.raises(InputError) as error:
        read_table(files[0], "loss", False, files[1])
    assert said in str(error.value)


def test_unknown_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert regret.main(["--functions", "ridge,hill", "--json", str(tmp_path / "x.json")]) == 1
    assert "--functions: no such name: hill (there are ridge, " in capsys.readouterr().err


@pytest.mark.parametrize("block", [1, 4])
def test_a_batch_run_spends_exactly_the_budget(block: int) -> None:
    runs = [Recorder(instance("cliff", 0), seed, 18) for seed in (1, 1)]
    for run in runs:
        batch_run(run, ["MEGA_SEARCH_POLL yes"], block)
    assert len(runs[0].observed) == 18
    assert runs[0].points[0] == runs[0].problem.x0
    assert runs[0].points == runs[1].points


@pytest.fixture
def silent_death() -> Iterator[None]:
    """pytest would print where a child of its own process died."""
    faulthandler.disable()
    yield
    faulthandler.enable()


@pytest.mark.usefixtures("silent_death")
def test_a_nomad_that_dies_is_said_to_have() -> None:
    with pytest.raises(RuntimeError, match="cliff: NOMAD died under"):
        batch_run(Recorder(instance("cliff", 0), 1, 5), ["NO_SUCH_KEYWORD 1", "DIRECTION_TYPE WRONG"])


@pytest.mark.parametrize("name", ["lhs", "tpe", "tpe x4", "soo", "optuna-tpe", "optuna-tpe x4", "direct"])
@pytest.mark.parametrize("function", ["cliff", "unordered"])
def test_racers_spend_the_budget_inside_the_bounds(name: str, function: str) -> None:
    recorder = Recorder(instance(function, 3), 0, 14)
    racers()[name](recorder)
    assert len(recorder.points) == len(recorder.observed) == 14, "a point outside would have raised"
    assert (recorder.points[0] == recorder.problem.x0) == (name not in ("lhs", "soo", "direct"))


@pytest.mark.skipif(find_spec("smac") is None, reason="SMAC3 is an extra of the benchmarks")
def test_smac_races() -> None:
    recorder = Recorder(instance("two", 3), 0, 8)
    racers()["smac x4"](recorder)
    assert len(recorder.points) == 8
    assert any(point == pytest.approx(recorder.problem.x0) for point in recorder.points), "it rounds to 13 digits"


def test_shares_of_the_range() -> None:
    problem: Problem = instance("ridge", 0)
    assert list(problem.space.free) == list(FOUR)
    variables = [problem.space.variables[name] for name in FOUR]
    assert scaled("INITIAL_FRAME_SIZE %0.25", variables) == "INITIAL_FRAME_SIZE ( 1 16 1 1 )"
    assert scaled("LH_SEARCH 4 0", variables) == "LH_SEARCH 4 0"


def test_a_race_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, beside = written(tmp_path)
    file = tmp_path / "out/race.json"
    command = [str(table), "--objective", "loss", "--space", str(beside), "--functions", "two", "--json", str(file)]
    command += ["--optimizers", "nomad,direct", "--budget", "12", "--seeds", "2"]
    assert regret.main(command) == 0
    whole, record = json.loads(file.read_text()), file.with_suffix(".jsonl")
    lines = record.read_text().splitlines()
    assert len(lines) == 2 * 2 * 2
    assert set(whole["results"]) == {"tiny loss", "two"}
    assert whole["problems"]["tiny loss"]["noise"] > 0
    assert all(row["seeds"] == 2 and row["died"] == 0 for each in whole["results"].values() for row in each.values())
    record.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    assert regret.main(command) == 0
    again = record.read_text().splitlines()
    assert again[:7] == lines[:7] and len(again) == 9
    assert {**json.loads(again[-1]), "seconds": 0} == {**json.loads(lines[-1]), "seconds": 0}
    assert regret.main([*command, "--report"]) == 0
    assert record.read_text().splitlines() == again
    assert "regret at 50" in capsys.readouterr().out


def test_settings_are_chosen_on_one_half_and_reported_on_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nomad_settings, "CANDIDATES", ("QUAD_MODEL_SEARCH no", "INITIAL_FRAME_SIZE %0.2"))
    monkeypatch.setattr(nomad_settings, "CHOOSING", ["tied"])
    monkeypatch.setattr(nomad_settings, "REPORTING", ["two"])
    scores = {(): 0.3, ("QUAD_MODEL_SEARCH no",): 0.2, ("INITIAL_FRAME_SIZE %0.2",): 0.1}

    def score(_: object, settings: tuple[str, ...], __: object = None) -> dict[int, float]:
        return dict.fromkeys((10, 20, 50), scores.get(settings, 0.05))

    monkeypatch.setattr(nomad_settings.Scorer, "score", score)
    file = tmp_path / "settings.json"
    assert nomad_settings.main(["--seeds", "2", "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["chosen"] == ["INITIAL_FRAME_SIZE %0.2", "QUAD_MODEL_SEARCH no"]
    assert set(content["reported"]["chosen"]) == {"two"}
    problems = {json.loads(line)["problem"] for line in file.with_suffix(".jsonl").read_text().splitlines()}
    assert problems == {"two"}


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.txt")), ids=lambda path: path.stem)
def test_the_shipped_params_have_the_settings_that_were_found(path: Path) -> None:
    lines = [" ".join(line.partition("#")[0].split()) for line in path.read_text().splitlines()]
    if any(line.startswith("BB_MAX_BLOCK_SIZE") for line in lines):
        refused = {"MEGA_SEARCH_POLL yes"} if "DMULTIMADS_OPTIMIZATION yes" in lines else set()
        assert set(SETTINGS_OF_BLOCKS) - refused <= set(lines)
