"""The commands that look at runs: they read store and run log, and change nothing."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from bbo.arguments import RUN, RUNS
from bbo.errors import InputError
from bbo.record import open_record
from bbo.reports.export import write_csv

app = typer.Typer()


@app.command(epilog="Examples:  bbo report quickstart --open   |   bbo report quickstart quickstart-tpe --out both")
def report(
    runs: RUNS,
    open_it: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    out: Annotated[Path | None, typer.Option(help="its folder (default: RUN/report, or runs/report-A-B)")] = None,
) -> None:
    """Write a page about runs, and its figures as SVG."""
    from bbo.reports.report import write_report  # noqa: PLC0415 - loads Optuna and matplotlib

    records = [open_record(run) for run in dict.fromkeys(runs)]
    together = records[0].run.folder.parent / f"report-{'-'.join(record.run.name for record in records)}"
    page = write_report(records, out or (records[0].run.report if len(records) == 1 else together))
    print(page)
    if open_it:
        webbrowser.open(page.absolute().as_uri())


@app.command(epilog="Example:  bbo export quickstart --csv quickstart.csv")
def export(run: RUN, csv: Annotated[Path, typer.Option(help="the file: a row per evaluation, all columns")]) -> None:
    """Write a run's evaluations to a CSV file that pandas and spreadsheets open."""
    if not csv.parent.is_dir():
        raise InputError(f"--csv: no folder {csv.parent}")
    print(f"{csv}: {write_csv(open_record(run), csv)} evaluations")
