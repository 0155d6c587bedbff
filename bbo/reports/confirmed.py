"""What other training seeds say about a search's best points: who is best, who ties, who was lucky.

A search keeps the lowest of many noisy values, so the value of its winner is too good: it counts for nothing here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bbo.reports.significance import LEVEL, Pair, mean, paired_t, pairs
from bbo.reports.text import Table, Text, measured

FEWEST = 2
"""Seeds of a pair that can be compared."""

Verdict = Literal["best", "tie", "worse", "too few seeds"]


@dataclass
class Repeated:
    """A point of a search, trained again with fresh seeds. Values as told: smaller is better."""

    number: int
    """Of its ask in the run log."""
    key: str
    """Of the search's evaluation."""
    point: Sequence[float]
    hyperparameters: Mapping[str, Any]
    place: int
    """In the search, from 1."""
    searched: float
    values: dict[int, float] = field(default_factory=dict)
    """Seed -> objective, of the good evaluations."""
    bad: dict[int, str] = field(default_factory=dict)
    """Seed -> why its evaluation counts for nothing."""
    keys: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"#{self.number}"

    @property
    def mean(self) -> tuple[float, float | None]:
        """With its standard error; infinite without a good evaluation."""
        return mean(list(self.values.values())) if self.values else (math.inf, None)


@dataclass(frozen=True)
class Confirmed:
    """The report."""

    run: str
    metric: str
    sign: float
    """-1 where the metric is maximized."""
    seeds: Sequence[int]
    points: Sequence[Repeated]
    """The best first: by the number of bad evaluations, then by the mean."""
    pairs: Sequence[Pair]

    @property
    def demoted(self) -> Repeated | None:
        """The search's winner, where it is not the best any more."""
        winner = min(self.points, key=lambda point: point.place)
        return None if winner is self.points[0] else winner

    def verdict(self, point: Repeated) -> Verdict:
        """Of a point against the best."""
        best = self.points[0]
        if point is best:
            return "best"
        if len(point.bad) > len(best.bad):
            return "worse"
        pair = next(pair for pair in self.pairs if {pair.a, pair.b} == {best.name, point.name})
        if pair.verdict in ("tie", "too few seeds"):
            return "tie" if pair.verdict == "tie" else "too few seeds"
        return "worse"


def confirm(run: str, metric: str, sign: float, seeds: Sequence[int], points: Sequence[Repeated]) -> Confirmed:
    """Put the points in order and compare every two on the seeds that both have."""
    order = sorted(points, key=lambda point: (len(point.bad), point.mean[0], point.place))
    tests = pairs({point.name: point.values for point in order}, paired_t, FEWEST)
    return Confirmed(run, metric, sign, seeds, order, tests)


def as_json(confirmed: Confirmed) -> dict[str, Any]:
    """confirmed.json: values with the metric's own sign, the best first."""
    sign = confirmed.sign
    return {
        "run": confirmed.run,
        "metric": confirmed.metric,
        "better": "higher" if sign < 0 else "lower",
        "seeds": list(confirmed.seeds),
        "winner_demoted": confirmed.demoted is not None,
        "points": [
            {
                "evaluation": point.number,
                "key": point.key,
                "point": list(point.point),
                "hyperparameters": dict(point.hyperparameters),
                "place_in_search": point.place,
                "searched": sign * point.searched,
                "mean": sign * point.mean[0] if point.values else None,
                "standard_error": point.mean[1],
                "values": {str(seed): sign * value for seed, value in point.values.items()},
                "bad": {str(seed): reason for seed, reason in point.bad.items()},
                "keys": {str(seed): key for seed, key in point.keys.items()},
                "verdict": confirmed.verdict(point),
            }
            for point in confirmed.points
        ],
        "pairs": [
            {"a": pair.a, "b": pair.b, "seeds": pair.seeds, "p": pair.p, "holm": pair.holm} for pair in confirmed.pairs
        ],
    }


def text(confirmed: Confirmed, describe: Mapping[str, str]) -> Text:
    """In words and a table. `describe` says each point's hyperparameters by its name."""
    better = "higher" if confirmed.sign < 0 else "lower"
    title = f"{confirmed.run}: {confirmed.metric} with other training seeds ({better} is better)"
    columns = ["point", "mean", "seeds", "in the search", "place there", "verdict"]
    rows = [
        [
            point.name,
            measured(confirmed.sign * point.mean[0], point.mean[1]) if point.values else "-",
            f"{len(point.values)}" + (f" ({len(point.bad)} bad)" if point.bad else ""),
            f"{confirmed.sign * point.searched:.5g}",
            str(point.place),
            confirmed.verdict(point),
        ]
        for point in confirmed.points
    ]
    meant = [f"{point.name}: {describe[point.name]}" for point in confirmed.points]
    return Text(title, [*_lead(confirmed), *meant], [Table("The best points again", columns, rows)], _notes(confirmed))


def _lead(confirmed: Confirmed) -> list[str]:
    best = confirmed.points[0]
    lines = [f"Best mean: {best.name}."]
    for verdict, words in {"tie": "Tied with it", "too few seeds": "Too few seeds to judge"}.items():
        if names := [point.name for point in confirmed.points if confirmed.verdict(point) == verdict]:
            lines.append(f"{words}: {', '.join(names)}.")
    if (winner := confirmed.demoted) is not None:
        found = f"{confirmed.metric} {confirmed.sign * winner.searched:.5g}"
        now = measured(confirmed.sign * winner.mean[0], winner.mean[1]) if winner.values else "no good evaluation"
        luck = "" if confirmed.verdict(winner) == "worse" else ", a difference within the noise"
        lines.append(f"Warning: the search's winner {winner.name} ({found}) is not the best: {now}{luck}.")
    return [" ".join(lines)]


def _notes(confirmed: Confirmed) -> list[str]:
    seeds = ", ".join(map(str, confirmed.seeds))
    notes = [
        f"Training seeds {seeds}, none of them the search's: a search's best value is chosen for being low, and is too "
        "good. Mean ± standard error over these seeds."
    ]
    tested = [pair for pair in confirmed.pairs if pair.p is not None]
    if tested:
        notes.append(
            f"Student's paired test on the seeds that two points share, corrected by Holm for {len(tested)} test(s), "
            f"at {LEVEL:g}. A tie is a difference that these seeds cannot tell from noise."
        )
    for point in confirmed.points:
        notes += [f"{point.name}, seed {seed}: {reason}" for seed, reason in point.bad.items()]
    return notes
