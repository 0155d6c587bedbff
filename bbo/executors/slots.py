"""Slots: the devices one job may use, held by a lock file per device that the kernel frees on any death.

The lock files stand in an owner-only folder of the machine's temporary folder, so that all runs and blackbox processes
of a user share the devices. A job's first process inherits the lock: a device is free when that process is gone.
"""

import fcntl
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbo.errors import InputError, MachineError


@dataclass(frozen=True)
class Slot:
    """Devices that are locked together; `devices` is empty for the CPU."""

    name: str
    devices: tuple[str, ...]
    locks: tuple[int, ...]
    """Open file descriptors; handing them to a process makes it hold the devices too."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)}

    def release(self) -> None:
        for lock in self.locks:
            os.close(lock)


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs this process may use, by index or UUID, without asking a CUDA library."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def slots_of(gpus_per_job: int | None) -> list[tuple[str, ...]]:
    """The machine's devices shared out: one entry per slot. Raises InputError when a job asks for more than there is.

    `gpus_per_job=None` means one GPU if there is any, else the CPU; the CPU is one slot.
    """
    gpus = visible_gpus()
    size = min(1, len(gpus)) if gpus_per_job is None else gpus_per_job
    if size == 0:
        return [()]
    if size > len(gpus):
        raise InputError(f"resources.gpus_per_job: {size} asked for, but this machine shows {len(gpus)} GPUs")
    return [tuple(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def acquire(choices: Sequence[tuple[str, ...]]) -> Slot | None:
    """The first of these slots that nobody holds, now held by us; None when all are taken."""
    for devices in choices:
        locks: list[int] = []
        for device in devices or ("cpu",):
            lock = os.open(_lock_file(device), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            locks.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} in {Path.cwd()}".encode(), 0)
        else:
            return Slot("gpu " + ",".join(devices) if devices else "cpu", devices, tuple(locks))
        for lock in locks:
            os.close(lock)
    return None


def holders(choices: Sequence[tuple[str, ...]]) -> str:
    """Who holds these slots, for the message of a process that waits."""
    notes = [_lock_file(device).read_text() for devices in choices for device in devices or ("cpu",)]
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _lock_file(device: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"bbo-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MachineError(f"{folder} belongs to somebody else")
    return folder / f"{device.replace('/', '_')}.lock"
