"""`python -m benchmarks.optimizers`: every optimizer once through the real blackbox, quickstart's trainings.

Each is a `bbo run` of its own, with a small budget, all on one store: what another has trained is not trained again, so
that wall times say little. The same command goes on where it was. It shows that each works, and ranks nothing: that is
`bbo compare`. Exit status 1 where one did not finish.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbo.experiment import Experiment
from bbo.lifeline import ENVIRONMENT as LIFELINE
from bbo.optimizers import registry
from bbo.race import BBO, read_pair
from bbo.reports.trace import read_trace
from bbo.run import Run
from bbo.store import Store, write_json
from benchmarks import report

FILE = Path(__file__).parent.parent / "params" / "quickstart.txt"

FOLDER = Path("runs/benchmark-optimizers")

STARTUP = {name: "n_startup_trials" for name in ("tpe", "bohb", "gp")} | {"nsgaii": "population_size"}
"""How many random points these begin with: half of the budget, so that they propose as well."""

COLUMNS = ["optimizer", "best", "evaluations", "trained", "store", "failed", "stopped", "seconds", "ended"]


def complete(name: str, options: argparse.Namespace) -> None:
    """Run one optimizer to its end, unless it has come there before; how it ended stands beside its run."""
    ended = FOLDER / f"{name}.json"
    known = json.loads(ended.read_text()) if ended.is_file() else {}
    if (known.get("status"), known.get("budget")) == (0, options.budget):
        return
    words = ["run", options.file, "--optimizer", name, "--seed", "0", "--budget", options.budget]
    words += ["--run", (FOLDER / name).absolute(), "--store", (FOLDER / "evals").absolute()]
    words += ["--set", f"{STARTUP[name]}={options.budget // 2}"] if name in STARTUP else []
    began = time.monotonic()
    with (FOLDER / f"{name}.out").open("wb") as output:
        child = subprocess.Popen(
            [*BBO, *map(str, words)], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | {LIFELINE: "1"},
        )  # fmt: skip
        status = child.wait()
    write_json(ended, {"status": status, "budget": options.budget, "seconds": time.monotonic() - began})


def figures(name: str, experiment: Experiment) -> dict[str, Any]:
    """What a run gave: of its log, of the store and of how it ended."""
    ended = json.loads((FOLDER / f"{name}.json").read_text())
    trace = read_trace(experiment, Run(FOLDER / name).log(), Store(FOLDER / "evals"), 0)
    counts = {source: trace.counts[source] for source in ("trained", "store", "failed", "stopped")}
    best = trace.final if math.isfinite(trace.final) else None
    evaluations = trace.evaluations[-1] if trace.evaluations else 0
    return {"best": best, "evaluations": evaluations, **counts, "seconds": ended["seconds"], "status": ended["status"]}


def show(found: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, each in found.items():
        best = "-" if each["best"] is None else f"{each['best']:.4f}"
        how = "well" if each["status"] == 0 else f"status {each['status']}"
        counts = [each[source] for source in ("trained", "store", "failed", "stopped")]
        rows.append([name, best, f"{each['evaluations']:g}", *counts, f"{each['seconds']:.0f}", how])
    report.table("every optimizer through the real blackbox, one store", COLUMNS, rows)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--file", type=Path, default=FILE, help="the params pair (default: quickstart's)")
    parser.add_argument("--budget", type=int, default=8, help="evaluations of each (default: 8)")
    parser.add_argument("--optimizers", default=",".join(registry.OPTIMIZERS), help="default: %(default)s")
    options = parser.parse_args(words)
    _, experiment = read_pair(options.file)
    names = options.optimizers.split(",")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        complete(name, options)
        print(f"{name} is done", flush=True)
    found = {name: figures(name, experiment) for name in names}
    show(found)
    print(f"what each said: {FOLDER}/NAME.out")
    if options.json:
        report.write(options.json, {"budget": options.budget, "optimizers": found})
    return 1 if any(each["status"] != 0 for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
