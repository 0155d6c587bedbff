"""`bbo run FILE`: any optimizer on a params pair."""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from bbo import keywords
from bbo.conduct import Conduct, about_experiment, at_least, check_quickly, common_options, errors, limits_of
from bbo.errors import InputError
from bbo.evaluate import words
from bbo.experiment import FULL, Experiment, Rule
from bbo.front import best_first, is_good, told
from bbo.loop import Loop, Plan
from bbo.nomad import batch, checked
from bbo.optimizers.registry import OPTIMIZERS, find, objectives_of, read_settings, settings_of, versions
from bbo.pair import fidelity_of
from bbo.problem import Problem, read_problem
from bbo.run import Run, find_run
from bbo.space import Point
from bbo.store import Store

EPILOG = """examples:
  bbo run params/quickstart.txt --optimizer tpe --seed 1       TPE on the evaluations that NOMAD would have
  bbo run params/quickstart.txt --optimizer gp --parallel 2    two trainings in flight
  bbo run params/toy.txt --optimizer bohb --budget 60          TPE, stopped early by Hyperband
  bbo run params/toy.txt --optimizer my_module:MyOptimizer     a class of yours with ask and tell
  bbo run params/toy.txt --set DIRECTION_TYPE="ORTHO 2N"       NOMAD's batch mode, a keyword replaced

The same command after any interruption goes on where it was; a larger --budget extends the run; `bbo stop RUN` ends
it from another terminal."""

WARM = 3
"""Points that --from takes over."""


def run(arguments: Sequence[str]) -> int:
    """Exit statuses: as `nomad`'s."""
    problem, experiment, options = read(arguments)
    options.command = shlex.join(["bbo", "run", *arguments])
    for warning in problem.warnings:
        errors().print(f"warning: {warning}")
    if options.origin is not None:
        problem = problem.with_x0(_warm(experiment, options.run, options.origin))
    return (_nomad if options.optimizer == "nomad" else _loop)(problem, experiment, options)


def read(arguments: Sequence[str]) -> tuple[Problem, Experiment, argparse.Namespace]:
    """The pair and the options of a command line, run folder and defaults in them."""
    options = _parser().parse_args(arguments)
    problem = read_problem(options.file)
    experiment = checked(problem)
    options.seed = problem.seed if options.seed is None else options.seed
    options.budget = options.budget or problem.max_bb_eval
    options.stopping = _stopping(options.optimizer, options.stopping)
    stem = options.file.stem
    name = stem if options.optimizer == "nomad" else f"{stem}-{options.optimizer.rpartition(':')[2]}"
    options.run = find_run(options.run or name)
    options.store = Store(options.store or options.run.evals)
    return problem, experiment, options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bbo run",
        description="Run an optimizer on a params pair, with exact budget and exact resume.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="params/NAME.txt")
    names = ", ".join(OPTIMIZERS)
    add("--optimizer", metavar="NAME", default="nomad", help=f"{names}, or my_module:MyOptimizer (default: nomad)")
    add("--seed", metavar="N", type=at_least(0), help="of the optimizer (default: the file's SEED)")
    add("--budget", metavar="N", type=at_least(1), help="evaluations (default: the file's MAX_BB_EVAL)")
    parallel = "evaluations in flight, asynchronously, but for NOMAD: blocks (default: blocks of BB_MAX_BLOCK_SIZE)"
    add("--parallel", metavar="N", type=at_least(1), help=parallel)
    setting = "a setting of the optimizer (a wrong one lists them), or a keyword of NOMAD; repeat it for more"
    add("--set", metavar="NAME=VALUE", dest="settings", action="append", default=[], help=setting)
    rules = get_args(Rule)
    add("--stopping", choices=rules, metavar="RULE", help=f"{', '.join(rules)} (default: the YAML's)")
    add("--from", metavar="RUN", dest="origin", help=f"begin with that run's {WARM} best points instead of X0")
    return parser


def _nomad(problem: Problem, experiment: Experiment, options: argparse.Namespace) -> int:
    """The batch run of the command `nomad`, with other values of some keywords."""
    given = dict(_statement(text) for text in options.settings)
    if options.parallel is not None:
        given["BB_MAX_BLOCK_SIZE"] = str(options.parallel)
        if len(experiment.objectives) == 1:  # DMultiMads does not take it, and fills its blocks without
            given["MEGA_SEARCH_POLL"] = "yes"
    given["SEED"] = str(options.seed)
    if options.budget is not None:
        given["MAX_BB_EVAL"] = str(options.budget)
    changed = problem.with_settings(**given)
    wrong = _objections(changed, given)
    if wrong:
        raise InputError(*wrong)
    checked(changed)
    return batch(changed, experiment, options, options.stopping)


