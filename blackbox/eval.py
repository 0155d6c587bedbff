"""`python -m blackbox.eval x.txt`: one point, for people. The debugging command is the production command."""

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.points import format_answer, format_point, read_points, read_text
from bbo.run import find_run
from bbo.space import Point, Space, Value
from bbo.store import Evaluation, Result, Stopped, Store
from blackbox.block import Blackbox, Source
from blackbox.program import exit_status

QUICKSTART = Path(__file__).parent.parent / "params" / "quickstart.yaml"

EPILOG = """x.txt holds either one row of coordinates, as NOMAD writes them, or true values:
  2 16 1 -3.5                    lora_rank: 8
                                 lora_alpha: 16
                                 ...
examples:
  python -m blackbox.eval x.txt -e params/bbo3.yaml
  python -m blackbox.eval runs/quickstart/evals/3f2a91c07b5d4e68/point.txt --again"""


def main() -> int:
    """Exit status 0 with a good evaluation, 1 for bad input, 3 when the evaluation failed or could not be made."""
    parser = argparse.ArgumentParser(
        "python -m blackbox.eval", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("point", metavar="x.txt", type=Path, help="one point")
    parser.add_argument(
        "-e",
        "--experiment",
        type=Path,
        help="params/NAME.yaml (default: experiment.yaml beside x.txt, else quickstart)",
    )
    parser.add_argument(
        "--fidelity", metavar="NAME", help="as of `python -m blackbox` (default: the stored evaluation's, else full)"
    )
    parser.add_argument("--again", action="store_true", help="train it although the store knows the result")
    options = parser.parse_args()
    return exit_status(lambda: _evaluate(options.point, options.experiment, options.again, options.fidelity))


def _evaluate(point_file: Path, experiment_file: Path | None, again: bool, fidelity: str | None) -> int:
    beside = point_file.parent / "experiment.yaml"
    text = read_text(point_file)  # before all else: a missing point file should not be called a bad experiment
    experiment = read_experiment(experiment_file or (beside if beside.is_file() else QUICKSTART))
    # No process stays behind after one point.
    experiment = replace(experiment, resources=experiment.resources.model_copy(update={"worker": "fresh"}))
    try:
        stored = beside.is_file() and experiment_file is None
        return _evaluate_with(experiment, text, point_file, stored, again, fidelity)
    except InputError as error:
        raise experiment.located(error) from None


def _evaluate_with(
    experiment: Experiment, text: str, point_file: Path, stored: bool, again: bool, fidelity: str | None
) -> int:
    """`stored`: the point file stands in an evaluation's folder, whose store is meant."""
    root = point_file.absolute().parent.parent if stored else find_run(experiment.name).evals
    point, hyperparameters = _read(text, point_file, experiment.space)
    store = Store(root)
    blackbox = Blackbox(experiment, store, root.parent / "preflight.json")
    names = list(experiment.fidelities) if fidelity is None else [fidelity]
    parts: list[tuple[Mapping[str, float], str | None]] = [(experiment.fidelity(name), None) for name in names]
    known = store.evaluation(point_file.absolute().parent.name).result() if stored and fidelity is None else None
    if known is not None and known.parent is not None:
        if again:
            raise InputError(f"{point_file}: an interval goes on from another's state and is not trained again alone")
        parts = [(known.fidelity, known.parent)]
    candidates = [blackbox.candidate(hyperparameters, point, *part) for part in parts]
    own = [c for c in candidates if c.key == point_file.absolute().parent.name]  # a stored one is named by its key
    candidate = (own or candidates)[0]
    print(f"experiment       {experiment.path}")
    print(f"point            {format_point(point)}")
    if candidate.fidelity:
        print(f"fidelity         {'  '.join(f'{name} {value:g}' for name, value in candidate.fidelity.items())}")
    for name, value in hyperparameters.items():
        print(f"  {name:<22} {value}")
    print(f"evaluation       {store.evaluation(candidate.key).folder}", flush=True)
    before = store.evaluation(candidate.key).result() if again else None
    where = Store(root / f".again-{os.getpid()}") if before else store
    told: list[tuple[Result | Stopped, Source]] = []
    with progress_of(where.evaluation(candidate.key)):
        Blackbox(experiment, where, blackbox.preflight_file).evaluate(
            [candidate], lambda _, result, source: told.append((result, source))
        )
    ended, source = told[0]
    if isinstance(ended, Stopped):
        print(f"stopped at epoch {ended.epoch:g} ({ended.reason})")
        return 3
    if before:
        _replace(store.evaluation(candidate.key).folder, where.evaluation(candidate.key).folder)
    return _show(experiment, store.evaluation(candidate.key), ended, source, before)


def _read(text: str, file: Path, space: Space) -> tuple[Point, dict[str, Value]]:
    """The point both ways, whichever way it was written. Raises InputError."""
    try:
        if not any(":" in line.split("#")[0] for line in text.splitlines()):
            points = read_points(file, len(space.free))
            if len(points) > 1:
                raise InputError(f"{file}:2: {len(points)} points, this command evaluates one")
            return points[0], space.decode(points[0])
        named = _named(text, file)
        point = space.encode(named)
        # The values as written, not their way there and back: an exponent need not give exactly 3e-4.
        return point, {**space.decode(point), **named}
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"{file}: {error}") from None


