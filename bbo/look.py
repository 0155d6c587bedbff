"""The commands that look at runs: they read store and run log, and change nothing."""

from pathlib import Path
from typing import Annotated

import typer

from bbo.arguments import RUN
from bbo.errors import InputError
from bbo.record import open_record
from bbo.reports.export import write_csv

app = typer.Typer()


@app.command(epilog="Example:  bbo export quickstart --csv quickstart.csv")
def export(run: RUN, csv: Annotated[Path, typer.Option(help="the file: a row per evaluation, all columns")]) -> None:
    """Write a run's evaluations to a CSV file that pandas and spreadsheets open."""
    if not csv.parent.is_dir():
        raise InputError(f"--csv: no folder {csv.parent}")
    print(f"{csv}: {write_csv(open_record(run), csv)} evaluations")
