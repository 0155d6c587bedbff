"""Shared fixtures: a toy pair that a test may change, and the commands as a user types them."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A shell has what it runs in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests marked `slurm` are skipped where no SLURM answers."""
    reason = "no SLURM answers here: .ci/slurm start FOLDER && export SLURM_CONF=FOLDER/slurm.conf"
    for item in items:
        if item.get_closest_marker("slurm") and not slurm_answers():
            item.add_marker(pytest.mark.skip(reason=reason))


@cache
def slurm_answers() -> bool:
    return bool(shutil.which("sinfo")) and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Path]:
    """Write a copy of the toy pair, with replacements, and return the parameter file."""

    def write(
        budget: int = 12,
        seconds: float = 0.0,
        in_yaml: Mapping[str, str] = {},
        in_text: Mapping[str, str] = {},
    ) -> Path:
        folder = tmp_path / "params"
        folder.mkdir(exist_ok=True)
        changes = {
            "toy.yaml": {"seed: 0}": f"seed: 0, seconds_per_epoch: {seconds}}}", **in_yaml},
            "toy.txt": {"MAX_BB_EVAL    40": f"MAX_BB_EVAL {budget}", **in_text},
        }
        for name, replacements in changes.items():
            content = (ROOT / "params" / name).read_text()
            for old, new in replacements.items():
                assert old in content, old
                content = content.replace(old, new)
            (folder / name).write_text(content)
        return folder / "toy.txt"

    return write


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of our modules in tmp_path: command("bbo.nomad", "params/toy.txt")."""

    def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            python(module, *arguments), cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True,
            check=False, timeout=200,
        )  # fmt: skip

    return call


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a console script or of a module that is run with -m."""
    if module in ("bbo.nomad", "bbo.cli"):
        return [sys.executable, "-c", f"from {module} import main; main()", *arguments]
    return [sys.executable, "-m", module, *arguments]
