"""Optimizers: ask / tell. They never evaluate, print or write.

An optimizer is a class that is called with the keywords `space`, `x0`, `budget` and `seed`, and with settings of its
own, which are keyword-only parameters with a type and a default: `--set NAME=VALUE` names them, and nothing else. Asked
and told the same in the same order, two of the same seed propose the same: a run is resumed by replaying its log.

`x0` are points worth beginning with, `budget` how many whole trainings there will be. One whose proposals are parts of
a training has the attribute `intervals`, how many make a whole one: each is trained for 1 / intervals of the epochs and
of the schedule, and there are budget x intervals of them. A parent is of the generation before, and as long a lineage:
older states are gone.

One that can do with several objectives takes the keyword `objectives`, how many there are, with the default 1; the
others are never asked about an experiment that has more than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bbo.space import Point


@dataclass(frozen=True)
class Proposal:
    """A point to evaluate. The proposals of an optimizer are numbered from 1 in the order in which they come."""

    point: Point
    parent: int | None = None
    """Number of the proposal whose training it goes on from, in place of a fresh adapter."""


@dataclass(frozen=True)
class Outcome:
    """How the proposal of a number ended."""

    number: int
    point: Point
    status: Literal["ok", "failed", "stopped"]
    objective: float
    """Smaller is better. Inf where it failed; the last one measured where it was stopped early."""
    constraints: tuple[float, ...] = ()
    """Satisfied where <= 0; empty where it failed."""
    epoch: float | None = None
    """Epochs behind it where it was stopped early."""
    others: tuple[float, ...] = ()
    """The objectives behind the first, where there are several; likewise."""

    @property
    def objectives(self) -> tuple[float, ...]:
        """All of them."""
        return (self.objective, *self.others)


class Optimizer(Protocol):
    """What proposes points."""

    def ask(self, count: int) -> Sequence[Proposal]:
        """The next points to evaluate, at most `count`.

        Fewer, or none, where it must hear of pending ones first; none although nothing is pending: it has finished.
        """

    def tell(self, outcome: Outcome) -> None:
        """Outcomes come in any order, each once."""
