"""`python -m blackbox EXPERIMENT.yaml POINTFILE`: k points in, k lines out, in order. What BB_EXE calls."""

import argparse
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from bbo import lifeline
from bbo.errors import InputError, MachineError
from bbo.experiment import FULL, Experiment, read_experiment
from bbo.index import Index
from bbo.points import format_answer, read_parents, read_points
from bbo.replay import SURROGATE, Diverged, Unanswered, heard, take, take_numbered
from bbo.run import ENVIRONMENT, Run, find_run
from bbo.runlog import Answer, Ask, Stop
from bbo.session import ENVIRONMENT as SESSION
from bbo.session import Numbers, Superseded, read_session
from bbo.space import Point
from bbo.stopping import Asked, stopping_of, told_for
from bbo.store import Result, Stopped, Store
from blackbox.block import Blackbox, Source
from blackbox.jobs import Candidate
from blackbox.keep import keeps, prune


def main() -> int:
    """Exit status 0 once a line per point is printed; 1 with a sentence on stderr otherwise."""
    parser = argparse.ArgumentParser("python -m blackbox", allow_abbrev=False)
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", type=Path)
    parser.add_argument("points", metavar="POINTFILE", type=Path)
    fidelity = "one of the experiment's, or epochs_fraction=X,train_fraction=Y (default: full)"
    parser.add_argument("--fidelity", metavar="NAME", default=FULL, help=fidelity)
    parents = "a line per point: key of the evaluation whose captured state it goes on from, or - for none"
    parser.add_argument("--parents", metavar="FILE", type=Path, help=parents)
    options = parser.parse_args()
    wire = os.dup(1)
    os.dup2(2, 1)  # stdout belongs to the wire alone: a library's banner there would be a failed evaluation
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = os.environ.get(ENVIRONMENT)
    lifeline.watch(None if folder is None else end_nomad)
    try:
        answer = _run(folder, options.experiment, options.points, options.fidelity, options.parents)
    except Exception as error:
        _give_up(folder, error)
        return 1
    os.write(wire, answer.encode())
    if folder is not None and SURROGATE in os.environ:
        heard(Run(Path(folder)))
    return 0


def _run(
    folder: str | None, experiment_file: Path, point_file: Path, name: str, parent_file: Path | None = None
) -> str:
    """The lines of the answer."""
    experiment = read_experiment(experiment_file)
    points, fidelity = read_points(point_file, len(experiment.space.free)), experiment.fidelity(name)
    parents = [None] * len(points) if parent_file is None else read_parents(parent_file, len(points))
    try:
        if folder is None:
            return _native(experiment, points, fidelity, parents)
        return _driven(Run(Path(folder)), experiment, points, fidelity, parents)
    except InputError as error:
        raise experiment.located(error) from None


def _native(
    experiment: Experiment, points: list[Point], fidelity: Mapping[str, float], parents: Sequence[str | None]
) -> str:
    """Called by a native NOMAD or by hand: the run is runs/<yaml stem>, without cursor and budget."""
    run = find_run(experiment.name)
    blackbox = Blackbox(experiment, Store(run.evals), run.preflight_file)
    candidates = _candidates(blackbox, points, fidelity, parents)
    index = Index(run, None)
    with index.locked():
        asks = index.ask(points, [c.key for c in candidates], native=True, fidelity=fidelity, surrogate=bool(fidelity))
    return _answer(index, blackbox, asks, {}, candidates, owns_store=True)


def _driven(
    run: Run, experiment: Experiment, points: list[Point], fidelity: Mapping[str, float], parents: Sequence[str | None]
) -> str:
    """Called under a driver: answers from the log at the cursor, then from the store, then trains, up to the budget."""
    session = read_session(run)
    if session.name != os.environ.get(SESSION):
        raise Superseded(session.name)
    store = Store(Path(session.store))
    blackbox = Blackbox(experiment, store, run.preflight_file)
    candidates = _candidates(blackbox, points, fidelity, parents)
    index = Index(run, session)
    keys = [c.key for c in candidates]
    if session.numbered:
        recorded = take_numbered(index, Numbers.ours(), points, keys, fidelity)
    else:
        recorded = take(run, index, session, points, keys, fidelity, SURROGATE in os.environ)
    end = math.inf if session.max_bb_eval is None else session.max_bb_eval
    within = [known.ask if known.evaluation is None or known.evaluation < end else None for known in recorded]
    for known in recorded:
        if known.ask not in within and known.answer is None:
            index.answer(Answer(known.ask.number, None, "declined", time.time()))
    answered = {a.number: a.values for known in recorded if (a := known.answer) and a.values}
    return _answer(index, blackbox, within, answered, candidates, owns_store=store.root == run.evals.absolute())


