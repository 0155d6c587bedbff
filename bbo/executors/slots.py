"""Slots: the devices one job may use, held by a lock file per device that the kernel frees on any death.

The lock files stand in an owner-only folder of the machine's temporary folder, so that all runs and blackbox processes
of a user share the devices. A job's first process has the lock too: a device is free when that process is gone.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbo.errors import InputError, MachineError


@dataclass(frozen=True)
class Slot:
    """Devices that are locked together: GPUs, or cores of the CPU (`cpu0`, `cpu1`...)."""

    name: str
    devices: tuple[str, ...]
    locks: tuple[int, ...]
    """Open file descriptors; handing them to a process makes it hold the devices too."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus_of(self.devices))}

    def release(self) -> None:
        for lock in self.locks:
            os.close(lock)


def gpus_of(devices: Sequence[str]) -> tuple[str, ...]:
    """The GPUs among these devices; none on a slot of the CPU."""
    return tuple(device for device in devices if not device.startswith("cpu"))


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs this process may use, by index or UUID, without asking a CUDA library."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def slots_of(gpus_per_job: int | None, cpus_per_job: int | None) -> list[tuple[str, ...]]:
    """The machine's devices shared out: one entry per slot. Raises InputError when a job asks for more than there is.

    `gpus_per_job=None` means one GPU if there is any, else the CPU; `cpus_per_job=None` all cores of the CPU.
    """
    devices = visible_gpus()
    size = min(1, len(devices)) if gpus_per_job is None else gpus_per_job
    if size > len(devices):
        raise InputError(f"resources.gpus_per_job: {size} asked for, but this machine shows {len(devices)} GPUs")
    if size == 0:
        devices = [f"cpu{number}" for number in range(cores())]
        size = len(devices) if cpus_per_job is None else min(cpus_per_job, len(devices))
    return [tuple(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]


def cores() -> int:
    """Cores of the CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def acquire(choices: Sequence[tuple[str, ...]]) -> Slot | None:
    """The first of these slots that nobody holds, now held by us; None when all are taken."""
    for devices in choices:
        locks: list[int] = []
        for device in devices:
            lock = os.open(_lock_file(device), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            locks.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} in {Path.cwd()}".encode(), 0)
        else:
            kind = "gpu " if gpus_of(devices) else ""
            return Slot(kind + " ".join(devices), devices, tuple(locks))
        for lock in locks:
            os.close(lock)
    return None


def holders(choices: Sequence[tuple[str, ...]]) -> str:
    """Who holds these slots, for the message of a process that waits."""
    notes = [_lock_file(device).read_text() for devices in choices for device in devices]
    return "; ".join(dict.fromkeys(note for note in notes if note))


def taken(devices: Sequence[str]) -> bool:
    """Whether anybody holds one of these devices right now. The look itself is shorter than any wait for a device."""
    for device in devices:
        with _lock_file(device).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def own_folder(name: str, parent: str | None = None) -> Path:
    """The user's folder NAME-UID in the machine's temporary folder. Raises MachineError where others may use it too."""
    folder = Path(parent or tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise MachineError(f"{folder} belongs to somebody else")
    if found.st_mode & 0o077:
        raise MachineError(f"{folder} is open to others: `chmod 700 {folder}`")
    return folder


def _lock_file(device: str) -> Path:
    return own_folder("bbo-devices") / f"{device.replace('/', '_')}.lock"
