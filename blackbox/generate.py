"""`python -m blackbox.generate REQUEST`: models answer the same questions, for a blind comparison.

FILE.json has the questions and answers A, B, C in an order of their own for each question; who is who stands in
FILE.key.json. A draw depends on seed and question, so that batches change nothing.
"""

import gc
import random
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from bbo.store import write_json
from blackbox.ask import Row, answer, prompts_of, rows_of
from blackbox.program import check_files, status_of
from blackbox.saved import Saved, find, load, load_base, worst
from blackbox.settings import Settings, read_settings


def run(request: Mapping[str, Any]) -> None:
    """Raises InputError before a model is loaded where one of them is not there."""
    out = Path(request["out"])
    check_files(out, Path(request["questions"]))
    best = find(request["adapter"], request["experiment"])
    if best.task == "classification":
        raise InputError(f"{best.folder}: a classifier writes no answers: use `bbo predict`")
    models: dict[str, Saved | None] = {"best": best}
    if request["worst"]:
        models["worst"] = worst(request["adapter"])
        if models["worst"] == best:
            raise InputError(f"--worst: {request['adapter']} has one good evaluation")
    if request["base"]:
        models["base"] = None
    settings = read_settings(best.known)
    rows = rows_of(request["questions"], settings, best.task, "QUESTIONS")
    found = {name: _ask(name, best, saved, settings, rows, request) for name, saved in models.items()}
    _write(out, request, rows, found, {name: str(saved.folder if saved else "") for name, saved in models.items()})
    names = "" if len(models) == 1 else f"; who is who: {out.with_suffix('.key.json')}"
    print(f"{out}: {len(rows)} questions, {len(models)} answers each{names}")


def _ask(
    name: str, best: Saved, saved: Saved | None, settings: Settings, rows: Sequence[Row], request: Mapping[str, Any]
) -> list[str]:
    print(f"{name}: {saved.folder if saved else 'the untouched base model'}", file=sys.stderr, flush=True)
    model, tokenizer = load_base(best) if saved is None else load(saved)
    prompts = prompts_of(rows, settings, tokenizer, "QUESTIONS")
    options = {each: request[each] for each in ("max_new_tokens", "seed", "temperature")}
    found = answer(model, tokenizer, prompts, request["batch_size"], name, **options)
    del model
    gc.collect()  # the next one needs its room
    return [text.strip() for text in found]


def _write(
    out: Path,
    request: Mapping[str, Any],
    rows: Sequence[Row],
    found: Mapping[str, Sequence[str]],
    folders: Mapping[str, str],
) -> None:
    questions, key = [], []
    for number, row in enumerate(rows):
        order = shuffled(list(found), request["seed"], number)
        key.append(dict(zip(string.ascii_uppercase, order, strict=False)))
        answers = {letter: found[name][number] for letter, name in key[-1].items()}
        questions.append({"question": row, "answers": answers})
    about = {name: request[name] for name in ("seed", "temperature", "max_new_tokens")}
    write_json(out, {**about, "questions": questions})
    write_json(out.with_suffix(".key.json"), {"models": folders, "key": key})


def shuffled(names: Sequence[str], seed: int, number: int) -> list[str]:
    """The order in which a question's answers are shown."""
    order = sorted(names)
    random.Random(f"{seed}:{number}").shuffle(order)
    return order


if __name__ == "__main__":
    sys.exit(status_of(run))
