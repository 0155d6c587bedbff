"""Arguments that several commands of `bbo` have, with the names of runs completed by the shell."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from bbo.run import RUNS as ROOT
from bbo.run import run_folders


def run_names(incomplete: str) -> Iterator[str]:
    """For a shell: names below runs/, or the paths of runs deeper down."""
    for folder in run_folders(ROOT):
        name = folder.name if folder.parent == ROOT else str(folder)
        if name.startswith(incomplete):
            yield name


RUN_HELP = "a name below runs/, or the path of a run folder"
RUN = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=run_names)]
RUNS = Annotated[list[str], typer.Argument(metavar="RUN...", help=RUN_HELP, autocompletion=run_names)]
JSON = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]


def console(as_json: bool = False) -> Console:
    """Where people read; beside JSON that is stderr."""
    stream = sys.stderr if as_json else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120)  # a file is not as narrow as a terminal may be