def _statement(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise InputError(f"--set {text}: must be NAME=VALUE")
    if name.upper() in ("DIMENSION", "BB_INPUT_TYPE", "LOWER_BOUND", "UPPER_BOUND", "X0", "BB_OUTPUT_TYPE", "BB_EXE"):
        raise InputError(f"--set {text}: {name.upper()} is the business of the parameter file")
    return name.upper(), value


def _objections(problem: Problem, given: Mapping[str, str]) -> list[str]:
    """What NOMAD has against these keywords."""
    statements = [f"{name} {value}" for name, value in given.items()]
    verdict = keywords.ask(statements, problem.dimension, [*problem.lines, f"PROBLEM_DIR {problem.folder}/"])
    wrong = [f"--set {name}: {keywords.hint(name, verdict.keywords)}" for name in given if name not in verdict.keywords]
    wrong += [
        f"--set {name}: {verdict.refusals[i]}, got {given[name]}"
        for i, name in enumerate(given)
        if i in verdict.refusals
    ]
    return wrong or ([f"NOMAD refuses the problem: {verdict.objection}"] if verdict.objection else [])


def _loop(problem: Problem, experiment: Experiment, options: argparse.Namespace) -> int:
    """Any other optimizer, asked and told."""
    if options.budget is None:
        raise InputError(f"{problem.path}: has no MAX_BB_EVAL: --budget N is needed")
    found, entry = find(options.optimizer)
    settings = read_settings(options.optimizer, found, options.settings)
    given = {"space": experiment.space, "x0": problem.x0, "budget": options.budget, "seed": options.seed}
    given |= objectives_of(options.optimizer, found, len(experiment.objectives))
    try:
        optimizer = found(**given, **settings)
    except ValueError as error:
        raise InputError(f"--optimizer {options.optimizer}: {error}") from None
    intervals = getattr(optimizer, "intervals", None)
    if intervals and fidelity_of(problem.bb_exe) != FULL:
        raise InputError(f"{problem.where('BB_EXE')}: {options.optimizer} has fidelities of its own, BB_EXE names one")
    check_quickly(experiment.path, options.budget, options.stopping)
    limits = limits_of(experiment, options)
    plan = Plan(
        command=words(problem),
        budget=options.budget * (intervals or 1),
        block=problem.block_size if options.parallel is None else 1,
        places=options.parallel or 1,
        intervals=intervals,
        stopping=options.stopping,
    )
    about = {
        "optimizer": options.optimizer,
        "settings": {name: default for name, (_, default) in settings_of(found).items()} | settings,
        "seed": options.seed,
        "block": plan.block,
        "x0": problem.x0,
        "from": options.origin,
        "stopping": options.stopping,
        "experiment": about_experiment(experiment, [problem.bb_exe]),
    }
    about = json.loads(json.dumps({name: value for name, value in about.items() if value is not None}, default=str))

    def begin(then: Mapping[str, str]) -> Loop:
        compared = _compared(then, versions(entry))
        return Loop(options.run, experiment, options.store, optimizer, plan, limits, compared)

    conduct = Conduct(options.run, experiment, options.store, about, plan.budget, problem.x0, options.command)
    return conduct.until_it_ends(begin, versions(entry))


def _compared(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    found = [
        f"{name} {then[name]}"
        if then.get(name) == now.get(name)
        else f"{name} {then.get(name)} then, {now.get(name)} now"
        for name in sorted({*then, *now})
    ]
    return f" ({', '.join(found)})" if found else ""


def _stopping(optimizer: str, rule: str | None) -> str | None:
    if optimizer != "bohb":
        return rule
    if rule not in (None, "hyperband"):
        raise InputError(f"--stopping {rule}: bohb is TPE with hyperband; use --optimizer tpe")
    return "hyperband"


def _warm(experiment: Experiment, run_: Run, name: str) -> Sequence[Point]:
    """The best different points of another run; those that this run was begun with, once it was.

    Raises InputError where its experiment has another space or other outputs, or where it has no good evaluation.
    """
    begun = run_.about()
    if begun.get("from") == name:
        return [tuple(point) for point in begun["x0"]]
    other = find_run(name)
    theirs = other.about().get("experiment")
    if theirs is None:
        raise InputError(f"--from {name}: {other.folder} is no run")
    for what in ("space", "outputs"):
        if theirs.get(what) != experiment.document.get(what):
            raise InputError(f"--from {name}: its experiment has another {what}, {theirs.get(what)}")
    log = other.log()
    good = [(ask, answer.values) for ask, answer in told(log) if is_good(experiment, answer) and answer.values]
    best = best_first({ask.point: experiment.rank(values) for ask, values in good})
    if not best:
        raise InputError(f"--from {name}: has no good evaluation")
    return best[:WARM]
