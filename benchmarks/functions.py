"""Closed forms with the traits of LoRA tuning, as seeded random instances of small mixed spaces.

Each family draws its optimum first and adds penalties that are zero there and nowhere negative: the lowest value is
known exactly, it is 1. Values are like losses, 1 to about 3. X0 is the median of 15 random points that do not fail.
"""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from bbo.space import Point, Space, Variable
from benchmarks.problem import Problem, uniform

Values = Mapping[str, Any]
Penalty = Callable[[Values], float]
Family = Callable[[Space, Values, random.Random], Penalty]

BEST = 1.0

_RANK: dict[str, Any] = {"choice": [2, 4, 8, 16, 32, 64]}
_ALPHA: dict[str, Any] = {"int": [1, 64]}
_DROPOUT: dict[str, Any] = {"choice": [0, 0.05, 0.1, 0.2]}
_RATE: dict[str, Any] = {"log10": [-5, -1]}

FOUR = {"lora_rank": _RANK, "lora_alpha": _ALPHA, "lora_dropout": _DROPOUT, "learning_rate": _RATE}
"""The space of quickstart."""


def _step(h: Values) -> float:
    """log10 of alpha x learning rate: how far a step moves the product of the adapter's matrices."""
    return math.log10(h["lora_alpha"] * h["learning_rate"])


def _decades(h: Values, o: Values, name: str = "learning_rate") -> float:
    return math.log10(h[name] / o[name])


def _doublings(h: Values, o: Values, name: str) -> float:
    return math.log2(h[name] / o[name])


def _apart(h: Values, o: Values, name: str) -> float:
    return abs(float(h[name]) - float(o[name]))


def _bowl(x: float, width: float) -> float:
    """0 at x = 0, quadratic about it, towards 1 far away: a validation loss flattens out on both sides."""
    return 1 - math.exp(-((x / width) ** 2))


def _ridge(_: Space, o: Values, draw: random.Random) -> Penalty:
    """A narrow valley along alpha x learning rate = constant, along which little changes."""
    width, along = draw.uniform(0.4, 0.8), draw.uniform(0.05, 0.15)

    def penalty(h: Values) -> float:
        slope = along * abs(_decades(h, o))
        return 1.5 * _bowl(_step(h) - _step(o), width) + slope + 0.02 * abs(_doublings(h, o, "lora_rank"))

    return penalty


def _cliff(_: Space, o: Values, draw: random.Random) -> Penalty:
    """The larger the step the better, until shortly behind the optimum every training diverges."""
    margin, steepness = draw.uniform(0.05, 0.2), draw.uniform(0.2, 0.5)

    def penalty(h: Values) -> float:
        over = _step(h) - _step(o)
        if over > margin:
            return math.inf
        dropout = _apart(h, o, "lora_dropout")
        return steepness * abs(over) + 0.06 * abs(_doublings(h, o, "lora_rank")) + 0.5 * dropout

    return penalty


def _plateau(_: Space, o: Values, draw: random.Random) -> Penalty:
    """Below a band of learning rates nothing is learnt, above it the model is broken; between them is a slope."""
    width, loss = draw.uniform(0.5, 1.0), draw.uniform(0.6, 1.0)

    def penalty(h: Values) -> float:
        over = _step(h) - _step(o)
        if over > width:
            return 2.0
        tuned = 0.05 * abs(_doublings(h, o, "lora_rank")) + 0.8 * _apart(h, o, "lora_dropout")
        reached = max(0.0, 1 - abs(over) / width) if over < 0 else 1 - 0.5 * over / width
        return loss * (1 - reached) + reached * tuned

    return penalty


def _bound(_: Space, o: Values, draw: random.Random) -> Penalty:
    """More rank and more alpha is better, up to their bounds, at which the optimum is; the rate has a bowl."""
    width = draw.uniform(0.5, 1.0)
    gain, top = draw.uniform(0.1, 0.2), {"lora_rank": 64, "lora_alpha": 64, "lora_dropout": 0}

    def penalty(h: Values) -> float:
        below = -gain * _doublings(h, top, "lora_rank") - 0.15 * _doublings(h, top, "lora_alpha")
        return below + _bowl(_decades(h, o), width) + _apart(h, top, "lora_dropout")

    return penalty


