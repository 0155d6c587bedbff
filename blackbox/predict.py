"""`python -m blackbox.predict REQUEST`: what a saved adapter says about each row of a file, as CSV.

Columns: the row's id, then the probability of each class (`task: classification`) or the answer. Where the file has the
truth, its score is said: log loss and accuracy, or exact match and F1.
"""

import csv
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.ask import Row, answer, prompts_of, rows_of, source_of, watched
from blackbox.program import check_files, status_of
from blackbox.saved import Saved, find, load
from blackbox.settings import Settings, read_settings

MAX_NEW_TOKENS = 128


def run(request: Mapping[str, Any]) -> None:
    """Raises InputError before a model is loaded where the rows do not fit."""
    out = Path(request["out"])
    check_files(out, Path(request["data"]))
    saved = find(request["adapter"], request["experiment"])
    settings = read_settings(saved.known)
    print(f"predicting with {saved.folder}", file=sys.stderr, flush=True)
    classifies = saved.task == "classification"
    ids, names, columns, said = (_classes if classifies else _answers)(saved, settings, request)
    _write(out, ids, names, columns)
    print(f"{out}: {len(columns)} rows" + (f", {said}" if said else ""))


Found = tuple[Mapping[str, Sequence[Any]], Sequence[str], Sequence[Sequence[Any]], str]
"""Columns that name a row; names of the others; their values row by row; what their score is."""


def _classes(saved: Saved, settings: Settings, request: Mapping[str, Any]) -> Found:
    from blackbox import classification  # noqa: PLC0415 - heavy
    from blackbox.sources import read_rows  # noqa: PLC0415

    data: Any = settings.data
    source = source_of(request["data"], "DATA")
    texts = classification.texts_of(settings, source, settings.base, "DATA")
    rows = read_rows(source, settings.base, "DATA")
    model, tokenizer = load(saved, request["merge"])
    found = [
        row
        for part in watched(texts, request["batch_size"] * 8, "predicting")
        for row in classification.probabilities(model, tokenizer, part, data.max_length, request["batch_size"])
    ]
    truth: list[Any] = [row.get(data.label) for row in rows]
    said = _log_loss(found, truth) if all(label in range(data.num_labels) for label in truth) else ""
    return _ids(rows, request["ids"]), [f"{data.label}_{c}" for c in range(data.num_labels)], found, said


def _answers(saved: Saved, settings: Settings, request: Mapping[str, Any]) -> Found:
    rows = rows_of(request["data"], settings, saved.task, "DATA")
    ids = _ids(rows, request["ids"])
    model, tokenizer = load(saved, request["merge"])
    prompts = prompts_of(rows, settings, tokenizer, "DATA")
    most = request["max_new_tokens"] or getattr(settings.data, "max_new_tokens", MAX_NEW_TOKENS)
    found = answer(model, tokenizer, prompts, request["batch_size"], "predicting", max_new_tokens=most)
    found = [text.strip() for text in found]
    said = _squad(found, rows) if saved.task == "qa" and isinstance(rows[0].get("answers"), list) else ""
    return ids, ["answer"], [[text] for text in found], said


def _log_loss(probabilities: Sequence[Sequence[float]], labels: Sequence[int]) -> str:
    pairs = list(zip(probabilities, labels, strict=True))
    loss = -sum(math.log(max(row[label], sys.float_info.min)) for row, label in pairs) / len(pairs)
    right = sum(max(range(len(row)), key=row.__getitem__) == label for row, label in pairs)
    return f"log loss {loss:.5g}, accuracy {right / len(pairs):.5g}"


def _squad(answers: Sequence[str], rows: Sequence[Row]) -> str:
    from blackbox.squad import score  # noqa: PLC0415

    scores = score(answers, [row["answers"] for row in rows])
    return f"exact match {scores['exact_match']:.5g}, F1 {scores['f1']:.5g}"


def _ids(rows: Sequence[Row], wanted: Sequence[str]) -> dict[str, Sequence[Any]]:
    """What names each row: the columns that were asked for, else one called id, else its number from 1."""
    missing = [name for name in wanted if name not in rows[0]]
    if missing:
        raise InputError(f"--id: no column {', '.join(missing)}, only {', '.join(rows[0])}")
    own = [name for name in rows[0] if name.lower() == "id" and any(row[name] for row in rows)]
    names = list(wanted) or own[:1]
    return {name: [row[name] for row in rows] for name in names} or {"row": range(1, len(rows) + 1)}


def _write(out: Path, ids: Mapping[str, Sequence[Any]], names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Whole under its name, or not there."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*ids, *names])
            writer.writerows([*mine, *values] for *mine, values in zip(*ids.values(), columns, strict=True))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(status_of(run))
