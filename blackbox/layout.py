"""Rows of several members side by side in one forward pass, without padding where the model can take them so."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from blackbox.data import Example

Span = tuple[int, int]

ALIGNED = 16
"""Flat, each member has a multiple of so many tokens, of all and of those that the last layer ends with. The end of an
array is computed by other instructions than its middle, with other last bits: so every member's part has the same end.
"""


class Padding(NamedTuple):
    """How a member's rows are padded to its longest, each with its own last token."""

    rows: int
    tokens: Tensor
    """(rows x longest,) which of the member's tokens stands where."""
    real: Tensor
    """(tokens,) the way back."""


@dataclass(frozen=True)
class Layout:
    """One pass: the rows of the first member, then those of the second, and so on.

    Flat, all rows form one sequence without padding, and attention keeps them apart; else each row is padded on the
    right to the longest, which under causal attention no real token sees. `tokens` counts over the flattened ids.
    """

    ids: Tensor
    """(1, tokens) flat, else (rows, longest)."""
    lengths: tuple[int, ...]
    """Tokens of each row."""
    members: tuple[Span, ...]
    """Each member's tokens."""
    learnt: Tensor
    """(labels,) the tokens from which a labelled token is predicted."""
    targets: Tensor
    """(labels,) what they should predict."""
    labels: tuple[Span, ...]
    """Each member's part of `learnt`."""
    last: Tensor
    """(some,) the tokens of which the last layer's end is computed, flat: `learnt` and a few others."""
    last_members: tuple[Span, ...]
    """Each member's part of `last`."""

    @cached_property
    def positions(self) -> Tensor:
        """(1, tokens) the place of each token in its row, flat."""
        lengths = torch.tensor(self.lengths)
        before = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        return (torch.arange(len(before)) - before).to(self.ids.device)[None]

    @cached_property
    def real(self) -> tuple[Tensor | None, ...]:
        """Which of each member's tokens are no padding; None: all."""
        if len(self.ids) == 1:
            return (None,) * len(self.members)
        real = (torch.arange(self.ids.shape[1]) < torch.tensor(self.lengths)[:, None]).flatten()
        return tuple(real[first:end].nonzero()[:, 0].to(self.ids.device) for first, end in self.members)

    @cached_property
    def bounds(self) -> Tensor:
        """(rows + 1,) where each row begins and the last ends, flat."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.ids.device)

    @cached_property
    def padding(self) -> tuple[Padding, ...]:
        """Of each member by itself, so that its companions do not matter."""
        bounds = [0, *accumulate(self.lengths)]
        places = [[bounds.index(first), bounds.index(end)] for first, end in self.members]
        return tuple(_padding(self.lengths[first:end], self.ids.device) for first, end in places)


def _padding(lengths: Sequence[int], device: torch.device) -> Padding:
    counts, places = torch.tensor(lengths)[:, None], torch.arange(max(lengths))
    real = places < counts
    tokens = counts.cumsum(0) - counts + torch.minimum(places, counts - 1)
    return Padding(len(lengths), tokens.flatten().to(device), real.flatten().nonzero()[:, 0].to(device))


def lay_out(examples: Sequence[Example], members: Sequence[Sequence[int]], device: torch.device, flat: bool) -> Layout:
    """The rows of each member in one pass. A pass without any row holds two tokens without a label."""
    rows = [[examples[row] for row in mine] for mine in members]
    tokens = [[list(row.tokens) for row in mine] or [[0, 0]] for mine in rows]
    if flat:
        for mine in tokens:
            mine[-1] += [0] * (-sum(map(len, mine)) % ALIGNED)  # behind a row's end, where nothing is learnt
    lengths = [len(row) for row in chain.from_iterable(tokens)]
    longest = max(lengths)
    if flat:
        ids = torch.tensor([token for mine in tokens for row in mine for token in row])[None]
        begins = [0, *accumulate(lengths)]
    else:
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for mine in tokens for row in mine])
        begins = list(range(0, longest * (len(lengths) + 1), longest))
    ends = [0, *accumulate(map(len, tokens))]
    spans = tuple(pairwise(begins[end] for end in ends))
    learnt = [
        [at + place for at, row in zip(begins[first:end], mine, strict=False) for place in _learnt(row)]
        for (first, end), mine in zip(pairwise(ends), rows, strict=True)
    ]
    last = [_aligned(mine, span) for mine, span in zip(learnt, spans, strict=True)]
    targets = [token for mine in rows for row in mine for token in row.tokens[row.first :]]
    return Layout(
        ids.to(device),
        tuple(lengths),
        spans,
        _join(learnt, device),
        torch.tensor(targets, dtype=torch.long, device=device),
        tuple(pairwise([0, *accumulate(map(len, learnt))])),
        _join(last, device),
        tuple(pairwise([0, *accumulate(map(len, last))])),
    )


def _learnt(row: Example) -> range:
    """From where in a row its labelled tokens are predicted."""
    return range(row.first - 1, len(row.tokens) - 1)


def _aligned(learnt: Sequence[int], span: Span) -> list[int]:
    """These tokens of a member, and as many others as make them a multiple of ALIGNED."""
    others = sorted(set(range(*span)) - set(learnt))
    return sorted([*learnt, *others[: -len(learnt) % ALIGNED]])


def _join(parts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor(list(chain.from_iterable(parts)), dtype=torch.long, device=device)
