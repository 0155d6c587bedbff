"""Rows of several members side by side in one forward pass, without padding where the model can take them so."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from blackbox.data import Example

Span = tuple[int, int]
Groups = tuple[tuple[int, int], ...]

ALIGNED = 16
"""Flat, each member has a multiple of so many tokens, of all and of those that the last layer ends with. The end of an
array is computed by other instructions than its middle, with other last bits: so every member's part has the same end.
"""


class Rows(NamedTuple):
    """A member's rows, in groups that begin with the same tokens. Behind its first a group's rows are without these."""

    lengths: tuple[int, ...]
    """Tokens of each row, whole."""
    groups: Groups
    """Rows of each group, and how many tokens they share."""

    @property
    def shared(self) -> list[int]:
        """How many of each row's first tokens are those of its group's first row."""
        return [shared if number else 0 for count, shared in self.groups for number in range(count)]

    @property
    def own(self) -> list[int]:
        """Tokens of each row that are in the pass."""
        return [length - shared for length, shared in zip(self.lengths, self.shared, strict=True)]

    @property
    def begins(self) -> list[int]:
        """Where each row would begin if it were there whole and ended where it ends, in the member's tokens."""
        return [end - length for end, length in zip(accumulate(self.own), self.lengths, strict=True)]


class Padding(NamedTuple):
    """How a member's rows are padded to its longest, each with its own last token."""

    rows: Rows
    tokens: Tensor
    """(rows x longest,) which of the member's tokens stands where."""
    real: Tensor
    """(tokens,) the way back."""
    shared: list[tuple[slice, int, int]]
    """Which rows have the same tokens in their first places, in how many, and the first of these tokens."""


class Asking(NamedTuple):
    """A member's tokens from which a label is predicted, each row's padded to the most of a row: the last queries."""

    tokens: Tensor
    """(rows x most,) which of the member's tokens stands where."""
    real: Tensor
    """(labels,) which of these places are no padding."""
    learnt: Tensor
    """(labels,) the member's tokens that stand there."""
    places: Tensor
    """(rows, most) where in its row each stands."""


@dataclass(frozen=True)
class Layout:
    """One pass: the rows of the first member, then those of the second, and so on.

    Flat, all rows form one sequence without padding, and attention keeps them apart; else each row is padded on the
    right to the longest, which under causal attention no real token sees. Tokens are counted over the flattened ids.
    """

    ids: Tensor
    """(1, tokens) flat, else (rows, longest)."""
    rows: tuple[Rows, ...]
    """Each member's."""
    members: tuple[Span, ...]
    """Each member's tokens."""
    learnt: Tensor
    """(labels,) the tokens from which a label is predicted."""
    targets: Tensor
    """(labels,) what they should predict."""
    labels: tuple[Span, ...]
    """Each member's part of `learnt`."""
    places: tuple[tuple[Sequence[int], ...], ...]
    """Of each member's rows, where in the row the tokens of `learnt` stand."""
    last: Tensor
    """(some,) the tokens of which the last layer's end is computed, flat: `learnt` and a few others."""
    last_members: tuple[Span, ...]
    """Each member's part of `last`."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [length for mine in self.rows for length in mine.lengths]

    @cached_property
    def positions(self) -> Tensor:
        """(1, tokens) the place of each token in its row, flat."""
        own, lengths = torch.tensor([count for mine in self.rows for count in mine.own]), torch.tensor(self.lengths)
        behind = torch.repeat_interleave(lengths - own.cumsum(0), own)
        return (torch.arange(len(behind)) + behind).to(self.ids.device)[None]

    @cached_property
    def mask(self) -> Tensor:
        """(rows, longest) 1 for what is no padding, for models that see a row from both sides."""
        return (torch.arange(self.ids.shape[1]) < torch.tensor(self.lengths)[:, None]).long().to(self.ids.device)

    @cached_property
    def real(self) -> tuple[Tensor | None, ...]:
        """Which of each member's tokens are no padding; None: all."""
        if len(self.ids) == 1:
            return (None,) * len(self.members)
        real = self.mask.flatten()
        return tuple(real[first:end].nonzero()[:, 0] for first, end in self.members)

    @cached_property
    def bounds(self) -> Tensor:
        """(rows + 1,) where each row begins and the last ends, flat, where nothing is shared."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.ids.device)

    @cached_property
    def padding(self) -> tuple[Padding, ...]:
        """Of each member by itself, so that its companions do not matter."""
        return tuple(_padding(mine, self.ids.device) for mine in self.rows)

    @cached_property
    def asking(self) -> tuple[Asking, ...]:
        """The same of the last layer's queries."""
        return tuple(_asking(*both, self.ids.device) for both in zip(self.rows, self.places, strict=True))


def _padding(rows: Rows, device: torch.device) -> Padding:
    lengths, begins = torch.tensor(rows.lengths)[:, None], torch.tensor(rows.begins)[:, None]
    places = torch.arange(max(rows.lengths))
    tokens = begins + torch.minimum(places, lengths - 1)
    real = places < lengths
    shared, head = [], 0
    for count, same in rows.groups:
        mine = slice(head, head + count)
        tokens[mine, :same] = tokens[head, :same]
        real[head + 1 : head + count, :same] = False
        if count > 1 and same:
            shared.append((mine, same, rows.begins[head]))
        head += count
    return Padding(rows, tokens.flatten().to(device), real.flatten().nonzero()[:, 0].to(device), shared)


