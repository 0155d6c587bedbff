"""The replay of stopping rules on recorded curves."""

import math
from pathlib import Path

from bbo.experiment import Stopping, read_experiment
from benchmarks import stopping
from benchmarks.stopping import Curve, draw, experiment_in, figures, replay

ASHA = Stopping(rule="asha")


def curve(*losses: float, failed: bool = False) -> Curve:
    return Curve((0.0,), losses, failed, 1.0)


def test_what_a_rule_saves_and_costs() -> None:
    """Rungs after 1 and 3 epochs of 4; the third is a late bloomer, the fourth is worse all along."""
    curves = [curve(3, 3, 3, 3), curve(2, 2, 2, 2), curve(4, 1, 1, 1), curve(5, 5, 5, 5), curve(1, 1, 1, 0.5)]
    done = replay(ASHA, curves, 4, 4)
    assert (done.epochs, done.whole, done.stopped, done.improvers) == (4 + 4 + 1 + 1, 16, 2, 1)
    assert (done.best, done.best_without, done.best_for_the_same) == (2, 1, 0.5)


def test_failed_ones_are_no_best_and_spend_what_they_spent() -> None:
    done = replay(ASHA, [curve(1, 1), curve(2, failed=True)], 2, 4)
    assert (done.stopped, done.improvers) == (1, 0), "it was worse before it diverged"
    done = replay(ASHA, [curve(failed=True), curve(1, failed=True), curve(2, 2, 2, 2)], 3, 4)
    assert (done.epochs, done.whole, done.best) == (2, 5, math.inf)
    done = replay(ASHA, [curve(3, failed=True), curve(2, 2, 2, 2)], 2, 4)
    assert (done.epochs, done.whole, done.best) == (5, 5, 2)


def test_no_rule_changes_nothing() -> None:
    curves = [curve(3, 3, 3, 3), curve(2, 2, 2, 2), curve(4, 1, 1, 1)]
    done = replay(Stopping(), curves, 2, 4)
    assert (done.epochs, done.whole, done.stopped, done.best, done.best_for_the_same) == (8, 8, 0, 2, 2)


def test_the_points_are_quickstarts(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, 6)
    quickstart = read_experiment(stopping.YAML)
    assert experiment.space.variables == quickstart.space.variables
    assert experiment.training == quickstart.training | {"num_train_epochs": 6}
    points = draw(experiment.space, 64)
    assert points == draw(experiment.space, 64) and len(set(points)) == 64
    for point in points:
        experiment.space.decode(point)


def test_figures() -> None:
    curves = [curve(1.0 * n, 1.0 * n, 1.0 * n, 1.0 * n) for n in range(1, 9)]
    content = figures(curves, seeds=2, count=6, epochs=4)
    asha = content["rules"]["asha"]
    assert len(asha["replays"]) == 2 and asha["worse_in"] == 0 and 0 < asha["epochs_saved"] < 1
    stopping.show(content)
