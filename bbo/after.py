"""The commands that follow a search. Those that need a language model start the blackbox's programs."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from bbo import confirm as confirmation

app = typer.Typer()

RUN = Annotated[str, typer.Argument(metavar="RUN", help="a name below runs/, or the path of a run folder")]
JSON = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]


@app.command(epilog="Examples:  bbo confirm quickstart   |   bbo confirm quickstart --top 5 --seeds 8 --json")
def confirm(
    run: RUN,
    top: Annotated[int, typer.Option(min=1, help="points, the best of the run")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="training seeds of each, after the search's own")] = 5,
    as_json: JSON = False,
) -> None:
    """Train a run's best points again with other seeds: who is really best, who ties."""
    raise typer.Exit(confirmation.confirm(run, top, seeds, _console(as_json), as_json))


def _console(as_json: bool = False) -> Console:
    """Where people read; beside JSON that is stderr."""
    stream = sys.stderr if as_json else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120)  # a file is not as narrow as a terminal may be
