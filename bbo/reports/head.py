"""The head of a report: an overview in words."""

import math
from collections.abc import Iterator

from bbo.display import clock, describe, spelt
from bbo.record import Entry
from bbo.reports.overview import Overview
from bbo.reports.text import measured


def table(overview: Overview) -> Iterator[tuple[str, str]]:
    """What, and how much."""
    metric, better = overview.output.metric, "higher" if overview.output.sign < 0 else "lower"
    yield "optimizer", overview.optimizer
    yield f"best {metric} ({better} is better)", _best(overview)
    if (best := overview.best) is not None:
        yield "best hyperparameters", describe(best.hyperparameters)
        yield "gain over the base model", _gain(overview, best, overview.base, "the base model was not scored")
        yield "gain over X0", _gain(overview, best, overview.x0, "no score of a whole training there")
    if len(overview.record.experiment.objectives) > 1:
        yield "Pareto front", f"{len(overview.front)} evaluations"
    if (confirmed := _confirmed(overview)) is not None:
        yield "confirmed", confirmed
    yield "evaluations", _counts(overview)
    for reason, count in overview.reasons.most_common(3):
        yield "failed", f"{count} x {reason}"
    yield "wall time", f"{clock(overview.wall_seconds)}, first ask to last answer"
    yield from _times(overview)
    yield "disk", _size(overview.disk)
    yield "versions", ", ".join(f"{name} {version}" for name, version in overview.versions.items())


def _best(overview: Overview) -> str:
    if (best := overview.best) is None or (value := overview.value(best)) is None:
        return "no good evaluation"
    return f"{spelt(value)}, evaluation #{best.ask.number}"


def _gain(overview: Overview, best: Entry, over: float | None, unknown: str) -> str:
    gain = overview.gain(best, over)
    if over is None or gain is None:
        return unknown
    better = "higher" if overview.output.sign < 0 else "lower"
    how = better if gain > 0 else "worse" if gain < 0 else "(equal)"
    share = f", {abs(gain / over):.0%}" if over else ""
    return f"{spelt(abs(gain), 3)} {how}{share} (from {spelt(over)})"


def _confirmed(overview: Overview) -> str | None:
    if (content := overview.confirmed) is None:
        return None
    first = content["points"][0]
    if first["mean"] is None:
        return "no good evaluation with other seeds"
    ties = [f"#{point['evaluation']}" for point in content["points"][1:] if point["verdict"] == "tie"]
    tied = f", tied with {', '.join(ties)}" if ties else ""
    mean = measured(first["mean"], first["standard_error"])
    return f"#{first['evaluation']}: {mean} with {len(first['values'])} other seeds{tied}"


def _counts(overview: Overview) -> str:
    counts = overview.counts
    words = {
        "trained": "trained",
        "store": "from the store",
        "failed": "failed",
        "stopped": "stopped early",
        "infeasible": "of them infeasible",
    }
    said = [f"{counts[name]} {how}" for name, how in words.items() if counts[name] or name == "trained"]
    said += [
        f"{counts[name]} {how}"
        for name, how in {"pending": "under way", "declined": "declined, beyond the budget"}.items()
        if counts[name]
    ]
    return f"{len(overview.over)}: {', '.join(said)}"


def _times(overview: Overview) -> Iterator[tuple[str, str]]:
    trace = overview.trace
    if not trace.seconds:
        return
    if overview.on_gpus:
        yield "GPU time", f"{duration(trace.gpu_seconds[-1])} of all evaluations, whoever trained them"
    else:
        yield "slot time", f"{duration(trace.seconds[-1])} of all evaluations, whoever trained them (no GPU)"
    if whole := sum(overview.phases.values()):
        parts = (f"{name} {duration(seconds)} ({seconds / whole:.0%})" for name, seconds in overview.phases.items())
        yield "time by phase", ", ".join(parts)


def duration(seconds: float) -> str:
    """With a unit that leaves a number people read."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _size(count: float) -> str:
    power = min(3, int(math.log2(max(count, 1)) // 10))
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
