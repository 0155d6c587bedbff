"""`python -m benchmarks.nomad_settings --json FILE [--block 4]`: NOMAD's settings for small mixed spaces, measured.

Chosen on every other family of benchmarks/functions.py, reported on those between. First each candidate alone against
NOMAD's defaults; then those that were better, best first, each kept if it improves what has been chosen before it. The
score is the mean over the families of the median normalised regret after 20 and after 50 evaluations. Finished runs
stand beside the JSON, in FILE's stem + .jsonl, and are not repeated. It measures and judges nothing.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.functions import FAMILIES, instance
from benchmarks.race import Race, race, summary
from benchmarks.racers import nomad

EVALUATIONS = (10, 20, 50)
CHOOSING, REPORTING = list(FAMILIES)[::2], list(FAMILIES)[1::2]
MEGA = "MEGA_SEARCH_POLL yes"

CANDIDATES = (
    "INITIAL_FRAME_SIZE %0.2",
    "INITIAL_FRAME_SIZE %0.3",
    "DIRECTION_TYPE ORTHO 2N",
    "QUAD_MODEL_SEARCH no",
    "NM_SEARCH no",
    "SPECULATIVE_SEARCH no",
    "SPECULATIVE_SEARCH no; SIMPLE_LINE_SEARCH yes",
    "LH_SEARCH 4 0",
    "LH_SEARCH 8 0",
    "VNS_MADS_SEARCH yes",
    "EVAL_OPPORTUNISTIC no",
    "EVAL_QUEUE_SORT DIR_LAST_SUCCESS",
    "ANISOTROPIC_MESH no",
    "BB_INPUT_TYPE * R",
    MEGA,
)
"""Lines of a parameter file, `; ` between two; %0.2 is a fifth of each variable's range, and under BB_INPUT_TYPE * R
the blackbox rounds. SGTELIB_MODEL_SEARCH is not among them, since it aborts PyNomad 4.5.1 whatever its
model, nor GRANULARITY, which refuses an X0 that is no multiple of it.
"""

Settings = tuple[str, ...]
"""Candidates that hold together."""


def _lines(settings: Settings) -> list[str]:
    return [line for candidate in settings for line in candidate.split("; ")]


def _keywords(settings: Settings) -> set[str]:
    return {line.split()[0] for line in _lines(settings)}


class Scorer:
    """Runs settings on families, and remembers."""

    def __init__(self, seeds: int, block: int, runs: Path, jobs: int) -> None:
        self._seeds, self._block, self._runs, self._jobs = seeds, block, runs, jobs

    def medians(self, settings: Settings, families: Sequence[str]) -> dict[str, dict[int, float]]:
        """Median regret by family and number of evaluations."""
        name = "; ".join(settings) or "defaults"
        made = {family: partial(instance, family) for family in families}
        wanted = Race(made, {name: partial(nomad, _lines(settings), block=self._block)}, max(EVALUATIONS))
        runs = race(wanted, range(self._seeds), self._runs, self._jobs)
        if died := sum(run["died"] is not None for run in runs):
            print(f"{name}: {died} runs of {len(runs)} died", file=sys.stderr)
        found = summary(runs, EVALUATIONS)
        return {family: {n: found[family, name][n][1] for n in EVALUATIONS} for family in families}

    def score(self, settings: Settings, families: Sequence[str] = CHOOSING) -> dict[int, float]:
        """Means over the families."""
        medians = self.medians(settings, families).values()
        return {n: statistics.fmean(median[n] for median in medians) for n in EVALUATIONS}


def single(score: dict[int, float]) -> float:
    return (score[20] + score[50]) / 2


def choose(scorer: Scorer, start: Settings, candidates: Sequence[str]) -> tuple[Settings, list[dict[str, Any]]]:
    """The settings kept, and every one that was tried."""
    tried: list[dict[str, Any]] = []

    def measured(settings: Settings) -> float:
        score = scorer.score(settings)
        tried.append({"settings": settings, "score": single(score), **{str(n): score[n] for n in EVALUATIONS}})
        print(f"{single(score):.4f}  {'; '.join(settings) or 'defaults'}", flush=True)
        return single(score)

    chosen, best = start, measured(start)
    alone = {candidate: measured((*start, candidate)) for candidate in candidates if candidate not in start}
    for candidate in sorted(alone, key=alone.__getitem__):
        if alone[candidate] >= tried[0]["score"]:
            break
        if _keywords((candidate,)) & _keywords(chosen):
            continue
        score = alone[candidate] if chosen == start else measured((*chosen, candidate))
        if score < best:
            chosen, best = (*chosen, candidate), score
    return chosen, tried


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.nomad_settings", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--block", type=int, default=1, help="points of a block (default: 1, one after another)")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--candidates", metavar="LINES", help="with commas between (default: all of CANDIDATES)")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    scorer = Scorer(options.seeds, options.block, options.json.with_suffix(".jsonl"), options.jobs)
    start = (MEGA,) if options.block > 1 else ()
    chosen, tried = choose(scorer, start, options.candidates.split(",") if options.candidates else CANDIDATES)
    print(f"chosen: {'; '.join(chosen) or 'defaults'}")
    ways = {"before": start, "chosen": chosen}
    reported = {way: scorer.medians(settings, REPORTING) for way, settings in ways.items()}
    content = {"block": options.block, "seeds": options.seeds, "chosen": chosen, "tried": tried, "reported": reported}
    report.write(options.json, {**content, "chosen_on": CHOOSING, "reported_on": REPORTING})
    columns = ["median normalised regret", *(f"{way}, {n}" for n in EVALUATIONS for way in ways)]
    rows: list[list[object]] = [
        [family, *(reported[way][family][n] for n in EVALUATIONS for way in ways)] for family in REPORTING
    ]
    means = [statistics.fmean(reported[way][f][n] for f in REPORTING) for n in EVALUATIONS for way in ways]
    title = f"NOMAD, {options.seeds} seeds, blocks of {options.block}: on families that were not chosen on"
    report.table(title, columns, [*rows, ["mean", *means]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
