"""A problem made of a recorded table of real trainings: a surrogate fitted to it, its noise, its failures.

Beside the table goes a YAML: `space:` as in params/NAME.yaml; `columns:`, the column of each variable that is not named
as it is, with true values, not coordinates; `x0:`, the point to begin with, in true values as well.
"""

import csv
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict

from bbo.document import read_document
from bbo.errors import InputError
from bbo.space import Point, Space, Value, Variable, dependence_error
from benchmarks.problem import Problem

FOLDS = 10
SEARCHED = 20_000
"""Points of the search for the best value, before it is refined around the best ones."""

Predict = Callable[[Any], Any]


class _Beside(BaseModel):
    """The YAML's shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: dict[str, Variable]
    columns: dict[str, str] = {}
    x0: dict[str, Value]


@dataclass(frozen=True)
class Table:
    """Recorded points with their objective, negated where it is maximized; NaN where a training failed."""

    name: str
    space: Space
    x0: Point
    points: list[Point]
    values: list[float]


@dataclass(frozen=True)
class Fitted:
    """A surrogate as a problem, and how well it was fitted."""

    problem: Problem
    model: str
    errors: dict[str, float]
    """Root mean squared error in cross-validation, by model."""
    spread: float
    """Standard deviation of the recorded values."""
    noise_from: str
    failed: int


def read_table(table: Path, objective: str, maximize: bool, space_file: Path) -> Table:
    """Raise InputError for what does not fit together, with file and line."""
    beside = _read_beside(space_file)
    space = Space(beside.space)
    x0 = _encoded(space, beside.x0, f"{space_file}: x0")
    columns = {name: beside.columns.get(name, name) for name in space.free}
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        known = reader.fieldnames or ()
        if lacking := [column for column in (*columns.values(), objective) if column not in known]:
            raise InputError(f"{table}:1: no such column: {', '.join(lacking)} (there are {', '.join(known)})")
        rows = [(f"{table}:{reader.line_num}", row) for row in reader]
    points = [_point(space, columns, row, where) for where, row in rows]
    values = [_number(row[objective]) * (-1 if maximize else 1) for _, row in rows]
    if sum(map(math.isfinite, values)) < FOLDS:
        raise InputError(f"{table}: {objective}: at least {FOLDS} rows must have a number")
    return Table(table.stem, space, x0, points, values)


def _read_beside(file: Path) -> _Beside:
    source = read_document(file)
    try:
        beside = _Beside.model_validate(source.content)
    except ValidationError as error:
        raise InputError(*source.explain(error)) from None
    if wrong := dependence_error(beside.space):
        raise InputError(source.sentence(("space", wrong[0]), wrong[1]))
    return beside


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _point(space: Space, columns: dict[str, str], row: dict[str, str], where: str) -> Point:
    values = {name: _value(space.variables[name], row[column]) for name, column in columns.items()}
    return _encoded(space, values, where)


def _value(variable: Variable, text: str) -> Value:
    """As the variable's choices have it: a number, or the very text."""
    for choice in variable.choice or ():
        if str(choice) == text:
            return choice
    number = _number(text)
    return text if math.isnan(number) else int(number) if number == int(number) else number


def _encoded(space: Space, values: dict[str, Value], where: str) -> Point:
    try:
        return space.encode(values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def fit(table: Table) -> Fitted:
    """The better of two models by cross-validation. A point fails if the recorded point nearest to it did."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # a kernel's bound is reached where a variable matters little
    good = np.isfinite(table.values)
    inputs = _unit(table.space, table.points)
    values = np.asarray(table.values)[good]
    errors, residuals, models = {}, {}, _models(inputs.shape[1])
    for name, model in models.items():
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        residuals[name] = values - cross_val_predict(model, inputs[good], values, cv=folds)
        errors[name] = float(np.sqrt(np.mean(residuals[name] ** 2)))
    chosen = min(errors, key=errors.__getitem__)
    predict: Predict = models[chosen].fit(inputs[good], values).predict
    fails = _nearest_failed(inputs, ~good)

    def values_of(points: Sequence[Point]) -> Any:
        at = _unit(table.space, points)
        return np.where(fails(at), np.inf, predict(at))

    if not math.isfinite(values_of([table.x0])[0]):
        raise InputError(f"x0: the recorded training nearest to it failed, a race cannot begin with it: {table.x0}")
    noise, noise_from = _noise(table, residuals[chosen])
    problem = Problem(
        table.name, table.space, table.x0, lambda point: float(values_of([point])[0]), noise, _best(table, values_of)
    )
    return Fitted(problem, chosen, errors, float(np.std(values)), noise_from, int(np.sum(~good)))


def _models(dimension: int) -> dict[str, Any]:
    kernel = ConstantKernel(1, (1e-3, 1e3)) * Matern([1.0] * dimension, (0.05, 50), nu=2.5) + WhiteKernel(
        1e-2, (1e-6, 1)
    )
    return {
        "random forest": RandomForestRegressor(100, random_state=0, min_samples_leaf=2),
        "Gaussian process": GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0),
    }


def _unit(space: Space, points: Sequence[Point]) -> Any:
    """Coordinates, 0 to 1."""
    variables = [space.variables[name] for name in space.free]
    lower, upper = np.array([v.lower for v in variables]), np.array([v.upper for v in variables])
    return (np.asarray(points, float) - lower) / np.where(upper > lower, upper - lower, 1)


def _nearest_failed(inputs: Any, failed: Any) -> Predict:
    if not failed.any():
        return lambda at: np.zeros(len(at), bool)
    return lambda at: failed[((at[:, None, :] - inputs[None]) ** 2).sum(axis=2).argmin(axis=1)]


def _noise(table: Table, residuals: Any) -> tuple[float, str]:
    """Pooled over points recorded several times; without them a robust measure of what the model misses."""
    groups: dict[Point, list[float]] = {}
    for point, value in zip(table.points, table.values, strict=True):
        if math.isfinite(value):
            groups.setdefault(point, []).append(value)
    repeated = [group for group in groups.values() if len(group) > 1]
    degrees = sum(len(group) - 1 for group in repeated)
    if degrees >= 3:
        squares = sum(statistics.variance(group) * (len(group) - 1) for group in repeated)
        return math.sqrt(squares / degrees), f"{len(repeated)} points recorded more than once"
    deviation = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    return deviation, "1.4826 x median absolute deviation of the residuals in cross-validation, an upper estimate"


def _best(table: Table, values_of: Predict) -> float:
    """Dense search: uniform and recorded points, then ever closer around the best hundred."""
    draw = np.random.default_rng(0)
    variables = [table.space.variables[name] for name in table.space.free]
    lower, upper = np.array([v.lower for v in variables]), np.array([v.upper for v in variables])
    whole = np.array([v.whole for v in variables])

    def snapped(points: Any) -> Any:
        inside = np.clip(points, lower, upper)
        return np.where(whole, np.round(inside), inside)

    points = snapped(draw.uniform(lower - 0.5 * whole, upper + 0.5 * whole, (SEARCHED, len(variables))))
    points = np.concatenate([points, table.points])
    values = values_of(points)
    for width in (0.1, 0.03, 0.01, 0.003):
        best = points[np.argsort(values)[:100]]
        near = best[:, None, :] + draw.normal(0, 1, (len(best), 50, len(variables))) * width * (upper - lower)
        points = np.concatenate([best, snapped(near.reshape(-1, len(variables)))])
        values = values_of(points)
    return float(values.min())
