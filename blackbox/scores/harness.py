"""stub until merged"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.scores.requests import Request, Scored
from blackbox.scores.settings import ScoresSettings


def evaluate(
    model: Any, tokenizer: Any, names: Sequence[str | None], request: Request, settings: ScoresSettings, base: Path
) -> dict[str | None, Scored]:
    raise InputError("outputs: benchmark scores are being built")


def check(request: Request, metric: str | None, settings: ScoresSettings, base: Path) -> list[str]:
    return ["outputs: benchmark scores are being built"]
