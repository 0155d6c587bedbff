"""Runs a generated program where it can reach nothing: no network, no files of the user, no other process.

confine.py shuts it in by Linux's namespaces, seccomp.py refuses it what gets around them; the kernel's limits bound it.
There is no way to run a program without: where the set-up fails, `run` raises and nothing was run.
"""

import base64
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bbo.errors import MachineError
from blackbox.scores import seccomp

CONFINE = Path(__file__).with_name("confine.py")

PACKAGES = ("numpy",)
"""What programs may import besides the standard library, where we have it: OpenAI's own runner requires it too."""

SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
ENVIRONMENT = {
    "HOME": "/tmp", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/packages",
}  # fmt: skip
"""All that a program gets. The fixed order of sets makes its verdict repeatable."""

SETUP_SECONDS = 60.0
"""For what is a few hundredths of a second of work, on whatever busy machine."""


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    wall: float = 10.0
    """Seconds by the clock, from its first instruction."""
    cpu: int = 3
    """Seconds of processor time, of all its threads together."""
    memory: int = 1 << 30
    """Bytes of address space."""
    folder: int = 16 << 20
    """Bytes in its working folder, all files together."""
    files: int = 256
    """In its working folder."""
    descriptors: int = 64
    threads: int = 32
    output: int = 16 << 10
    """Bytes that are kept of what it prints, the last ones."""


@dataclass(frozen=True)
class Verdict:
    """How a program ended."""

    status: int
    """Exit status; minus the signal that killed it."""
    timed_out: bool
    cpu: float
    """Seconds of processor time; 0 where the clock ended it."""
    output: str
    """The end of what it printed."""


def run(program: str, limits: Limits = Limits()) -> Verdict:
    """Run a Python program, shut in. Raises MachineError where that cannot be had here; it was not run then."""
    if (architecture := seccomp.machine()) is None or sys.platform != "linux":
        raise MachineError("programs can be shut in on Linux alone, on x86_64 and aarch64")
    command = [_interpreter(), "-I", "-S", str(CONFINE)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env={}, start_new_session=True
    ) as process:
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(_specification(program, limits, architecture)).encode())
            report, output = _listen(process, limits)
        finally:
            process.kill()
    try:
        ended = json.loads(report)
    except ValueError:
        raise MachineError(f"the sandbox broke down: {output.strip() or f'status {process.returncode}'}") from None
    if "error" in ended:
        raise MachineError(f"programs cannot be shut in here: {ended['error']}{_hint()}")
    status, cpu = ended["status"], ended["cpu"]
    out_of_time = status == -signal.SIGXCPU or (status == -signal.SIGKILL and cpu > limits.cpu)
    return Verdict(status, ended["timed_out"] or out_of_time, cpu, output)


def _listen(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, str]:
    """The watch's report, and the end of the program's output. Raises MachineError when both stay open."""
    assert process.stdout is not None
    assert process.stderr is not None
    report, output = bytearray(), bytearray()
    deadline = time.monotonic() + SETUP_SECONDS + limits.wall
    with selectors.DefaultSelector() as pipes:
        pipes.register(process.stdout, selectors.EVENT_READ, report)
        pipes.register(process.stderr, selectors.EVENT_READ, output)
        while pipes.get_map():
            ready = pipes.select(deadline - time.monotonic())
            if not ready:
                raise MachineError(f"a program could not be shut in within {SETUP_SECONDS:g} s")
            for key, _ in ready:
                if not (chunk := os.read(key.fd, 1 << 16)):
                    pipes.unregister(key.fileobj)
                key.data.extend(chunk)
            del output[: -limits.output]
    return bytes(report), output.decode(errors="replace")


def _specification(program: str, limits: Limits, architecture: str) -> Mapping[str, Any]:
    """What confine.py is told."""
    return {
        **_root(),
        "parent": os.getpid(),
        "program": program,
        "command": [_interpreter(), "-s", "-S", "-P", "/program.py"],
        "environment": ENVIRONMENT,
        "wall": limits.wall,
        "folder": f"size={limits.folder},nr_inodes={limits.files}",
        "limits": _resources(limits),
        "filter": base64.b64encode(seccomp.rules(architecture)).decode(),
        "pivot_root": seccomp.PIVOT_ROOT[architecture],
    }


