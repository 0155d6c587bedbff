"""The space as Katib's parameters, and Katib's values as hyperparameters again: both ways in one place.

Katib hands values over as text, in a shell's command line. What is written here is what it shows: the values
themselves, `lora_rank=8`, and of a variable with `times` the factor.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from bbo.errors import InputError
from bbo.space import Point, Space, Value, Variable

NEARLY = 1e-9
"""Relative: exp(log(bound)) is a few units in the last place off, and so may a sampler's value be."""


def parameters(space: Space) -> list[dict[str, Any]]:
    """`spec.parameters` of a Katib Experiment. Raises InputError for a choice that Katib cannot be told."""
    return [_parameter(name, space.variables[name]) for name in space.free]


def hyperparameters(space: Space, texts: Mapping[str, str]) -> tuple[Point, dict[str, Value]]:
    """The point and the hyperparameters of Katib's values, by variable. Raises InputError.

    A number is the very one that Katib has: the coordinate of a log10 variable need not lead back to it exactly.
    """
    missing, unknown = sorted(set(space.free) - set(texts)), sorted(set(texts) - set(space.free))
    if missing or unknown:
        raise InputError(*(f"--set {name}: missing" for name in missing), *(f"--set {n}: no variable" for n in unknown))
    values = {name: _value(name, space.variables[name], texts[name]) for name in space.free}
    point = tuple(float(space.variables[name].encode(value)) for name, value in values.items())
    decoded = space.decode(point)
    for name, value in values.items():
        variable = space.variables[name]
        if variable.kind == "log10":
            decoded[name] = value if variable.times is None else value * decoded[variable.times]  # type: ignore[operator]
    return point, decoded


def metric_name(metric: str) -> str:
    """As Katib's metrics collector can read it: the dot of hellaswag.acc would end the name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", metric)


def _parameter(name: str, variable: Variable) -> dict[str, Any]:
    if variable.choice is not None:
        return {"name": name, "parameterType": "categorical", "feasibleSpace": {"list": _texts(name, variable)}}
    if variable.whole:
        return {"name": name, "parameterType": "int", "feasibleSpace": _bounds(*map(int, variable.bounds))}
    if variable.kind == "float":
        return {"name": name, "parameterType": "double", "feasibleSpace": _bounds(*map(float, variable.bounds))}
    space = _bounds(*(10.0**bound for bound in variable.bounds)) | {"distribution": "logUniform"}
    return {"name": name, "parameterType": "double", "feasibleSpace": space}


def _bounds(lower: float, upper: float) -> dict[str, str]:
    return {"min": repr(lower), "max": repr(upper)}


def _texts(name: str, variable: Variable) -> list[str]:
    """Of a choice's values. Raises InputError where a shell or Katib would change one, or where two look alike."""
    assert variable.choice is not None
    texts = [_text(value) for value in variable.choice]
    if len(set(texts)) < len(texts):
        raise InputError(f"space.{name}: Katib takes values as text, and two of these look alike: {', '.join(texts)}")
    for text in texts:
        if not re.fullmatch(r"[\w.,+@%/:=-]+", text, re.ASCII):
            rule = "must be of letters, digits and .,+@%/:=-_ to reach a trial of Katib's unchanged"
            raise InputError(f"space.{name}: {rule}, got {text!r}")
    return texts


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(name: str, variable: Variable, text: str) -> Value:
    """What a text means, before `times`."""
    if variable.choice is not None:
        texts = _texts(name, variable)
        if text not in texts:
            raise InputError(f"--set {name}: must be one of {', '.join(texts)}, got {text!r}")
        return variable.choice[texts.index(text)]
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"--set {name}: must be a number, got {text!r}") from None
    lower, upper = (10.0**bound if variable.kind == "log10" else bound for bound in variable.bounds)
    within = min(max(number, lower), upper)
    number = within if math.isclose(number, within, rel_tol=NEARLY) else number
    if not lower <= number <= upper or (variable.whole and not number.is_integer()):
        kind = "whole number" if variable.whole else "number"
        raise InputError(f"--set {name}: must be a {kind} from {lower:g} to {upper:g}, got {text}")
    return int(number) if variable.whole else float(number)
