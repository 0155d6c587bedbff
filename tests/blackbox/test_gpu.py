"""The same evaluation on a GPU and on the CPU."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.executors.slots import visible_gpus
from tests.test_quickstart import write_pair

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="no NVIDIA GPU on this machine"),
]


def test_a_gpu_gives_the_loss_of_the_cpu(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("3 16 1 -3")
    losses = []
    for gpus in (0, 1):
        file = write_pair(tmp_path / f"params{gpus}").with_suffix(".yaml")
        document = json.loads(file.read_text())
        document["resources"] = {"gpus_per_job": gpus}
        file = file.rename(file.with_name(f"on{gpus}.yaml"))
        file.write_text(json.dumps(document))
        done = command("blackbox.eval", "x.txt", "-e", str(file))
        assert done.returncode == 0, done.stderr
        (result,) = (tmp_path / f"runs/on{gpus}/evals").glob("*/result.json")
        losses.append(json.loads(result.read_text())["metrics"]["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
