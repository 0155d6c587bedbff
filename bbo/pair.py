"""A params pair: NAME.txt (NOMAD's parameters) and NAME.yaml (what the numbers mean) must say the same."""

import math
from collections.abc import Iterator, Sequence

from bbo.errors import InputError
from bbo.experiment import FULL, Experiment
from bbo.problem import Problem

KINDS = {"OBJ": "OBJ", "PB": "PB", "EB": "PB", "CSTR": "PB", "EXTRA_O": "EXTRA_O"}
"""NOMAD's output types -> the YAML's; whether a constraint is PB or EB is the parameter file's business alone."""


def disagreements(problem: Problem, experiment: Experiment) -> list[str]:
    """One sentence for each thing in which the two files differ; empty when they agree."""
    found = *_variables(problem, experiment), *_outputs(problem, experiment), *_fidelities(problem, experiment)
    return [*_another(problem, experiment), *found]


def fidelity_of(words: Sequence[str]) -> str | None:
    """The fidelity that `$python3 $-m $blackbox NAME.yaml $--fidelity $low` asks for; None for any other command."""
    match words:
        case [_, "$-m", "$blackbox", _]:
            return FULL
        case [_, "$-m", "$blackbox", _, "$--fidelity", name] if name.startswith("$"):
            return name[1:]
    return None


def _another(problem: Problem, experiment: Experiment) -> Iterator[str]:
    """Of a pair that was copied, the parameter file may still name the old YAML."""
    beside = problem.path.with_suffix(".yaml")
    if beside.is_file() and beside.resolve() != experiment.path.resolve():
        yield f"{problem.where('BB_EXE')}: BB_EXE names {experiment.path.name}, but {beside.name} lies beside this file"


def _variables(problem: Problem, experiment: Experiment) -> Iterator[str]:
    free = experiment.space.free
    if problem.dimension != len(free):
        yield (
            f"{problem.where('DIMENSION')}: DIMENSION is {problem.dimension}, but {experiment.path} has "
            f"{len(free)} free variables: {', '.join(free)}"
        )
        return
    for i, name in enumerate(free):
        variable = experiment.space.variables[name]
        allowed = ("I", "B") if variable.whole else ("R",)
        if problem.input_types[i] not in allowed:
            yield (
                f"{problem.where('BB_INPUT_TYPE')}: variable {i + 1} has type {problem.input_types[i]}, but "
                f"{name} in {experiment.path} is of kind {variable.kind} and needs {' or '.join(allowed)}"
            )
        for keyword, mine, its in (
            ("LOWER_BOUND", problem.lower[i], variable.lower),
            ("UPPER_BOUND", problem.upper[i], variable.upper),
        ):
            if mine != its and not (problem.input_types[i] == "B" and math.isinf(mine)):
                yield (
                    f"{problem.where(keyword)}: {keyword} of variable {i + 1} is {mine:g}, but {name} in "
                    f"{experiment.path} has {its:g}"
                )
    for number, point in enumerate(problem.x0, start=1):
        try:
            experiment.space.decode(point)
        except ValueError as error:
            yield f"{problem.where('X0')}: X0 number {number}: {error}"


def _outputs(problem: Problem, experiment: Experiment) -> Iterator[str]:
    mine = [KINDS.get(kind, kind) for kind in problem.output_types]
    its = [output.kind for output in experiment.outputs]
    if mine != its:
        yield (
            f"{problem.where('BB_OUTPUT_TYPE')}: BB_OUTPUT_TYPE is {' '.join(problem.output_types)}, but the outputs "
            f"of {experiment.path} are {' '.join(f'{o.kind} ({o.metric})' for o in experiment.outputs)}"
        )


def _fidelities(problem: Problem, experiment: Experiment) -> Iterator[str]:
    for keyword, words in (("BB_EXE", problem.bb_exe), ("SURROGATE_EXE", problem.surrogate_exe)):
        try:
            experiment.fidelity(fidelity_of(words) or FULL)
        except InputError as error:
            yield f"{problem.where(keyword)}: {keyword}: {error}"
