"""The scale benchmark on few evaluations: every side does all of them, and durably."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--evaluations", "40", "--workers", "6", "--json", "x/s.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "x/s.json").read_text())
    assert written["evaluations"] == 40
    assert all(written[name] > 0 for name in ("ours_ms", "journal_ms", "rdb_ms", "peak_mib"))
    stretches = written["stretches"]
    assert [len(stretches[side]) for side in ("ours", "journal", "rdb")] == [40] * 3
    # An ask, a result with its folder's entry, an answer; the trial, each of its parameters, a report, its end.
    assert (stretches["ours"][-1]["flushes"], stretches["journal"][-1]["flushes"]) == (4, 7)
