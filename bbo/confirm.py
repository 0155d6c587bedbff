"""`bbo confirm RUN`: a run's best points again, with other training seeds."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bbo.best import Good, Searched, read_searched
from bbo.display import describe
from bbo.experiment import Experiment
from bbo.program import Program
from bbo.reports import confirmed as reports
from bbo.reports.confirmed import Repeated
from bbo.reports.text import show
from bbo.store import Store, write_json


def confirm(name: str, top: int, seeds: int, console: Console, as_json: bool) -> int:
    """Exit statuses: 0 done, 3 where no evaluation was good. Raises InputError, and then nothing is changed."""
    searched = read_searched(name)
    if "seed" in searched.experiment.space.variables:
        raise searched.experiment.error("space.seed", "the training's seed is a variable of this run: confirm sets it")
    best = searched.good[:top]
    for good in best:
        good.require_whole()
    if searched.remark:
        console.print(searched.remark, style="yellow")
    if len(best) < top:
        console.print(f"{searched.run.folder} has {len(best)} good points, not {top}", style="yellow")
    points = [_repeated(place, good) for place, good in enumerate(best, 1)]
    planned = _evaluate(searched, points, seeds, console)
    output = searched.experiment.outputs[searched.experiment.objective]
    report = reports.confirm(searched.run.name, output.metric, output.sign, planned, points)
    content = reports.as_json(report)
    write_json(searched.confirmed_file, content)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        show(reports.text(report, {point.name: describe(point.hyperparameters) for point in points}), console)
        console.print(f"numbers: {searched.confirmed_file}", highlight=False, markup=False, soft_wrap=True)
    return 0 if report.points[0].values else 3


def _repeated(place: int, good: Good) -> Repeated:
    ask = good.ask
    return Repeated(ask.number, good.evaluation.key, ask.point, good.hyperparameters, place, good.objective)


def _evaluate(searched: Searched, points: Sequence[Repeated], seeds: int, console: Console) -> list[int]:
    """Fill in the points' values. Returns the seeds."""
    by_key = {good.evaluation.key: good for good in searched.good}
    request = {
        "experiment": str(searched.experiment.path.absolute()),
        "store": str(searched.store.root.absolute()),
        "run": str(searched.run.folder.absolute()),
        "seeds": seeds,
        "points": [
            {"key": p.key, "point": list(p.point), "fidelity": dict(by_key[p.key].ask.fidelity)} for p in points
        ],
    }
    progress = Progress(searched.experiment, searched.store, console)
    with Program("confirm", request, piped=True) as program, progress.shown():
        for line in program.lines():
            entry = json.loads(line)
            if "planned" in entry:
                progress.plan(entry["planned"], points)
            else:
                progress.told(entry)
        status = program.wait()
    if status:
        raise SystemExit(status)
    return sorted({seed for _, seed in progress.places.values()})


@dataclass
class Progress:
    """Puts each answer where it belongs, with a line for it; a live line for those under way."""

    experiment: Experiment
    store: Store
    console: Console
    places: dict[str, tuple[Repeated, int]] = field(default_factory=dict)
    """Key of an evaluation -> its point and seed."""
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def plan(self, planned: Sequence[Mapping[str, Any]], points: Sequence[Repeated]) -> None:
        for each in planned:
            point = points[each["point"]]
            point.keys[each["seed"]] = each["key"]
            self.places[each["key"]] = point, each["seed"]
        known = sum(self.store.evaluation(key).result() is not None for key in self.places)
        words = f"{len(points)} points with {len(planned) // len(points)} seeds: {len(self.places)} evaluations"
        self.console.print(f"{words}, {known} of them known", highlight=False, markup=False)

    def told(self, entry: Mapping[str, Any]) -> None:
        point, seed = self.places[entry["key"]]
        self.done += 1
        output, values = self.experiment.outputs[self.experiment.objective], entry["values"]
        if entry["reason"] is not None:
            point.bad[seed], words = entry["reason"], f"failed: {entry['reason']}"
        else:
            value = values[self.experiment.objective]
            words = f"{output.metric} {output.sign * value:.5g}"
            if self.experiment.rank(values)[0]:
                point.bad[seed] = f"{words}, but a constraint is violated"
                words = point.bad[seed]
            else:
                point.values[seed] = value
        known = "" if entry["source"] == "trained" else "  (from the store)"
        words = f"[{self.done}/{len(self.places)}] {point.name} seed {seed}: {words}{known}  {self._clock()}"
        self.console.print(words, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, transient=True, refresh_per_second=2, get_renderable=self._status):
            yield

    def _status(self) -> Text:
        epochs = [self.store.evaluation(key).epochs() for key in self.places]
        steps = [(lines[-1]["step"], lines[-1]["steps"]) for lines in epochs if lines]
        share = sum(step / whole for step, whole in steps) / max(1, len(self.places))
        words = f"{self.done} of {len(self.places)} evaluations, {share:.0%} of all epochs, {self._clock()}"
        return Text(words, style="cyan", overflow="ellipsis", no_wrap=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02}"
