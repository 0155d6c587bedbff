"""`python -m benchmarks.packing`: eight points of quickstart as a user runs them, whole processes from start to end.

(a) a script of Trainer + PEFT under `accelerate launch`, one after another (benchmarks/peer.py); (b) ours, a call of
`python -m blackbox` for each point, the worker being warm; (c) ours, one call with all points: in one process with
all cores, and dealt over slots of one core each as quickstart does. Repeated in turn; medians. Then everything with
four times the epochs. On the CPU, which should have nothing else to do: the threads of (a) spin as is their default,
those of (b) for a while, since ours, which do not, take twice as long where nobody else wants the cores.
It measures and judges nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from bbo.executors.slots import cores
from bbo.experiment import Experiment, read_experiment
from bbo.points import format_point
from bbo.space import Point
from bbo.store import Store
from benchmarks import report

ROOT = Path(__file__).parent.parent
YAML = ROOT / "params" / "quickstart.yaml"

POINTS: list[Point] = [
    (3, 16, 3, -3.5), (1, 4, 1, -2), (2, 32, 1, -2.5), (4, 16, 2, -3),
    (5, 32, 1, -3), (6, 64, 4, -2.5), (3, 8, 1, -1.75), (6, 16, 2, -3.5),
]  # fmt: skip
"""Indices of lora_rank and lora_dropout, and the exponent of the learning rate; half without dropout."""

WARM_UP: list[Point] = [(1, alpha, 1, -5) for alpha in range(1, 65)]
"""For the call before the measured one, which checks, starts and loads: as many as there are cores."""

LONGER = 4


@dataclass(frozen=True)
class Measured:
    """One way through all points."""

    seconds: float
    losses: list[float]
    phases: Mapping[str, float]
    """Seconds, summed over the points; of processes that run side by side too."""


def trainer(folder: Path, experiment: Experiment, points: Sequence[Point]) -> Measured:
    """(a): a launch for each point. Its losses are taken of the saved adapters afterwards, in our measure."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--num_cpu_threads_per_process", str(cores()), "--module", "benchmarks.peer", str(experiment.path)]
    outs = [folder / str(number) for number in range(len(points))]
    began = time.perf_counter()
    for out, point in zip(outs, points, strict=True):
        out.mkdir(parents=True)
        words = [json.dumps(experiment.space.decode(point)), "--out", str(out), "--launched", str(time.time())]
        _run([*command, *words], folder)
    seconds = time.perf_counter() - began
    phases = [json.loads((out / "peer.json").read_text())["phases"] for out in outs]
    return Measured(seconds, _scored(experiment, outs), _summed(phases, seconds, 1))


def ours(folder: Path, experiment: Experiment, points: Sequence[Point], together: bool) -> Measured:
    """(b) and (c): in a fresh run folder, after a call that warms up."""
    slots = cores() if experiment.resources.cpus_per_job == 1 else 1
    _blackbox(folder, experiment, WARM_UP[:slots])
    calls = [points] if together else [[point] for point in points]
    began = time.perf_counter()
    lines = [line for call in calls for line in _blackbox(folder, experiment, call)]
    seconds = time.perf_counter() - began
    store = Store(folder / "runs" / experiment.name / "evals")
    found = [result for evaluation in store if (result := evaluation.result()) is not None]
    phases = [result.phases for result in found if result.point and tuple(result.point) in points]
    assert len(phases) == len(points), f"{len(phases)} results of {len(points)} points in {store.root}"
    return Measured(seconds, [float(line.split()[0]) for line in lines], _summed(phases, seconds, slots))


def _blackbox(folder: Path, experiment: Experiment, points: Sequence[Point]) -> list[str]:
    file = folder / "points.txt"
    file.write_text("".join(format_point(point) + "\n" for point in points))
    command = [sys.executable, "-m", "blackbox", str(experiment.path), str(file)]
    return _run(command, folder, GOMP_SPINCOUNT="50000").splitlines()


