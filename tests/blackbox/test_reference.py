"""Rows of the reference, from a schema with a field of each kind. tests/test_docs.py holds the page to our schema."""

from typing import Literal

from pydantic import BaseModel, Field

from blackbox.hyperparameters import Int
from blackbox.reference import table
from blackbox.settings import Source


class Basis(BaseModel):
    rank: Int | None = Field(None, ge=1)
    """Of the
    basis."""


class Example(Basis):
    path: str
    """Where | it is."""
    rate: float = Field(5e-5, gt=0, le=1)
    rule: Literal["none", "asha"] = "none"
    bounds: tuple[int, int] | None = Field(None, alias="int")
    source: Source | float = 0.5
    names: dict[str, bool] = Field(default_factory=dict)


def test_rows() -> None:
    head = ["| name | type | default | meaning |", "|---|---|---|---|"]
    assert list(table(Example)) == [
        *head,
        "| `rank` | whole number >= 1 | unset | Of the basis. |",
        "| `path` | text | required | Where \\| it is. |",
        "| `rate` | number > 0, <= 1 | `5e-05` |  |",
        "| `rule` | `none`, `asha` | `none` |  |",
        "| `int` | two whole numbers | unset |  |",
        "| `source` | [source](#source) or number | `0.5` |  |",
        "| `names` | mapping of names to true or false | unset |  |",
        "",
    ]
