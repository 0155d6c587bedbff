"""NOMAD's batch run on functions of its coordinates, to hold ask and tell against."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
BOX = ("BB_INPUT_TYPE ( I I R R )", "LOWER_BOUND ( 1 1 -5 0 )", "UPPER_BOUND ( 6 64 -1 0.3 )", "X0 ( 3 16 -4.5 0.1 )")


def bowl(point: Sequence[float]) -> float:
    """On BOX. Least, 0, at 2, 40, -2.5, 0.2."""
    a, b, c, d = point
    return (a - 2) ** 2 / 4 + (b - 40) ** 2 / 400 + (c + 2.5) ** 2 + abs(d - 0.2)


def plain(point: Sequence[float]) -> str:
    return repr(bowl(point))


def failing(point: Sequence[float]) -> str:
    return "Inf" if point[1] % 5 == 4 else repr(bowl(point))


def constrained(point: Sequence[float]) -> str:
    return "Inf 0" if point[1] % 5 == 4 else f"{bowl(point)!r} {point[1] - 30!r}"


RANKS = [2, 4, 8, 16, 32, 64]
SHAPES = ["linear", "cosine", "constant"]


def loss(rate: float, rank: int, dropout: float, shape: str) -> float:
    """Least, 0, at -3 (exponent), 16, 0.1, cosine."""
    return (rate + 3) ** 2 + (RANKS.index(rank) - 3) ** 2 + 10 * abs(dropout - 0.1) + (shape != "cosine")


def places(point: Sequence[float]) -> str:
    """`loss` in the coordinates that NomadSampler shows to NOMAD."""
    step, rank, rate, shape = point
    return repr(loss(rate, RANKS[int(rank)], 0.05 * step, SHAPES[int(shape)]))


def batch_run(folder: Path, function: Callable[[Sequence[float]], str], *statements: str) -> list[tuple[float, ...]]:
    """The points in the order in which NOMAD has them evaluated."""
    (folder / "bb.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.bbo.optimizers.batch import {function.__name__}\n"
        "for row in open(sys.argv[1]).read().splitlines():\n"
        "    if row.strip():\n"
        f"        print(row, file=open('{folder}/walk', 'a'))\n"
        f"        print({function.__name__}([float(word) for word in row.split()]))\n"
    )
    lines = ["DIMENSION 4", f"BB_EXE '${sys.executable} bb.py'", *statements, "DISPLAY_DEGREE 0"]
    code = f"import PyNomad; PyNomad.optimizeWithMainStep({[*lines, f'PROBLEM_DIR {folder}/']!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)
    return [tuple(map(float, row.split())) for row in (folder / "walk").read_text().splitlines()]