def _resources(limits: Limits) -> Mapping[str, tuple[int, int]]:
    """The kernel's limits by their names without RLIMIT_, soft and hard."""
    most = {
        "AS": limits.memory,
        "FSIZE": limits.folder,
        "NOFILE": limits.descriptors,
        "NPROC": limits.threads,
        "STACK": 8 << 20,
        "SIGPENDING": 256,
        "CORE": 1,  # not even to a program of the machine's that takes them by a pipe: core(5)
    }
    most |= dict.fromkeys(("MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"), 0)
    # A program may ignore the first signal, but not the second.
    return {"CPU": (limits.cpu, limits.cpu + 1)} | {name: (value, value) for name, value in most.items()}


def _interpreter() -> str:
    """Ours, outside its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _root() -> Mapping[str, Any]:
    """What stands in a program's root, all of it read-only: the interpreter, the system's libraries, the packages."""
    interpreter = _interpreter()
    prefix = Path(interpreter).parent.parent
    links, binds = {}, {interpreter: interpreter}
    for folder in dict.fromkeys([*SYSTEM, f"{prefix}/lib", f"{prefix}/lib64"]):
        if os.path.islink(folder):
            links[folder] = os.readlink(folder)
        elif os.path.isdir(folder):
            binds[folder] = folder
    for file in ("/etc/ld.so.cache", "/dev/null", "/dev/urandom"):
        if os.path.exists(file):
            binds[file] = file
    hidden = f"{sysconfig.get_path('stdlib')}/site-packages"
    for name in PACKAGES:
        found = find_spec(name)
        for folder in found.submodule_search_locations or [] if found else []:
            for part in (folder, f"{folder}.libs"):
                if os.path.isdir(part):
                    binds[f"/packages/{Path(part).name}"] = part
    return {"links": links, "binds": binds, "hidden": [hidden] if os.path.isdir(hidden) else []}


def _hint() -> str:
    """What an administrator could change, where we can tell."""
    with suppress(OSError):
        if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").read_text().strip() == "1":
            return " (sysctl kernel.apparmor_restrict_unprivileged_userns is 1)"
        if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
            return " (sysctl user.max_user_namespaces is 0)"
    return ""


PROBE = """
import os, socket
found = []
def attempt(what, action):
    try:
        action()
    except OSError:
        return
    found.append(what)
attempt("connect to this machine", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
for path in {secrets!r}:
    attempt("see " + path, lambda: os.lstat(path))
for folder in {folders!r}:
    with __import__("contextlib").suppress(OSError):
        open(folder + "/" + {mark!r}, "w").close()
attempt("start a process", os.fork)
print(*found or ["sealed"], sep=", ")
"""


@cache
def available() -> str | None:
    """None where programs can be shut in here, as one that tries to get out has shown; else why not, a sentence."""
    home = Path.home()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        mark = f"{Path(folder).name}.probe"
        folders = [str(home), str(CONFINE.parent), os.path.dirname(folder), folder, "/", "/etc", "/usr/lib", "/dev/shm"]
        secrets = [folder, str(CONFINE), *_foreign(home), *_foreign(Path.cwd())]
        probe = PROBE.format(port=server.getsockname()[1], secrets=secrets, folders=folders, mark=mark)
        try:
            verdict = run(probe, Limits(cpu=30, wall=60))
        except MachineError as error:
            return str(error)
        got = verdict.output.partition("\n")[0]
        if verdict.status != 0 or got != "sealed":
            return f"a program that was shut in could still: {got or f'status {verdict.status}'}"
        if wrote := [place for place in folders if os.path.lexists(f"{place}/{mark}")]:
            return f"a program that was shut in could still: write into {', '.join(wrote)}"
    return None


def _foreign(folder: Path) -> list[str]:
    """What stands in a folder and is no part of a program's root, nor on the way there."""
    bound = [*_root()["binds"], *_root()["links"], "/tmp"]
    try:
        names = [str(folder / name) for name in os.listdir(folder)]
    except OSError:
        return []
    return [
        name for name in names if not any(f"{b}/".startswith(f"{name}/") or name.startswith(f"{b}/") for b in bound)
    ]
