"""exact_match and f1 of a qa experiment: its validation questions answered by each adapter."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bbo.experiment import Output
from bbo.store import key_of
from blackbox.scores.requests import Request, Scored, Wanted
from blackbox.settings import QaSettings, Settings, Source

TASK = "qa"
METRICS = ("exact_match", "f1")
"""In percent, as SQuAD's official script has them."""


def wanted(
    outputs: Sequence[Output], settings: Settings, of_data: Callable[[Settings], Mapping[str, Any]]
) -> dict[str, Wanted]:
    """Of the outputs that are scores of this module, by name. `of_data` hashes what an experiment's data is made of."""
    names = [output.metric for output in outputs if output.metric in METRICS]
    if not names or not isinstance(settings.data, QaSettings):
        return {}
    of_training = set() if isinstance(settings.data.valid, float) else {"train"}
    data = {name: part for name, part in of_data(settings).items() if name not in {"max_length", *of_training}}
    request = Request(
        task=TASK,
        num_fewshot=None,
        limit=None,
        subtasks=(),
        num_samples=1,
        temperature=0.0,
        data=key_of(data),
        lm_eval="",
        max_new_tokens=settings.data.max_new_tokens,
    )
    return {name: Wanted(request, name) for name in names}


def evaluate(
    model: Any, tokenizer: Any, names: Sequence[str | None], request: Request, settings: Settings
) -> dict[str | None, Scored]:
    """Exact match and F1 of these adapters of a PeftModel in evaluation mode; None is the model without any.

    Answers are greedy. Raises InputError where the data cannot be read, or an answer has no room in the model.
    """
    from blackbox.data import prompt_tokens  # noqa: PLC0415 - torch
    from blackbox.generation import answers, cut  # noqa: PLC0415
    from blackbox.scores.adapters import active  # noqa: PLC0415
    from blackbox.squad import score  # noqa: PLC0415

    assert isinstance(settings.data, QaSettings) and request.max_new_tokens is not None
    asked = questions(settings.data, settings.base, tokenizer)
    prompts = [prompt for prompt, _ in asked]
    rows = prompt_tokens(prompts, tokenizer)
    shorter = sum(map(len, rows)) - sum(map(len, cut(model.get_base_model(), rows, request.max_new_tokens)))
    found: dict[str | None, Scored] = {}
    for name in names:
        with active(model, name):
            written = answers(model, tokenizer, prompts, request.max_new_tokens, settings.scores.batch_size)
        metrics = score(written, [gold for _, gold in asked])
        found[name] = Scored(metrics, len(asked), {"tokens_cut": shorter})
    return found


def questions(data: QaSettings, base: Path, tokenizer: Any) -> list[tuple[str, list[str]]]:
    """The prompt of each validation row, with all answers that are right. Raises InputError."""
    from blackbox.data import read_texts  # noqa: PLC0415 - torch
    from blackbox.squad import read_questions  # noqa: PLC0415

    own = isinstance(data.valid, Source)
    source, place = (data.valid, "data.valid") if isinstance(data.valid, Source) else (data.train, "data.train")
    whole = read_texts(data.model_copy(update={"train": source, "valid": source}), base, tokenizer)
    gold: dict[tuple[str, str], list[str]] = defaultdict(list)
    for text, row in zip(whole.valid, read_questions(source, data, base, place), strict=True):
        gold[text] += row["answers"]
    texts = whole.valid if own else read_texts(data, base, tokenizer).valid
    return [(text[0], gold[text]) for text in texts]
