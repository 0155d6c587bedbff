"""Locks of a test alone, so that a training elsewhere on the machine does not disturb it."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
