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
    (rows, tokens, real, _), (_, other_tokens, _, _) = layout.padding
    assert rows.lengths == (5, 11)
    assert tokens.view(2, 11).tolist() == [[*range(5), *[4] * 6], [*range(5, 16)]]
    assert tokens[real].tolist() == list(range(16)) == other_tokens.tolist()


def test_equal_beginnings_of_a_members_rows_are_there_once() -> None:
    rows = [(9, 9, 2, 3), (1, 2, 3, 4, 5), (9, 9, 1), (1, 2, 3, 6, 7, 8), (1, 2, 3, 6, 9)]
    examples = [Example(row, len(row) - 1) for row in rows]
    layout = lay_out(examples, [range(5), [1, 3]], CPU, flat=True, sharing=[True, False])
    mine = [1, 2, 3, 4, 5, 6, 7, 8, 6, 9, 9, 9, 1, 9, 2, 3]
    assert layout.ids.tolist() == [[*mine, 1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, *[0] * 5]]
    assert layout.positions.tolist() == [[*range(5), 3, 4, 5, 3, 4, 0, 1, 2, 1, 2, 3, *range(5), *range(11)]]
    assert layout.learnt.tolist() == [3, 6, 8, 11, 14, 19, 25]
    assert layout.targets.tolist() == [5, 8, 9, 1, 3, 5, 8]
    (own, tokens, real, shared), (other, _, _, none) = layout.padding
    assert own.groups == ((3, 3), (2, 1)) and shared == [(slice(0, 3), 3, 0), (slice(3, 5), 1, 10)]
    assert other.groups == ((2, 0),) and not none
    assert tokens.view(5, 6).tolist() == [
        [0, 1, 2, 3, 4, 4],
        [0, 1, 2, 5, 6, 7],
        [0, 1, 2, 8, 9, 9],
        [10, 11, 12, 12, 12, 12],
        [10, 13, 14, 15, 15, 15],
    ]
    assert tokens[real].tolist() == list(range(16))


def test_what_predicts_a_label_is_never_shared() -> None:
    layout = lay_out([Example((1, 2, 3), 1), Example((1, 2, 4), 3)], [[0, 1]], CPU, flat=True, sharing=[True])
    assert not layout.padding[0].shared


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
