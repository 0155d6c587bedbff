"""The harness: proposes points, runs the blackbox, keeps store and run log. Knows no torch and no LLM."""

from importlib import import_module
from typing import TYPE_CHECKING

from bbo import search
from bbo.errors import InputError

if TYPE_CHECKING:
    from bbo.handle import Handle, RunStopped, attach
    from bbo.tuning import tune

__version__ = "0.1.0"

__all__ = ["Handle", "InputError", "RunStopped", "attach", "search", "tune"]

HOMES = {"Handle": "bbo.handle", "RunStopped": "bbo.handle", "attach": "bbo.handle", "tune": "bbo.tuning"}


def __getattr__(name: str) -> object:
    """What Python callers use, imported when it is used: `import bbo` alone costs nothing."""
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'bbo' has no attribute {name!r}")
