"""`python -m blackbox.trial --set NAME=VALUE ...`: one trial of Katib's (bbo/katib/render.py).

The experiment's YAML comes in the environment. What is evaluated is kept in runs/NAME/evals below the current folder:
on a volume that the trials share, none is paid for twice. Printed are the outputs as `name=value`, for Katib's StdOut
metrics collector, under their own names and signs.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bbo.errors import InputError
from bbo.experiment import Experiment, read_experiment
from bbo.katib.parameters import hyperparameters, metric_name
from bbo.katib.render import EXPERIMENT, NAME
from bbo.run import Run, find_run
from bbo.store import Result, Stopped, Store
from blackbox.block import Blackbox
from blackbox.eval import progress_of
from blackbox.launch import launch_command
from blackbox.nodes import OVER, Notes, our_nodes
from blackbox.program import exit_status


def main() -> int:
    """Exit status 0 with the metrics; 1 where the point failed or the input is bad; 3 where the machine failed."""
    parser = argparse.ArgumentParser("python -m blackbox.trial", allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable, as Katib has it")
    options = parser.parse_args()
    return exit_status(lambda: _trial(options.set))


def _trial(statements: Sequence[str]) -> int:
    given = os.environ.get(EXPERIMENT), os.environ.get(NAME)
    if not all(given):
        raise InputError(f"{EXPERIMENT} and {NAME}: not set: `bbo katib` renders the trials that have them")
    text, name = map(str, given)
    texts = {variable: value for variable, _, value in (statement.partition("=") for statement in statements)}
    run = find_run(name)
    experiment = read_experiment(_written(text, run.folder / f"{name}.yaml"))
    experiment.base.mkdir(parents=True, exist_ok=True)  # ../data is reached through it
    try:
        return _part(experiment, run, texts)
    except InputError as error:
        raise experiment.located(error) from None


def _written(text: str, file: Path) -> Path:
    """The YAML beside the evaluations, where every machine of a trial sees it; all trials write the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.uname().nodename}-{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, file)
    return file


def _part(experiment: Experiment, run: Run, texts: Mapping[str, str]) -> int:
    """Our part of the trial: all of it on the first machine, or the only one."""
    store = Store(run.evals)
    blackbox = Blackbox(experiment, store, run.preflight_file)
    nodes = our_nodes()
    if nodes is None:
        return _evaluate(blackbox, texts)
    notes = Notes(store.jobs, nodes)
    if nodes.rank > 0:
        about = blackbox.processes, blackbox.executor.devices, experiment.accelerate
        return notes.follow(nodes.rank, lambda job_file: launch_command(job_file, *about))
    notes.begin()
    status = 3
    try:
        status = _evaluate(blackbox, texts)
    except InputError:
        status = 1
        raise
    finally:
        notes.add(f"{OVER}{status}")
    return status


def _evaluate(blackbox: Blackbox, texts: Mapping[str, str]) -> int:
    experiment = blackbox.experiment
    point, values = hyperparameters(experiment.space, texts)
    candidate = blackbox.candidate(values, point)
    evaluation = blackbox.store.evaluation(candidate.key)
    print(f"evaluation {evaluation.folder}", file=sys.stderr, flush=True)
    told: list[Result | Stopped] = []
    with progress_of(evaluation, sys.stderr):
        blackbox.evaluate([candidate], lambda _, ended, source: told.append(ended))
    (ended,) = told
    if experiment.resources.kept == 0:
        evaluation.drop_weights()
    if isinstance(ended, Stopped) or ended.status == "failed":
        print(f"failed: {ended.reason}", file=sys.stderr)
        return 1
    for output in experiment.outputs:
        print(f"{metric_name(output.metric)}={float(ended.metrics[output.metric])!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
