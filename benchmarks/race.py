"""Runs of optimizers on problems, each finished one a line of a JSONL file, so that a race goes on where it was."""

import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.problem import Problem, Recorder, regret

Play = Callable[[Recorder], None]
"""Lets an optimizer spend the budget of a recorder."""

Made = Callable[[int], Problem]
"""The problem that a seed's run is about."""

Run = tuple[str, str, int]
"""Names of problem and optimizer, and the seed."""


@dataclass(frozen=True)
class Race:
    """Who runs on what."""

    problems: Mapping[str, Made]
    optimizers: Mapping[str, Play]
    budget: int

    def run(self, problem: str, optimizer: str, seed: int) -> dict[str, Any]:
        """One run. An optimizer that dies is on record with what it had until then."""
        made = self.problems[problem](seed)
        recorder = Recorder(made, seed, self.budget)
        began, died = time.perf_counter(), None
        try:
            self.optimizers[optimizer](recorder)
        except Exception as error:  # any peer's own; a race of days must not end with it
            died = f"{type(error).__name__}: {error}"
        return {
            "problem": problem,
            "optimizer": optimizer,
            "seed": seed,
            "budget": self.budget,
            "observed": recorder.observed,
            "true": recorder.true,
            "first": made.value(made.x0),
            "best": made.best,
            "seconds": round(time.perf_counter() - began, 3),
            "died": died,
        }


def finished(file: Path) -> dict[Run, dict[str, Any]]:
    """The runs on record; a line that was torn is none."""
    runs: dict[Run, dict[str, Any]] = {}
    if file.is_file():
        for line in file.read_text().splitlines():
            try:
                run = json.loads(line)
            except json.JSONDecodeError:
                continue
            runs[run["problem"], run["optimizer"], run["seed"]] = run
    return runs


def race(race_: Race, seeds: Iterable[int], file: Path, jobs: int = 1) -> list[dict[str, Any]]:
    """All runs, those of `file` as they stand there and the others added to it, seed by seed."""
    known = finished(file)
    wanted = [(p, o, s) for s in seeds for p in race_.problems for o in race_.optimizers]
    file.parent.mkdir(parents=True, exist_ok=True)
    torn = file.is_file() and file.stat().st_size and not file.read_text().endswith("\n")
    fork = multiprocessing.get_context("fork")  # what is fitted and closed over needs no pickling
    with file.open("a") as out, ProcessPoolExecutor(jobs, fork, _take, (race_,)) as pool:
        out.write("\n" if torn else "")
        for future in as_completed([pool.submit(_run, run) for run in wanted if not _fits(known.get(run), race_)]):
            run = future.result()
            known[run["problem"], run["optimizer"], run["seed"]] = run
            out.write(json.dumps(run) + "\n")
            out.flush()
    return [known[run] for run in wanted]


def _fits(run: Mapping[str, Any] | None, race_: Race) -> bool:
    return run is not None and run["budget"] == race_.budget


_race: Race | None = None


def _take(race_: Race) -> None:
    global _race  # noqa: PLW0603 - a process of the pool has one race
    _race = race_


def _run(run: Run) -> dict[str, Any]:
    assert _race is not None
    return _race.run(*run)


def merit(run: Mapping[str, Any], evaluations: int) -> float:
    """Normalised regret after so many evaluations, or after all where the optimizer stopped before; Inf after none."""
    observed, true = run["observed"][:evaluations], run["true"][:evaluations]
    return regret(observed, true, run["first"], run["best"]) if observed else math.inf


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summary(
    runs: Iterable[Mapping[str, Any]], evaluations: Sequence[int]
) -> dict[tuple[str, str], dict[int, tuple[float, float, float]]]:
    """Quartiles over the seeds, by (problem, optimizer) and number of evaluations."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        grouped.setdefault((run["problem"], run["optimizer"]), []).append(run)
    return {
        key: {n: quartiles([merit(run, n) for run in group]) for n in evaluations} for key, group in grouped.items()
    }
