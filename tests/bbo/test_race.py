"""The runs of a comparison: pairs per seed, what is done again and what is not, what becomes of failures."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from bbo.errors import InputError
from bbo.problem import Problem, read_problem
from bbo.race import Race, Task, Watch, derive, read_pair, run_all
from bbo.run import Run
from bbo.store import Store
from tests.conftest import ROOT

PROGRAMS = {
    "good": "print('well')",
    "bad": "print('stopped: the disk is full'); print('continue with: x'); sys.exit(3)",
    "refused": "print('--optimizer: no'); sys.exit(1)",
    "silent": "sys.exit(5)",
    "slow": "import time; time.sleep(600)",
}


class Stand(Race):
    """A race whose runs are not `bbo run` but a few lines of Python, by method."""

    def command(self, task: Task) -> list[str]:
        said = f"import sys; open({str(self.folder / 'called')!r}, 'a').write('{task.method} {task.seed}\\n'); "
        return [sys.executable, "-c", said + PROGRAMS[task.method]]

    def called(self) -> list[str]:
        return (self.folder / "called").read_text().splitlines()


@pytest.fixture
def race(toy: Callable[..., Path], tmp_path: Path) -> Callable[..., Stand]:
    def make(methods: Sequence[str], seeds: int = 2) -> Stand:
        folder = tmp_path / "race"
        return Stand(*read_pair(toy()), methods, seeds, 4, folder, Store(folder / "evals"))

    return make


@pytest.mark.parametrize("name", ["toy", "quickstart", "quickstart_surrogate", "bbo3"])
def test_a_seeds_pair_is_the_same_but_for_the_seed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIX", "mix")
    problem, experiment = read_pair(ROOT / "params" / f"{name}.txt")
    file = tmp_path / "7" / f"{name}.txt"
    derive(problem, experiment, 7, file)
    again, its = read_pair(file)

    def meant(of: Problem) -> dict[str, object]:
        settings = {name: [each.values for each in given] for name, given in of.settings.items() if name != "X0"}
        return settings | {"x0": of.x0, "lower": of.lower, "upper": of.upper, "types": of.input_types}

    assert meant(again) == meant(problem)
    assert its.training == {**experiment.training, "seed": 7} != experiment.training
    assert its.base == experiment.base
    assert {**its.document, "training": {}, "relative_to": None} == {
        **experiment.document, "training": {}, "relative_to": None
    }  # fmt: skip


def test_a_yaml_elsewhere_and_points_in_a_file(toy: Callable[..., Path], tmp_path: Path) -> None:
    x0 = "X0             ( 3 16 3 -4.5 )"
    file = toy(in_text={"$blackbox toy.yaml": "$blackbox deep/toy.yaml", x0: "X0 x0.txt #"})
    (file.parent / "deep").mkdir()
    file.with_suffix(".yaml").rename(file.parent / "deep" / "toy.yaml")
    (file.parent / "x0.txt").write_text("3 16 3 -4.5\n")
    derive(*read_pair(file), 2, tmp_path / "out" / "toy.txt")
    problem, experiment = read_pair(tmp_path / "out" / "toy.txt")
    assert problem.x0 == ((3, 16, 3, -4.5),) and experiment.path == tmp_path / "out" / "toy.yaml"


def test_a_seed_that_is_a_variable_is_refused(toy: Callable[..., Path]) -> None:
    file = toy(in_yaml={"space:": "space:\n  seed: {fixed: 3}"})
    with pytest.raises(InputError, match=r"toy.yaml:\d+: space.seed: the training's seed is what a comparison sets"):
        read_pair(file)


def test_several_objectives_are_refused(toy: Callable[..., Path]) -> None:
    several = {
        "OBJ EXTRA_O": "OBJ OBJ",
        "SEED           0": "SEED 0\nDMULTIMADS_OPTIMIZATION yes\nDIRECTION_TYPE ORTHO 2N",
    }
    file = toy(in_yaml={"outputs:": "objectives: 2\noutputs:"}, in_text=several)
    with pytest.raises(InputError, match=r"toy.yaml:\d+: objectives: a comparison needs a single objective, got 2"):
        read_pair(file)


def test_finished_runs_are_not_run_again(race: Callable[..., Stand]) -> None:
    assert run_all(race(["good"]), 1, Watch()) == {}
    assert race(["good"]).called() == ["good 1", "good 2"]
    more = race(["good", "silent"], seeds=3)
    run_all(more, 1, Watch())
    assert more.called()[2:] == ["silent 1", "silent 2", "good 3", "silent 3"]


def test_a_failure_does_not_stop_the_others_and_is_tried_again(race: Callable[..., Stand]) -> None:
    mixed = race(["bad", "refused", "silent", "good"], seeds=1)
    for _ in range(2):
        failed = run_all(mixed, 2, Watch())
        assert {task.method: reason for task, reason in failed.items()} == {
            "bad": "the disk is full",
            "refused": "--optimizer: no",
            "silent": "it said nothing and ended with status 5",
        }
    assert sorted(mixed.called()) == ["bad 1", "bad 1", "good 1", "refused 1", "refused 1", "silent 1", "silent 1"]
    assert [task.method for task in mixed.tasks if mixed.complete(task)] == ["good"]


def test_nobody_is_left_behind(race: Callable[..., Stand]) -> None:
    slow = race(["slow"], seeds=3)

    class Impatient(Watch):
        def going(self, tasks: Sequence[Task]) -> None:
            if len(tasks) == 3 and (slow.folder / "called").is_file() and len(slow.called()) == 3:
                raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(slow, 3, Impatient())
    assert time.monotonic() - started < 60
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in living if "time.sleep(600)" in " ".join(child.cmdline())]
    assert not any(slow.finished(task) for task in slow.tasks)


def test_a_preflight_is_lent_to_the_same_seed_alone(race: Callable[..., Stand]) -> None:
    two = race(["good", "silent"], seeds=2)
    first = Run(two.folder / "good" / "1")
    first.folder.mkdir(parents=True)
    first.preflight_file.write_text(json.dumps({"digest": "x"}))
    run_all(two, 1, Watch())
    lent = [task.method + str(task.seed) for task in two.tasks if task.run.preflight_file.is_file()]
    assert lent == ["good1", "silent1"]


def test_parameters_of_a_derived_pair_are_nomads(race: Callable[..., Stand]) -> None:
    one = race(["good"], seeds=1)
    run_all(one, 1, Watch())
    assert read_problem(one.parameters(1)).bb_exe[3] == "toy.yaml"
