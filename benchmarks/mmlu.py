"""`python -m benchmarks.mmlu --data DIR`: MMLU at five shots, lm-eval's own way and with shared beginnings, in turn.

DIR has a folder per subject with dev.jsonl and test.jsonl in the schema of cais/mmlu, and is called mmlu. Both ways go
from the files to the score, on one model with random LoRA adapters: a small random LLaMA, or --model. lm-eval has the
batch size that suits it best, found first on a few questions, and is measured at ours too. Questions whose best two
answers differ by less than 1e-4 nat in lm-eval itself are counted as ties. Exit status 1 where another is answered
differently. Whatever computes should have nothing else to do.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks import report
from blackbox.model import load_model, load_tokenizer
from blackbox.scores import harness, tasks
from blackbox.scores.adapters import active, unchanged
from blackbox.scores.mmlu import SharedLM
from blackbox.scores.requests import Request
from blackbox.scores.settings import ScoresSettings
from blackbox.settings import ModelSettings

TOKENIZER = Path(__file__).parent.parent / "blackbox" / "tiny" / "model"

SHAPE: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 4,
}  # fmt: skip
"""Of the random LLaMA: 15 M parameters in heads of 128, as LLaMA-2 has. Its tokenizer makes twice LLaMA-2's tokens."""

CANDIDATES = (1, 4, 16)
"""Batch sizes that lm-eval may like best."""

FEW = 2
"""Questions of each subject that this is found out with."""

TIE = 1e-4

Values = dict[tuple[str, str], float]
"""Log-likelihood of each answer after each prompt."""


@dataclass(frozen=True)
class Work:
    """What both ways do."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    names: list[str | None]
    request: Request
    base: Path

    def settings(self, batch_size: int) -> ScoresSettings:
        return ScoresSettings(data_dir=str(self.base), batch_size=batch_size)


@dataclass(frozen=True)
class Measured:
    """One way through all questions, for all adapters."""

    seconds: float
    cpu_seconds: float
    """Of all threads, which others' work on the machine changes less."""
    tokens: int
    fallback: int
    values: dict[str | None, Values]
    scores: dict[str | None, float]


class Counting(HFLM):  # type: ignore[misc]
    """lm-eval's own, with its tokens counted and its answers kept."""

    tokens = 0
    values: Values

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        answers = super().loglikelihood(requests, disable_tqdm)
        self.values = {request.args: value for request, (value, _) in zip(requests, answers, strict=True)}
        return answers

    def _model_call(self, inps: Tensor, *rest: Any, **more: Any) -> Tensor:
        self.tokens += inps.numel()
        logits: Tensor = super()._model_call(inps, *rest, **more)
        return logits


class Kept(SharedLM):
    """Ours, found again when it is done."""

    last: "Kept"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Kept.last = self


def ours(work: Work, batch_size: int) -> Measured:
    began, worked = time.perf_counter(), time.process_time()
    with patch.object(harness, "SharedLM", Kept):
        scored = harness.evaluate(
            work.model, work.tokenizer, work.names, work.request, work.settings(batch_size), work.base
        )
    seconds, cpu, lm = time.perf_counter() - began, time.process_time() - worked, Kept.last
    values = {name: {pair: value for pair, (value, _) in lm._answers[name].items()} for name in work.names}
    scores = {name: score.metrics["acc"] for name, score in scored.items()}
    return Measured(seconds, cpu, lm.tokens, lm.fallback, values, scores)


def lm_evals(work: Work, batch_size: int, limit: int | None = None) -> Measured:
    """As `lm_eval.simple_evaluate` does for each adapter, its bars and notes left unseen."""
    began, worked = time.perf_counter(), time.process_time()
    tokens, values, scores = 0, {}, {}
    with tempfile.TemporaryDirectory() as cache, unchanged(work.model):
        for name in work.names:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), active(work.model, name):
                loaded = tasks.load(work.request, work.settings(batch_size), work.base, Path(cache))
                for task in loaded["tasks"].values():
                    task.set_fewshot_seed(seed=1234)
                lm = Counting(pretrained=work.model, tokenizer=deepcopy(work.tokenizer), batch_size=batch_size)
                shown = {"bootstrap_iters": 100, "log_samples": False}
                results = evaluate(lm=lm, task_dict=loaded, limit=limit or work.request.limit, **shown)
            tokens += lm.tokens
            values[name], scores[name] = lm.values, float(results["results"]["mmlu"]["acc,none"])
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return Measured(seconds, cpu, tokens, 0, values, scores)


def best_batch_size(work: Work) -> tuple[int, dict[int, float]]:
    """Where lm-eval needs the fewest seconds for a few questions, and those seconds; the first call warms up."""
    lm_evals(work, 1, 1)
    seconds = {size: lm_evals(work, size, FEW).seconds for size in CANDIDATES}
    return min(seconds, key=lambda size: seconds[size]), seconds


def choices(values: Values) -> dict[str, tuple[int, float]]:
    """Prompt -> lm-eval's choice, the first of the largest, and by how much it is ahead (nats)."""
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    ahead = {prompt: sorted(each)[-1] - sorted(each)[-2] for prompt, each in by_prompt.items()}
    return {prompt: (each.index(max(each)), ahead[prompt]) for prompt, each in by_prompt.items()}


