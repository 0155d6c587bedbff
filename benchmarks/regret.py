"""`python -m benchmarks.regret [TABLE.csv --objective COLUMN [--maximize] --space FILE.yaml] --json FILE`: a race.

On a surrogate fitted to a recorded table of real trainings (benchmarks/surrogate.py says what stands in FILE.yaml), or
on the closed forms of benchmarks/functions.py where no table is given: `--functions ridge,cliff` or all. All optimizers
by default; those whose name ends with x4 get their points in blocks of four. Normalised regret is (f - f*) / (f(X0) -
f*), f the true value of the point that was observed to be best, f* the best value that is known. Finished runs stand
beside the JSON, in FILE's stem + .jsonl, and are not repeated; `--report` shows those alone. It judges nothing.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from benchmarks import report
from benchmarks.functions import FAMILIES, instance
from benchmarks.problem import Problem
from benchmarks.race import Made, Race, finished, race, summary
from benchmarks.racers import racers

EVALUATIONS = (10, 20, 50)

Runs = Sequence[Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        problems, about = _problems(options)
        chosen = _chosen(options.optimizers, racers(), "--optimizers")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    wanted = Race(problems, chosen, options.budget)
    file = options.json.with_suffix(".jsonl")
    runs: Runs = (
        [run for run in finished(file).values() if run["problem"] in problems and run["optimizer"] in chosen]
        if options.report
        else race(wanted, range(options.seeds), file, options.jobs)
    )
    report.write(options.json, {"problems": about, "budget": options.budget, "results": results(runs)})
    show(results(runs))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.regret", description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", help="recorded trainings, CSV")
    parser.add_argument("--objective", metavar="COLUMN")
    parser.add_argument("--maximize", action="store_true", help="the objective is better where it is larger")
    parser.add_argument("--space", type=Path, metavar="FILE.yaml", help="benchmarks/spaces/ has some")
    parser.add_argument(
        "--functions", metavar="NAMES", help="closed forms, with commas between (default without a table: all)"
    )
    parser.add_argument("--optimizers", metavar="NAMES", help="with commas between (default: all)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=max(EVALUATIONS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--report", action="store_true", help="run nothing, show what is on record")
    parser.add_argument("--json", type=Path, required=True)
    return parser


def _problems(options: argparse.Namespace) -> tuple[dict[str, Made], dict[str, Any]]:
    problems: dict[str, Made] = {}
    about: dict[str, Any] = {}
    if options.table is not None:
        if options.objective is None or options.space is None:
            raise InputError("TABLE.csv needs --objective COLUMN and --space FILE.yaml")
        name = f"{options.space.stem} {options.objective}"
        problem, about[name] = _surrogate(options)
        problems[name] = lambda _: problem
    if options.functions is not None or options.table is None:
        problems |= {name: partial(instance, name) for name in _chosen(options.functions, FAMILIES, "--functions")}
    return problems, about


def _surrogate(options: argparse.Namespace) -> tuple[Problem, dict[str, Any]]:
    from benchmarks.surrogate import fit, read_table  # noqa: PLC0415 - scikit-learn

    fitted = fit(read_table(options.table, options.objective, options.maximize, options.space))
    problem = fitted.problem
    first = problem.value(problem.x0)
    errors = ", ".join(f"{model} {error:.4g}" for model, error in fitted.errors.items())
    print(f"{options.table}: {fitted.model} (cross-validated error: {errors}; the values' spread {fitted.spread:.4g})")
    print(f"noise {problem.noise:.4g}: {fitted.noise_from}")
    print(f"f(X0) {first:.4g}, best known {problem.best:.4g}, failed rows {fitted.failed}", flush=True)
    if problem.noise > abs(first - problem.best):
        print("the noise is larger than f(X0) - f*: regret here is mostly chance")
    about = {
        "model": fitted.model,
        "cross_validated_rmse": fitted.errors,
        "spread": fitted.spread,
        "noise": problem.noise,
        "noise_from": fitted.noise_from,
        "failed_rows": fitted.failed,
        "first": first,
        "best": problem.best,
    }
    return problem, about


def _chosen(names: str | None, known: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Those named, with what is known of them. Raises InputError."""
    wanted = list(known) if names is None or names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(f"{option}: no such name: {', '.join(unknown)} (there are {', '.join(known)})")
    return {name: known[name] for name in wanted}


def results(runs: Runs) -> dict[str, dict[str, dict[str, Any]]]:
    """By problem and optimizer: quartiles of the regret by number of evaluations, seeds, seconds, deaths."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (problem, optimizer), quartiles in summary(runs, EVALUATIONS).items():
        own = [run for run in runs if (run["problem"], run["optimizer"]) == (problem, optimizer)]
        found.setdefault(problem, {})[optimizer] = {
            **{str(n): values for n, values in quartiles.items()},
            "seeds": len(own),
            "died": sum(run["died"] is not None for run in own),
            "seconds": statistics.median(run["seconds"] for run in own),
        }
    return found


def show(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """A table for each problem, best after all evaluations first, and one of the means over the problems."""
    columns = [*(f"regret at {n} (quartiles)" for n in EVALUATIONS), "seeds", "seconds"]
    for problem, optimizers in found.items():
        ordered = sorted(optimizers.items(), key=lambda item: item[1][str(EVALUATIONS[-1])][1])
        rows = [
            [name, *(_cell(row[str(n)]) for n in EVALUATIONS), _seeds(row), row["seconds"]] for name, row in ordered
        ]
        report.table(problem, ["median of the seeds", *columns], rows)
    complete = [
        name for name in dict.fromkeys(n for o in found.values() for n in o) if all(name in o for o in found.values())
    ]
    if len(found) > 1 and complete:
        means: list[tuple[str, list[float]]] = [
            (name, [statistics.fmean(o[name][str(n)][1] for o in found.values()) for n in EVALUATIONS])
            for name in complete
        ]
        means.sort(key=lambda item: item[1][-1])
        rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in means]
        report.table(f"{len(found)} problems", ["mean of the medians", *(f"regret at {n}" for n in EVALUATIONS)], rows)


def _cell(quartiles: Sequence[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.2f}-{high:.2f})"


def _seeds(row: Mapping[str, Any]) -> str:
    return f"{row['seeds']}" + (f", {row['died']} died" if row["died"] else "")


if __name__ == "__main__":
    sys.exit(main())
