"""The head of a report, its warnings, and what its figures are drawn from: against numbers computed by hand."""

import json
import math
from collections.abc import Callable

import pytest

from bbo.reports.cautions import cautions, noise_of, side_of
from bbo.reports.curves import learning_curves
from bbo.reports.head import duration, table
from bbo.reports.overview import read_overview
from bbo.reports.parallel import parallel
from bbo.reports.timeline import read_timeline
from bbo.space import Variable
from bbo.store import write_json
from tests.bbo.reports.made import BEGAN, Made

X0 = (3, 16, 3, -4.5)


@pytest.fixture
def run(made: Callable[..., Made]) -> Made:
    """Three good ones, a failed, a stopped, one under way, one declined; two slots."""
    run = made()
    write_json(run.run.preflight_file, {"base": {"eval_loss": 3.0, "train_loss": 3.5}})
    run.ask(X0)
    run.end(1, 2.0, start=0, seconds=10)
    run.ask((4, 21, 1, -2.5), (6, 64, 1, -1), (1, 1, 1, -5), (2, 2, 2, -3))
    run.end(2, 1.5, start=20, seconds=10, slot="cpu1")
    run.end(3, None, start=20, seconds=20)
    run.stop(4, 2.5, 2.25, start=30, slot="cpu1")
    run.ask((6, 64, 2, -2), (3, 16, 3, -4))
    run.end(6, 1.0, start=40, seconds=10)
    run.decline(7)
    return run


def test_what_was_found_and_what_it_took(run: Made) -> None:
    over = read_overview(run.read())
    assert over.best is not None and over.best.ask.number == 6 and over.value(over.best) == 1.0
    assert over.base == 3.0 and over.gain(over.best, over.base) == 2.0
    assert over.x0 == 2.0 and over.gain(over.best, over.x0) == 1.0
    assert {name: over.counts[name] for name in ("trained", "failed", "stopped", "pending", "declined")} == {
        "trained": 3, "failed": 1, "stopped": 1, "pending": 1, "declined": 1
    }  # fmt: skip
    assert over.trace.seconds[-1] == 10 + 10 + 20 + 4 + 10 and not over.on_gpus
    assert over.phases == {"start": 4, "load": 8, "train": 50 - 16, "score": 4}
    assert over.answered == [2.0, 1.5, None, None, 1.0]
    assert over.reasons == {"out of memory: 40 GiB": 1}


def test_the_head_in_words(run: Made) -> None:
    said = dict(table(read_overview(run.read())))
    assert said["best eval_loss (lower is better)"] == "1, evaluation #6"
    assert said["gain over the base model"] == "2 lower, 67% (from 3)"
    assert said["evaluations"] == "5: 3 trained, 1 failed, 1 stopped early, 1 under way, 1 declined, beyond the budget"
    assert said["failed"] == "1 x out of memory: 40 GiB"
    assert said["slot time"].startswith("54 s")


def test_a_metric_that_is_maximized_keeps_its_sign(made: Callable[..., Made]) -> None:
    run = made(in_yaml={"outputs: [eval_loss, train_loss]": 'outputs: ["-eval_loss", train_loss]'})
    write_json(run.run.preflight_file, {"base": {"eval_loss": 0.25}})
    run.ask(X0, (4, 21, 1, -2.5))
    run.end(1, 0.5)
    run.end(2, 0.75)
    over = read_overview(run.read())
    assert over.best is not None and over.value(over.best) == 0.75
    assert over.gain(over.best, over.base) == 0.5 and over.gain(over.best, over.x0) == 0.25
    assert "higher" in dict(table(over))["gain over X0"]


