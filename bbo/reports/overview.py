"""A run in numbers: the best and what it gained, what was evaluated, what it took."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import bbo
from bbo.best import Searched, good_points
from bbo.experiment import Output
from bbo.front import front
from bbo.record import Entry, Record
from bbo.reports.trace import Trace, read_trace
from bbo.store import Result


@dataclass(frozen=True)
class Overview:
    """All that a report says of one run; scores with the metric's own sign."""

    record: Record
    entries: Sequence[Entry]

    @property
    def output(self) -> Output:
        """The (first) objective."""
        return self.record.experiment.outputs[self.record.experiment.objective]

    @property
    def optimizer(self) -> str:
        about = self.record.run.about()
        return str(about.get("optimizer", "nomad" if self.record.log.driven else "native NOMAD"))

    @cached_property
    def over(self) -> list[Entry]:
        """What has been evaluated: neither declined nor under way."""
        return [entry for entry in self.entries if entry.status not in ("declined", "pending")]

    @cached_property
    def counts(self) -> Counter[str]:
        """By status; beside them `trained` and `store`, where good results came from."""
        sources = (
            e.answer.source for e in self.over if e.answer is not None and e.answer.source in ("trained", "store")
        )
        return Counter(entry.status for entry in self.entries) + Counter(sources)

    @cached_property
    def reasons(self) -> Counter[str]:
        """Why evaluations failed."""
        return Counter(entry.reason or "no reason given" for entry in self.entries if entry.status == "failed")

    @cached_property
    def front(self) -> list[Entry]:
        """The best evaluation, or the front; empty where nothing is good."""
        rank = self.record.experiment.rank
        ranks = {entry.ask.number: rank(entry.values or ()) for entry in self.over if entry.status == "ok"}
        by_number = {entry.ask.number: entry for entry in self.over}
        return [by_number[number] for number in front(ranks)]

    @property
    def best(self) -> Entry | None:
        """By the (first) objective."""
        return self.front[0] if self.front else None

    def value(self, entry: Entry) -> float | None:
        """Of the (first) objective; None where it was not measured to the end."""
        told = entry.values
        return None if told is None else self.output.sign * told[self.record.experiment.objective]

    @cached_property
    def base(self) -> float | None:
        """The untouched base model's score."""
        return (self.record.run.base_score() or {}).get(self.output.metric)

    @property
    def intervals(self) -> bool:
        """Whether its evaluations are parts of trainings, which go on from one another."""
        return any(result.parent is not None for result in self._results)

    @cached_property
    def x0(self) -> float | None:
        """Of the first starting point that has a score; None where that is of a part of a training."""
        if self.intervals:
            return None
        about = self.record.run.about()
        points = {tuple(map(float, point)) for point in about.get("problem", {}).get("X0", about.get("x0", ()))}
        scores = (self.value(entry) for entry in self.over if entry.ask.point in points)
        return next((score for score in scores if score is not None and math.isfinite(score)), None)

    def gain(self, entry: Entry, over: float | None) -> float | None:
        """How much better an evaluation is: positive where it is."""
        value = self.value(entry)
        return None if value is None or over is None else self.output.sign * (over - value)

    @cached_property
    def trace(self) -> Trace:
        """Where all is asked for at a fraction of the epochs, that is an evaluation; an interval is a part of one."""
        record = self.record
        fractions = [ask.fidelity.get("epochs_fraction", 1.0) for ask in record.asks]
        whole = 1.0 if self.intervals else max(fractions, default=1.0)
        return read_trace(record.experiment, record.log, record.store, 0, whole)

    @property
    def answered(self) -> list[float | None]:
        """The value of each evaluation in the order in which the answers came, as in the trace."""
        return [self.output.sign * loss if math.isfinite(loss) else None for loss in self.trace.losses]

    @property
    def on_gpus(self) -> bool:
        return bool(self.trace.gpu_seconds) and self.trace.gpu_seconds[-1] > 0

    @property
    def wall_seconds(self) -> float:
        """From the first ask to the last answer, pauses between two starts included."""
        times = [answer.time for answer in self.record.log.arrived]
        return max(times) - self.record.log.asks[0].time if times else 0.0

    @cached_property
    def phases(self) -> dict[str, float]:
        """Seconds of start, load, train and score, of every different evaluation that has a result."""
        total: Counter[str] = Counter()
        for result in self._results:
            total.update(result.phases)
        return dict(total)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of the libraries; several where they changed on the way."""
        about = self.record.run.about()
        ours = {"bbo": bbo.__version__, **about.get("libraries", {})}
        ours |= {"PyNomadBBO": about["nomad"]} if "nomad" in about else {}
        found: dict[str, dict[str, None]] = {name: {version: None} for name, version in ours.items()}
        for name, version in chain.from_iterable(result.versions.items() for result in self._results):
            if name not in ours:
                found.setdefault(name, {})[version] = None
        return {name: " and ".join(versions) for name, versions in found.items()}

    @cached_property
    def _results(self) -> list[Result]:
        return list({e.ask.key: e.result for e in self.entries if e.result is not None}.values())

    @cached_property
    def searched(self) -> Searched | None:
        """For what follows a search; None where nothing is good."""
        good = good_points(self.record)
        return Searched(self.record.run, self.record.experiment, self.record.store, good) if good else None

    @cached_property
    def confirmed(self) -> Mapping[str, Any] | None:
        """What `bbo confirm` found."""
        return None if self.searched is None else self.searched.confirmed()

    @cached_property
    def disk(self) -> int:
        """Bytes of the run folder, its report left out, and of its evaluations, wherever they are."""
        run, mine = self.record.run, self.record.run.folder.absolute()
        folders = (entry.evaluation.folder.absolute() for entry in self.entries)
        outside = [folder for folder in folders if mine not in folder.parents]
        return disk_usage([run.folder, *outside]) - disk_usage([run.report])


def read_overview(record: Record) -> Overview:
    return Overview(record, record.entries())


def disk_usage(folders: Sequence[Path]) -> int:
    """Bytes of all files below; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for top in folders:
        for where, _, names in os.walk(top):
            for name in names:
                try:
                    found = os.lstat(os.path.join(where, name))
                except FileNotFoundError:  # the run goes on
                    continue
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
