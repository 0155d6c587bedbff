"""Rows in the schemas that lm-eval's tasks read, adapters on small random models, and lm-eval's own way to a score."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from blackbox.scores.catalogue import TASKS
from blackbox.scores.requests import Request
from tests.conftest import ROOT

WORDS = "bone heart star moon river stone law trade king queen sugar salt north south left right".split()


def request(task: str, num_fewshot: int | None = None, limit: int | None = None, *subtasks: str) -> Request:
    return Request(task, num_fewshot, limit, subtasks, 1, 0.0, "local", "0")


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(number: int, count: int) -> str:
    return " ".join(WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(count))


def mmlu(number: int, subject: str) -> dict[str, Any]:
    choices = [words(number + i, 1 + i) for i in range(4)]
    question = f"Which {subject} has {words(number, 3 + number % 9)}?"
    return {"question": question, "subject": subject, "choices": choices, "answer": number % 4}


def write_mmlu(folder: Path, **questions: int) -> None:
    for subject, count in questions.items():
        write(folder / "mmlu" / subject / "dev.jsonl", [mmlu(100 + i, subject) for i in range(5)])
        write(folder / "mmlu" / subject / "test.jsonl", [mmlu(i, subject) for i in range(count)])


def write_hellaswag(folder: Path, count: int) -> None:
    rows = [
        {
            "ind": i, "activity_label": "Washing", "ctx_a": f"A man has {words(i, 4)}.", "ctx_b": "he then",
            "ctx": "", "endings": [words(i + j, 2 + j) + "." for j in range(4)], "source_id": "x", "split": "val",
            "split_type": "indomain", "label": str(i % 4),
        }
        for i in range(count)
    ]  # fmt: skip
    write(folder / "hellaswag" / "validation.jsonl", rows)


def write_arc(folder: Path, count: int) -> None:
    rows = [
        {
            "id": str(i), "question": f"What is {words(i, 4)}?", "answerKey": "ABC"[i % 3],
            "choices": {"text": [words(i + j, 1 + j) for j in range(3)], "label": ["A", "B", "C"]},
        }
        for i in range(count)
    ]  # fmt: skip
    for split in ("train", "validation", "test"):
        write(folder / "arc_easy" / "ARC-Easy" / f"{split}.jsonl", rows)


def write_bbh(folder: Path, **questions: int) -> None:
    for name, count in questions.items():
        rows = [{"input": f"not {words(i, 3)} is", "target": "True"} for i in range(count)]
        write(folder / "bbh" / name / "test.jsonl", rows)


def write_drop(folder: Path, count: int) -> None:
    nothing = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    rows = [
        {
            "section_id": "s", "query_id": str(i), "passage": f"In {1900 + i} {words(i, 8)}.",
            "question": f"When was {words(i, 2)}?", "answer": {**nothing, "spans": [words(i, 1)]},
            "validated_answers": {"number": ["7"], "date": [nothing["date"]], "spans": [["salt"]]},
        }
        for i in range(count)
    ]  # fmt: skip
    write(folder / "drop" / "validation.jsonl", rows)


def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ROOT / "blackbox" / "tiny" / "model")


def llama(**more: Any) -> LlamaConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 4096}
    return LlamaConfig(**{**sizes, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, **more})


def adapted(config: PretrainedConfig, targets: Sequence[str], ranks: Mapping[str, int]) -> PeftModel:
    """A random model in evaluation mode with random adapters that change what it says."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    configs = {n: LoraConfig(task_type="CAUSAL_LM", r=r, target_modules=list(targets)) for n, r in ranks.items()}
    first, *others = configs
    model = get_peft_model(base, configs[first], adapter_name=first)
    for name in others:
        model.add_adapter(name, configs[name])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.base_model.set_adapter(list(configs))
    return model.eval()


def own_way(model: PeftModel, name: str | None, file: str, data: Mapping[str, Path], **more: Any) -> dict[str, Any]:
    """lm-eval's results of one task as its documentation says: HFLM on the model, a configuration, `evaluate`.

    `data`: split -> file, each split of the configuration's being there; `more` has num_fewshot, limit and batch_size.
    """
    files = {split: str(path) for split, path in data.items()}
    config = load_yaml(TASKS / file, resolve_func=True)
    kwargs = {"data_files": files, "cache_dir": str(next(iter(data.values())).parent / "cache")}
    config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    loaded = TaskManager(include_defaults=False).load([config])
    for task in loaded["tasks"].values():
        if "num_fewshot" in more:
            task.set_config("num_fewshot", more["num_fewshot"])
        task.set_fewshot_seed(seed=1234)
    lm = HFLM(pretrained=model, tokenizer=deepcopy(tokenizer()), batch_size=more.get("batch_size", 1))
    before = model.active_adapters
    model.base_model.set_adapter(name or before)
    with model.disable_adapter() if name is None else nullcontext():
        results = evaluate(lm=lm, task_dict=loaded, limit=more.get("limit"), bootstrap_iters=100)
    model.base_model.set_adapter(before)
    return results
