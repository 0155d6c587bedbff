"""A Python function as a file that can be run by itself: an objective that a notebook defines."""

import ast
import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from bbo.errors import InputError

HEADER = '"""The objective of a run: hyperparameters in, metrics out. Written by bbo.tune."""\n\n'
HEADER += "from __future__ import annotations\n\n\n"


def source_of(function: Callable[..., Any]) -> str:
    """A module that defines this function and nothing else.

    Raises InputError where its source alone would not be the function: it uses names from outside its body, say.
    """
    if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
        raise InputError(f"objective: must be a function that `def` defines, got {function!r}")
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise InputError(f"objective: the source of {function.__name__} cannot be found") from None
    if outside := sorted({*_outside(function.__code__), *function.__code__.co_freevars} - {function.__name__}):
        rule = "import and define them inside it, its source alone is run"
        raise InputError(
            f"objective: {function.__name__} uses names from outside its body: {', '.join(outside)}; {rule}"
        )
    module = HEADER + source
    try:
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.FunctionDef) and not definition.decorator_list
        exec(compile(module, "objective", "exec"), {"__name__": "objective"})
    except Exception as error:
        what = "no decorators, no defaults from outside"
        raise InputError(
            f"objective: {function.__name__} cannot be defined by its source alone ({what}): {error}"
        ) from None
    return module


def _outside(code: CodeType) -> Iterator[str]:
    """The global names that code reads, writes or deletes, those of Python itself left out."""
    for step in dis.get_instructions(code):
        if step.opname.endswith("_GLOBAL") and not hasattr(builtins, step.argval):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _outside(constant)
