"""What a preflight looks at: `quick` without torch, `full` with the model in memory."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from bbo.executors.choose import executor_of
from bbo.executors.slots import gpus_of, slots_of, visible_gpus
from bbo.experiment import Experiment
from bbo.points import format_point
from bbo.resources import Resources
from bbo.space import Point, Space
from bbo.stopping import refusal, stopping_of
from bbo.store import Store
from blackbox.block import Blackbox
from blackbox.launch import launch_command
from blackbox.objective import check, is_callable
from blackbox.scores import qa
from blackbox.scores.requests import Wanted
from blackbox.scores.settings import HUMANEVAL
from blackbox.settings import Settings, Source, Training, read_settings
from blackbox.trackers import missing

PAIRS = 10
"""Forward passes without and with the adapter that are compared before its identity is denied."""


def quick(experiment: Experiment, stopping: str | None = None, budget: int | None = None) -> None:
    """Everything that can be said without loading anything. Raises InputError with all that is wrong.

    `stopping` is the rule where it is not the YAML's, `budget` how many evaluations there will be.
    """
    blackbox = Blackbox(experiment, Store(Path("unused")), Path("unused"))
    if is_callable(experiment):
        check(experiment, stopping_of(experiment, stopping))
        executor_of(experiment.resources, Path())  # does this machine have what it needs?
        return
    problems = _bad_corners(experiment, blackbox) or _useless_rule(experiment, blackbox, stopping, budget)
    if blackbox.settings is not None:
        problems += _missing_files(experiment, blackbox.settings)
        problems += [str(experiment.locate(message)) for message in missing(blackbox.settings.training)]
        problems += _impossible_scores(experiment, blackbox, blackbox.settings)
    if problems:
        raise InputError(*problems)
    if blackbox.settings is not None:
        launch_command(Path("job.json"), blackbox.processes, blackbox.executor.devices, experiment.accelerate)


def _missing_files(experiment: Experiment, settings: Settings) -> list[str]:
    model = Path(settings.model.resolved(settings.base))
    problems = []
    if model.is_absolute() and not (model / "config.json").is_file():
        what = "no config.json in this model folder" if model.is_dir() else "no such model folder"
        problems.append(str(experiment.error("model.path", f"{what}: {model}")))
    if settings.model.quantization and not gpus_of(_devices(experiment.resources)):
        problems.append(str(experiment.error("model.quantization", "nf4 needs an NVIDIA GPU, and there is none here")))
    for name in ("train", "valid"):
        source = getattr(settings.data, name)
        file = source.file(settings.base) if isinstance(source, Source) else None
        if file is not None and not file.is_file():
            problems.append(str(experiment.error(f"data.{name}", f"no such file: {file}")))
    return problems


def _impossible_scores(experiment: Experiment, blackbox: Blackbox, settings: Settings) -> list[str]:
    problems = impossible(blackbox.wanted.values(), settings)
    return list(dict.fromkeys(str(experiment.locate(message)) for message in problems))


def impossible(wanted: Iterable[Wanted], settings: Settings) -> list[str]:
    """A sentence for everything that these scores lack, each led by its place in the YAML."""
    benchmarks = [each for each in wanted if each.request.task != qa.TASK]
    if not benchmarks:
        return []
    from blackbox.scores import humaneval, tasks  # noqa: PLC0415 - lm-eval takes seconds

    problems: list[str] = []
    for each in benchmarks:
        check = humaneval.check if each.request.task == HUMANEVAL else tasks.check
        problems += check(each.request, each.metric, settings.scores, settings.base)
    return list(dict.fromkeys(problems))


def _corners(space: Space) -> Iterator[tuple[str, Point]]:
    """Each variable at its lowest and highest, all others at the other end."""
    corners = {end: tuple(space.variables[name].bounds[end] for name in space.free) for end in (0, 1)}
    for low in (0, 1):
        for i, name in enumerate(space.free):
            yield name, tuple(corners[low if j == i else 1 - low][j] for j in range(len(space.free)))


def _bad_corners(experiment: Experiment, blackbox: Blackbox) -> list[str]:
    """What no training accepts should not be found after a day."""
    problems = dict[str, None]()
    for name, point in _corners(experiment.space):
        try:
            training = blackbox.training(experiment.space.decode(point))
            if isinstance(training, Training):
                training.batch(blackbox.processes)
        except InputError as error:
            problems |= dict.fromkeys(str(experiment.locate(message)) for message in error.messages)
        except ValueError as error:
            problems[str(experiment.error(f"space.{name}", f"{format_point(point)}: {error}"))] = None
    return list(problems)


def _useless_rule(experiment: Experiment, blackbox: Blackbox, rule: str | None, budget: int | None) -> list[str]:
    """A stopping rule that could stop nothing."""
    trainings = [blackbox.training(experiment.space.decode(point)) for _, point in _corners(experiment.space)]
    epochs = math.ceil(max(training.num_train_epochs for training in trainings))
    wrong = refusal(experiment, stopping_of(experiment, rule), epochs, budget)
    if wrong is None:
        return []
    return [f"--stopping: {wrong}" if rule else str(experiment.error("stopping", wrong))]


def plan(experiment: Experiment) -> list[str]:
    """Lines for `--dry-run`: launch line, memory and time as far as they are known, and what a run would still lack.

    Raises InputError for what is wrong with the sections themselves.
    """
    lines = ["launch: none, the toy is computed by the blackbox itself"]
    if is_callable(experiment):
        lines = ["launch: python -m blackbox.objective JOB.json"]
    elif experiment.model != "toy":
        settings = read_settings(experiment)
        resources = experiment.resources
        devices = _devices(resources)
        processes = resources.processes_per_job or max(1, len(gpus_of(devices)))
        command, _ = launch_command(Path("JOB.json"), processes, devices, experiment.accelerate)
        memory = estimate(settings, settings.training_for(experiment.space.decode(experiment.space.middle())))
        known = f"about {memory:.2g} GiB per process" if memory else "unknown until the model is on this machine"
        line = " ".join(["python", *command[1:]]).replace("python -m accelerate.commands.launch", "accelerate launch")
        lines = [f"launch: {line}", f"memory: {known}"]
    lines.append(f"time: {_time(experiment)}")
    try:
        quick(experiment)
    except InputError as error:
        lines += [f"not ready: {message}" for message in error.messages]
    return lines


def _devices(resources: Resources) -> Sequence[str]:
    """What one job gets; a plan may be made where there are fewer GPUs than it asks for."""
    if resources.executor != "local":
        return executor_of(resources, Path()).devices
    gpus = min(1, len(visible_gpus())) if resources.gpus_per_job is None else resources.gpus_per_job
    return [str(number) for number in range(gpus)] or slots_of(0, resources.cpus_per_job)[0]


def _time(experiment: Experiment) -> str:
    from bbo.run import find_run  # noqa: PLC0415

    evals = find_run(experiment.name).evals
    done = [result.seconds for e in Store(evals) if (result := e.result()) and result.status == "ok"]
    if not done:
        return "unknown before the first evaluation"
    return f"about {sum(done) / len(done):.3g} s per evaluation (mean of {len(done)} in {evals})"


def estimate(settings: Settings, training: Training) -> float | None:
    """GiB that one process needs to train one point, from the model's config.json; None where it does not say.

    Weights; adapters, or all weights, with gradient and two moments in float32; activations at 34 bytes x tokens x
    width per layer for 16-bit numbers (Korthikanti et al. 2022, eq. 2, without the attention matrix) and the logits
    twice in float32.
    """
    import json  # noqa: PLC0415

    file = Path(settings.model.resolved(settings.base)) / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text())
    names = (
        ("hidden_size", "n_embd", "n_embed", "dim"),
        ("num_hidden_layers", "n_layer", "n_layers"),
        ("vocab_size",),
    )
    width, layers, vocabulary = (next((int(config[n]) for n in known if n in config), 0) for known in names)
    if not width * layers:
        return None
    inner = config.get("intermediate_size", 4 * width)
    bytes_each = 4 if settings.model.dtype == "float32" else 2
    of_layers, of_vocabulary = layers * (4 * width**2 + 3 * width * inner), 2 * vocabulary * width
    if training.method == "full":
        weights, trained = 0.0, (of_layers + of_vocabulary) * 16
    else:
        weights = of_layers * (0.5 if settings.model.quantization else bytes_each) + of_vocabulary * bytes_each
        trained = layers * 4 * 2 * width * training.lora_rank * 16
    tokens = training.batch(1).micro * settings.data.max_length
    activations = tokens * (17 * bytes_each * width * (1 if training.gradient_checkpointing else layers))
    predicted = 0 if settings.task == "classification" else vocabulary
    return float(weights + trained + activations + tokens * predicted * 8) / 2**30


def full(experiment: Experiment) -> dict[str, Any]:
    """Load model and data for real. Returns the report; raises InputError with what is wrong."""
    from blackbox.liveness import dead  # noqa: PLC0415
    from blackbox.model import check_length, find_model, load_for, load_tokenizer  # noqa: PLC0415
    from blackbox.setup import Setup, examine_for, start_accelerator  # noqa: PLC0415

    blackbox = Blackbox(experiment, Store(Path("unused")), Path("unused"))
    settings = blackbox.settings
    if settings is None:
        return {"model": experiment.model}
    folder = find_model(settings.model, settings.base)
    tokenizer = load_tokenizer(folder)
    data, report = examine_for(settings, tokenizer)
    examples = data.train
    lengths = [len(example.tokens) for example in examples]
    accelerator = start_accelerator()
    model = load_for(settings, folder, tokenizer)
    if settings.task == "classification":
        check_length(model, [*examples, *data.valid])
    training = settings.training_for(experiment.space.decode(experiment.space.middle()))
    lora = training.method == "lora"
    model = model.to(accelerator.device) if lora and not settings.model.quantization else model
    memory = estimate(settings, training)
    if lora:
        _check_identity(model, training, examples[:4])
    setup = Setup(accelerator, model, data, dtype=settings.model.dtype)
    if sentences := dead(experiment, settings, setup, blackbox.processes):
        raise InputError(*sentences)
    return {
        "model": str(folder),
        "parameters": sum(p.numel() for p in model.parameters()),
        **report,
        "tokens_per_row": {"mean": sum(lengths) / len(lengths), "max": max(lengths)},
        "rows_cut_at_max_length": sum(length == settings.data.max_length for length in lengths),
        "memory_gib": memory,
        "memory_there_gib": _memory_there(accelerator.device.type),
        **({"fresh_adapter_changes_nothing": True} if lora else {}),
        "variables_that_change_the_training": [n for n in experiment.space.free if n not in experiment.allow_dead],
    }


def _check_identity(model: Any, training: Training, examples: Any) -> None:
    """A fresh adapter must leave the logits of one batch equal to the bit, or base scores mean nothing.

    A classifier's head is random for each; this is about the adapter below the same head.

    On a loaded CPU the threads of a matrix product may cut it up differently from one call to the next, and the base
    model then differs from itself. What an adapter changes it changes every time: one equal pair is the proof.
    """
    import torch  # noqa: PLC0415

    from blackbox.pack import Pack  # noqa: PLC0415

    pack = Pack(model, [training], model.device)
    layout, difference = pack.lay_out(examples, [range(len(examples))]), 0.0
    pack.adapted.eval()
    pack.heads.share()
    try:
        with torch.no_grad():
            for _ in range(PAIRS):
                before, after = pack.logits(layout, []), pack.logits(layout, pack.names)
                if torch.equal(before, after):
                    return
                difference = (before - after).abs().max().item()
    finally:
        pack.close()
    raise InputError(f"model.path: a fresh adapter changes the logits by {difference:g}; it must change nothing")


def _memory_there(device: str) -> float:
    import psutil  # noqa: PLC0415
    import torch  # noqa: PLC0415

    size = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else psutil.virtual_memory().available
    return float(size) / 2**30


def describe(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for people."""
    return [f"{name.replace('_', ' ').replace('gib', 'GiB'):<36} {_words(value)}" for name, value in report.items()]


def _words(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case Mapping():
            return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
        case list():
            return ", ".join(map(_words, value))
        case _:
            return str(value)
