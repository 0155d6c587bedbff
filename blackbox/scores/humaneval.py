"""HumanEval (Chen et al. 2021, arXiv 2107.03374) by a runner of ours: each program is run in the sandbox.

Prompts, stop words and lengths are lm-eval's. Its own runner is refused: it runs what the model writes in the process
that trains, with code that it loads from the hub.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import comb, sqrt
from pathlib import Path
from typing import Any

from bbo.errors import InputError, MachineError
from bbo.executors.slots import cores
from blackbox.scores import sandbox
from blackbox.scores.requests import Request, Scored
from blackbox.scores.sandbox import Limits, Verdict
from blackbox.scores.settings import HUMANEVAL, ScoresSettings
from blackbox.scores.sources import files_of, folder_of
from blackbox.settings import Source
from blackbox.sources import read_rows

HUB = "openai/openai_humaneval"
COLUMNS = ("task_id", "prompt", "test", "entry_point")

TIMES = (1, 10, 100)
"""The k of pass@k, up to num_samples."""

LIMITS = Limits(cpu=3, wall=10.0)
"""3 seconds as in OpenAI's runner (human_eval/evaluation.py, `timeout`) and in the one that lm-eval loads. Theirs go by
the clock, ours by processor time, so that other work on the machine changes no score; by the clock it is 10."""

PASSED = 86
"""The status of a program whose last line was reached. Not 0: `exit()` in what a model writes is no solution."""


def check(request: Request, metric: str | None, settings: ScoresSettings, base: Path) -> list[str]:
    """A sentence for everything that is wrong, each led by its place in the YAML. Loads neither rows nor a model."""
    problems = []
    known = [f"pass@{k}" for k in TIMES if k <= request.num_samples]
    if metric is not None and metric not in known:
        more = f" with num_samples {request.num_samples}" if metric in (f"pass@{k}" for k in TIMES) else ""
        problems.append(f"outputs: {HUMANEVAL} has no metric {metric}{more}, it has {', '.join(known)}")
    if request.num_fewshot:
        problems.append(f"scores.tasks.{HUMANEVAL}.num_fewshot: it takes no examples, got {request.num_fewshot}")
    if request.subtasks:
        problems.append(f"scores.tasks.{HUMANEVAL}.subtasks: it has none, got {', '.join(request.subtasks)}")
    if (folder := settings.folder(base)) is not None and not _files(folder):
        problems.append(f"scores.data_dir: no such file: {folder / HUMANEVAL / 'test.jsonl'}")
    return [*problems, *_not_to_be_run(settings)]


def _not_to_be_run(settings: ScoresSettings) -> list[str]:
    if not settings.allow_code_execution:
        return [
            f"scores.allow_code_execution: {HUMANEVAL} runs what the model writes: set it to true to have that done, "
            "in a sandbox"
        ]
    reason = sandbox.available()
    return [] if reason is None else [f"scores.allow_code_execution: {HUMANEVAL} needs a sandbox, and {reason}"]


def evaluate(
    model: Any, tokenizer: Any, names: Sequence[str | None], request: Request, settings: ScoresSettings, base: Path
) -> dict[str | None, Scored]:
    """Score HumanEval for each of these adapters of a PeftModel in evaluation mode; None is the model without any.

    Raises InputError where the rows cannot be had or the model has no room for what it is to write, and MachineError
    where programs cannot be shut in: none was run then.
    """
    from blackbox.scores.completions import complete  # noqa: PLC0415 - torch and lm-eval

    if refused := _not_to_be_run(settings):
        raise InputError(*refused) if not settings.allow_code_execution else MachineError(*refused)
    rows = _rows(settings.folder(base), base)[: request.limit]
    prompts = [row["prompt"] for row in rows]
    written = {name: complete(model, tokenizer, name, prompts, request, settings.batch_size) for name in names}
    programs = {
        name: [[_program(row, text) for text in of_row] for row, of_row in zip(rows, texts, strict=True)]
        for name, texts in written.items()
    }
    verdicts = _verdicts({program for each in programs.values() for of_row in each for program in of_row})
    return {
        name: _scored([[verdicts[program] for program in of_row] for of_row in each]) for name, each in programs.items()
    }


def _rows(data_dir: Path | None, base: Path) -> list[dict[str, Any]]:
    """The problems, of the local files or of the hub."""
    files = _files(data_dir)
    if not files:
        return read_rows(Source(path=HUB, split="test"), base, "outputs")
    rows = [row for file in files for row in read_rows(Source(path=file), base, "scores.data_dir")]
    for number, row in enumerate(rows, 1):
        if missing := [name for name in COLUMNS if not isinstance(row.get(name), str)]:
            raise InputError(f"scores.data_dir: {files[0]}: row {number} has no text {', '.join(missing)}")
    return rows


def _files(data_dir: Path | None) -> list[str]:
    folder = folder_of(HUMANEVAL, data_dir)
    return [] if folder is None else files_of(folder).get("test", [])


def _program(row: Mapping[str, str], completion: str) -> str:
    """As lm-eval puts it together, and a last line that says it was reached."""
    return (
        f"{row['prompt']}{completion}\n{row['test']}\ncheck({row['entry_point']})\n__import__('os')._exit({PASSED})\n"
    )


def _verdicts(programs: set[str]) -> dict[str, Verdict]:
    """How each of them ended; as many run at once as there are cores."""
    ordered = sorted(programs)
    with ThreadPoolExecutor(cores()) as pool:
        return dict(zip(ordered, pool.map(lambda program: sandbox.run(program, LIMITS), ordered), strict=True))


def _scored(problems: Sequence[Sequence[Verdict]]) -> Scored:
    """Of each problem's verdicts: pass@k, its standard error over problems, and how the programs ended."""
    metrics = {}
    right = [sum(verdict.status == PASSED for verdict in verdicts) for verdicts in problems]
    for k in TIMES:
        if k <= len(problems[0]):
            values = [pass_at(k, len(verdicts), c) for verdicts, c in zip(problems, right, strict=True)]
            metrics[f"pass@{k}"] = statistics.fmean(values)
            if len(values) > 1:
                metrics[f"pass@{k}_stderr"] = statistics.stdev(values) / sqrt(len(values))
    ends = Counter(_end(verdict) for verdicts in problems for verdict in verdicts)
    details = {end: ends[end] for end in ("right", "wrong", "crashed", "timed_out")}
    return Scored(metrics, len(problems), details)


def pass_at(k: int, samples: int, right: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right, `right` of so many being so (eq. 1)."""
    return 1 - comb(samples - right, k) / comb(samples, k)


def _end(verdict: Verdict) -> str:
    if verdict.status == PASSED:
        return "right"
    if verdict.timed_out:
        return "timed_out"
    last = verdict.output.rstrip().rpartition("\n")[2]
    return "wrong" if last.startswith("AssertionError") else "crashed"
