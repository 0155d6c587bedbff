"""Optuna's samplers and the designs: what every one must do, and what each is told."""

import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from bbo.errors import InputError
from bbo.optimizers import Outcome, Proposal
from bbo.optimizers.designs import LHS, Grid
from bbo.optimizers.samplers import CMAES, GP, TPE, Random, Sobol
from bbo.space import Point, Space, Variable

SPACE = Space(
    {
        "rank": Variable(choice=(64, 4, 8, 16, 32)),
        "alpha": Variable(int=(1, 64), times="rank"),
        "shape": Variable(choice=("linear", "cosine", True)),
        "fixed": Variable(fixed=7),
        "rate": Variable(log10=(-5, -1)),
        "single": Variable(int=(3, 3)),
        "dropout": Variable(float=(0, 0.3)),
    }
)
X0 = [(3.0, 16.0, 1.0, -4.5, 3.0, 0.1), (1.0, 1.0, 3.0, -1.0, 3.0, 0.3)]
ALL = [Random, Sobol, TPE, GP, CMAES, LHS, Grid]
SETTINGS: dict[type, dict[str, int]] = {GP: {"n_startup_trials": 9}}
BUDGET = 12


def loss(point: Point) -> float:
    rank, alpha, shape, rate, _, dropout = point
    return (rank - 3) ** 2 / 4 + (alpha - 40) ** 2 / 400 + (shape != 2) + (rate + 2.5) ** 2 + dropout


def made(kind: type, seed: int = 3) -> Any:
    return kind(SPACE, X0, BUDGET, seed, **SETTINGS.get(kind, {}))


def judged(number: int, point: Point) -> Outcome:
    """A loss, a failure, or a stop, by the number."""
    if number % 7 == 2:
        return Outcome(number, point, "failed", math.inf)
    if number % 5 == 3:
        return Outcome(number, point, "stopped", loss(point) + 1, epoch=1.5)
    return Outcome(number, point, "ok", loss(point), (point[5] - 0.25,))


def drive(optimizer: Any, flight: int = 1, judge: Callable[[int, Point], Outcome] = judged) -> list[Point]:
    """BUDGET points, `flight` of them pending at any time; the oldest but one is told first."""
    points: list[Point] = []
    pending: list[Outcome] = []
    while len(points) < BUDGET or pending:
        wanted = min(flight - len(pending), BUDGET - len(points))
        proposals: list[Proposal] = list(optimizer.ask(wanted)) if wanted else []
        for proposal in proposals:
            points.append(proposal.point)
            pending.append(judge(len(points), proposal.point))
        if not pending:
            break
        optimizer.tell(pending.pop(min(1, len(pending) - 1)))
    return points


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("flight", [1, 3])
def test_in_bounds_and_the_same_again(kind: type, flight: int) -> None:
    points = drive(made(kind), flight)
    assert len(points) == BUDGET
    for point in points:
        values = SPACE.decode(point)  # raises outside of the bounds, and for whole variables that are not
        assert all(isinstance(x, float) for x in point)
        assert SPACE.encode(values)[:3] == point[:3]
    assert drive(made(kind), flight) == points
    assert drive(made(kind, seed=4), flight) != points


@pytest.mark.parametrize("kind", [Random, TPE, GP, CMAES])
def test_x0_comes_first(kind: type) -> None:
    assert drive(made(kind))[:2] == X0


@pytest.mark.parametrize("kind", [Sobol, LHS, Grid])
def test_designs_of_their_own(kind: type) -> None:
    points = drive(made(kind))
    assert len(set(points)) == BUDGET
    assert points == drive(made(kind), 5, lambda number, point: Outcome(number, point, "failed", math.inf))


