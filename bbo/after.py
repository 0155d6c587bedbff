"""The commands that follow a search. Those that need a language model start the blackbox's programs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from bbo import confirm as confirmation
from bbo.program import blackbox

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


@app.command(
    epilog="Examples:  bbo retrain quickstart   |   bbo retrain quickstart --data train --epochs 3 --out final-3"
)
def retrain(
    run: RUN,
    data: Annotated[Literal["all", "train"], typer.Option(help="all: the validation rows too, unscored then")] = "all",
    epochs: Annotated[float | None, typer.Option(min=0.01, help="instead of the point's own")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the adapter (default: RUN/final)")] = None,
    as_json: JSON = False,
) -> None:
    """Train a run's best point on all data: the final adapter, with a model card."""
    where = None if out is None else str(out)
    request = {"run": run, "data": data, "epochs": epochs, "out": where, "json": as_json}
    raise typer.Exit(blackbox("retrain", request))


def _console(as_json: bool = False) -> Console:
    """Where people read; beside JSON that is stderr."""
    stream = sys.stderr if as_json else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120)  # a file is not as narrow as a terminal may be