def _asking(rows: Rows, places: Sequence[Sequence[int]], device: torch.device) -> Asking:
    most = max(1, *map(len, places))
    counts = torch.tensor([len(mine) for mine in places])[:, None]
    filled = torch.tensor([[*mine, *[rows.lengths[row] - 1] * (most - len(mine))] for row, mine in enumerate(places)])
    tokens = (torch.tensor(rows.begins)[:, None] + filled).flatten()
    real = (torch.arange(most) < counts).flatten().nonzero()[:, 0]
    return Asking(tokens.to(device), real.to(device), tokens[real].to(device), filled.to(device))


def lay_out(
    examples: Sequence[Example],
    members: Sequence[Sequence[int]],
    device: torch.device,
    flat: bool,
    sharing: Sequence[bool] = (),
) -> Layout:
    """The rows of each member in one pass. A pass without any row holds two tokens without a label.

    `sharing` says of which members, flat, the same beginning of several rows is there once: causal attention makes the
    same of it in each, unless dropout draws.
    """
    rows = [[examples[row] for row in mine] for mine in members]
    groups: list[Groups] = [((max(1, len(mine)), 0),) for mine in rows]
    for number in (number for number, share in enumerate(sharing) if share):
        rows[number], groups[number] = _grouped(rows[number])
    tokens = [[list(row.tokens) for row in mine] or [[0, 0]] for mine in rows]
    if flat:
        for mine, each in zip(tokens, groups, strict=True):
            here = sum(map(len, mine)) - sum((count - 1) * shared for count, shared in each)
            mine[-1] += [0] * (-here % ALIGNED)  # behind a row's end, where nothing is learnt
    laid = [Rows(tuple(map(len, mine)), each) for mine, each in zip(tokens, groups, strict=True)]
    longest = max(max(mine.lengths) for mine in laid)
    if flat:
        flattened = zip(chain.from_iterable(mine.own for mine in laid), chain.from_iterable(tokens), strict=True)
        ids = torch.tensor([token for own, row in flattened for token in row[len(row) - own :]])[None]
        spans = tuple(pairwise(accumulate((sum(mine.own) for mine in laid), initial=0)))
        begins = [[first + begin for begin in mine.begins] for (first, _), mine in zip(spans, laid, strict=True)]
    else:
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for mine in tokens for row in mine])
        spans = tuple(pairwise(accumulate((longest * len(mine) for mine in tokens), initial=0)))
        begins = [list(range(first, end, longest)) for first, end in spans]
    learnt = [
        [at + place for at, row in zip(begins_, mine, strict=False) for place in row.learnt]
        for begins_, mine in zip(begins, rows, strict=True)
    ]
    last = [_aligned(mine, span) for mine, span in zip(learnt, spans, strict=True)]
    targets = [token for mine in rows for row in mine for token in row.targets]
    return Layout(
        ids.to(device),
        tuple(laid),
        spans,
        _join(learnt, device),
        torch.tensor(targets, dtype=torch.long, device=device),
        tuple(pairwise([0, *accumulate(map(len, learnt))])),
        tuple(tuple(row.learnt for row in mine) or ((),) for mine in rows),
        _join(last, device),
        tuple(pairwise([0, *accumulate(map(len, last))])),
    )


def _grouped(rows: Sequence[Example]) -> tuple[list[Example], Groups]:
    """These rows in groups of equal beginnings, so that as few tokens as possible are left.

    What is shared ends before the first token from which a label is predicted.
    """
    if len(rows) < 2:
        return list(rows), ((max(1, len(rows)), 0),)
    rows = sorted(rows, key=lambda row: row.tokens)
    alike = [_alike(*pair) for pair in pairwise(rows)]
    best: list[tuple[int, Groups]] = [(0, ())]  # of the first so many rows: the tokens saved, and how
    for end in range(1, len(rows) + 1):
        ways, shared = [(best[end - 1][0], (*best[end - 1][1], (1, 0)))], len(rows[end - 1].tokens)
        for first in range(end - 2, -1, -1):
            shared = min(shared, alike[first])
            saved, before = best[first]
            ways.append((saved + shared * (end - first - 1), (*before, (end - first, shared))))
        best.append(max(ways, key=lambda way: way[0]))
    return rows, best[-1][1]


def _alike(one: Example, other: Example) -> int:
    """How many tokens both begin with, before the first from which one of them predicts a label."""
    columns = zip(one.tokens[: one.first - 1], other.tokens[: other.first - 1], strict=False)
    return sum(1 for _ in takewhile(lambda column: column[0] == column[1], columns))


def _aligned(learnt: Sequence[int], span: Span) -> list[int]:
    """These tokens of a member, and as many others as make them a multiple of ALIGNED."""
    others = sorted(set(range(*span)) - set(learnt))
    return sorted([*learnt, *others[: -len(learnt) % ALIGNED]])


def _join(parts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor(list(chain.from_iterable(parts)), dtype=torch.long, device=device)
