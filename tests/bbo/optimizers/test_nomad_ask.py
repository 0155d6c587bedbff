"""NOMAD as ask / tell proposes what its batch run evaluates."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from bbo.errors import InputError
from bbo.optimizers import Outcome
from bbo.optimizers.nomad import Nomad
from bbo.space import Point, Space, Variable
from tests.bbo.optimizers.batch import BOX, batch_run, bowl, constrained, failing, plain

SPACE = Space(
    {
        "rank": Variable(choice=(2, 4, 8, 16, 32, 64)),
        "alpha": Variable(int=(1, 64)),
        "single": Variable(int=(3, 3)),
        "rate": Variable(log10=(-5, -1)),
        "dropout": Variable(float=(0, 0.3)),
        "fixed": Variable(fixed=7),
    }
)
X0 = [(3, 16, 3, -4.5, 0.1)]


def varying(point: Point) -> Point:
    return point[:2] + point[3:]


def outcome(number: int, point: Point, line: str) -> Outcome:
    value, *constraints = map(float, line.split())
    if value == math.inf:
        return Outcome(number, point, "failed", math.inf)
    return Outcome(number, point, "ok", value, tuple(constraints))


def walk(optimizer: Nomad, function: Callable[[Sequence[float]], str], count: int = 1) -> list[Point]:
    """All points until NOMAD has finished; those of an ask are told in reverse."""
    points: list[Point] = []
    while proposals := optimizer.ask(count):
        assert len(proposals) <= count
        for place, proposal in reversed(list(enumerate(proposals, start=len(points) + 1))):
            SPACE.decode(proposal.point)
            assert proposal.point[2] == 3
            optimizer.tell(outcome(place, proposal.point, function(varying(proposal.point))))
        points += [varying(proposal.point) for proposal in proposals]
    return points


@pytest.mark.parametrize("function", [plain, failing, constrained])
@pytest.mark.parametrize("block_size", [1, 4])
def test_equals_the_batch_run(tmp_path: Path, function: Callable[[Sequence[float]], str], block_size: int) -> None:
    statements = ["BB_OUTPUT_TYPE OBJ" + " PB" * (function is constrained), *BOX, "SEED 5", "MAX_BB_EVAL 40"]
    if block_size > 1:
        statements += [f"BB_MAX_BLOCK_SIZE {block_size}", "MEGA_SEARCH_POLL yes"]
    batch = batch_run(tmp_path, function, *statements)
    assert len(batch) >= 40
    assert walk(Nomad(SPACE, X0, 40, 5, block_size=block_size), function, block_size) == batch
    if block_size > 1:
        assert walk(Nomad(SPACE, X0, 40, 5, block_size=block_size), function, 3) == batch


def test_settings_are_statements(tmp_path: Path) -> None:
    statements = ["DIRECTION_TYPE ORTHO 2N", "QUAD_MODEL_SEARCH no", "SEED 5", "MAX_BB_EVAL 30"]
    batch = batch_run(tmp_path, plain, "BB_OUTPUT_TYPE OBJ", *BOX, *statements)
    ours = Nomad(SPACE, X0, 30, 5, direction_type="ORTHO 2N", parameters="QUAD_MODEL_SEARCH  no; ")
    assert walk(ours, plain) == batch


def test_fewer_points_while_it_must_hear_of_others() -> None:
    nomad = Nomad(SPACE, X0, 40, 5, block_size=4)
    (first,) = nomad.ask(4)
    assert first.point == X0[0]
    assert nomad.ask(4) == []
    nomad.tell(outcome(1, first.point, plain(varying(first.point))))
    one, *rest = nomad.ask(1) + nomad.ask(9)
    assert 1 <= len(rest) <= 3
    nomad.tell(outcome(2, one.point, "1"))
    assert nomad.ask(1) == []


def test_ends_where_its_mesh_does() -> None:
    whole = Space({"a": Variable(int=(0, 6)), "b": Variable(choice=("x", "y", "z"))})
    # Where all variables are whole NOMAD looks for a new point 5,000 times before it ends (5 seconds).
    nomad = Nomad(whole, [], 500, 0, parameters="MAX_EVAL 100")
    told = 0
    while proposals := nomad.ask(1):
        told += 1
        nomad.tell(outcome(told, proposals[0].point, repr(sum(proposals[0].point))))
    assert 3 < told <= 21
    assert nomad.ask(1) == []


def test_several_x0() -> None:
    nomad = Nomad(SPACE, [*X0, (1, 1, 3, -1, 0)], 40, 5)
    assert set(walk(nomad, plain)[:2]) == {(3, 16, -4.5, 0.1), (1, 1, -1, 0)}


def test_a_failed_x0_does_not_hide_the_constraints() -> None:
    """Their count is learnt from the first good point, and NOMAD led through what is known."""

    def function(point: Sequence[float]) -> str:
        return "Inf" if tuple(point) == (3, 16, -4.5, 0.1) else f"{bowl(point)!r} {point[1] - 30!r}"

    points = walk(Nomad(SPACE, X0, 60, 5), function)
    assert len(points) >= 60
    assert len(set(points)) == len(points)
    assert min(bowl(p) for p in points if p[1] <= 30) < 0.35  # 0.25 is the least under the constraint


def test_a_stopped_point_is_no_incumbent() -> None:
    """Half of the points are stopped at a loss of -5, where nothing can be as low: as if told the incumbent's loss."""

    def drive(stopped: bool) -> list[Point]:
        nomad, incumbent, points = Nomad(SPACE, X0, 40, 5), math.inf, []
        while proposals := nomad.ask(1):
            point = proposals[0].point
            points.append(point)
            if len(points) % 2 == 0:
                status, value = ("stopped", -5.0) if stopped else ("ok", max(-5.0, incumbent))
            else:
                status, value = "ok", bowl(varying(point))
                incumbent = min(incumbent, value)
            nomad.tell(Outcome(len(points), point, status, value))  # type: ignore[arg-type]
        return points

    assert drive(True) == drive(False)


def test_a_larger_budget_keeps_the_beginning() -> None:
    assert walk(Nomad(SPACE, X0, 60, 5), plain)[:30] == walk(Nomad(SPACE, X0, 30, 5), plain)[:30]


BAD = [
    ({"parameters": "DIRECTION_TYPES x"}, "--set parameters: DIRECTION_TYPES is no keyword of NOMAD: did you mean"),
    ({"parameters": "SEED 3"}, "--set parameters: SEED is set for you"),
    ({"parameters": "LH_SEARCH many"}, "--set parameters: LH_SEARCH many: must be"),
    ({"direction_type": "X"}, "--set direction_type: DIRECTION_TYPE X: must be"),
    ({"block_size": 0}, "--set block_size: must be at least 1, got 0"),
]


@pytest.mark.parametrize(("settings", "said"), BAD)
def test_bad_settings_are_one_sentence(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Nomad(SPACE, X0, 40, 5, **settings)  # type: ignore[arg-type]


def test_the_child_dies_with_us() -> None:
    code = (
        "from tests.bbo.optimizers.test_nomad_ask import *; nomad = Nomad(SPACE, X0, 40, 5); nomad.ask(1);"
        "print(nomad._mads._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    until = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_child_ends_with_the_optimizer(capfd: pytest.CaptureFixture[str]) -> None:
    nomad = Nomad(SPACE, X0, 40, 5)
    nomad.ask(1)
    process = nomad._mads._process
    assert process is not None and process.poll() is None
    del nomad
    assert process.poll() is not None
    assert capfd.readouterr() == ("", "")
