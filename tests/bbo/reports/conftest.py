"""Runs made by hand, in the place where a report finds them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bbo.reports.made import Made


@pytest.fixture
def made(tmp_path: Path, toy: Callable[..., Path]) -> Callable[..., Made]:
    """made("name", in_yaml=...): an empty run of the toy."""

    def make(name: str = "made", **changes: object) -> Made:
        return Made(tmp_path / "runs" / name, toy(**changes).with_suffix(".yaml"))

    return make
