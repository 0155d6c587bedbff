"""The Alpaca + Dolly mix of arXiv 2312.00949: 70 % Alpaca and 30 % Dolly in Alpaca's columns, split before repeating.

Exact duplicates are removed, each source is split 80/20, and the training side is filled to 53,610 rows: Dolly has
15,011 rows, its share of the training side would need more than are left, so its training rows are repeated (or not:
--no-repeat). The validation side has no repeats and shares no row with the training side.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from bbo.errors import InputError

TRAIN_ROWS = 53_610
ALPACA_SHARE = 0.7
TRAIN_SHARE = 0.8

Row = dict[str, str]


def read_alpaca(path: Path) -> list[Row]:
    """Rows of alpaca_data.json, a JSON array of instruction, input, output."""
    try:
        rows = json.loads(_read(path))
    except ValueError as error:
        raise InputError(f"{path}: not a JSON array: {error}") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: not a JSON array of rows with instruction, input, output")
    return [_row(path, number, row, "input", "output") for number, row in enumerate(rows, 1)]


def read_dolly(path: Path) -> list[Row]:
    """Rows of databricks-dolly-15k.jsonl (instruction, context, response) under Alpaca's names."""
    rows = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON: {error}") from None
        rows.append(_row(path, number, row, "context", "response"))
    return rows


def mix(alpaca: list[Row], dolly: list[Row], seed: int, train_rows: int | None) -> tuple[list[Row], list[Row]]:
    """Training and validation side, 70/30 each. With `train_rows` None nothing is repeated and the sides are as large
    as the shares allow."""
    draw = random.Random(seed)
    (alpaca_train, alpaca_valid), (dolly_train, dolly_valid) = (_split(rows, draw) for rows in (alpaca, dolly))
    if train_rows is None:
        train = _at_shares(alpaca_train, dolly_train)
    else:
        wanted = round(ALPACA_SHARE * train_rows)
        if wanted > len(alpaca_train):
            raise InputError(f"{train_rows} rows need {wanted} of Alpaca, its training side has {len(alpaca_train)}")
        train = alpaca_train[:wanted] + _filled(dolly_train, train_rows - wanted)
    valid = _at_shares(alpaca_valid, dolly_valid)
    draw.shuffle(train)
    draw.shuffle(valid)
    return train, valid


def distinct(rows: list[Row]) -> list[Row]:
    """Rows with something to answer and to learn, each once."""
    filled = (row for row in rows if row["instruction"].strip() and row["output"].strip())
    return list({tuple(row.values()): row for row in filled}.values())


def main(arguments: list[str] | None = None) -> int:
    """`python -m blackbox.data mix`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m blackbox.data", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="mix").add_parser("mix", help="build the Alpaca + Dolly mix")
    command.add_argument("alpaca", type=Path, metavar="ALPACA_JSON")
    command.add_argument("dolly", type=Path, metavar="DOLLY_JSONL")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets train.jsonl and valid.jsonl")
    command.add_argument("--no-repeat", action="store_true", help="do not repeat Dolly's rows to fill the share")
    command.add_argument("--rows", type=int, default=TRAIN_ROWS, help=f"training rows (default {TRAIN_ROWS})")
    command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _build(
            options.alpaca,
            options.dolly,
            options.out,
            options.seed,
            None if options.no_repeat else options.rows,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _build(alpaca_file: Path, dolly_file: Path, out: Path, seed: int, train_rows: int | None) -> None:
    sources = {"Alpaca": read_alpaca(alpaca_file), "Dolly": read_dolly(dolly_file)}
    once = {name: distinct(rows) for name, rows in sources.items()}
    both = {tuple(row.values()) for row in once["Alpaca"]}
    once["Dolly"] = [row for row in once["Dolly"] if tuple(row.values()) not in both]
    for name, rows in sources.items():
        removed = len(rows) - len(once[name])
        print(f"{name}: {len(rows)} rows read, {removed} repeated or empty removed, {len(once[name])} left")
    train, valid = mix(once["Alpaca"], once["Dolly"], seed, train_rows)
    out.mkdir(parents=True, exist_ok=True)
    dolly = {tuple(row.values()) for row in once["Dolly"]}
    for side, rows in (("train", train), ("valid", valid)):
        count = sum(tuple(row.values()) in dolly for row in rows)
        repeats = len(rows) - len(distinct(rows))
        with (out / f"{side}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{side}: {len(rows)} rows, {len(rows) - count} Alpaca and {count} Dolly ({repeats} of them repeats)")


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise InputError(f"{path}: empty file")
    return text


def _row(path: Path, number: int, row: Any, context: str, response: str) -> Row:
    names = ("instruction", context, response)
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        raise InputError(f"{path}: row {number} has no text for {', '.join(names)}")
    return {"instruction": row["instruction"], "input": row[context], "output": row[response]}


def _split(rows: list[Row], draw: random.Random) -> tuple[list[Row], list[Row]]:
    rows = draw.sample(rows, len(rows))
    cut = round(TRAIN_SHARE * len(rows))
    if not 0 < cut < len(rows):
        raise InputError(f"{len(rows)} distinct rows are too few to split 80/20")
    return rows[:cut], rows[cut:]


def _at_shares(alpaca: list[Row], dolly: list[Row]) -> list[Row]:
    """As many rows as there are at 70/30, none twice."""
    total = min(len(alpaca) / ALPACA_SHARE, len(dolly) / (1 - ALPACA_SHARE))
    return alpaca[: round(ALPACA_SHARE * total)] + dolly[: round((1 - ALPACA_SHARE) * total)]


def _filled(rows: list[Row], count: int) -> list[Row]:
    """`count` rows: all of them, again and again, in order."""
    return (rows * -(-count // len(rows)))[:count]
