"""`bbo katib FILE`: a params pair as a Katib Experiment."""

from pathlib import Path
from typing import Annotated

import typer

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.katib.algorithms import ALGORITHMS, SEED
from bbo.katib.client import submit
from bbo.katib.render import manifests, to_yaml
from bbo.katib.settings import katib_settings
from bbo.pair import disagreements
from bbo.problem import experiment_file, read_problem

app = typer.Typer()

EPILOG = "Example:  bbo katib params/bbo3.txt --image registry/bbo:1 --pvc data --resource gpu=1 --submit"

OPTIONS = {
    "algorithm_name": "--optimizer",
    "algorithm_settings": "--set",
    "base_image": "--image",
    "env_per_trial": "--env",
    "max_failed_trial_count": "--max-failed",
    "max_trial_count": "--budget",
    "name": "--name",
    "namespace": "--namespace",
    "num_workers": "--workers",
    "packages_to_install": "--package",
    "parallel_trial_count": "--parallel",
    "pip_index_url": "--index-url",
    "resources_per_trial": "--resource",
    "resources_per_worker": "--resource",
    "storage_config": "--pvc, --mount",
}
"""What messages begin with -> the option that says it."""


@app.command(epilog=EPILOG)
def katib(  # noqa: PLR0913, PLR0917 - the options of a command
    file: Annotated[Path, typer.Argument(help="params/NAME.txt")],
    image: Annotated[
        str, typer.Option(metavar="I", help="the trials' image, with this project or --package to get it")
    ],
    namespace: Annotated[str, typer.Option(metavar="N")] = "default",
    pvc: Annotated[str | None, typer.Option(metavar="P", help="an existing claim: model, data and runs/")] = None,
    mount: Annotated[str | None, typer.Option(metavar="PATH", help="of the volume (default: /workspace)")] = None,
    name: Annotated[str | None, typer.Option(help="of the experiment (default: FILE's stem)")] = None,
    optimizer: Annotated[str, typer.Option(help=", ".join(ALGORITHMS))] = "tpe",
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, a setting of Katib's")] = None,
    budget: Annotated[int | None, typer.Option(help="trials (default: MAX_BB_EVAL)")] = None,
    parallel: Annotated[int | None, typer.Option(help="at once (default: BB_MAX_BLOCK_SIZE)")] = None,
    max_failed: Annotated[
        int | None, typer.Option(help="more failed trials than that end it (default: no limit)")
    ] = None,
    goal: Annotated[float | None, typer.Option(help="of the objective: the experiment ends there")] = None,
    resources: Annotated[
        list[str] | None, typer.Option("--resource", help="of a pod: gpu=1, cpu=8, memory=32Gi")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="pods of a trial; several are a PyTorchJob")] = 1,
    packages: Annotated[list[str] | None, typer.Option("--package", help="pip installs it before each trial")] = None,
    index: Annotated[str | None, typer.Option("--index-url", help="pip's")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE, for the trials")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="the YAML (default: standard output)")] = None,
    send: Annotated[bool, typer.Option("--submit", help="create it on the current cluster")] = False,
) -> None:
    """Render a params pair as a Katib Experiment, for `kubectl apply -f`, or create it."""
    problem = read_problem(file)
    yaml = experiment_file(problem)
    if yaml is None:
        raise InputError(f"{problem.where('BB_EXE')}: BB_EXE runs no experiment of ours")
    experiment = read_experiment(yaml)
    if wrong := disagreements(problem, experiment):
        raise InputError(*wrong)
    count = budget or problem.max_bb_eval
    if count is None:
        raise InputError(f"{file}: no MAX_BB_EVAL: --budget")
    algorithm = ALGORITHMS.get(optimizer)
    seed = {SEED: str(problem.seed)} if algorithm and SEED in algorithm.settings else {}
    given = {
        "name": name or file.stem.lower().replace("_", "-").replace(".", "-"),
        "namespace": namespace,
        "base_image": image,
        "algorithm_name": optimizer,
        "algorithm_settings": seed | _pairs("--set", settings),
        "objective_goal": goal,
        "max_trial_count": count,
        "parallel_trial_count": parallel or min(count, problem.block_size),
        "max_failed_trial_count": max_failed,
        "num_workers": workers,
        "resources_per_worker" if workers > 1 else "resources_per_trial": _pairs("--resource", resources),
        "storage_config": _storage(pvc, mount),
        "packages_to_install": tuple(packages or ()),
        "pip_index_url": index,
        "env_per_trial": _pairs("--env", env),
    }
    try:
        documents = manifests(experiment, katib_settings(**given))
    except InputError as error:
        raise experiment.located(InputError(*map(_in_words_of_options, error.messages))) from None
    if out is not None:
        try:
            out.write_text(to_yaml(documents))
        except OSError as error:
            raise InputError(f"--out {out}: {error.strerror}") from None
    elif not send:
        print(to_yaml(documents), end="")
    if send:
        print(f"created: {namespace}/{submit(documents)}")


def _in_words_of_options(message: str) -> str:
    place, colon, rest = message.partition(":")
    return OPTIONS.get(place.partition(".")[0], place) + colon + rest


def _pairs(option: str, statements: list[str] | None) -> dict[str, str]:
    pairs = [statement.partition("=") for statement in statements or ()]
    wrong = [f"{option} {''.join(pair)}: must be NAME=VALUE" for pair in pairs if not (pair[0] and pair[1])]
    if wrong:
        raise InputError(*wrong)
    return {name: value for name, _, value in pairs}


def _storage(claim: str | None, mount: str | None) -> dict[str, str] | None:
    if claim is None:
        if mount is not None:
            raise InputError("--mount: of which volume? --pvc names it")
        return None
    return {"claim": claim} | ({"mount_path": mount} if mount else {})
