"""The commands after a search: what each asks of the blackbox, and its help."""

from typing import Any

import pytest
from typer.testing import CliRunner

from bbo import after
from bbo.cli import app

COMMANDS = ("confirm", "retrain", "merge", "predict", "generate", "score", "push")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_an_input_is_needed(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0 and f"bbo {command} " in shown.output.split("Example")[1]
    assert CliRunner().invoke(app, [command]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "program", "asked"),
    [
        ("retrain x --epochs 2 --out y", "retrain", {"run": "x", "data": "all", "epochs": 2.0, "out": "y"}),
        ("merge x y -e z.yaml", "merge", {"adapter": "x", "out": "y", "experiment": "z.yaml"}),
        (
            "predict x t.csv --out p.csv --id a --id b --merge",
            "predict",
            {"data": "t.csv", "out": "p.csv", "ids": ["a", "b"], "merge": True, "batch_size": 32},
        ),
        (
            "generate x q.txt --out a.json --base --worst --seed 4",
            "generate",
            {"questions": "q.txt", "base": True, "worst": True, "seed": 4, "temperature": 0.7},
        ),
        (
            "score x --tasks mmlu,bbh --limit 2 --num-fewshot 0 --json",
            "score",
            {"tasks": ["mmlu", "bbh"], "limit": 2, "num_fewshot": 0, "data_dir": None, "json": True},
        ),
        ("push x me/y --dry-run", "push", {"repo": "me/y", "dry_run": True, "private": False}),
    ],
)
def test_what_is_asked(words: str, program: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Any]] = []

    def blackbox(name: str, request: Any) -> int:
        called.append((name, request))
        return 3

    monkeypatch.setattr(after, "blackbox", blackbox)
    assert CliRunner().invoke(app, words.split()).exit_code == 3
    ((name, request),) = called
    assert name == program and asked.items() <= request.items()


@pytest.mark.parametrize(
    "words", ["confirm x --top 0", "predict x t.csv --out p --batch-size 0", "retrain x --data none"]
)
def test_wrong_values_are_the_command_lines_mistake(words: str) -> None:
    assert CliRunner().invoke(app, words.split()).exit_code == 2
