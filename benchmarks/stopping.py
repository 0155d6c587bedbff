"""`python -m benchmarks.stopping --folder DIR`: what the stopping rules would have cost, and saved, on real curves.

Random points of quickstart, with more epochs so that a rule has something to stop, are trained in full, by the
blackbox as a user calls it; what is trained already in DIR is not trained again. Then each rule of bbo/stopping.py is
replayed on the recorded curves: an optimizer asks for points in a random order, one after another, and each is left
where the rule says. Reported over the orders: epochs saved; eventual improvers stopped, the points that would have been
a new incumbent at their end; and the final best with the rule and without, after as many evaluations and after as many
epochs. What the optimizer would have proposed otherwise is no part of it: random search has no such opinion.
It measures and judges nothing.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bbo.experiment import Experiment, Stopping, read_experiment
from bbo.points import format_point
from bbo.space import Point, Space
from bbo.stopping import Study
from bbo.store import Store
from benchmarks import report

ROOT = Path(__file__).parent.parent
YAML = ROOT / "params" / "quickstart.yaml"

BLOCK = 16
"""Points in one call of the blackbox: two packs of eight where there are two cores."""

RULES = {
    "median": Stopping(rule="median"),
    "asha": Stopping(rule="asha"),
    "asha, factor 2": Stopping(rule="asha", reduction_factor=2),
    "asha, from epoch 2": Stopping(rule="asha", min_epochs=2),
    "hyperband": Stopping(rule="hyperband"),
}
"""Those of bbo/stopping.py with their defaults, and two gentler ones."""


@dataclass(frozen=True)
class Curve:
    """The validation losses of one point by epoch; `failed`: it diverged after them."""

    point: Point
    losses: tuple[float, ...]
    failed: bool
    seconds: float

    @property
    def final(self) -> float:
        return math.inf if self.failed else self.losses[-1]


@dataclass(frozen=True)
class Replay:
    """One rule on one order of points."""

    epochs: int
    """Trained, over as many evaluations as without the rule."""
    whole: int
    """Those that they would have had without it."""
    stopped: int
    improvers: int
    """Of the stopped, those whose end is better than all that was complete before."""
    best: float
    best_without: float
    best_for_the_same: float
    """After as many epochs as without the rule, with what these leave room for."""


def replay(stopping: Stopping, curves: Sequence[Curve], count: int, epochs: int) -> Replay:
    """A run that asks for these in their order: `count` of them, and on to the epochs that they take in full."""
    study = Study(stopping, epochs)
    best = best_without = best_for_the_same = math.inf
    spent = whole = stopped = improvers = at_count = 0
    allowed = sum(len(curve.losses) for curve in curves[:count])
    for number, curve in enumerate(curves):
        study.begin()
        asked = range(1, min(len(curve.losses) + 1, epochs))
        left = next((epoch for epoch in asked if study.stops(curve.losses[:epoch])), None)
        was_stopped, until = left is not None, left or len(curve.losses)
        study.stops(curve.losses[:until])
        study.end("stopped" if was_stopped else "failed" if curve.failed else "ok")
        spent += until
        if number < count:
            stopped += was_stopped
            improvers += was_stopped and curve.final < best
            at_count, whole = spent, whole + len(curve.losses)
            best_without = min(best_without, curve.final)
            best = min(best, math.inf if was_stopped else curve.final)
        if spent > allowed:
            break
        best_for_the_same = min(best_for_the_same, math.inf if was_stopped else curve.final)
    return Replay(at_count, whole, stopped, improvers, best, best_without, best_for_the_same)


def trained(folder: Path, experiment: Experiment, points: Sequence[Point]) -> list[Curve]:
    """The curves of these points, in a run folder below `folder`; those that it holds already are only read."""
    store = Store(folder / "runs" / experiment.name / "evals")
    for first in range(0, len(points), BLOCK):
        block = points[first : first + BLOCK]
        if all(point in _results(store) for point in block):
            continue
        file = folder / "points.txt"
        file.write_text("".join(format_point(point) + "\n" for point in block))
        began = time.perf_counter()
        command = [sys.executable, "-m", "blackbox", str(experiment.path), str(file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        print(f"{first + len(block)} of {len(points)} points: {seconds:.0f} s", file=sys.stderr, flush=True)
    found = _results(store)
    return [found[point] for point in points]


def _results(store: Store) -> dict[Point, Curve]:
    curves = {}
    for evaluation in store:
        result = evaluation.result()
        if result is not None and result.point is not None:
            losses = tuple(entry["eval_loss"] for entry in evaluation.epochs())
            point = tuple(result.point)
            curves[point] = Curve(point, losses, result.status == "failed", result.seconds)
    return curves


def experiment_in(folder: Path, epochs: int) -> Experiment:
    """Quickstart with these epochs."""
    content = yaml.safe_load(YAML.read_text())
    content["relative_to"] = str(YAML.parent)
    content["training"]["num_train_epochs"] = epochs
    content["resources"] = {**content["resources"], "keep": "none"}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"epochs{epochs}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of the space is that of coordinates
    return read_experiment(file)


def draw(space: Space, count: int) -> list[Point]:
    """Points that are spread evenly over the coordinates, the same at every call."""
    generator = random.Random(0)
    variables = [space.variables[name] for name in space.free]
    return [
        tuple(
            float(generator.randint(int(v.lower), int(v.upper))) if v.whole else generator.uniform(v.lower, v.upper)
            for v in variables
        )
        for _ in range(count)
    ]


def figures(curves: Sequence[Curve], seeds: int, count: int, epochs: int) -> dict[str, Any]:
    """All rules on all orders, and what they come to."""
    orders = []
    for seed in range(seeds):
        order = list(curves)
        random.Random(seed).shuffle(order)
        orders.append(order)
    rules = {}
    for name, stopping in RULES.items():
        replays = [replay(stopping, order, count, epochs) for order in orders]
        worse, same = ([getattr(r, which) - r.best_without for r in replays] for which in ("best", "best_for_the_same"))
        rules[name] = {
            "settings": stopping.model_dump(),
            "epochs_saved": statistics.mean(1 - r.epochs / r.whole for r in replays),
            "stopped": statistics.mean(r.stopped for r in replays),
            "improvers_stopped": [r.improvers for r in replays],
            "best": statistics.mean(r.best for r in replays),
            "best_without": statistics.mean(r.best_without for r in replays),
            "best_for_the_same_epochs": statistics.mean(r.best_for_the_same for r in replays),
            "worse": _with_error(worse),
            "worse_in": sum(difference > 0 for difference in worse),
            "worse_for_the_same_epochs": _with_error(same),
            "better_for_the_same_epochs_in": sum(difference < 0 for difference in same),
            "worse_for_the_same_epochs_in": sum(difference > 0 for difference in same),
            "replays": [asdict(r) for r in replays],
        }
    return {"points": len(curves), "evaluations": count, "epochs": epochs, "orders": seeds, "rules": rules}


def _with_error(differences: Sequence[float]) -> dict[str, float]:
    """Mean and its standard error."""
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return {"mean": statistics.mean(differences), "error": error}


def show(content: Mapping[str, Any]) -> None:
    orders = content["orders"]
    rows = []
    for name, each in content["rules"].items():
        worse, same = each["worse"], each["worse_for_the_same_epochs"]
        improvers = each["improvers_stopped"]
        rows.append(
            [
                name,
                f"{each['stopped']:.1f}",
                f"{each['epochs_saved']:.0%}",
                f"{sum(improvers)} in {sum(count > 0 for count in improvers)}",
                f"{each['best']:.4f}",
                f"{worse['mean']:+.4f} ± {worse['error']:.4f}, {each['worse_in']}",
                f"{same['mean']:+.4f} ± {same['error']:.4f}, {each['worse_for_the_same_epochs_in']}",
            ]
        )
    without = next(iter(content["rules"].values()))["best_without"]
    title = f"{content['evaluations']} of {content['points']} points, {content['epochs']} epochs, {orders} orders; "
    title += (
        f"best without a rule {without:.4f}. Means; ±: standard error; after the comma: orders in which it is worse"
    )
    columns = ["rule", "stopped", "epochs saved", "improvers stopped", "best", "worse by", "for the same epochs"]
    report.table(title, columns, rows)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, and write the figures as JSON if wished."""
    parser = argparse.ArgumentParser("python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where trainings are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--points", type=int, default=64, help="trained in full (default: 64)")
    parser.add_argument("--evaluations", type=int, default=30, help="of a run without a rule (default: 30)")
    parser.add_argument("--epochs", type=int, default=6, help="of a whole training (default: 6)")
    parser.add_argument("--seeds", type=int, default=10, help="random orders (default: 10)")
    options = parser.parse_args(words)
    experiment = experiment_in(options.folder.absolute(), options.epochs)
    points = draw(experiment.space, options.points)
    curves = trained(options.folder.absolute(), experiment, points)
    content = figures(curves, options.seeds, options.evaluations, options.epochs)
    content["curves"] = [asdict(curve) for curve in curves]
    content["training_seconds"] = sum(curve.seconds for curve in curves)
    show(content)
    print(f"training took {content['training_seconds'] / len(curves):.1f} s per point")
    if options.json:
        report.write(options.json, json.loads(json.dumps(content)))


if __name__ == "__main__":
    main()