def _run(command: Sequence[str], folder: Path, **more: str) -> str:
    """Its stdout. Shows its stderr where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    environment |= more
    # To files: a worker that outlives its call keeps a pipe open.
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        status = subprocess.run(command, cwd=folder, env=environment, check=False, **streams).returncode
        if status:
            raise SystemExit(f"{' '.join(command)}: status {status}\n{(folder / 'stderr').read_text()}")
        return (folder / "stdout").read_text()


def _summed(phases: Sequence[Mapping[str, float]], seconds: float, slots: int) -> dict[str, float]:
    """Seconds of each phase over all points, and what is left of the time of all slots."""
    summed = {name: sum(each[name] for each in phases) for name in phases[0]}
    return {**summed, "rest": slots * seconds - sum(summed.values())}


def _scored(experiment: Experiment, adapters: Sequence[Path]) -> list[float]:
    """Validation losses of saved adapters over all label tokens."""
    from peft import PeftModel  # noqa: PLC0415 - heavy

    from benchmarks import peer  # noqa: PLC0415 - heavy
    from blackbox.model import find_model, load_model, load_tokenizer  # noqa: PLC0415 - heavy
    from blackbox.settings import read_settings  # noqa: PLC0415
    from blackbox.setup import data_for  # noqa: PLC0415 - heavy

    settings = read_settings(experiment)
    model = find_model(settings.model, settings.base)
    valid = data_for(settings, load_tokenizer(model)).valid
    tuned = (PeftModel.from_pretrained(load_model(model, settings.model), adapter) for adapter in adapters)
    return [peer.token_loss(each, valid, settings.training.per_device_eval_batch_size) for each in tuned]


def experiment_in(folder: Path, name: str, epochs: float, resources: Mapping[str, Any]) -> Experiment:
    """Quickstart under another name, length and resources."""
    content = yaml.safe_load(YAML.read_text())
    content["relative_to"] = str(YAML.parent)
    content["training"]["num_train_epochs"] *= epochs
    content["resources"] = {**resources, "gpus_per_job": 0, "keep": "none"}
    folder.mkdir(parents=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of the space is that of coordinates
    return read_experiment(file)


def repetition(folder: Path, points: Sequence[Point], epochs: float) -> dict[str, Measured]:
    """Every way once, each in a folder of its own."""
    measured = {}
    resources = {"trainer": {}, "alone": {}, "packed_one_process": {}, "packed": {"cpus_per_job": 1}}
    for name, each in resources.items():
        place = folder / name
        experiment = experiment_in(place, name, epochs, each)
        if name == "trainer":
            measured[name] = trainer(place, experiment, points)
        else:
            measured[name] = ours(place, experiment, points, together=name != "alone")
        print(f"{name}: {measured[name].seconds:.1f} s", file=sys.stderr, flush=True)
    return measured


def figures(repetitions: Sequence[Mapping[str, Measured]], points: Sequence[Point], suffix: str) -> dict[str, Any]:
    """Medians, what they mean, and the losses of the first repetition."""
    seconds = {name: statistics.median(each[name].seconds for each in repetitions) for name in repetitions[0]}
    first = repetitions[0]
    losses = {name: measured.losses for name, measured in first.items()}
    plain = [number for number, point in enumerate(points) if point[2] == 1]
    content = {
        "sequential_trainer_s": seconds["trainer"],
        "warm_alone_s": seconds["alone"],
        "packed_s": seconds["packed"],
        "packed_one_process_s": seconds["packed_one_process"],
        "speedup_vs_trainer": seconds["trainer"] / seconds["packed"],
        "speedup_vs_alone": seconds["alone"] / seconds["packed"],
        "repetitions": len(repetitions),
        "seconds": {name: [each[name].seconds for each in repetitions] for name in first},
        "where_time_goes": {name: dict(measured.phases) for name, measured in first.items()},
        "losses": losses,
        "largest_difference": {
            "packed and alone": _largest(losses["packed"], losses["alone"], range(len(points))),
            "one process and alone": _largest(losses["packed_one_process"], losses["alone"], range(len(points))),
            "Trainer and alone, no dropout": _largest(losses["trainer"], losses["alone"], plain),
        },
    }
    return {f"{name}{suffix}": value for name, value in content.items()}


def _largest(some: Sequence[float], others: Sequence[float], which: Sequence[int]) -> float:
    return max((abs(some[number] - others[number]) for number in which), default=0.0)


def show(content: Mapping[str, Any], points: Sequence[Point], suffix: str, epochs: float) -> None:
    def of(name: str) -> Any:
        return content[name + suffix]

    phases = list(dict.fromkeys(chain.from_iterable(of("where_time_goes").values())))
    rows = []
    for name, seconds in of("seconds").items():
        share = of("where_time_goes")[name]
        median = statistics.median(seconds)
        cells = [share.get(phase, "") for phase in phases]
        rows.append([name, median, f"{of('sequential_trainer_s') / median:.2f}x", *cells])
    title = f"{len(points)} points, epochs x {epochs:g}: median seconds of {of('repetitions')}; the first one's phases"
    report.table(title, ["way", "seconds", "speed", *phases], rows)
    names = list(of("losses"))
    rows = [
        [format_point(point), *(f"{of('losses')[name][number]:.5f}" for name in names)]
        for number, point in enumerate(points)
    ]
    report.table("validation losses", ["point", *names], rows)
    for name, value in of("largest_difference").items():
        print(f"largest difference of {name}: {value:.1e}")


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables, and write the figures as JSON if wished."""
    parser = argparse.ArgumentParser("python -m benchmarks.packing", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--points", type=int, default=len(POINTS), help="take only the first so many")
    parser.add_argument("--repetitions", type=int, default=3, help="of the short trainings (default: 3)")
    parser.add_argument("--repetitions-long", type=int, default=1, help="of the long ones, 0: none (default: 1)")
    parser.add_argument("--epochs", type=float, default=1.0, help="times quickstart's (default: 1)")
    options = parser.parse_args(words)
    points = POINTS[: options.points]
    content: dict[str, Any] = {"points": [list(point) for point in points]}
    series = [("", options.repetitions, options.epochs), ("_long", options.repetitions_long, LONGER * options.epochs)]
    # Idle workers keep files open in it for a minute: what cannot be removed now is the temporary folder's business.
    with tempfile.TemporaryDirectory(prefix="packing-", ignore_cleanup_errors=True) as folder:
        for suffix, count, epochs in series:
            places = [Path(folder) / f"repetition{number}{suffix}" for number in range(count)]
            measured = [repetition(place, points, epochs) for place in places]
            if measured:
                content |= figures(measured, points, suffix)
                show(content, points, suffix, epochs)
            if options.json and measured:
                report.write(options.json, content)


if __name__ == "__main__":
    main()
