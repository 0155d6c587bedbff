"""Child processes of ours: what they find on their PATH, and how they are ended, all that they started included."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE = 15.0
"""Seconds for an orderly end."""


def own_python_first() -> dict[str, str]:
    """So that `python3` in a BB_EXE is the interpreter that runs us."""
    return {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}


def end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End these leaders of process groups, which first end what they started; return when the groups are gone."""
    deadline = time.monotonic() + PATIENCE
    name = signal.SIGTERM
    while living := [child for child in children if _living(child)]:
        for child in living:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, name)
        if time.monotonic() > deadline:
            name = signal.SIGKILL
        time.sleep(0.05)
    for child in children:
        child.wait()


def _living(child: subprocess.Popen[bytes]) -> bool:
    """Whether anybody of the child's process group runs. Where we are process 1 its orphans are ours to reap."""
    child.poll()
    with suppress(ChildProcessError):
        os.waitpid(-child.pid, os.WNOHANG)
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return any(_in_group(process, child.pid) for process in psutil.process_iter())


def _in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
