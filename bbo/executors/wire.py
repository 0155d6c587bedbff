"""Messages between two processes of this machine: lines of JSON through a Unix socket."""

import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from bbo.errors import InputError, MachineError


class Wire:
    """One end of a connection. Any thread may say something, one listens."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._said = threading.Lock()
        self._rest = b""

    def say(self, message: Mapping[str, Any]) -> None:
        """Raises BrokenPipeError where the other end is gone."""
        with self._said:
            self._connection.settimeout(None)
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, seconds: float | None) -> list[dict[str, Any]]:
        """What has come in, after at most so many seconds (None: until something has). Raises EOFError at the end."""
        try:
            self._connection.settimeout(seconds)
            heard = self._connection.recv(1 << 16)
        except TimeoutError:
            return []
        except ConnectionError:
            heard = b""
        if not heard:
            raise EOFError
        *lines, self._rest = (self._rest + heard).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Say that we are through, and wait until the other end is."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        with suppress(EOFError):
            while True:
                self.hear(None)
        self._connection.close()


def refused(sentence: str, kind: Literal["input", "machine"] = "machine") -> dict[str, Any]:
    """The message that something cannot be done."""
    return {"refused": sentence, "kind": kind}


def refusal(message: Mapping[str, Any]) -> Exception:
    """What to raise for it."""
    return (InputError if message["kind"] == "input" else MachineError)(message["refused"])
