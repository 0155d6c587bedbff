"""Optimizers by name, each imported when it is asked for; and what `--set` may say to it."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from inspect import formatannotation
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bbo.document import parse_value
from bbo.errors import InputError

GIVEN = ("space", "x0", "budget", "seed")
"""What every optimizer is called with; all its other parameters are settings, but for `SEVERAL`."""

SEVERAL = "objectives"
"""What one that takes several objectives is told their number by."""


@dataclass(frozen=True)
class Entry:
    """Where an optimizer is, and the distributions that its proposals depend on."""

    module: str
    name: str
    libraries: tuple[str, ...] = ()
    several: bool = False
    """Whether it takes several objectives."""


_SAMPLERS, _DESIGNS = "bbo.optimizers.samplers", "bbo.optimizers.designs"

OPTIMIZERS: Mapping[str, Entry] = {
    "nomad": Entry("bbo.optimizers.nomad", "Nomad", ("PyNomadBBO",), several=True),
    "random": Entry(_SAMPLERS, "Random", ("optuna", "numpy"), several=True),
    "lhs": Entry(_DESIGNS, "LHS", ("scipy", "numpy"), several=True),
    "sobol": Entry(_SAMPLERS, "Sobol", ("optuna", "scipy", "numpy"), several=True),
    "grid": Entry(_DESIGNS, "Grid", several=True),
    "tpe": Entry(_SAMPLERS, "TPE", ("optuna", "numpy"), several=True),
    "gp": Entry(_SAMPLERS, "GP", ("optuna", "torch", "scipy", "numpy"), several=True),
    "nsgaii": Entry(_SAMPLERS, "NSGAII", ("optuna", "numpy"), several=True),
    "cmaes": Entry(_SAMPLERS, "CMAES", ("optuna", "cmaes", "numpy")),
    "soo": Entry("bbo.optimizers.soo", "SOO"),
    "bamsoo": Entry("bbo.optimizers.bamsoo", "BaMSOO", ("scikit-learn", "scipy", "numpy")),
    "bohb": Entry(_SAMPLERS, "TPE", ("optuna", "numpy")),
    "pbt": Entry("bbo.optimizers.pbt", "PBT"),
}
"""`bohb` is `tpe` under the stopping rule hyperband. `nomad` here is asked and told, with one objective; `bbo run` runs
NOMAD's batch mode, which takes the same walk, and several."""


def find(name: str) -> tuple[Callable[..., Any], Entry]:
    """The class of a name, or a user's `module:Class` from the current folder or elsewhere on Python's path.

    Raises InputError where there is none, or where a library of its is missing.
    """
    entry = OPTIMIZERS.get(name) or _users(name)
    if name not in OPTIMIZERS and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(entry.module), entry.name, None)
    except ImportError as error:
        raise InputError(f"--optimizer {name}: {entry.module} cannot be imported: {error}") from None
    if found is None:
        raise InputError(f"--optimizer {name}: {entry.module} has no {entry.name}")
    if not inspect.isclass(found) or not all(callable(getattr(found, verb, None)) for verb in ("ask", "tell")):
        raise InputError(f"--optimizer {name}: must be a class with ask and tell, got {found!r}")
    missing = [given for given in GIVEN if not _takes(found, given)]
    if missing:
        raise InputError(f"--optimizer {name}: must take the keywords {', '.join(GIVEN)}, lacks {', '.join(missing)}")
    return found, entry


def objectives_of(name: str, found: Callable[..., Any], count: int) -> dict[str, int]:
    """The keyword that says how many objectives there are; none where there is one. Raises InputError."""
    if count == 1:
        return {}
    if not (OPTIMIZERS[name].several if name in OPTIMIZERS else _takes(found, SEVERAL)):
        able = ", ".join(other for other, entry in OPTIMIZERS.items() if entry.several)
        theirs = "" if name in OPTIMIZERS else f", and by a class of yours with the keyword {SEVERAL}"
        raise InputError(f"--optimizer {name}: takes one objective, got {count}; several are taken by {able}{theirs}")
    return {SEVERAL: count}


def settings_of(found: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type, default) of each setting."""
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    return {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(found).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in (*GIVEN, SEVERAL)
    }


def read_settings(name: str, found: Callable[..., Any], statements: Sequence[str]) -> dict[str, Any]:
    """The values of `NAME=VALUE` statements. Raises InputError with every mistake, listing what there is."""
    known, values, wrong = settings_of(found), {}, []
    for statement in statements:
        setting, equals, text = statement.partition("=")
        if not equals or setting in values:
            wrong.append(f"--set {statement}: must be NAME=VALUE, each name once")
        elif setting not in known:
            wrong.append(f"--set {statement}: {name} has no setting {setting}; there are {_list(known)}")
        else:
            try:
                values[setting] = _value(known[setting][0], text)
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                wrong.append(f"--set {setting}: {message[0].lower()}{message[1:]}, got {text!r}")
    if wrong:
        raise InputError(*wrong)
    return values


def versions(entry: Entry) -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for library in entry.libraries:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def _users(name: str) -> Entry:
    module, colon, attribute = name.partition(":")
    if colon and module and attribute.isidentifier():
        return Entry(module, attribute)
    close = get_close_matches(name.lower(), OPTIMIZERS, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(
        f"--optimizer {name}: {hint}there are {', '.join(OPTIMIZERS)}, and my_module:MyOptimizer for your own"
    )


def _takes(found: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(found).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _list(known: Mapping[str, tuple[Any, Any]]) -> str:
    if not known:
        return "none"
    return ", ".join(f"{name} ({formatannotation(kind)}, default {value!r})" for name, (kind, value) in known.items())


def _value(kind: Any, text: str) -> Any:
    """What is written as in the YAML, or a bare text, strictly as the type says."""
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(parse_value(text), default=str), strict=True)
    except ValidationError:
        with suppress(ValidationError):
            return adapter.validate_python(text, strict=True)
        raise
