"""A Ray cluster of two machines on this one: nothing in common but what a test finds it reading across."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

TRAP = """
import os, sys
FORBIDDEN = os.environ["FORBIDDEN"]
def look(event, arguments):
    if event == "open" and str(arguments[0]).startswith(FORBIDDEN):
        raise PermissionError(f"read across: {arguments[0]}")
sys.addaudithook(look)
with open(__file__ + ".set", "a") as note:
    note.write(" ".join(sys.orig_argv) + "\\n")
"""
"""Python's own reading below the folder of the machine that asks is an error on the others."""


def require_ray() -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'bbo[ray]'")


@contextmanager
def two_machines(folder: Path, forbidden: str = "/nothing") -> Iterator["Nodes"]:
    """With a token, for the nodes and for who asks them; their address is in folder/address."""
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        nodes = Nodes(folder, forbidden)
        try:
            nodes.start()
            (folder / "address").write_text(nodes.address)
            yield nodes
        finally:
            nodes.close()


class Nodes:
    """`ray start` of a head without a core and of workers with one core each, in folders of their own."""

    def __init__(self, folder: Path, forbidden: str) -> None:
        self._folder, self._forbidden = folder, forbidden
        self._own = tempfile.mkdtemp(prefix="bbo-nodes-", dir="/tmp")  # short: Ray has sockets in it
        with closing(socket.socket()) as probe:
            probe.bind(("", 0))
            self._port = probe.getsockname()[1]
        self.address = ""
        self.folders = [folder / f"machine{number}" for number in range(2)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        words = ["--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false"]
        said = self._start(self._folder / "head", *words, f"--temp-dir={self._own}")
        self.address = re.search(r"--address='([\d.:]+)'", said)[1]  # type: ignore[index]
        for machine in self.folders:
            self._start(machine, f"--address={self.address}", "--num-cpus=1")

    def _start(self, folder: Path, *words: str) -> str:
        for name in ("tmp", "work", "trap"):
            (folder / name).mkdir(parents=True)
        (folder / "trap" / "sitecustomize.py").write_text(TRAP)
        own = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(folder / "trap"), "FORBIDDEN": self._forbidden}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=100000000"]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *words], cwd=folder / "work", env=os.environ | own, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        deadline = time.monotonic() + 120
        while b"Ray runtime started" not in (folder / "log").read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        return (folder / "log").read_text()

    def kill(self, number: int) -> None:
        """As by a power cut: every process of this worker's machine at once."""
        self._kill(self._processes[1 + number])

    def trapped(self) -> list[str]:
        """The command lines of Python on the workers' machines."""
        notes = [folder / "trap" / "sitecustomize.py.set" for folder in self.folders]
        return [line for note in notes for line in note.read_text().splitlines()]

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in reversed(self._processes):
            self._kill(process)
        shutil.rmtree(self._own, ignore_errors=True)