def _answer(
    index: Index,
    blackbox: Blackbox,
    asks: Sequence[Ask | None],
    answered: dict[int, tuple[float, ...]],
    candidates: Sequence[Candidate],
    owns_store: bool,
) -> str:
    """Get every asked-for candidate's values, log them as they come in; one line per point. None is declined.

    `answered` has the values of asks that the record answers.
    """
    outputs = blackbox.experiment.outputs
    todo = [
        replace(c, asked=_asked(index, blackbox.experiment, c, ask))
        for c, ask in zip(candidates, asks, strict=True)
        if ask is not None and ask.number not in answered
    ]

    def told(candidate: Candidate, ended: Result | Stopped, source: Source) -> None:
        if isinstance(ended, Stopped):
            assert candidate.asked is not None
            answer = told_for(blackbox.experiment, candidate.asked, ended)
        else:
            good = ended.status == "ok"
            values = tuple(output.value(ended.metrics) if good else output.failed for output in outputs)
            answer = Answer(0, values, source, time.time(), ended.job, ended.reason)
        with index.locked():
            for ask in asks:
                if ask is not None and ask.key == candidate.key and ask.number not in answered:
                    answered[ask.number] = answer.values or ()
                    index.answer(replace(answer, number=ask.number))
            if all(ask is None or ask.number in answered for ask in asks):
                prune(index, blackbox.store, blackbox.experiment, owns_store)

    surrogates = {ask.key for ask in asks if ask is not None and ask.surrogate}
    blackbox.evaluate(todo, told, keeps(index, blackbox.experiment, surrogates))
    if not todo:  # what is to be kept may have changed
        prune(index, blackbox.store, blackbox.experiment, owns_store)
    lines = [format_answer(answered[ask.number] if ask else None, len(outputs)) for ask in asks]
    return "\n".join(lines) + "\n"


def _asked(index: Index, experiment: Experiment, candidate: Candidate, ask: Ask) -> Asked:
    """As what this is asked for. The stopping rule is for the whole trainings that a driver's optimizer wants."""
    rule = stopping_of(experiment, index.session.stopping if index.session else "none")
    whole = not ask.native and not ask.surrogate and candidate.parent is None
    stopping = rule.model_dump() if whole and rule.rule != "none" else None
    return Asked(str(index.run.folder.absolute()), ask.number, ask.block, stopping)


def _candidates(
    blackbox: Blackbox, points: list[Point], fidelity: Mapping[str, float], parents: Sequence[str | None]
) -> list[Candidate]:
    space = blackbox.experiment.space
    try:
        return [
            blackbox.candidate(space.decode(point), point, fidelity, parent)
            for point, parent in zip(points, parents, strict=True)
        ]
    except ValueError as error:
        raise InputError(f"{blackbox.experiment.path}: {error}") from None


def _stop(error: Exception) -> Stop:
    """What kind of trouble this is; a mistake of ours counts as the machine's, so that NOMAD sees no failed point."""
    session = os.environ.get(SESSION, "")
    kinds: list[tuple[type[Exception], Literal["input", "diverged", "unanswered", "machine"]]] = [
        (InputError, "input"),
        (Diverged, "diverged"),
        (Unanswered, "unanswered"),
        (MachineError, "machine"),
        (OSError, "machine"),
    ]
    for kind, name in kinds:
        if isinstance(error, kind):
            return Stop(name, str(error), session)
    traceback.print_exception(error)
    return Stop("machine", f"unexpected: {type(error).__name__}: {error}", session)


def _give_up(folder: str | None, error: Exception) -> None:
    """Say why; under a driver note it in the log and end NOMAD at once."""
    if isinstance(error, Superseded):
        end_nomad()
    stop = _stop(error)
    print(stop.reason, file=sys.stderr, flush=True)
    if folder is not None:
        try:
            Run(Path(folder)).log().stop(stop)
        except (OSError, MachineError) as trouble:  # a full disk: the driver still sees that NOMAD was ended
            print(f"cannot write the run log: {trouble}", file=sys.stderr, flush=True)
        end_nomad()


def end_nomad() -> None:
    """End the NOMAD that called us, and ourselves: under a driver it leads our process group."""
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    status = main()
    # The answer leaves at the very end and at once: a process that is killed after its answer was read has failed for
    # NOMAD all the same, and a replay is needed.
    sys.stderr.flush()
    os._exit(status)
