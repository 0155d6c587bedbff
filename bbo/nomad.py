"""`nomad FILE`: NOMAD 4's batch mode on a parameter file, with a run folder that survives everything."""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bbo.conduct import Conduct, about_experiment, ask_blackbox, check_quickly, common_options, errors, limits_of
from bbo.display import describe
from bbo.driver import Driver
from bbo.errors import InputError, MachineError
from bbo.experiment import Experiment, read_experiment
from bbo.pair import disagreements, fidelity_of
from bbo.problem import Problem, experiment_file, read_problem
from bbo.processes import own_python_first
from bbo.run import find_run
from bbo.store import Store

BUDGET = {"MAX_BB_EVAL", "MAX_EVAL", "MAX_TIME", "MAX_BLOCK_EVAL", "STOP_IF_FEASIBLE", "EVAL_STATS_FILE"}
"""Keywords that may change between two starts of a run, beside those that begin with DISPLAY or end with FILE."""

OURS = {"HISTORY_FILE", "ADD_SEED_TO_FILE_NAMES", "TMP_DIR", "PROBLEM_DIR", "DISPLAY_DEGREE"}
"""Keywords that the driver sets for the child; the user's are put aside."""

UNREPLAYABLE = {
    "CACHE_FILE": "the store and the run log keep what was evaluated, run the same command again",
    "HOT_RESTART_READ_FILES": "a run is resumed by its run log, run the same command again",
    "HOT_RESTART_WRITE_FILES": "a run is resumed by its run log, run the same command again",
    "PSD_MADS_OPTIMIZATION": "its evaluations come in no order that could be replayed",
    "EVAL_SURROGATE_OPTIMIZATION": "every evaluation would be the surrogate's: name its --fidelity in BB_EXE instead",
}
"""Keywords of NOMAD that a driven run does not take."""

UNSAFE = r"[^\w@%+:,./-]|[^\x00-\x7f]"
"""NOMAD hands paths to a shell, unquoted, and takes ASCII alone."""

EPILOG = """examples:
  nomad params/quickstart.txt              tune the embedded tiny model
  nomad params/quickstart.txt              the same again after any interruption: goes on where it was
  nomad params/bbo3.txt --dry-run          what would run, and what it needs
  nomad -h MAX_BB_EVAL                     NOMAD's help for a parameter"""


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Exit statuses: 0 done, 1 input refused, 2 command line, 3 stopped or nothing good, 130 interrupted."""
    options = _parser().parse_args(arguments)
    options.command = shlex.join(["nomad", *arguments])
    if options.help is not None or options.version or options.info:
        _say(options)
        return 0
    if options.file is None:
        _parser().print_usage(sys.stderr)
        print("nomad: name a parameter file, or -h", file=sys.stderr)
        return 2
    try:
        return _nomad(options)
    except InputError as error:
        errors().print(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except (MachineError, OSError) as error:
        errors().print(f"stopped: {error}")
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "nomad",
        add_help=False,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
    )
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="a NOMAD 4 parameter file")
    parser.add_argument(
        "-h", "--help", metavar="KEYWORD", nargs="?", const="", help="this help, or NOMAD's on a keyword"
    )
    parser.add_argument("-v", "--version", action="store_true", help="NOMAD's version")
    parser.add_argument("-i", "--info", action="store_true", help="about NOMAD")
    parser.add_argument("--dry-run", action="store_true", help="decoded X0, launch line and needs; runs nothing")
    return parser


def _say(options: argparse.Namespace) -> None:
    """-h, -v, -i."""
    if options.help == "":
        _parser().print_help()
        return
    import PyNomad  # noqa: PLC0415 - a C++ library that `nomad FILE` needs in its child only

    if options.help is not None:
        PyNomad.help(options.help)
    elif options.version:
        PyNomad.version()
    else:
        PyNomad.info()


def _nomad(options: argparse.Namespace) -> int:
    problem = read_problem(options.file)
    for warning in problem.warnings:
        errors().print(f"warning: {warning}")
    yaml = experiment_file(problem)
    if yaml is None:
        return _foreign(problem, options)
    experiment = checked(problem)
    if options.dry_run:
        for point in problem.x0:
            print(f"X0: {describe(experiment.space.decode(point))}", flush=True)
        ask_blackbox(yaml, "--plan")
        return 0
    options.run = find_run(options.run or options.file.stem)
    options.store = Store(options.store or options.run.evals)
    return batch(problem, experiment, options)


def checked(problem: Problem) -> Experiment:
    """The experiment of a problem that a run can be led through. Raises InputError."""
    yaml = experiment_file(problem)
    if yaml is None:
        raise InputError(f"{problem.where('BB_EXE')}: BB_EXE must be $python3 $-m $blackbox NAME.yaml")
    _refuse_unreplayable(problem)
    experiment = read_experiment(yaml)
    if wrong := disagreements(problem, experiment):
        raise InputError(*wrong)
    return experiment


def batch(problem: Problem, experiment: Experiment, options: argparse.Namespace, stopping: str | None = None) -> int:
    """NOMAD's batch mode under `options` run, store, command and limits. The exit status."""
    run_, store, limits = options.run, options.store, limits_of(experiment, options)
    if re.search(UNSAFE, str(run_.folder.absolute())):
        raise InputError(f"{run_.folder.absolute()}: NOMAD takes no path with spaces or special characters: use --run")
    check_quickly(experiment.path, problem.max_bb_eval, stopping)
    if "HISTORY_FILE" in problem.settings:
        errors().print(f"{problem.where('HISTORY_FILE')}: NOMAD's history is written to {run_.history}")
    about_ = about(problem, experiment) | ({"stopping": stopping} if stopping else {})

    def begin(_: Mapping[str, str]) -> Driver:
        return Driver(
            run=run_,
            experiment=experiment,
            store=store,
            parameters=[f"PROBLEM_DIR {problem.folder}/", *_lines(problem)],
            max_bb_eval=problem.max_bb_eval,
            in_order=problem.threads == 1,
            limits=limits,
            stopping=stopping,
        )

    conduct = Conduct(run_, experiment, store, about_, problem.max_bb_eval, problem.x0, options.command)
    return conduct.until_it_ends(begin, {})