def test_what_counts_as_an_evaluation(made: Callable[..., Made]) -> None:
    low = made("low")
    low.ask(X0, (4, 21, 1, -2.5), fidelity={"epochs_fraction": 0.25})
    low.end(1, 0.5)
    low.end(2, 0.75)
    assert read_overview(low.read()).trace.evaluations == [1, 2]
    parts = made("parts")
    parts.ask(X0, (4, 21, 1, -2.5), fidelity={"epochs_fraction": 0.25})
    parts.end(1, 0.5, parent="-")
    parts.end(2, 0.75, parent="K1")
    over = read_overview(parts.read())
    assert over.trace.evaluations == [0.25, 0.5] and over.x0 is None
    assert "intervals" in cautions(over)[-1]


def test_the_front(made: Callable[..., Made]) -> None:
    run = made(in_yaml={"outputs: [eval_loss, train_loss]": "outputs: [eval_loss, gpus]\nobjectives: 2"})
    run.ask(*[(rank, 16, 3, -4) for rank in (1, 2, 3)])
    for number, (loss, gpus) in enumerate([(1.0, 4.0), (2.0, 1.0), (2.5, 2.0)], 1):
        run.end(number, loss, metrics={"gpus": gpus})
    assert [entry.ask.number for entry in read_overview(run.read()).front] == [1, 2]


def test_timeline(run: Made) -> None:
    record = run.read()
    shown = read_timeline(record, record.entries())
    began = BEGAN - record.log.asks[0].time
    assert shown.lanes == ["cpu0", "cpu1"]
    bars = [(bar.lane, bar.numbers, round(bar.start - began, 3), round(bar.end - began, 3)) for bar in shown.bars]
    assert bars == [
        ("cpu0", (1,), 0, 10),
        ("cpu0", (3,), 20, 40),
        ("cpu1", (2, 4), 20, 34),  # 10 + 4 seconds, over when the last of them was
        ("cpu0", (6,), 40, 50),
    ]
    assert shown.busy == {"cpu0": pytest.approx(40 / 50), "cpu1": pytest.approx(14 / 50)}
    assert shown.bars[2].statuses == {"ok", "stopped"}


def test_a_stopped_jobs_slot_is_found_in_its_file(made: Callable[..., Made]) -> None:
    run = made()
    run.ask(X0, (4, 21, 1, -2.5))
    run.stop(1, 2.0)
    run.stop(2, 2.0, slot="cpu1")
    write_json(run.store.jobs / "job-1-cpu1.json", {"id": "job-1-cpu1", "slot": "gpu 3"})
    record = run.read()
    assert read_timeline(record, record.entries()).lanes == ["gpu 3", "unknown slot"]


def test_learning_curves_end_where_this_run_stopped_them(run: Made) -> None:
    run.curve(1, 2.5, 2.25, 2.0)
    run.curve(4, 2.0, 1.0, first=3)  # another run went on with it
    curves = {curve.number: curve for curve in learning_curves(run.read().entries())}
    assert curves[1].epochs == (1, 2, 3) and curves[1].losses == (2.5, 2.25, 2.0)
    assert curves[4].epochs == (1, 2) and curves[4].status == "stopped"


def test_parallel_coordinates_have_true_values(run: Made) -> None:
    record = run.read()
    shown = parallel(record.experiment, record.entries())
    rank, alpha, dropout, rate, loss = shown.axes
    assert [words for _, words in rank.ticks] == ["2", "4", "8", "16", "32", "64"] and rank.place(8) == 0.4
    assert [words for _, words in dropout.ticks] == ["0", "0.05", "0.1", "0.2"]
    assert rate.log and [words for _, words in rate.ticks] == ["1e-5", "0.0001", "0.001", "0.01", "0.1"]
    assert rate.place(1e-3) == pytest.approx(0.5)
    assert (alpha.low, alpha.high) == (1, 64) and alpha.place(64) == 1
    assert (loss.low, loss.high) == (1.0, 2.0) and not loss.log
    assert [line.number for line in shown.lines] == [3, 4, 1, 2, 6]  # the best is drawn last
    assert shown.lines[0].value is None and len(shown.lines[0].places) == 4
    assert shown.lines[-1].places == (1, 1, pytest.approx(1 / 3), pytest.approx(0.75), 0)


