"""What the programs behind `bbo confirm`, `merge`, `predict`... have in common: a JSON request, and exit statuses.

`bbo` knows no torch: each of its commands that needs some starts `python -m blackbox.NAME REQUEST` (bbo/program.py).
"""

import json
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bbo import lifeline
from bbo.errors import InputError, MachineError


def status_of(work: Callable[[Mapping[str, Any]], None]) -> int:
    """Do `work` with the request on the command line. 0 done, 1 bad input, 3 the machine's failure, 130 interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    lifeline.watch()
    warnings.simplefilter("ignore", FutureWarning)  # from one library to another
    return exit_status(lambda: work(json.loads(sys.argv[1])))


def exit_status(work: Callable[[], int | None]) -> int:
    """What `work` returns, 0 for nothing; 1, 3 and 130 with a sentence as above."""
    try:
        return work() or 0
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except (MachineError, OSError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3


def check_files(out: Path, given: Path) -> None:
    """Raise InputError where there is no folder for what is written, or nothing to read."""
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out: no such folder: {out.absolute().parent}")
    if not given.is_file():
        raise InputError(f"{given}: no such file")
