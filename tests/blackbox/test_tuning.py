"""The embedded model and data, trained for real at fixed points."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from bbo.run import Run
from tests.conftest import ROOT

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_the_embedded_problem_is_worth_tuning(command: Command, tmp_path: Path) -> None:
    """Base 0.5 nat above the best, 0.2 nat of spread over 12 fixed points, X0 not the optimum."""
    points = ["3 16 3 -3.5", *(f"{r} {a} 1 {lr}" for r in (1, 3, 5) for a, lr in ((4, -4.5), (16, -3), (32, -2.5)))]
    points += ["6 64 1 -2", "4 16 4 -2.75"]
    assert len(points) == 12
    (tmp_path / "points").write_text("\n".join(points))
    done = command("blackbox", str(ROOT / "params/quickstart.yaml"), "points")
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[0]) for line in done.stdout.splitlines()]
    base = Run(tmp_path / "runs/quickstart").base_score()
    assert base is not None
    assert base["eval_loss"] - min(losses) >= 0.5
    assert max(losses) - min(losses) >= 0.2
    assert losses[0] - min(losses) >= 0.1