def compare(our: Measured, their: Measured) -> dict[str, Any]:
    """Over all questions of all adapters."""
    pairs = [
        (choices(our.values[name])[prompt][0], *chosen)
        for name in our.values
        for prompt, chosen in choices(their.values[name]).items()
    ]
    differences = [
        abs(our.values[name][pair] - value) for name in our.values for pair, value in their.values[name].items()
    ]
    return {
        "questions": len(pairs),
        "agreement": sum(ours == theirs for ours, theirs, _ in pairs) / len(pairs),
        "ties": sum(ahead < TIE for _, _, ahead in pairs),
        "disagreements": sum(ours != theirs and ahead >= TIE for ours, theirs, ahead in pairs),
        "largest_difference_nats": max(differences),
        "fallback": our.fallback,
        "scores": {"ours": list(our.scores.values()), "lm-eval": list(their.scores.values())},
    }


def measure(work: Work, batch_size: int, repeats: int) -> dict[str, Any]:
    """Both ways in turn; the medians' ratio is the speed."""
    best, tried = best_batch_size(work)
    ways = {"ours": partial(ours, work, batch_size), "lm-eval": partial(lm_evals, work, best)}
    if best != batch_size:
        ways["lm-eval, our batch size"] = partial(lm_evals, work, batch_size)
    done: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in list(ways.items()):
            done[name].append(way())
            print(f"{name}: {done[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
        ways.pop("lm-eval, our batch size", None)  # once is enough to see that it is no better
    seconds = {name: [each.seconds for each in some] for name, some in done.items()}
    tokens = {name: some[0].tokens for name, some in done.items()}
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    worked = {name: statistics.median(each.cpu_seconds for each in some) for name, some in done.items()}
    return {
        **compare(done["ours"][0], done["lm-eval"][0]),
        "token_ratio": tokens["lm-eval"] / tokens["ours"],
        "speedup": middle["lm-eval"] / middle["ours"],
        "speedup_at_our_batch_size": middle.get("lm-eval, our batch size", middle["lm-eval"]) / middle["ours"],
        "speedup_of_cpu_seconds": worked["lm-eval"] / worked["ours"],
        "seconds": seconds,
        "cpu_seconds": {name: [each.cpu_seconds for each in some] for name, some in done.items()},
        "tokens": tokens,
        "batch_size": {"ours": batch_size, "lm-eval": best},
        "seconds_of_few_by_batch_size": tried,
    }


def model_of(folder: Path | None, dtype: str, adapters: int) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Random adapters that change what the model says, on the first GPU where there is one."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(folder or TOKENIZER)
    base: Any
    if folder is not None:
        base = load_model(folder, ModelSettings(path=str(folder), dtype=dtype))
    else:
        config = LlamaConfig(**SHAPE, vocab_size=len(tokenizer), max_position_embeddings=8192, initializer_range=0.1)
        base = LlamaForCausalLM(config).to(getattr(torch, dtype))
    lora = partial(LoraConfig, task_type="CAUSAL_LM", target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = get_peft_model(base, lora(r=8), adapter_name="0")
    for number in range(1, adapters):
        model.add_adapter(str(number), lora(r=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), tokenizer


def show(content: Mapping[str, Any]) -> None:
    first = statistics.median(content["seconds"]["ours"])
    rows = [
        [name, statistics.median(seconds), f"{statistics.median(seconds) / first:.2f}x", content["tokens"][name]]
        for name, seconds in content["seconds"].items()
    ]
    sizes = content["batch_size"]
    title = f"{content['questions']} questions; batches of {sizes['ours']}, lm-eval likes {sizes['lm-eval']}"
    report.table(title, ["way", "seconds", "of ours", "tokens"], rows)
    print(
        f"same answer {content['agreement']:.2%}, ties {content['ties']}, other differences {content['disagreements']}"
    )
    print(f"largest difference of a log-likelihood {content['largest_difference_nats']:.1e} nat")
    print(f"prompts that fell back {content['fallback']}")
    print(f"token ratio {content['token_ratio']:.2f}, speedup {content['speedup']:.2f}, ", end="")
    print(f"of CPU seconds {content['speedup_of_cpu_seconds']:.2f}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.mmlu", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder mmlu")
    parser.add_argument("--limit", type=int, default=25, help="questions of each subject, 0: all (default: 25)")
    parser.add_argument("--model", type=Path, metavar="PATH", help="a model folder (default: a small random LLaMA)")
    parser.add_argument("--dtype", default="float32", help="of its numbers (default: float32)")
    parser.add_argument("--adapters", type=int, default=1, help="how many are scored together (default: 1)")
    parser.add_argument("--batch-size", type=int, default=16, help="ours (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="of each way (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(words)
    data = options.data.absolute()
    subjects = tuple(sorted(folder.name for folder in data.iterdir() if folder.is_dir()))
    if data.name != "mmlu" or not subjects:
        parser.error(f"--data: must be a folder called mmlu with a folder per subject, got {data}")
    request = Request("mmlu", 5, options.limit or None, subjects, 1, 0.0, "local", "")
    model, tokenizer = model_of(options.model, options.dtype, options.adapters)
    names: list[str | None] = [str(number) for number in range(options.adapters)]
    work = Work(model, tokenizer, names, request, data.parent)
    content = measure(work, options.batch_size, options.repeats)
    content |= {
        "subjects": len(subjects), "num_fewshot": 5, "limit": options.limit, "adapters": options.adapters,
        "model": str(options.model or SHAPE), "dtype": options.dtype, "threads": torch.get_num_threads(),
        "lm_eval": report._version("lm_eval"),
    }  # fmt: skip
    show(content)
    if options.json:
        report.write(options.json, content)
    return 1 if content["disagreements"] else 0


if __name__ == "__main__":
    sys.exit(main())
