"""Where tokens, members and labels lie in one pass."""

import pytest
import torch

from blackbox.data import Example
from blackbox.layout import lay_out

EXAMPLES = [Example((1, 2, 3), 2), Example((4, 5, 6, 7, 8), 0), Example((9, 10), 1)]
CPU = torch.device("cpu")


def test_flat_rows_lie_side_by_side_and_members_are_aligned() -> None:
    layout = lay_out(EXAMPLES, [[1, 0], [2, 2]], CPU, flat=True)
    assert layout.ids.tolist() == [[4, 5, 6, 7, 8, 1, 2, 3, *[0] * 8, 9, 10, 9, 10, *[0] * 12]]
    assert layout.positions.tolist() == [[*range(5), *range(11), 0, 1, *range(14)]]
    assert layout.bounds.tolist() == [0, 5, 16, 18, 32]
    assert layout.members == ((0, 16), (16, 32))
    assert layout.learnt.tolist() == [0, 1, 2, 3, 6, 16, 18]
    assert layout.targets.tolist() == [5, 6, 7, 8, 3, 10, 10]
    assert layout.labels == ((0, 5), (5, 7))
    assert layout.last_members == ((0, 16), (16, 32))
    assert layout.last.tolist() == list(range(32))


def test_the_last_layer_ends_with_few_tokens() -> None:
    layout = lay_out([Example(tuple(range(60)), 40)], [[0], [0]], CPU, flat=True)
    assert layout.members == ((0, 64), (64, 128)) and layout.last_members == ((0, 32), (32, 64))
    assert layout.last.tolist() == [*range(12), *range(39, 59), *range(64, 76), *range(103, 123)]


def test_padding_repeats_a_rows_own_last_token_and_knows_no_companions() -> None:
    layout = lay_out(EXAMPLES, [[1, 2], [2]], CPU, flat=True)
    (rows, tokens, real), (_, other_tokens, _) = layout.padding
    assert rows == 2
    assert tokens.view(2, 11).tolist() == [[*range(5), *[4] * 6], [*range(5, 16)]]
    assert tokens[real].tolist() == list(range(16)) == other_tokens.tolist()


def test_padded_rows_have_the_same_labels() -> None:
    layout = lay_out(EXAMPLES, [[1, 0], [2, 2]], CPU, flat=False)
    assert layout.ids.tolist() == [[4, 5, 6, 7, 8], [1, 2, 3, 0, 0], [9, 10, 0, 0, 0], [9, 10, 0, 0, 0]]
    assert layout.members == ((0, 10), (10, 20))
    assert layout.learnt.tolist() == [0, 1, 2, 3, 6, 10, 15]
    assert layout.targets.tolist() == [5, 6, 7, 8, 3, 10, 10]
    assert layout.labels == ((0, 5), (5, 7))


@pytest.mark.parametrize("flat", [True, False])
def test_a_pass_without_rows_has_no_labels(flat: bool) -> None:
    layout = lay_out(EXAMPLES, [[]], CPU, flat)
    assert layout.members == ((0, 16 if flat else 2),) and layout.labels == ((0, 0),)
    assert len(layout.learnt) == len(layout.targets) == 0
