"""The blackbox's programs: `python -m blackbox.NAME REQUEST`, started by the commands of `bbo` that need a model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from bbo import lifeline
from bbo.processes import end, own_python_first


class Program:
    """`python -m blackbox.NAME REQUEST`, which ends with us (bbo/lifeline.py); `bbo` itself knows no torch."""

    def __init__(self, name: str, request: Mapping[str, Any], piped: bool = False) -> None:
        """`piped`: its standard output is ours to read."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"blackbox.{name}", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if piped else None,
            env={**os.environ, **own_python_first(), lifeline.ENVIRONMENT: "1"},
            start_new_session=True,
        )

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._process.poll() is None:
            end([self._process])
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def lines(self) -> Iterator[bytes]:
        """What it writes, line by line, until it ends."""
        assert self._process.stdout is not None
        yield from self._process.stdout

    def wait(self) -> int:
        """Its exit status; one that a signal ended has the machine's failure behind it."""
        status = self._process.wait()
        return 3 if status < 0 else status


def blackbox(name: str, request: Mapping[str, Any]) -> int:
    """Run such a program to its end. Its exit status."""
    with Program(name, request) as program:
        return program.wait()
