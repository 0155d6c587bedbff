"""The wire: what is written reads back as the same numbers, and nothing else gets through."""

import math
from pathlib import Path

import pytest

from bbo.errors import InputError
from bbo.points import DECLINED, format_answer, format_point, parse_answer, read_points


@pytest.mark.parametrize("x", [0.1, 1 / 3, -5e-324, 1.7976931348623157e308, 3.0, -0.0, 2**53, 1e22])
def test_points_round_trip(tmp_path: Path, x: float) -> None:
    file = tmp_path / "points"
    file.write_text(format_point((x, 1)) + "\n" + format_point((2, x)) + "\n")
    assert read_points(file, 2) == [(x, 1.0), (2.0, x)]


def test_answers_round_trip() -> None:
    assert parse_answer(format_answer((0.1, math.inf, 0), 3)) == (0.1, math.inf, 0.0)
    assert format_answer((math.inf,), 1) == "Inf"
    assert format_answer(None, 2) == f"{DECLINED} {DECLINED}"
    assert parse_answer(format_answer(None, 2)) is None
    with pytest.raises(AssertionError):
        format_answer((-math.inf,), 1)  # NOMAD would take it for the best value there is


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no point in it"),
        (b"1 2\n1 x\n", ":2: not a number: 'x'"),
        (b"1 2\n1\n", ":2: 1 numbers, the experiment has 2"),
        (b"1 nan\n", ":1: coordinates must be finite"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"1 \x002\n", "not a text file"),
        (b"1 2\n" * 400_000, "not a file of points"),
    ],
)
def test_bad_point_files(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "points"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_points(file, 2)


def test_missing_point_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_points(tmp_path / "none", 2)
