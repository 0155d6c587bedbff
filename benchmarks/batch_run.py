"""NOMAD's batch run on a function of this process: `PyNomad.optimize` in a child, one for each run.

Its trajectory is that of `nomad FILE` with the same parameters, without files and processes for each evaluation.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from bbo.space import Point, Variable
from benchmarks.problem import Problem, Recorder


def batch_run(recorder: Recorder, settings: Sequence[str], block: int = 1) -> None:
    """Let NOMAD spend the recorder's budget in a child process, under these lines of a parameter file."""
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(there, recorder, settings, block))
    child.start()
    there.close()
    try:
        recorder.points, recorder.observed, recorder.true = here.recv()
    except EOFError:
        raise RuntimeError(f"{recorder.problem.name}: NOMAD died under {list(settings)}") from None
    finally:
        child.join()


def _child(pipe: Connection, recorder: Recorder, settings: Sequence[str], block: int) -> None:
    import PyNomad  # noqa: PLC0415 - in the child only, for it may take its process with it

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # NOMAD writes to the C library's stdout

    def evaluate(points: Any) -> Any:
        if block == 1:
            return _evaluate(points, recorder)
        return [_evaluate(points.get_x(i), recorder) for i in range(points.size())]

    problem = recorder.problem
    variables = [problem.space.variables[name] for name in problem.space.free]
    lower, upper = [v.lower for v in variables], [v.upper for v in variables]
    PyNomad.optimize(evaluate, list(problem.x0), lower, upper, lines(problem, recorder, settings, block))
    pipe.send((recorder.points, recorder.observed, recorder.true))


def lines(problem: Problem, recorder: Recorder, settings: Sequence[str], block: int) -> list[str]:
    """The parameters of a run; `settings` come last."""
    variables = [problem.space.variables[name] for name in problem.space.free]
    types = " ".join("I" if variable.whole else "R" for variable in variables)
    typed = [] if any(line.startswith("BB_INPUT_TYPE") for line in settings) else [f"BB_INPUT_TYPE ( {types} )"]
    fixed = [*typed, "BB_OUTPUT_TYPE OBJ", "DISPLAY_DEGREE 0", f"SEED {recorder.seed}"]
    blocks = [f"BB_MAX_BLOCK_SIZE {block}"] if block > 1 else []
    return [*fixed, f"MAX_BB_EVAL {recorder.budget}", *blocks, *(scaled(line, variables) for line in settings)]


def scaled(line: str, variables: Sequence[Variable]) -> str:
    """A line with `%0.25` for a quarter of each variable's range, at least 1 where the variable is whole."""
    keyword, *words = line.split()
    if len(words) != 1 or not words[0].startswith("%"):
        return line
    share = float(words[0][1:])
    sizes = [max(1, round(share * (v.upper - v.lower))) if v.whole else share * (v.upper - v.lower) for v in variables]
    return f"{keyword} ( {' '.join(f'{size:g}' for size in sizes)} )"


def _evaluate(point: Any, recorder: Recorder) -> int:
    """Inf is what a failed training tells; a non-number declines a point behind the budget."""
    declined = not recorder.left
    coordinates: Point = tuple(point.get_coord(i) for i in range(point.size()))
    value = recorder(coordinates)
    point.setBBO(b"nan" if declined else repr(value).encode())
    return 0 if declined else 1
