"""What every optimizer of the registry keeps to: bounds, budget, seed, failures, replay. In process, on the toy."""

import inspect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.optimizers import Optimizer, Outcome, Proposal
from bbo.optimizers.registry import OPTIMIZERS, find, objectives_of, settings_of
from bbo.space import Point, Space, Variable
from tests.conftest import ROOT

SPACE = read_experiment(ROOT / "params/toy.yaml").space
X0 = ((3.0, 16.0, 3.0, -4.5),)
NAMES = [name for name in OPTIMIZERS if name != "bohb"]  # which is tpe
IGNORE_X0 = {"lhs", "sobol", "grid", "soo", "bamsoo"}
UNSEEDED = {"soo", "bamsoo"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    try:
        find(request.param)
    except InputError as error:
        pytest.skip(str(error))
    return str(request.param)


def make(name: str, budget: int = 12, seed: int = 0, space: Space = SPACE, x0: Sequence[Point] = X0) -> Optimizer:
    optimizer: Optimizer = find(name)[0](space=space, x0=x0, budget=budget, seed=seed)
    return optimizer


def evaluate(number: int, point: Point) -> Outcome:
    """A form like the toy's, with a corner in which all fails."""
    rank, alpha, dropout, exponent = point
    step = exponent + math.log10(alpha) - rank * math.log10(2) / 2
    value = 1 + 0.15 * (step + 2.4) ** 2 + 0.02 * (rank - 4) ** 2 + 0.01 * dropout
    return failed(number, point) if step > -1 else Outcome(number, point, "ok", value, (-1.0,))


def failed(number: int, point: Point) -> Outcome:
    return Outcome(number, point, "failed", math.inf)


def stopped(number: int, point: Point) -> Outcome:
    good = evaluate(number, point)
    return good if good.status == "failed" or number % 2 else Outcome(number, point, "stopped", 2.5, (-1.0,), 1.0)


@dataclass
class Course:
    """Leads an optimizer to the end of its budget, with some proposals pending at a time, and notes what was said."""

    optimizer: Optimizer
    count: int = 1
    pending: int = 1
    """Answers come by chance where more than `count` may be pending, else all together."""
    evaluate: Callable[[int, Point], Outcome] = evaluate
    said: list[tuple[int, Sequence[Proposal]] | Outcome] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)

    def run(self, budget: int) -> "Course":
        waiting: list[Outcome] = []
        draw = random.Random(0)
        while True:
            more = True
            while more and len(self.proposals) < budget and len(waiting) + self.count <= self.pending:
                asked = [Proposal(tuple(p.point), p.parent) for p in self.optimizer.ask(self.count)]
                assert len(asked) <= self.count
                self.said.append((self.count, asked))
                for proposal in asked:
                    self.proposals.append(proposal)
                    waiting.append(self.evaluate(len(self.proposals), proposal.point))
                more = bool(asked)
            if not waiting:
                return self
            now = [draw.randrange(len(waiting))] if self.pending > self.count else range(len(waiting))
            for outcome in [waiting[i] for i in now]:
                waiting.remove(outcome)
                self.said.append(outcome)
                self.optimizer.tell(outcome)

    @property
    def points(self) -> list[Point]:
        return [proposal.point for proposal in self.proposals]

    def repeat(self, optimizer: Optimizer) -> None:
        """As bbo/loop.py replays: what was asked in vain is not asked again."""
        for entry in self.said:
            if isinstance(entry, Outcome):
                optimizer.tell(entry)
            elif entry[1]:
                again = [Proposal(tuple(p.point), p.parent) for p in optimizer.ask(entry[0])]
                assert again == entry[1]


def whole(optimizer: Optimizer, budget: int) -> int:
    return budget * int(getattr(optimizer, "intervals", 1))


def test_bounds_types_and_exact_budget(name: str) -> None:
    optimizer = make(name)
    course = Course(optimizer).run(whole(optimizer, 12))
    assert len(course.points) == whole(optimizer, 12)
    for point in course.points:
        assert all(isinstance(x, int | float) for x in point)
        SPACE.decode(point)  # raises for what is out of bounds or not whole
    assert (course.points[0] == X0[0]) == (name not in IGNORE_X0)


def test_a_seed_gives_the_same_points_and_another_others(name: str) -> None:
    one, again, two = (Course(make(name, seed=seed)).run(12).points for seed in (1, 1, 2))
    assert one == again
    assert (one == two) == (name in UNSEEDED)


@pytest.mark.parametrize("outcome", [failed, stopped])
@pytest.mark.parametrize("count", [1, 3])
def test_failed_and_stopped_points_are_understood(
    name: str, outcome: Callable[[int, Point], Outcome], count: int
) -> None:
    optimizer = make(name)
    course = Course(optimizer, count, count, outcome).run(12)
    assert len(course.points) >= (12 if outcome is stopped else 2)
    for point in course.points:
        SPACE.decode(point)
    course.repeat(make(name))


@pytest.mark.parametrize(("count", "pending"), [(1, 1), (4, 4), (1, 3)], ids=["one", "blocks", "asynchronous"])
def test_a_fresh_one_repeats_the_record(name: str, count: int, pending: int) -> None:
    """Nothing but seed and answers counts: not the process's random numbers, nor what was imported or asked before."""
    budget = 12 if name == "gp" else 16  # 10 of which are random; the others take it a second or two each
    course = Course(make(name, budget), count, pending).run(whole(make(name, budget), budget))
    random.seed(123)
    course.repeat(make(name, budget))


