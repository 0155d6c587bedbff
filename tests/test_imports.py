"""Imports run one way, and what must start fast imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYERS = [
    {"errors", "lifeline", "processes"},
    {"space", "claims", "program", "jobscript", "search", "function"},
    {"points", "store", "grammar"},
    {"keywords", "command", "variables", "document", "runlog", "resources"},
    {"problem", "experiment", "run", "mads", "lineage"},
    {"executors", "pair", "session", "batch", "optimizers", "stopping", "arrivals", "front", "arguments"},
    {"index", "guard", "evaluate", "record"},
    {"replay", "loop", "best"},
    {"driver", "display"},
    {"summary"},
    {"conduct", "reports"},
    {"nomad", "status", "listing", "huggingface"},
    {"optimize", "race", "confirm", "handle", "draft"},
    {"compare", "after", "look", "submit", "katib"},
    {"tuning"},
    {"cli"},
]
"""From the ground up: a module of bbo imports only from layers below its own (or, within a parser, beside it)."""

BESIDE = {("variables", "command"), ("variables", "keywords"), ("command", "keywords")}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


def test_bbo_never_imports_the_blackbox() -> None:
    for file in (ROOT / "bbo").rglob("*.py"):
        assert not [name for name in imports(file) if name.split(".")[0] == "blackbox"], file


def test_layers() -> None:
    modules = {file.stem for file in (ROOT / "bbo").glob("*.py")} | {"executors", "katib", "optimizers", "reports"}
    for file in (ROOT / "bbo").rglob("*.py"):
        mine = file.relative_to(ROOT / "bbo").parts[0].removesuffix(".py")
        if mine == "__init__":
            continue
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "bbo" and len(parts) > 1 and parts[1] in modules and parts[1] != mine:
                allowed = layer(parts[1]) < layer(mine) or (mine, parts[1]) in BESIDE
                assert allowed, f"bbo/{mine} imports bbo/{parts[1]}"


@pytest.mark.parametrize(
    "module",
    ["bbo.cli", "bbo.nomad", "bbo.optimize", "bbo.tuning", "blackbox.__main__", "blackbox.eval", "blackbox.preflight",
     "blackbox.checks", "blackbox.objective"],
)  # fmt: skip
def test_starts_without_heavy_libraries(module: str) -> None:
    heavy = "('torch', 'transformers', 'peft', 'accelerate', 'datasets', 'numpy', 'optuna', 'pandas')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
