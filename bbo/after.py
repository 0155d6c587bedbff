"""The commands that follow a search. Those that need a language model start the blackbox's programs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bbo import confirm as confirmation
from bbo.arguments import JSON, RUN, console, run_names
from bbo.program import blackbox

app = typer.Typer()

ADAPTER_HELP = "an adapter's folder, an evaluation's folder, or a run: its best"
ADAPTER = Annotated[str, typer.Argument(metavar="ADAPTER", help=ADAPTER_HELP, autocompletion=run_names)]
OUT_FOLDER = Annotated[Path, typer.Argument(metavar="OUT", help="a new folder")]
EXPERIMENT = Annotated[
    Path | None, typer.Option("--experiment", "-e", help="params/NAME.yaml, where none lies beside the adapter")
]
BATCH_SIZE = Annotated[int, typer.Option(min=1, help="rows in one pass; changes no answer but by rounding")]


@app.command(epilog="Examples:  bbo confirm quickstart   |   bbo confirm quickstart --top 5 --seeds 8 --json")
def confirm(
    run: RUN,
    top: Annotated[int, typer.Option(min=1, help="points, the best of the run")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="training seeds of each, after the search's own")] = 5,
    as_json: JSON = False,
) -> None:
    """Train a run's best points again with other seeds: who is really best, who ties."""
    raise typer.Exit(confirmation.confirm(run, top, seeds, console(as_json), as_json))


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


@app.command(epilog="Examples:  bbo merge quickstart merged   |   bbo merge runs/quickstart/final merged")
def merge(adapter: ADAPTER, out: OUT_FOLDER, experiment: EXPERIMENT = None, as_json: JSON = False) -> None:
    """Add an adapter to its base model: safetensors and tokenizer that transformers loads."""
    raise typer.Exit(blackbox("merge", _request(adapter, experiment, out=str(out), json=as_json)))


@app.command(
    epilog="Examples:  bbo predict runs/quickstart/final test.csv --out submission.csv   |   ... --id ID --merge"
)
def predict(  # noqa: PLR0913, PLR0917 - the options of a command
    adapter: ADAPTER,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="rows: .csv, .json, .jsonl or .parquet")],
    out: Annotated[Path, typer.Option(help="the CSV: ids, then class probabilities or the answer")],
    batch_size: BATCH_SIZE = 32,
    merge: Annotated[bool, typer.Option("--merge", help="add the adapter to the weights first: quicker")] = False,
    ids: Annotated[list[str] | None, typer.Option("--id", help="a column to take over (default: id, else row)")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="of an answer (default: the task's, or 128)")
    ] = None,
    experiment: EXPERIMENT = None,
) -> None:
    """Class probabilities, or answers, for each row of a file."""
    given = {"data": str(data), "out": str(out), "batch_size": batch_size, "merge": merge}
    request = _request(adapter, experiment, **given, ids=ids or [], max_new_tokens=max_new_tokens)
    raise typer.Exit(blackbox("predict", request))


@app.command(epilog="Example:  bbo generate quickstart questions.jsonl --out answers.json --base --worst")
def generate(  # noqa: PLR0913, PLR0917 - the options of a command
    adapter: ADAPTER,
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="rows as in training, or a line each in .txt")],
    out: Annotated[Path, typer.Option(help="the answers, as JSON; who is who: FILE.key.json")],
    base: Annotated[bool, typer.Option("--base", help="the untouched base model answers too")] = False,
    worst: Annotated[bool, typer.Option("--worst", help="of a RUN: its worst good evaluation answers too")] = False,
    seed: Annotated[int, typer.Option(min=0, help="of the draws, and of the order of answers")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="of the sampling; 0 takes the likeliest token")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="of an answer")] = 128,
    batch_size: BATCH_SIZE = 32,
    experiment: EXPERIMENT = None,
) -> None:
    """Let best, base and worst model answer the same questions, for a blind comparison."""
    sampling = {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    which = {"questions": str(questions), "out": str(out), "base": base, "worst": worst}
    raise typer.Exit(blackbox("generate", _request(adapter, experiment, **which, **sampling)))


@app.command(epilog="Example:  bbo score quickstart --tasks mmlu,bbh --limit 20 --data-dir data")
def score(  # noqa: PLR0913, PLR0917 - the options of a command
    adapter: ADAPTER,
    tasks: Annotated[str, typer.Option(help="lm-eval's names with commas between them, as mmlu,bbh,drop,humaneval")],
    limit: Annotated[int | None, typer.Option(min=1, help="questions of each subtask (default: all)")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="examples before each (default: the task's)")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="local data, a folder per task (default: the YAML's)")] = None,
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="humaneval runs code")] = False,
    experiment: EXPERIMENT = None,
    as_json: JSON = False,
) -> None:
    """Benchmark scores; those of an evaluation are kept beside it and not computed twice."""
    names = [task.strip() for task in tasks.split(",") if task.strip()]
    given = {"limit": limit, "num_fewshot": num_fewshot, "allow_code_execution": allow_code_execution}
    where = None if data_dir is None else str(data_dir)
    request = _request(adapter, experiment, tasks=names, data_dir=where, json=as_json, **given)
    raise typer.Exit(blackbox("score", request))


@app.command(
    epilog="Examples:  bbo push runs/quickstart/final me/tiny-lora --dry-run   |   bbo push merged me/model --private"
)
def push(
    adapter: ADAPTER,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="on the Hugging Face hub, as me/name")],
    private: Annotated[bool, typer.Option("--private", help="for a repository that is new")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list files and sizes, send nothing")] = False,
    as_json: JSON = False,
) -> None:
    """Upload an adapter or a merged model to the Hugging Face hub."""
    request = {"adapter": adapter, "repo": repo, "private": private, "dry_run": dry_run, "json": as_json}
    raise typer.Exit(blackbox("push", request))


def _request(adapter: str, experiment: Path | None, **given: Any) -> dict[str, Any]:
    return {"adapter": adapter, "experiment": None if experiment is None else str(experiment), **given}
