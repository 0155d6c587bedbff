"""Figures of merit worked out by hand, and what the report makes of them in words and as a picture."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from bbo.reports.compare import Comparison, Subject, as_json, compare
from bbo.reports.figure import draw
from bbo.reports.text import markdown, measured, ranking, show, text
from bbo.reports.trace import Trace

SUBJECT = Subject("toy", "eval_loss", 1.0, budget=3, seeds=2, base=9.0, x0=(1.0,))


def run(seed: int, losses: Sequence[float], seconds: float = 3600, gpus: int = 0) -> Trace:
    """A run in which each evaluation takes as long."""
    count = range(1, len(losses) + 1)
    return Trace(
        seed,
        evaluations=[float(number) for number in count],
        seconds=[number * seconds for number in count],
        gpu_seconds=[number * seconds * gpus for number in count],
        best=[min(losses[:number]) for number in count],
        worst=max((loss for loss in losses if math.isfinite(loss)), default=-math.inf),
        first=((1.0,), losses[0]),
    )


def many(offset: float, seeds: int = 8) -> list[Trace]:
    return [run(seed, [3.0, 2.0 + offset + 0.01 * seed]) for seed in range(1, seeds + 1)]


def say(comparison: Comparison) -> str:
    return markdown(text(comparison))


def test_by_hand() -> None:
    found = compare(SUBJECT, {"slow": [run(1, [4, 3, 1], 7200), run(2, [4, 4, 3], 7200)], "fast": [run(1, [4, 2, 2])]})
    fast, slow = {m.name: m for m in found.methods}["fast"], {m.name: m for m in found.methods}["slow"]
    assert slow.best == (2.0, 1.0) and fast.best == (2.0, None)
    assert slow.hours == (6.0, 0.0) and not found.on_gpus
    assert slow.by_evaluations.x == [1, 2, 3] and slow.by_hours.x == [2, 4, 6]
    assert slow.by_evaluations.mean == [4, 3.5, 2] and slow.by_evaluations.error == [0, 0.5, 1]
    assert found.levels == {"X0": 4, "median of final bests": 2, "best quarter of them": 1.5}
    assert [(to.runs, to.evaluations, to.hours) for to in fast.reached] == [
        (1, 1, 1),
        (1, 2, 2),
        (0, math.inf, math.inf),
    ]
    assert [(to.runs, to.evaluations) for to in slow.reached] == [(2, 1), (1, math.inf), (1, math.inf)]


def test_x0_is_each_seeds_own_level() -> None:
    found = compare(SUBJECT, {"a": [run(1, [4.0, 3.0]), run(2, [6.0, 3.0])]})
    assert found.levels["X0"] == 5.0 and found.methods[0].reached[0].evaluations == 1


def test_a_run_that_is_over_keeps_its_best_and_all_have_begun() -> None:
    (method,) = compare(SUBJECT, {"a": [run(1, [4, 3], 3600), run(2, [2, 2, 1], 7200)]}).methods
    assert method.by_hours.x == [2, 4, 6]
    assert method.by_hours.mean == [2.5, 2.5, 2.0]


def test_gpu_hours_where_there_is_a_gpu() -> None:
    found = compare(SUBJECT, {"a": [run(1, [4, 3], gpus=4)]})
    assert found.unit == "GPU-hours" and found.methods[0].hours == (8.0, None)
    assert "GPU-seconds" in say(found) and "GPU-hours per run" in say(found)
    assert "no GPU was used" in say(compare(SUBJECT, {"a": [run(1, [4, 3])]}))


def test_maximized_metrics_keep_their_sign() -> None:
    subject = replace(SUBJECT, metric="accuracy", sign=-1.0)
    found = compare(subject, {"a": [run(1, [-0.5, -0.7])], "b": [run(1, [-0.5, -0.9])]}, levels=[0.65])
    assert [(method.name, method.best[0]) for method in found.methods] == [("b", 0.9), ("a", 0.7)]
    assert found.levels == {"0.65": 0.65} and all(method.reached[0].evaluations == 2 for method in found.methods)
    assert found.methods[0].by_evaluations.mean == [0.5, 0.9]
    content = as_json(found)
    assert content["maximize"] and content["methods"]["b"]["runs"][0]["best"] == [0.5, 0.9]
    assert "higher is better" in say(found)


def test_runs_without_a_good_evaluation_count_as_the_worst() -> None:
    none = [run(seed, [math.inf, math.inf]) for seed in range(1, 9)]
    found = compare(SUBJECT, {"bad": none, "good": many(0)})
    assert found.worst == 3.0 and [method.name for method in found.methods] == ["good", "bad"]
    assert found.methods[1].best == (3.0, 0.0) and found.methods[1].none_good == 8
    assert found.verdict("bad", "good") == "worse" and found.verdict("good", "bad") == "better"
    assert "(8 of bad) count as 3" in say(found)
    json.dumps(as_json(found), allow_nan=False)


def test_nothing_good_anywhere_and_nothing_at_all() -> None:
    none = compare(SUBJECT, {name: [run(seed, [math.inf]) for seed in range(8)] for name in "ab"})
    assert none.verdict("a", "b") == "tie"
    empty = compare(SUBJECT, {"a": [], "b": []})
    assert ranking(empty) == "No run has anything to compare." and say(empty)
    json.dumps([as_json(none), as_json(empty)], allow_nan=False)


def test_ranking() -> None:
    found = compare(SUBJECT, {"bad": many(0.5), "best": many(0), "same": many(0), "short": many(1, seeds=5)})
    assert ranking(found) == "Best mean: best. Tied with it: same. Worse: bad. Too few seeds to judge: short."
    alone = compare(SUBJECT, {"only": many(0)})
    assert ranking(alone) == "Best mean: only."


def test_what_the_seeds_cannot_tell_is_said() -> None:
    four = {name: many(0.1 * index, seeds=6) for index, name in enumerate("abcd")}
    assert "corrected by Holm for 6 test(s)" in say(compare(SUBJECT, four))
    assert "With 6 tests even the clearest difference needs 8 seeds" in say(compare(SUBJECT, four))
    two = {name: four[name] for name in "ab"}
    assert compare(SUBJECT, two).verdict("a", "b") == "better" and "even the clearest" not in say(compare(SUBJECT, two))
    five = {name: traces[:5] for name, traces in two.items()}
    assert "Below 6 common seeds" in say(compare(SUBJECT, five))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0.60823, 0.00231, "0.6082 ± 0.0023"),
        (1.30494, 0.0512, "1.305 ± 0.051"),
        (12.3, 3.21, "12.3 ± 3.2"),
        (1234.5, 321.0, "1234 ± 321"),
        (0.5, None, "0.5"),
        (0.5, 0.0, "0.5 ± 0"),
    ],
)
def test_digits(value: float, error: float | None, words: str) -> None:
    assert measured(value, error) == words


def test_terminal_and_markdown_say_the_same() -> None:
    report = text(compare(SUBJECT, {"a": many(0), "b": many(1)}), ["b, seed 9, failed and is left out: disk full"])
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for line in (*report.lead, *report.notes, "b, seed 9, failed and is left out: disk full"):
        assert line in shown and line in markdown(report)
    assert "| a | 8 | 2.0450 ± 0.0087 | 2 | 2 ± 0 |" in markdown(report)


def test_figure(tmp_path: Path) -> None:
    found = compare(SUBJECT, {name: many(0.1 * index) for index, name in enumerate(("gp", "nomad", "tpe"))})
    files = [tmp_path / "figure.svg", tmp_path / "figure.png"]
    draw(found, files)
    assert files[1].read_bytes().startswith(b"\x89PNG")
    comments = "".join(files[0].read_text())
    for words in ("evaluations", "recorded training (hours)", "best eval_loss so far", "nomad", "base model: 9"):
        assert f"<!-- {words}" in comments, words
    ElementTree.parse(files[0])


def test_figure_of_one_run_and_of_a_negative_score(tmp_path: Path) -> None:
    draw(compare(SUBJECT, {"a": [run(1, [2.0])]}), [tmp_path / "one.png"])
    subject = replace(SUBJECT, sign=-1.0, base=None)
    draw(compare(subject, {"a": [run(1, [-2.0, -3.0]), run(2, [math.inf, -3.0])]}), [tmp_path / "two.png"])