def test_a_variable_that_is_a_multiple_is_shown_as_what_it_is(made: Callable[..., Made]) -> None:
    run = made(in_yaml={"{int: [1, 64]}": "{int: [1, 4], times: lora_rank}"})
    run.ask((6, 4, 1, -3), (1, 1, 1, -3))
    run.end(1, 1.0)
    run.end(2, 2.0)
    record = run.read()
    shown = parallel(record.experiment, record.entries())
    alpha = shown.axes[1]
    assert (alpha.low, alpha.high, alpha.log) == (2, 256, True)
    assert [line.places[1] for line in shown.lines] == [0, 1]


def test_bounds(run: Made) -> None:
    said = " ".join(cautions(read_overview(run.read())))
    assert "on the upper bound of lora_rank, 64: widen it upwards. 1 of 3 good evaluations are there" in said
    assert "upper bound of lora_alpha, 64" in said
    assert "lora_dropout" not in said and "learning_rate" not in said


@pytest.mark.parametrize(
    ("variable", "x", "side"),
    [
        ({"log10": [-5, -1]}, -1.02, "upper"),  # a sampler comes near
        ({"log10": [-5, -1]}, -1.1, None),
        ({"log10": [-5, -1]}, -5, "lower"),
        ({"float": [0, 0.5]}, 0.0, None),  # no setting is below 0
        ({"float": [0.1, 0.5]}, 0.1, "lower"),
        ({"int": [1, 64]}, 1, "lower"),
        ({"int": [1, 64]}, 2, None),
        ({"choice": [64, 2, 8]}, 1, "upper"),  # by value, not by place
        ({"choice": [64, 2, 8]}, 3, None),
        ({"choice": ["linear", "cosine"]}, 2, None),
        ({"choice": [8]}, 1, None),
    ],
)
def test_side(variable: dict[str, object], x: float, side: str | None) -> None:
    assert side_of(Variable.model_validate(variable), x) == side


def test_leaks_few_and_a_run_that_goes_on(made: Callable[..., Made]) -> None:
    run = made(in_yaml={"model: toy": "model: toy\ndata: {allow_leak: true}"})
    run.ask(X0, (4, 21, 1, -2.5))
    run.end(1, None)
    said = cautions(read_overview(run.read()))
    assert said[0].startswith("Leaks are allowed (data.allow_leak)")
    assert "The run is not over: 1 evaluation without an answer." in said
    assert any(each.startswith("Few finished: 0 good") for each in said)
    assert "1 of 1 evaluations failed, most often: out of memory: 40 GiB." in said


def test_no_better_than_the_base_model(run: Made) -> None:
    write_json(run.run.preflight_file, {"base": {"eval_loss": 0.9}})
    assert "The best is no better than the untouched base model (0.9)." in cautions(read_overview(run.read()))


def test_noise(run: Made) -> None:
    values = {"K6": (1.0, {"1": 1.0, "2": 1.4}), "K2": (1.5, {"1": 1.4, "2": 1.8})}
    points = [
        {"key": key, "evaluation": int(key[1]), "verdict": "best" if key == "K6" else "tie", "searched": searched,
         "mean": sum(each.values()) / 2, "standard_error": 0.2, "values": each}
        for key, (searched, each) in values.items()
    ]  # fmt: skip
    run.run.folder.joinpath("confirmed.json").write_text(json.dumps({"points": points, "winner_demoted": False}))
    assert noise_of({"points": points}) == pytest.approx(math.sqrt(2 * 0.08))  # variance of each pair: 0.08
    said = cautions(read_overview(run.read()))
    assert "Within the noise: these seeds cannot tell #2 from #6." in said
    assert said[-1].startswith("1 of the 2 other good evaluations differ from the best by less than 0.8")
    assert dict(table(read_overview(run.read())))["confirmed"] == "#6: 1.20 ± 0.20 with 2 other seeds, tied with #2"


def test_durations() -> None:
    assert [duration(each) for each in (0.5, 90, 600, 90000)] == ["0.5 s", "90 s", "10 min", "25 h"]
