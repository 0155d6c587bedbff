"""Every command of the tutorial, and of README's section Use, in a copy of the repository with a small quickstart."""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents import fences

SMALL = {
    "params/quickstart.yaml": {
        "train[:320]": "train[:32]",
        "../blackbox/tiny/valid.jsonl,": "../blackbox/tiny/few.jsonl,",
        "cpus_per_job: 1, ": "",
    },
    "params/quickstart.txt": {"MAX_BB_EVAL       16": "MAX_BB_EVAL 11"},
}
"""Trainings of a second, one process at a time; and a budget just above the ten start-up points of TPE and GP."""

SHORTER = {
    r"(bbo compare .*)--seeds \d+( --budget \d+)?": r"\1--seeds 1 --budget 11",
    "bbo compare params/quickstart.txt": "bbo compare params/toy.txt",
    "nomad,tpe,gp,random": "nomad,tpe,random",
    r"--top 3 --seeds 5": "--top 2 --seeds 2",
}
"""What a command becomes here, where it would take minutes."""

ENDS = {
    "nomad params/bbo3.txt": (1, "no train.jsonl|resources.gpus_per_job|no such file"),
    "bbo submit params/bbo3.txt --to slurm --gpus 4 --time 24:00:00": (1, "no such file"),
    "bbo stop quickstart-tpe": (1, "nobody drives it"),
}
"""Exit status and words of those that cannot do their work here: there is no GPU, nothing runs at the moment."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, its environment in .venv, small trainings."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("bbo", "blackbox", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv/ready").touch()
    for file, replacements in SMALL.items():
        text = (folder / file).read_text()
        for old, new in replacements.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / file).write_text(text)
    rows = (folder / "blackbox/tiny/valid.jsonl").read_text().splitlines(keepends=True)
    (folder / "blackbox/tiny/few.jsonl").write_text("".join(rows[:16]))
    return folder


def say(clone: Path, command: str) -> str:
    """Type a command there; its output. It ends as it should."""
    status, words = ENDS.get(re.sub(r"\s+#.*", "", command), (0, ""))
    for pattern, shorter in SHORTER.items():
        command = re.sub(pattern, shorter, command)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=os.environ | {"PATH": path, "PYTHONPATH": str(clone)},
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == status, f"{command}\n{said}"
    assert re.search(words, said), f"{command}\n{said}"
    return said


def commands(page: str, heading: str = "") -> Iterator[str]:
    text = (ROOT / page).read_text()
    begin = text[: text.index(heading)].count("\n")
    first = next(f for f in fences(ROOT / page) if f.line > begin)
    yield from (c for f in fences(ROOT / page) if not heading or f == first for c in f.commands)


@pytest.fixture(scope="module")
def said(clone: Path) -> dict[str, str]:
    """What each command of the tutorial said, in its order."""
    return {command: say(clone, command) for command in commands("Docs/tutorial.md")}


@pytest.mark.timeout(1200)
def test_the_tutorial(said: dict[str, str], clone: Path) -> None:
    assert "(11 trained, 0 from the store, 0 failed)" in said["make demo"]
    assert "replaying 11 of 11 evaluations" in said["nomad params/quickstart.txt"]
    assert "Best mean" in next(text for command, text in said.items() if command.startswith("bbo confirm"))
    assert (clone / "runs/quickstart/final/adapter_model.safetensors").is_file()
    with (clone / "answers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("said")
def test_the_commands_of_readme(clone: Path) -> None:
    """Behind the tutorial, whose run they go on with."""
    for command in commands("README.md", "## Use"):
        say(clone, command)
