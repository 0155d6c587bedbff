"""The commands that look at runs: they read store and run log, and change nothing."""

import json
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bbo import listing
from bbo import status as standing
from bbo.arguments import JSON, RUN, RUNS, console
from bbo.errors import InputError
from bbo.record import Entry, Record, open_record
from bbo.reports.export import write_csv

app = typer.Typer()

POLL = 0.3
"""Seconds between two looks at a log that is followed."""


@app.command(epilog="Examples:  bbo status quickstart   |   bbo status quickstart --json")
def status(run: RUN, as_json: JSON = False) -> None:
    """Where a run stands, live while somebody drives it."""
    if as_json:
        print(json.dumps(standing.as_json(standing.look(run)), indent=1))
    else:
        standing.follow(run, console())


@app.command(epilog="Examples:  bbo best quickstart   |   bbo best quickstart --json")
def best(run: RUN, as_json: JSON = False) -> None:
    """The best evaluation of a run, or its Pareto front."""
    found = listing.best(open_record(run))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        console().print("\n".join(listing.best_lines(found)), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if found["evaluations"] else 3)


@app.command("list", epilog="Examples:  bbo list   |   bbo list --json")
def list_runs(as_json: JSON = False) -> None:
    """The runs below runs/: how far each is, and its best."""
    rows = listing.runs()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(*listing.COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, listing.row_words(row)))  # not rich's markup, whatever is in brackets
    console().print(table if rows else "no runs below runs/")


@app.command(epilog="Examples:  bbo log quickstart 3   |   bbo log quickstart 3f2a --follow")
def log(
    run: RUN,
    evaluation: Annotated[str, typer.Argument(metavar="EVAL", help="its number, or the first digits of its key")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the evaluation is over")] = False,
) -> None:
    """What an evaluation's training has printed."""
    record = open_record(run)
    entry = _find(record, evaluation)
    file, done, offset = entry.evaluation.log_file, False, 0
    if not file.exists() and not (follow and entry.status == "pending"):
        raise InputError(f"#{entry.ask.number}: no {file}")
    while True:
        if file.exists():
            with file.open("rb") as text:
                text.seek(offset)
                new = text.read()
            offset += len(new)
            typer.echo(new.decode(errors="replace"), nl=False)
        if done or not follow:
            return
        record.log.refresh()
        done = record.entry(entry.ask).status != "pending"
        if not done and not record.run.is_driven():
            raise InputError(f"#{entry.ask.number}: nobody drives {record.run.folder}")
        time.sleep(POLL)


def _find(record: Record, what: str) -> Entry:
    """By number, else by key. Raises InputError where it is none, or several."""
    asks = {str(ask.number): ask for ask in record.asks}
    if (ask := asks.get(what.removeprefix("#"))) is not None:
        return record.entry(ask)
    found = {ask.key: ask for ask in reversed(record.asks) if ask.key.startswith(what)}
    if len(found) != 1:
        trouble = f"is {len(found)} of them: {', '.join(found)}" if found else "is none of them"
        raise InputError(f"{record.run.folder} has evaluations 1 to {len(asks)}, by number or key: {what} {trouble}")
    return record.entry(next(iter(found.values())))


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
    """A run's evaluations as CSV, for pandas and spreadsheets."""
    print(f"{csv}: {write_csv(open_record(run), csv)} evaluations")


@app.command(epilog="Examples:  bbo dashboard quickstart   |   bbo dashboard quickstart --port 9000")
def dashboard(
    run: RUN,
    host: Annotated[
        str, typer.Option(help="address to listen on; other hosts see it where this is not local")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8080,
) -> None:
    """Optuna's dashboard on a run, which it follows."""
    from bbo.reports.dashboard import serve  # noqa: PLC0415 - loads Optuna

    serve(open_record(run), host, port, lambda address: print(f"{address} (Ctrl-C ends it)", flush=True))
