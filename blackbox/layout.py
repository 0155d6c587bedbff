"""Rows of several members side by side in one forward pass, without padding where the model can take them so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from blackbox.data import Example

Span = tuple[int, int]


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
    def padding(self) -> tuple[Tensor, Tensor]:
        """(rows x longest,) which token stands where when the rows are padded, and (tokens,) the way back.

        A row is padded with its own last token: 0 x NaN is NaN, and another member may have come to that.
        """
        lengths = torch.tensor(self.lengths)
        places = torch.arange(max(self.lengths))
        real = places < lengths[:, None]
        tokens = (lengths.cumsum(0) - lengths)[:, None] + torch.minimum(places, lengths[:, None] - 1)
        return tokens.flatten().to(self.ids.device), real.flatten().nonzero()[:, 0].to(self.ids.device)


def lay_out(examples: Sequence[Example], members: Sequence[Sequence[int]], device: torch.device, flat: bool) -> Layout:
    """The rows of each member in one pass. A pass without any row holds two tokens without a label."""
    rows = [examples[row] for row in chain.from_iterable(members)]
    tokens = [row.tokens for row in rows] or [(0, 0)]
    lengths = [len(row) for row in tokens]
    longest = max(lengths)
    begins = [0, *accumulate(lengths)] if flat else range(0, longest * (len(lengths) + 1), longest)
    if flat:
        ids = torch.tensor(list(chain.from_iterable(tokens)))[None]
    else:
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens])
    learnt = [torch.arange(at + row.first - 1, at + len(row.tokens) - 1) for at, row in zip(begins, rows, strict=False)]
    targets = [row.tokens[row.first :] for row in rows]
    ends = [0, *accumulate(map(len, members))] if rows else [0, 1]
    return Layout(
        ids.to(device),
        tuple(lengths),
        tuple(pairwise(begins[end] for end in ends)),
        torch.cat([torch.zeros(0, dtype=torch.long), *learnt]).to(device),
        torch.tensor(list(chain.from_iterable(targets)), dtype=torch.long, device=device),
        tuple(pairwise(_label_ends(rows, ends))),
    )


def _label_ends(rows: Sequence[Example], ends: Sequence[int]) -> Iterator[int]:
    counts = [0, *accumulate(row.labels for row in rows)]
    return (counts[min(end, len(rows))] for end in ends)