def _refuse_unreplayable(problem: Problem) -> None:
    """Raise InputError for what cannot be led through a record: resuming is the run log's business here."""
    for keyword, reason in UNREPLAYABLE.items():
        given = problem.settings.get(keyword)
        if given and given[-1].values[0].lower() not in ("no", "n", "false", "0"):
            raise InputError(f"{problem.where(keyword)}: {keyword}: {reason}")
    for keyword, words in (("BB_EXE", problem.bb_exe), ("SURROGATE_EXE", problem.surrogate_exe)):
        if words and fidelity_of(words) is None:
            rule = "must be $python3 $-m $blackbox NAME.yaml, with $--fidelity $NAME behind it at most"
            raise InputError(f"{problem.where(keyword)}: {keyword} {rule}")
    if problem.surrogate_exe and problem.surrogate_exe[3] != problem.bb_exe[3]:
        rule = f"must name the experiment of BB_EXE, {problem.bb_exe[3]}, got {problem.surrogate_exe[3]}"
        raise InputError(f"{problem.where('SURROGATE_EXE')}: SURROGATE_EXE {rule}")


def about(problem: Problem, experiment: Experiment) -> dict[str, Any]:
    """What a run folder belongs to: all of the params pair but budget, resources and display; and NOMAD's version."""
    settings = {
        keyword: [list(entry.values) for entry in entries]
        for keyword, entries in problem.settings.items()
        if keyword not in BUDGET and not keyword.startswith("DISPLAY") and not keyword.endswith("FILE")
    }
    document = about_experiment(experiment, (problem.bb_exe, problem.surrogate_exe))
    return {"problem": {**settings, "X0": problem.x0}, "experiment": document, "nomad": version("PyNomadBBO")}


def _lines(problem: Problem) -> list[str]:
    return [line for line in problem.lines if line.split()[0].upper() not in OURS]


def _foreign(problem: Problem, options: argparse.Namespace) -> int:
    """A blackbox that is not ours: plain NOMAD, without run folder, as the native executable would run it."""
    if "$blackbox" in problem.bb_exe:
        raise InputError(f"{problem.where('BB_EXE')}: BB_EXE must be $python3 $-m $blackbox NAME.yaml")
    ours = (options.run, options.store, options.dry_run, options.max_hours, options.max_gpu_hours, options.goal)
    if any(ours):
        raise InputError(
            f"{problem.where('BB_EXE')}: BB_EXE names no experiment of ours, so options of runs mean nothing"
        )
    print("BB_EXE names no experiment of ours: plain NOMAD, nothing is kept", file=sys.stderr)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join([f"PROBLEM_DIR {problem.folder}/", *problem.lines]) + "\n")
        file.flush()
        command = [sys.executable, "-m", "bbo.batch", file.name]
        return (
            0 if subprocess.run(command, env={**os.environ, **own_python_first()}, check=False).returncode == 0 else 3
        )
