"""What `bbo best` and `bbo list` say."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from bbo.display import clock, describe, spelt
from bbo.errors import InputError, MachineError
from bbo.experiment import Output
from bbo.record import Entry, Record, open_record
from bbo.reports.overview import Overview, read_overview
from bbo.reports.text import measured
from bbo.run import RUNS, Run, run_folders

COLUMNS = ("run", "optimizer", "state", "evaluations", "best", "last news")


def best(record: Record) -> dict[str, Any]:
    """The best evaluation, several where there are several objectives, none where nothing is good: for scripts."""
    over = read_overview(record)
    outputs = [record.experiment.outputs[index] for index in record.experiment.objectives]
    return {
        "run": str(record.run.folder),
        "objectives": [{"metric": o.metric, "better": "higher" if o.sign < 0 else "lower"} for o in outputs],
        "evaluations": [_best(over, entry) for entry in over.front],
        "base": over.base,
        "x0": over.x0,
        "confirmed": _confirmed(over),
    }


def _best(over: Overview, entry: Entry) -> dict[str, Any]:
    experiment, told = over.record.experiment, entry.values or ()
    outputs: list[tuple[Output, float]] = list(zip(experiment.outputs, told, strict=True))
    weights = entry.evaluation.weights
    return {
        "evaluation": entry.ask.number,
        "key": entry.ask.key,
        "hyperparameters": dict(entry.hyperparameters),
        "point": list(entry.ask.point),
        "outputs": {o.metric: o.sign * value + (o.bound if o.kind == "PB" else 0.0) for o, value in outputs},
        "gain_over_base": over.gain(entry, over.base),
        "gain_over_x0": over.gain(entry, over.x0),
        "folder": str(entry.evaluation.folder),
        "weights": None if weights is None else str(weights),
    }


def _confirmed(over: Overview) -> dict[str, Any] | None:
    if (content := over.confirmed) is None:
        return None
    names = ("evaluation", "key", "hyperparameters", "mean", "standard_error", "verdict")
    return {name: content["points"][0][name] for name in names} | {
        "winner_demoted": content["winner_demoted"],
        "ties": [point["evaluation"] for point in content["points"][1:] if point["verdict"] == "tie"],
    }


def best_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """For people."""
    if not found["evaluations"]:
        yield f"{found['run']}: no good evaluation"
        return
    for each in found["evaluations"]:
        scores = "  ".join(f"{name} {spelt(value, 6)}" for name, value in each["outputs"].items())
        yield f"#{each['evaluation']}  {scores}"
        yield f"    {describe(each['hyperparameters'])}"
        for name, over in (("the base model", "base"), ("X0", "x0")):
            if gain := each[f"gain_over_{over}"]:
                better = "better" if gain > 0 else "worse"
                yield f"    {spelt(abs(gain), 3)} {better} than {name} ({spelt(found[over])})"
        yield f"    {each['weights'] or each['folder'] + ' (its weights were not kept)'}"
    if (confirmed := found["confirmed"]) is not None and confirmed["mean"] is not None:
        mean = measured(confirmed["mean"], confirmed["standard_error"])
        ties = ", ".join(f"#{number}" for number in confirmed["ties"])
        tied = f", tied with {ties}" if ties else ""
        yield f"with other seeds the best is #{confirmed['evaluation']}: {mean}{tied}"
        yield f"    {describe(confirmed['hyperparameters'])}"


def runs() -> list[dict[str, Any]]:
    """All runs below runs/, the one with the latest news first; one that cannot be read says why."""
    found = [_run(Run(folder)) for folder in run_folders(RUNS)]
    return sorted(found, key=lambda row: -row["changed"])


def _run(run: Run) -> dict[str, Any]:
    nested = run.folder.parent != RUNS
    row = {
        "run": str(run.folder) if nested else run.name,
        "driven": run.is_driven(),
        "stopped": run.session_file.exists() and _left_early(run),
        "changed": run.log_file.stat().st_mtime,
        "trouble": None,
    }
    unknown: dict[str, Any] = {"optimizer": None, "metric": None, "best": None, "evaluations": 0}
    try:
        unknown["evaluations"] = len(run.log().answers)
        over = read_overview(open_record(str(run.folder)))
    except (InputError, MachineError) as error:
        return row | unknown | {"trouble": str(error)}
    value = None if over.best is None else over.value(over.best)
    known = {"optimizer": over.optimizer, "metric": over.output.metric, "best": value, "evaluations": len(over.over)}
    return row | known


def _left_early(run: Run) -> bool:
    """Killed, or ended for a reason; one that is through and has found nothing good is over."""
    status, reason = run.end() or (1, "killed")
    return status != 0 and reason is not None


def row_words(row: Mapping[str, Any]) -> list[str]:
    """For a table of COLUMNS."""
    best_ = row["trouble"] or ("-" if row["best"] is None else f"{row['metric']} {spelt(row['best'])}")
    state = "under way" if row["driven"] else "stopped" if row["stopped"] else "over"
    ago = clock(max(0.0, time.time() - row["changed"]))
    return [row["run"], row["optimizer"] or "-", state, str(row["evaluations"]), best_, f"{ago} ago"]