def test_a_space_of_few_points(name: str) -> None:
    """More budget than points: proposed again or finished, as the optimizer likes; never wrong, never for ever."""
    variables = {"learning_rate": Variable.model_validate({"choice": [1e-3, 1e-4, 1e-5]})}
    variables["lora_rank"] = Variable.model_validate({"int": [1, 2]})
    space = Space(variables)

    def few(number: int, point: Point) -> Outcome:
        return Outcome(number, point, "ok", sum(point))

    course = Course(make(name, 12, space=space, x0=((1.0, 1.0),)), evaluate=few).run(12)
    assert 1 <= len(course.points) <= 12
    for point in course.points:
        space.decode(point)
    if len(course.points) < 12:
        assert len(set(course.points)) == len(course.points) or name in ("nomad", "pbt")


def test_a_fixed_or_single_variable(name: str) -> None:
    variables = {**SPACE.variables, "lora_dropout": Variable.model_validate({"choice": [0.1]})}
    variables["lora_alpha"] = Variable.model_validate({"fixed": 16})
    space = Space(variables)

    def known(number: int, point: Point) -> Outcome:
        return Outcome(number, point, "ok", (point[0] - 3) ** 2 + (point[2] + 3) ** 2)

    course = Course(make(name, 12, space=space, x0=((3.0, 1.0, -4.5),)), evaluate=known).run(12)
    assert len(course.points) == 12
    for point in course.points:
        space.decode(point)


SEVERAL = [name for name, entry in OPTIMIZERS.items() if entry.several and name != "nomad"]
"""`bbo run` has NOMAD's batch mode for several objectives: tests/bbo/test_objectives.py."""


def several(number: int, point: Point) -> Outcome:
    """Three objectives, and a constraint that some violate."""
    one = evaluate(number, point)
    if one.status == "failed":
        return Outcome(number, point, "failed", math.inf, others=(math.inf, math.inf))
    return Outcome(number, point, "ok", one.objective, (point[2] - 3.5,), others=(point[0], point[1]))


def all_failed(number: int, point: Point) -> Outcome:
    return Outcome(number, point, "failed", math.inf, others=(math.inf, math.inf))


def left_by_hand(number: int, point: Point) -> Outcome:
    if number % 3:
        return several(number, point)
    return Outcome(number, point, "stopped", math.inf, (-1.0,), 1.0, (math.inf, math.inf))


@pytest.mark.parametrize(("count", "pending"), [(4, 4), (1, 3)], ids=["blocks", "asynchronous"])
@pytest.mark.parametrize("outcome", [several, all_failed, left_by_hand])
@pytest.mark.parametrize("name", SEVERAL)
def test_several_objectives(name: str, outcome: Callable[[int, Point], Outcome], count: int, pending: int) -> None:
    """Bounds, budget, seed, failures and replay as with one."""

    def three() -> Optimizer:
        settings = {"n_startup_trials": 9} if name == "gp" else {}
        optimizer: Optimizer = find(name)[0](space=SPACE, x0=X0, budget=12, seed=0, objectives=3, **settings)
        return optimizer

    course = Course(three(), count, pending, outcome).run(12)
    assert len(course.points) == 12
    for point in course.points:
        SPACE.decode(point)
    course.repeat(three())


def test_several_objectives_are_taken_by_those_that_say_so(name: str) -> None:
    found, entry = find(name)
    takes = "objectives" in inspect.signature(found).parameters
    assert entry.several == (takes or name == "nomad")
    assert objectives_of(name, found, 1) == {}
    if entry.several:
        assert objectives_of(name, found, 2) == {"objectives": 2}
        return
    with pytest.raises(
        InputError, match=f"^--optimizer {name}: takes one objective, got 2; several are taken by nomad,"
    ):
        objectives_of(name, found, 2)


@pytest.mark.parametrize("name", ["tpe", "nsgaii"])
def test_a_front_is_found_that_chance_does_not_find(name: str) -> None:
    """Two valleys far apart: half of what a model proposes in the end is near the line between them."""
    space = Space({axis: Variable.model_validate({"float": [-4, 4]}) for axis in "xy"})

    def valleys(number: int, point: Point) -> Outcome:
        x, y = point
        return Outcome(number, point, "ok", (x - 1) ** 2 + y**2, others=((x + 1) ** 2 + y**2,))

    def near(points: Sequence[Point]) -> int:
        return sum(abs(y) < 1 and abs(x) < 2 for x, y in points[-12:])

    def made(which: str, seed: int) -> Optimizer:
        optimizer: Optimizer = find(which)[0](space=space, x0=[], budget=40, seed=seed, objectives=2)
        return optimizer

    found = sum(near(Course(made(name, seed), evaluate=valleys).run(40).points) for seed in range(5))
    assert found >= 25, found  # of 60, where chance has 7.5


def test_settings_are_typed_and_have_defaults(name: str) -> None:
    for kind, default in settings_of(find(name)[0]).values():
        TypeAdapter(kind).validate_python(default, strict=True)


@pytest.mark.parametrize("module", ["study", "samplers", "designs", "nomad", "soo", "bamsoo", "pbt"])
def test_optimizers_never_print_or_write(module: str) -> None:
    file = Path(ROOT / "bbo/optimizers" / f"{module}.py")
    if not file.is_file():
        pytest.skip(f"{file} is not there yet")
    text = file.read_text()
    assert not [word for word in ("print(", "open(", ".write", "logging.getLogger") if word in text]
