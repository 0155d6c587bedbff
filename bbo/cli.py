"""`bbo ...`: the commands around a run. Those that need a language model start the blackbox's programs."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bbo import after, look, submit
from bbo import compare as comparison
from bbo import nomad as nomad_command
from bbo import optimize as optimize_command
from bbo.arguments import RUN
from bbo.errors import InputError, MachineError
from bbo.experiment import read_experiment
from bbo.katib import command as katib
from bbo.pair import disagreements
from bbo.problem import experiment_file, read_problem
from bbo.record import store_of
from bbo.run import find_run

app = typer.Typer(
    help="Tune LoRA fine-tuning with NOMAD 4 and other optimizers.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(
    "nomad",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def nomad(context: typer.Context) -> None:
    """Run NOMAD on a parameter file; the same as the command `nomad`."""
    raise typer.Exit(nomad_command.run(context.args))


@app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def run(context: typer.Context) -> None:
    """Run any optimizer on a params pair: `bbo run --help`."""
    raise typer.Exit(optimize_command.run(context.args))


@app.command(epilog="Example:  bbo stop quickstart-tpe")
def stop(run: RUN) -> None:
    """End a run that another terminal drives, as Ctrl-C would there; the same command continues it."""
    where = find_run(run)
    where.stop()
    print(f"{where.folder}: stopped after {len(where.log().answers)} answers; the same command continues it")


@app.command(epilog="Examples:  bbo check params/quickstart.txt   |   bbo check")
def check(
    file: Annotated[Path | None, typer.Argument(help="params/NAME.txt; without it, about this machine.")] = None,
) -> None:
    """Check a params pair, its model and its data as a run would before its first training."""
    if file is None:
        raise typer.Exit(subprocess.run([sys.executable, "-m", "blackbox.doctor"], check=False).returncode)
    problem = read_problem(file)
    yaml = experiment_file(problem)
    if yaml is None:
        raise InputError(f"{problem.where('BB_EXE')}: BB_EXE runs no experiment of ours, there is nothing to check")
    if wrong := disagreements(problem, read_experiment(yaml)):
        raise InputError(*wrong)
    print(f"{file} and {yaml.name} agree", flush=True)
    raise typer.Exit(subprocess.run([sys.executable, "-m", "blackbox.preflight", str(yaml)], check=False).returncode)


@app.command(epilog="Example:  bbo retry quickstart && nomad params/quickstart.txt")
def retry(run: RUN) -> None:
    """Forget a run's failed evaluations, so that the next start tries them again."""
    where = find_run(run)
    if not where.log_file.is_file():
        raise InputError(f"{where.folder}: no run there")
    with where.driven():
        log = where.log()
        store = store_of(where)
        failed = [ask for ask in log.asks if (a := log.answers.get(ask.number)) and a.source == "failed"]
        for key in {ask.key for ask in failed}:
            store.evaluation(key).result_file.unlink(missing_ok=True)
        if failed:
            log.forget(failed[0].number)
    print(f"{len({ask.key for ask in failed})} failed evaluations forgotten; good ones stay in the store")


@app.command(epilog="Example:  bbo compare params/quickstart.txt --optimizers nomad,tpe,gp,random --seeds 6")
def compare(  # noqa: PLR0913, PLR0917 - the options of a command
    file: Annotated[Path, typer.Argument(help="params/NAME.txt")],
    optimizers: Annotated[str, typer.Option(help="names with commas between them")],
    seeds: Annotated[int, typer.Option(help="runs of each: seed s is the optimizer's and the training's")] = 10,
    budget: Annotated[int | None, typer.Option(help="evaluations of each run (default: MAX_BB_EVAL)")] = None,
    store: Annotated[Path | None, typer.Option(help="evaluations of all runs (default: OUT/evals)")] = None,
    jobs: Annotated[int, typer.Option(help="runs side by side")] = 1,
    out: Annotated[str | None, typer.Option(help="folder of the runs and the report; runs/compare-NAME")] = None,
    levels: Annotated[str | None, typer.Option(help="scores to reach, with commas (default: from the runs)")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE; repeat it for more")] = None,
) -> None:
    """Run several optimizers with several seeds on the same blackbox, and report which are better."""
    options = comparison.Options(optimizers, seeds, budget, store, jobs, out, levels, settings or ())
    # A file is not as narrow as a terminal may be.
    raise typer.Exit(comparison.compare(file, options, Console(width=None if sys.stdout.isatty() else 120)))


app.add_typer(after.app)
app.add_typer(look.app)
app.add_typer(submit.app)
app.add_typer(katib.app)


def main() -> None:
    """The console script."""
    try:
        app()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except (MachineError, OSError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(3)