@pytest.mark.parametrize("kind", ALL)
def test_nothing_on_the_terminal(kind: type, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive(made(kind), 2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO, "another study of the process was silenced"


def test_sobol_is_balanced_from_its_first_point() -> None:
    """Of 8 points each half, quarter and eighth of a variable has its share."""
    points = [proposal.point for proposal in Sobol(Space({"x": Variable(float=(0, 8))}), [], 8, 1).ask(8)]
    assert sorted(math.floor(point[0]) for point in points) == list(range(8))


def test_a_choice_of_numbers_is_ordered_by_value() -> None:
    distributions = TPE(SPACE, X0, BUDGET, 0)._distributions
    assert distributions["rank"] == optuna.distributions.IntDistribution(1, 5)
    assert isinstance(distributions["shape"], optuna.distributions.CategoricalDistribution)
    assert set(distributions) == set(SPACE.free)
    study = TPE(SPACE, X0, BUDGET, 0)
    study.ask(2)
    assert [trial.params["rank"] for trial in study._study.trials] == [2, 5], "8 is second of 4, 8..., 64 last"


def line(failing: Callable[[float], bool]) -> Callable[[int, Point], Outcome]:
    """Least at 1, where the points for which `failing` fail."""

    def judge(number: int, point: Point) -> Outcome:
        if failing(point[0]):
            return Outcome(number, point, "failed", math.inf)
        return Outcome(number, point, "ok", 1 - point[0])

    return judge


@pytest.mark.parametrize(
    ("kind", "settings", "seeds"), [(TPE, {}, 3), (GP, {"n_startup_trials": 12}, 1), (CMAES, {}, 3)]
)
def test_a_region_of_failures_repels(kind: Any, settings: dict[str, int], seeds: int) -> None:
    """The loss falls towards a cliff at 0.6. A sampler that forgot failures would go on beyond it."""
    space = Space({"x": Variable(float=(0, 1)), "y": Variable(float=(0, 1))})
    beyond = []
    for seed in range(seeds):
        optimizer, last = kind(space, [(0.5, 0.5)], 30, seed, **settings), []
        for number in range(1, 31):
            (proposal,) = optimizer.ask(1)
            optimizer.tell(line(lambda x: x > 0.6)(number, proposal.point))
            last.append(proposal.point[0] > 0.6)
        beyond.append(sum(last[-12:]))
    assert sum(beyond) <= 6 * seeds, beyond


def test_failures_before_the_count_of_constraints_is_known() -> None:
    """GPSampler raises where trials have unequal counts."""

    def judge(number: int, point: Point) -> Outcome:
        if number < 4:
            return Outcome(number, point, "failed", math.inf)
        return Outcome(number, point, "ok", loss(point), (1.0, -1.0))

    for kind in (TPE, GP):
        optimizer = made(kind)
        assert len(drive(optimizer, 1, judge)) == BUDGET
        assert [trial.constraints["0"] for trial in optimizer._study.trials[:4]] == [math.inf] * 3 + [1]


def test_what_each_is_told() -> None:
    def told(kind: Any, outcome: Outcome) -> tuple[str, float | None]:
        optimizer = made(kind)
        _, second = optimizer.ask(2)
        optimizer.tell(Outcome(2, second.point, "ok", 1.0, outcome.constraints))
        optimizer.tell(outcome)
        trial = optimizer._study.trials[0]
        return trial.state.name, trial.value

    failed, stopped = Outcome(1, X0[0], "failed", math.inf), Outcome(1, X0[0], "stopped", 2.5, epoch=1.5)
    assert [told(kind, failed) for kind in (TPE, GP, CMAES)] == [("COMPLETE", math.inf)] * 3
    assert [told(kind, stopped) for kind in (TPE, GP, CMAES)] == [("PRUNED", 2.5), *[("COMPLETE", 2.5)] * 2]
    little, much = (told(CMAES, Outcome(1, X0[0], "ok", -9.0, (x,)))[1] or 0 for x in (0.1, 0.2))
    assert 1e9 < little < much < math.inf


def test_pruned_trials_rank_by_their_epoch() -> None:
    optimizer = made(TPE)
    optimizer.ask(2)
    optimizer.tell(Outcome(2, X0[1], "ok", 1.0))
    optimizer.tell(Outcome(1, X0[0], "stopped", 2.5, epoch=1.5))
    assert optimizer._study.trials[0].intermediate_values == {1500: 2.5}


@pytest.mark.parametrize("kind", [TPE, GP])
def test_a_start_up_as_long_as_the_budget_is_refused(kind: Any) -> None:
    with pytest.raises(InputError, match="--set n_startup_trials: 10 random points of a budget of 10"):
        kind(SPACE, X0, 10, 0)
    kind(SPACE, X0, 11, 0)


@pytest.mark.parametrize("settings", [{"popsize": 1}, {"popsize": BUDGET}, {"sigma0": 0.0}])
def test_bad_settings_of_cmaes(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--set (popsize|sigma0)"):
        CMAES(SPACE, X0, BUDGET, 0, **settings)


@pytest.mark.parametrize("kind", [TPE, CMAES])
def test_better_than_random(kind: type) -> None:
    def best(kind: Any, seed: int) -> float:
        optimizer, losses = kind(SPACE, X0, 60, seed), []
        for number in range(1, 61):
            (proposal,) = optimizer.ask(1)
            losses.append(loss(proposal.point))
            optimizer.tell(Outcome(number, proposal.point, "ok", losses[-1]))
        return min(losses)

    assert sum(best(kind, seed) for seed in range(5)) < sum(best(Random, seed) for seed in range(5))


@pytest.mark.parametrize("budget", [1, 7, 20])
def test_lhs_has_every_level_equally_often(budget: int) -> None:
    points = [proposal.point for proposal in LHS(SPACE, X0, budget, 0).ask(budget + 5)]
    assert len(points) == budget
    for place, levels in ((0, 5), (1, 64), (2, 3)):
        counts = Counter(point[place] for point in points)
        assert {counts[x] for x in range(1, levels + 1)} <= {budget // levels, -(-budget // levels)}
    assert sorted(math.floor((point[5]) / 0.3 * budget) for point in points) == list(range(budget))


def grid(budget: int, **variables: Variable) -> list[Point]:
    points = [proposal.point for proposal in Grid(Space(variables), [], budget, 0).ask(10**6)]
    assert len(set(points)) == len(points)
    return points


def test_grid_levels() -> None:
    x, y = Variable(float=(0, 1)), Variable(log10=(-3, -1))
    assert sorted(grid(4, x=x, y=y)) == [(0, -3), (0, -1), (1, -3), (1, -1)]
    assert {point[0] for point in grid(27, x=x, y=y, z=x)} == {0, 0.5, 1}, "3^3 = 27: three levels, not four"
    assert grid(1, x=x) == [(0.5,)]
    assert {point[0] for point in grid(5, x=Variable(int=(1, 9)))} == {1, 3, 5, 7, 9}
    few = Variable(choice=("a", "b"))
    assert len({point[1] for point in grid(20, c=few, x=x)}) == 10, "levels rise until the budget is reached"
    many = Variable(choice=tuple(range(10)))
    assert {point[1] for point in grid(20, c=many, x=x)} == {0, 0.25, 0.5, 0.75, 1}, "ceil(20^(1/2)), also beside many"
    assert sorted(grid(20, c=few, i=Variable(int=(1, 3)))) == [(c, i) for c in (1, 2) for i in (1, 2, 3)]
    assert len(grid(50, **{f"v{place}": Variable(choice=tuple(range(10))) for place in range(12)})) == 50
    assert len(grid(3, x=Variable(int=(0, 10**9)))) == 3
