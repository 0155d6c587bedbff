"""`bbo submit FILE`: a whole run as one job of a cluster that queues itself again until the run is over."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from bbo import optimize
from bbo.conduct import check_quickly
from bbo.errors import InputError
from bbo.experiment import Experiment
from bbo.jobscript import SUBMIT, TAKEN, JobScript, Scheduler, read_option, read_time
from bbo.optimizers.registry import find

app = typer.Typer()

VISIBLE = "CUDA_VISIBLE_DEVICES"

EXAMPLES = (
    "Examples:  bbo submit params/bbo3.txt --to slurm --gpus 4 --time 24:00:00 --sbatch account=me --dry-run   |   "
    "bbo submit params/squad.txt --to slurm --gpus 2 --time 2:00:00 -- --optimizer grid"
)


@app.command(epilog=EXAMPLES, context_settings={"allow_extra_args": True})
def submit(  # noqa: PLR0913, PLR0917 - the options of a command
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="params/NAME.txt; behind `--` options of `bbo run`")],
    to: Annotated[Scheduler, typer.Option(help="the scheduler")],
    time: Annotated[str, typer.Option(metavar="[D-]HH:MM:SS", help="of one start; it starts again until all is done")],
    gpus: Annotated[int | None, typer.Option(min=1, help="on one node (default: none)")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="an option of sbatch; repeat")] = None,
    oarsub: Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="an option of oarsub; repeat")] = None,
    setup: Annotated[
        Path | None, typer.Option(help="shell lines before the command, as `module load` (default: this Python's PATH)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the script, write and submit nothing")] = False,
) -> None:
    """Run a params pair as one job of SLURM or OAR, which queues itself again until the run is over."""
    arguments = [str(file), *context.args]
    _, experiment, options = optimize.read(arguments)
    find(options.optimizer)
    _check(experiment, gpus, str(options.run.folder))
    job = JobScript(
        scheduler=to,
        run=str(options.run.folder),
        store=str(options.store.root),
        command=["bbo", "run", *arguments],
        gpus=gpus,
        seconds=_seconds(time),
        options=_options(to, sbatch or [], oarsub or []),
        setup=_setup(setup),
        written_by=shlex.join(["bbo", "submit", *_typed()]),
    )
    if dry_run:
        print(job.text(), end="")
        return
    with _gpus_of_the_node(gpus or 0):
        check_quickly(experiment.path, options.budget, options.stopping)
    number = _submit(job)
    print(f"{job.file}: job {number}; its log: {job.output(number)}")


@contextmanager
def _gpus_of_the_node(count: int) -> Iterator[None]:
    """The run will see these: where jobs are submitted there may be none."""
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(map(str, range(count)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _typed() -> list[str]:
    """The command line behind `bbo submit`, as it was typed, but for --dry-run."""
    words = sys.argv[sys.argv.index("submit") + 1 :]
    return [word for word in words if word != "--dry-run"]  # the script is the same


def _check(experiment: Experiment, gpus: int | None, folder: str) -> None:
    if not re.fullmatch(r"[\w@+:,./-]+", folder):
        raise InputError(f"{folder}: a scheduler takes no path with spaces or special characters: use --run")
    wanted = experiment.resources.gpus_per_job or 0
    if experiment.resources.executor == "local" and wanted > (gpus or 0):
        raise InputError(f"--gpus {gpus or 0}: resources.gpus_per_job of {experiment.path} is {wanted}")


def _seconds(text: str) -> int:
    try:
        return read_time(text)
    except ValueError as error:
        raise InputError(f"--time {text}: {error}") from None


def _options(to: Scheduler, sbatch: Sequence[str], oarsub: Sequence[str]) -> list[tuple[str, str | None]]:
    theirs, others, other = (sbatch, oarsub, "oarsub") if to == "slurm" else (oarsub, sbatch, "sbatch")
    if others:
        raise InputError(f"--{other} {others[0]}: an option of another scheduler than --to {to}")
    found = []
    for text in theirs:
        try:
            found.append(read_option(text, TAKEN[to]))
        except ValueError as error:
            raise InputError(f"--{SUBMIT[to][0]} {text}: {error}") from None
    return found


def _setup(file: Path | None) -> list[str]:
    if file is None:
        return [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    try:
        return file.read_text().rstrip("\n").split("\n")
    except OSError as error:
        raise InputError(f"--setup {file}: cannot be read: {error.strerror}") from None


def _submit(job: JobScript) -> str:
    """Write the script and hand it over; the job's number. Where the scheduler refuses it, nothing is left of it."""
    script = Path(job.file)
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{script.parent}: is a file, not a run folder") from None
    script.write_text(job.text())
    script.chmod(0o755)  # OAR insists
    program, *options = SUBMIT[job.scheduler]
    try:
        done = subprocess.run([program, *options, script], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        _forget(script)
        raise InputError(
            f"--to {job.scheduler}: there is no {program} on this machine; --dry-run prints the script"
        ) from None
    number = re.search(r"OAR_JOB_ID\s*=\s*(\d+)" if job.scheduler == "oar" else r"^(\d+)", done.stdout, re.MULTILINE)
    if done.returncode or number is None:
        _forget(script)
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise InputError(f"{program} refused the job: {said.removeprefix(f'{program}: error: ')}")
    return number[1]


def _forget(script: Path) -> None:
    script.unlink()
    for folder in (script.parent, script.parent.parent):
        with suppress(OSError):  # others are in it
            folder.rmdir()
