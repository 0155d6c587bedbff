"""Results are whole or not there; a claim is held by one, and taken over from the dead."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bbo.claims
from bbo.claims import Claim
from bbo.store import Result, Store, key_of, write_json
from tests.conftest import ROOT

RESULT = Result(
    key="k", status="ok", metrics={"eval_loss": 1.0}, hyperparameters={"lora_rank": 8}, point=[1.0], experiment="toy",
    seconds=1.0, phases={}, gpu_seconds=0.0, started=0.0, finished=1.0, host="h", slot="cpu", job="j", seed=0,
)  # fmt: skip


def test_keys_are_exact() -> None:
    assert key_of({"a": 1e-4, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 0.0001})
    assert key_of({"a": 1e-4}) != key_of({"a": 1.0000000000000002e-4})
    with pytest.raises(ValueError, match="JSON"):
        key_of({"a": float("nan")})


def test_record_and_read_back(tmp_path: Path) -> None:
    evaluation = Store(tmp_path).evaluation("k")
    assert evaluation.result() is None
    evaluation.begin("model: toy\n", "1\n")
    evaluation.record(RESULT)
    assert evaluation.result() == RESULT
    assert [e.key for e in Store(tmp_path)] == ["k"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_one_claim_many_takers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: Claim(tmp_path / "claim").acquire(), range(64)))
    assert taken.count(True) == 1
    Claim(tmp_path / "claim").release()
    assert Claim(tmp_path / "claim").acquire()


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Another process that takes the claim and sleeps."""
    code = "import sys, time, pathlib, bbo.claims; assert bbo.claims.Claim(pathlib.Path(sys.argv[1])).acquire()"
    code += "; print(flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_dead_holder_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    holder = hold(path)
    assert not Claim(path).acquire()
    holder.kill()
    holder.wait()
    assert Claim(path).acquire()


def test_a_claim_lives_as_long_as_a_process_it_started(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    holder = hold(path)
    with subprocess.Popen(["sleep", "100"]) as child:
        Claim(path).add(child.pid)
        holder.kill()
        holder.wait()
        assert not Claim(path).acquire()
        child.kill()
    assert Claim(path).acquire()


def test_a_reused_pid_does_not_count(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "claim")
    assert claim.acquire()
    content = json.loads(claim.path.read_text())
    content["processes"][0][1] -= 1000
    claim.path.write_text(json.dumps(content))
    assert claim.acquire()


def test_another_host_is_judged_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbo.claims, "SILENCE", 0.3)
    claim = Claim(tmp_path / "claim")
    assert claim.acquire()
    content = json.loads(claim.path.read_text()) | {"host": "elsewhere"}
    claim.path.write_text(json.dumps(content))
    os.utime(claim.path, (1, 1))  # a clock that is decades behind proves nothing
    assert not claim.acquire()
    time.sleep(0.2)
    claim.touch()
    assert not claim.acquire()
    time.sleep(0.2)
    assert not claim.acquire()
    time.sleep(0.4)
    assert claim.acquire()


def test_a_claim_outlives_its_dead_while_a_job_elsewhere_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the holder's own host: the job ends by itself, within this time."""
    monkeypatch.setattr(bbo.claims, "SILENCE", 1.5)
    path = tmp_path / "claim"
    code = "import os, sys, pathlib, bbo.claims; claim = bbo.claims.Claim(pathlib.Path(sys.argv[1]))"
    code += "\nassert claim.acquire(); claim.add(None); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=ROOT)
    Claim(path).touch()
    assert not Claim(path).acquire()
    time.sleep(1.7)
    assert Claim(path).acquire()
