"""How a process of ours that gives up tells the one that started it why: a small file beside its job file.

Exit statuses do not survive `accelerate launch`, which turns every failure into 1.
"""

import json
from pathlib import Path

from bbo.errors import InputError, MachineError
from bbo.store import write_json


def failure_file(job_file: Path) -> Path:
    return job_file.with_suffix(".error.json")


def write_failure(file: Path, error: Exception) -> None:
    """Note why this process gives up; anything that is no mistake of the user's counts as the machine's failure."""
    if isinstance(error, InputError):
        write_json(file, {"kind": "input", "messages": error.messages})
    else:
        message = str(error) if isinstance(error, MachineError) else f"{type(error).__name__}: {error}"
        write_json(file, {"kind": "machine", "messages": [message]})


def raise_failure(file: Path, log: Path) -> None:
    """Raise what was noted; nothing where there is nothing."""
    try:
        error = json.loads(file.read_text())
    except FileNotFoundError:
        return
    if error["kind"] == "input":
        raise InputError(*error["messages"])
    raise MachineError("\n".join([*error["messages"], f"see {log}"]))