def _interaction(_: Space, o: Values, draw: random.Random) -> Penalty:
    """High ranks overfit without dropout, low ones underfit with it; the best rate falls as the rank rises."""
    slope, width = draw.uniform(0.1, 0.3), draw.uniform(0.4, 0.8)

    def penalty(h: Values) -> float:
        ranks = _doublings(h, o, "lora_rank")
        excess = float(h["lora_dropout"] - o["lora_dropout"]) - 0.04 * ranks
        rate = _decades(h, o) + slope * ranks
        alpha = 0.03 * abs(_doublings(h, o, "lora_alpha"))
        return _bowl(rate, width) + 3 * abs(excess) + 0.05 * abs(ranks) + alpha

    return penalty


def _conditional(_: Space, o: Values, draw: random.Random) -> Penalty:
    """Warm-up matters only where the rate is high, weight decay only without dropout."""
    width = draw.uniform(0.5, 0.9)
    threshold = math.log10(o["learning_rate"]) - draw.uniform(0.2, 0.6)

    def penalty(h: Values) -> float:
        rate = math.log10(h["learning_rate"])
        warm = 4 * _apart(h, o, "warmup_steps") * max(0.0, min(1.0, rate - threshold))
        decay = 0.1 * abs(_decades(h, o, "weight_decay")) if h["lora_dropout"] == 0 else 0.1
        return 1.2 * _bowl(rate - math.log10(o["learning_rate"]), width) + warm + decay

    return penalty


def _basins(_: Space, o: Values, draw: random.Random) -> Penalty:
    """Two valleys of the learning rate, one a decade or more beside the other and worse by a little."""
    away = draw.choice((-1, 1)) * draw.uniform(1.2, 2.0)
    worse, width = draw.uniform(0.1, 0.3), draw.uniform(0.3, 0.5)

    def penalty(h: Values) -> float:
        over = _step(h) - _step(o)
        valley = min(1.2 * _bowl(over, width), worse + (1.2 - worse) * _bowl(over - away, 1.5 * width))
        return valley + 0.04 * abs(_doublings(h, o, "lora_rank")) + _apart(h, o, "lora_dropout")

    return penalty


def _tied(_: Space, o: Values, draw: random.Random) -> Penalty:
    """Alpha a multiple of the rank, the rate fixed: whole numbers only, few of which matter."""
    width, gain = draw.uniform(0.7, 1.5), draw.uniform(0.1, 0.25)

    def penalty(h: Values) -> float:
        scale = math.log2(h["lora_alpha"] / h["lora_rank"]) - math.log2(o["lora_alpha"] / o["lora_rank"])
        return _bowl(scale / 2, width) + gain * abs(_doublings(h, o, "lora_rank")) + 0.3 * _apart(h, o, "lora_dropout")

    return penalty


def _wide(_: Space, o: Values, draw: random.Random) -> Penalty:
    """Seven variables, of which three matter much."""
    width, weights = draw.uniform(0.5, 0.9), [draw.uniform(0.02, 0.08) for _ in range(4)]

    def penalty(h: Values) -> float:
        batch = _doublings(h, o, "global_batch_size")
        rate = _decades(h, o) - 0.15 * batch
        epochs = 0.1 * _apart(h, o, "num_train_epochs")
        decay = _decades(h, o, "weight_decay")
        rest = [_doublings(h, o, "lora_rank"), _doublings(h, o, "lora_alpha"), batch, decay]
        dropout = _apart(h, o, "lora_dropout")
        return _bowl(rate, width) + epochs + dropout + sum(w * abs(x) for w, x in zip(weights, rest, strict=True))

    return penalty


def _unordered(space: Space, o: Values, draw: random.Random) -> Penalty:
    """Choices without an order: which modules are adapted, by which schedule."""
    modules = space.variables["target_modules"].choice or ()
    schedules = space.variables["lr_scheduler_type"].choice or ()
    worse = {name: draw.uniform(0.05, 0.6) for name in (*modules, *schedules)}
    worse[o["target_modules"]] = worse[o["lr_scheduler_type"]] = 0.0
    shift, width = {name: draw.uniform(-0.4, 0.4) for name in modules}, draw.uniform(0.4, 0.8)

    def penalty(h: Values) -> float:
        moved = shift[h["target_modules"]] - shift[o["target_modules"]]
        rate = _decades(h, o) - moved
        choices = worse[h["target_modules"]] + 0.3 * worse[h["lr_scheduler_type"]]
        return _bowl(rate, width) + choices + 0.04 * abs(_doublings(h, o, "lora_rank"))

    return penalty