def _named(text: str, file: Path) -> dict[str, Value]:
    """`name: value` lines; each name once."""
    named: dict[str, Value] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, colon, value = (part.strip() for part in line.split("#")[0].partition(":"))
        if not name and not colon:
            continue
        if not (name and colon and value) or name in named:
            raise InputError(f"{file}:{number}: must be `name: value`, each name once, got {line.strip()!r}")
        named[name] = _value(value)
    return named


def _value(word: str) -> Value:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    if word in ("true", "false"):
        return word == "true"
    return tuple(word.strip("[]").replace(",", " ").split()) if word.startswith("[") else word.strip("'\"")


@contextmanager
def progress_of(evaluation: Evaluation, file: TextIO | None = None) -> Iterator[None]:
    """Print (on stdout where no other file is given) what the trainer notes while it trains."""
    over = threading.Event()

    def follow() -> None:
        shown = 0
        while not over.wait(0.2):
            try:
                lines = evaluation.progress_file.read_text().splitlines()
            except OSError:
                continue
            shown = min(shown, len(lines))  # a fresh attempt begins a fresh file
            for line in lines[shown:]:
                entry = json.loads(line)
                print("  " + "  ".join(f"{name} {value:.6g}" for name, value in entry.items()), file=file, flush=True)
            shown = len(lines)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        time.sleep(0.3 if evaluation.progress_file.is_file() else 0)
        over.set()
        thread.join()


def _replace(old: Path, new: Path) -> None:
    """Put the fresh evaluation in the old one's place; at every moment one of the two is whole on disk."""
    aside = old.with_name(f".{old.name}.before-{os.getpid()}")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside)
    shutil.rmtree(new.parent, ignore_errors=True)


def _show(experiment: Experiment, evaluation: Evaluation, result: Result, source: Source, before: Result | None) -> int:
    if evaluation.applied_file.is_file():
        print("applied, as read back from the live model, optimizer and schedule")
        for name, value in json.loads(evaluation.applied_file.read_text()).items():
            print(f"  {name:<22} {value}")
    print("from the store" if source == "store" else f"{source} in {result.seconds:.1f} s")
    for name, metric in result.metrics.items():
        was = f"   (before: {before.metrics[name]:.8g})" if before and name in before.metrics else ""
        print(f"  {name:<22} {metric:.8g}{was}")
    if result.status == "failed":
        print(f"failed: {result.reason}")
    good = result.status == "ok"
    values = [output.value(result.metrics) if good else output.failed for output in experiment.outputs]
    print(f"NOMAD would read {format_answer(values, len(values))}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
