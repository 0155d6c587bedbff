"""Slots are held by one job at a time, in a folder that is ours alone."""

import os
from pathlib import Path

import pytest

from bbo.errors import InputError, MachineError
from bbo.executors import slots


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each test alone: some leave slots held."""
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))


def test_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    assert slots.slots_of(1, None) == [("2",), ("3",), ("5",)]
    assert slots.slots_of(None, None) == [("2",), ("3",), ("5",)]
    assert slots.slots_of(2, None) == [("2", "3")]
    with pytest.raises(InputError, match="gpus_per_job: 4 asked for, but this machine shows 3"):
        slots.slots_of(4, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(slots, "cores", lambda: 4)
    assert slots.slots_of(None, None) == [("cpu0", "cpu1", "cpu2", "cpu3")]
    assert slots.slots_of(0, 2) == [("cpu0", "cpu1"), ("cpu2", "cpu3")]


def test_a_device_has_one_holder() -> None:
    first = slots.acquire([("a", "b")])
    assert first is not None
    assert slots.acquire([("b", "c")]) is None
    second = slots.acquire([("b", "c"), ("c", "d")])
    assert second is not None
    assert second.devices == ("c", "d")
    assert "process" in slots.holders([("a",)])
    first.release()
    third = slots.acquire([("a", "b")])
    assert third is not None
    for held in (second, third):
        held.release()


def test_who_looks_at_a_device_does_not_hold_it() -> None:
    assert not slots.taken(("a", "b"))
    held = slots.acquire([("b",)])
    assert held is not None and slots.taken(("a", "b")) and not slots.taken(("a",))
    held.release()
    assert not slots.taken(("a", "b"))


def test_a_folder_of_ours_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = slots.own_folder("bbo-x")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(MachineError, match="open to others"):
        slots.own_folder("bbo-x")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(MachineError, match="belongs to somebody else"):
        slots.own_folder("bbo-x")
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    (tmp_path / f"bbo-x-{me + 1}").mkdir(mode=0o700)
    with pytest.raises(MachineError, match="belongs to somebody else"):
        slots.own_folder("bbo-x")