def _two(_: Space, o: Values, draw: random.Random) -> Penalty:
    """The rank and a rate whose best value falls with it; too high a rate fails."""
    width, slope = draw.uniform(0.3, 0.7), draw.uniform(0.1, 0.3)

    def penalty(h: Values) -> float:
        rate = _decades(h, o) + slope * _doublings(h, o, "lora_rank")
        return math.inf if rate > 2 * width else _bowl(rate, width) + 0.08 * abs(_doublings(h, o, "lora_rank"))

    return penalty


_RATE_AND_RANK = {"lora_rank": _RANK, "learning_rate": _RATE}
_DECAY = {"weight_decay": {"log10": [-5, -1]}}
_CONDITIONAL = {"learning_rate": _RATE, "warmup_steps": {"float": [0, 0.3]}, "lora_dropout": _DROPOUT, **_DECAY}
_WIDE = {**FOUR, **_DECAY, "num_train_epochs": {"int": [1, 5]}, "global_batch_size": {"choice": [8, 16, 32, 64, 128]}}
_TIED = {
    "lora_rank": {"choice": [4, 8, 16, 32, 64]},
    "lora_alpha": {"int": [1, 64], "times": "lora_rank"},
    "lora_dropout": {"choice": [0, 1e-4, 1e-3, 1e-2, 1e-1]},
}
_UNORDERED = {
    **_RATE_AND_RANK,
    "target_modules": {"choice": ["q", "v", "qv", "qkvo", "mlp", "all"]},
    "lr_scheduler_type": {"choice": ["linear", "cosine", "constant"]},
}

FAMILIES: dict[str, tuple[Mapping[str, Any], Family, float]] = {
    "ridge": (FOUR, _ridge, 0.01),
    "cliff": (FOUR, _cliff, 0.01),
    "plateau": (FOUR, _plateau, 0.01),
    "bound": (FOUR, _bound, 0.01),
    "interaction": (FOUR, _interaction, 0.01),
    "conditional": (_CONDITIONAL, _conditional, 0.01),
    "basins": (FOUR, _basins, 0.01),
    "noisy": (FOUR, _interaction, 0.1),
    "tied": (_TIED, _tied, 0.003),
    "wide": (_WIDE, _wide, 0.01),
    "unordered": (_UNORDERED, _unordered, 0.01),
    "two": (_RATE_AND_RANK, _two, 0.01),
}
"""By name: the space, the penalties, the noise's standard deviation."""


def instance(name: str, seed: int) -> Problem:
    """The problem of a family that this seed draws."""
    variables, family, noise = FAMILIES[name]
    space = Space({key: Variable.model_validate(value) for key, value in variables.items()})
    draw = random.Random(f"{name} {seed}")
    optimum = space.decode(_optimum(name, space, draw))
    penalty = family(space, optimum, draw)

    def value(point: Point) -> float:
        return BEST + penalty(space.decode(point))

    return Problem(name, space, _typical(space, value, draw), value, noise, BEST)


def _optimum(name: str, space: Space, draw: random.Random) -> Point:
    """Anywhere, but for the learning rate, which keeps away from its bounds, and where the family wants it at them."""
    point = dict(zip(space.free, uniform(space, draw), strict=True))
    point["learning_rate"] = draw.uniform(-4.0, -2.0)
    if name == "bound":
        point |= {"lora_rank": 6, "lora_alpha": 64, "lora_dropout": 1}
    if name == "conditional":
        point["lora_dropout"] = 1
    if name == "tied":
        del point["learning_rate"]
    return tuple(point[key] for key in space.free)


def _typical(space: Space, value: Callable[[Point], float], draw: random.Random) -> Point:
    """The median of random points that do not fail."""
    good: list[Point] = []
    while len(good) < 15:
        point = uniform(space, draw)
        if math.isfinite(value(point)):
            good.append(point)
    return sorted(good, key=value)[7]
