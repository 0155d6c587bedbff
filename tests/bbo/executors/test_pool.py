"""The actors of a Ray cluster, and a machine that is gone before Ray has noticed."""

import sys
import threading
from pathlib import Path

import pytest

from bbo.executors.choose import executor_of
from bbo.executors.protocol import Executor, Launch
from bbo.resources import Resources
from tests.bbo.executors.nodes import require_ray, two_machines


def run(executor: Executor, folder: Path, code: str, *names: str) -> dict[str, int]:
    """How jobs with this code end."""
    launches = [Launch(name, [sys.executable, "-c", code], folder / f"{name}.log", lambda slot: None) for name in names]
    return {launch.job: how.status for launch, how in executor.run(launches, lambda *_: None, lambda: None)}


@pytest.mark.ray
def test_jobs_go_where_there_still_is_a_machine(
    own_locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the other one is busy Ray gives the dead one an actor, which never begins; no job has failed by that."""
    require_ray()
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")  # Ray notices in the time of a job
    monkeypatch.setenv("RAY_health_check_initial_delay_ms", "1000")
    with two_machines(own_locks) as nodes:
        about = {"executor": "ray", "gpus_per_job": 0, "cpus_per_job": 1, "ray": {"address": nodes.address}}
        executor = executor_of(Resources.model_validate(about), tmp_path / "run")
        together = f"import pathlib, time; p = pathlib.Path({str(tmp_path)!r})\n"
        together += "(p / str(time.time_ns())).touch()\nwhile len(list(p.glob('[0-9]*'))) < 2: time.sleep(0.05)"
        assert run(executor, tmp_path, together, "first", "second") == {"first": 0, "second": 0}
        nodes.kill(0)
        ends = run(executor, tmp_path, "import time; time.sleep(15)", "one", "two", "three")
    assert ends == {"one": 0, "two": 0, "three": 0}


@pytest.mark.ray
def test_an_actor_that_is_not_used_gives_its_reservation_back(monkeypatch: pytest.MonkeyPatch) -> None:
    require_ray()
    import ray  # noqa: PLC0415

    from bbo.executors import pool as pools  # noqa: PLC0415

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    pool = pools.Pool(None, 0, 1, False, [])
    try:
        pool.stand_in_line("job")
        actor = pool.take("job", threading.Event(), print)
        pool.release()
        pool.give(actor)
        pool.release()
        assert ray.get(actor.handle.hello.remote())["host"] == actor.host, "it has only just become free"
        monkeypatch.setattr(pools, "UNUSED", 0.0)
        pool.release()
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.handle.hello.remote())
        pool.stand_in_line("next")
        assert pool.take("next", threading.Event(), print) != actor
    finally:
        pool.close()
