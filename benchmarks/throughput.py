"""`python -m benchmarks.throughput`: tokens per second on a GPU, of Trainer + PEFT and of ours, alone and in packs.

A LLaMA-2-7B with random weights, made on the device in bfloat16, and rows of random tokens as long as Alpaca's.
The share of the matrix-product rate counts 4 x parameters x tokens of work (forward, and backward with respect to the
activations, of a frozen base) against a large product measured in the same run. Exit status 1 where a number cannot be
true: no gradient, a loss that is not finite, losses other than the Trainer's. `--tiny`: a tiny shape on the CPU.
"""

import argparse
import gc
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from bbo.store import Evaluation
from benchmarks import peer, report
from blackbox.data import Data, Example, epoch_steps
from blackbox.fit import optimizer_step
from blackbox.hyperparameters import Training
from blackbox.member import Member, members_of
from blackbox.model import detach
from blackbox.outcome import peak_gib, reset_peak
from blackbox.setup import Setup, start_accelerator

RANKS = (8, 16, 32, 64)
ROWS = 8
"""Of one step of one point."""

WARM_UP = 3
BLOCKS = 3
"""Blocks of steps that are timed; the median counts."""

CHECK_STEPS = 10
CHECK_SHARE = 0.1
"""Of the fall of the loss: by no more may our step losses differ from the Trainer's, on few rows without dropout."""


@dataclass(frozen=True)
class Scale:
    """What is measured, and on what."""

    config: Mapping[str, Any]
    dtype: torch.dtype
    mean: int
    """Tokens of a row."""
    longest: int
    product: int
    """Width of the square matrices of the measured product."""
    packs: tuple[int, ...]
    check_rate: float
    """Learning rate with which the loss of few rows falls within some steps."""

    @property
    def cpu(self) -> bool:
        return self.dtype == torch.float32

    @property
    def device(self) -> str:
        return "cpu" if self.cpu else "cuda"


LLAMA_2_7B = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 4096,
}  # fmt: skip
FULL = Scale(LLAMA_2_7B, torch.bfloat16, 130, 512, 8192, (1, 4, 8, 16), 1e-3)
TINY_LLAMA = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
TINY = Scale(TINY_LLAMA, torch.float32, 16, 64, 256, (1, 4), 3e-2)


def base_model(scale: Scale) -> Any:
    """The frozen base model with random weights, made where it will be."""
    torch.manual_seed(0)
    with torch.device(scale.device):
        config = LlamaConfig(**scale.config)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=scale.dtype)  # type: ignore[no-untyped-call]
    return model.requires_grad_(False).eval()


def rows_like_alpaca(scale: Scale, count: int) -> list[Example]:
    """Random tokens; lengths log-normal, cut at the longest; labels on the last third."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.6
    lengths = torch.empty(count).log_normal_(math.log(scale.mean) - spread**2 / 2, spread, generator=generator)
    rows = []
    for length in lengths.round().long().clamp(6, scale.longest).tolist():
        tokens = torch.randint(3, scale.config["vocab_size"], (length,), generator=generator)
        rows.append(Example(tuple(tokens.tolist()), length * 2 // 3))
    return rows


def settings(points: int, dropout: float, micro: int = ROWS, rate: float = 1e-4, epochs: int = 1) -> list[Training]:
    """Points that differ in rank."""
    return [
        Training(
            lora_rank=RANKS[number % len(RANKS)],
            lora_alpha=16,
            lora_dropout=dropout,
            target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
            learning_rate=rate,
            global_batch_size=ROWS,
            per_device_train_batch_size=micro,
            num_train_epochs=epochs,
        )
        for number in range(points)
    ]


def matmul_rate(scale: Scale) -> float:
    """FLOP per second of a large product of random matrices."""
    a, b = (torch.randn(scale.product, scale.product, device=scale.device, dtype=scale.dtype) for _ in range(2))
    times = []
    for _ in range(WARM_UP + 10):
        began = now(scale)
        a @ b
        times.append(now(scale) - began)
    return float(2 * scale.product**3 / statistics.median(times[WARM_UP:]))


def now(scale: Scale) -> float:
    """The time when all that was asked of the device is done."""
    if not scale.cpu:
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Steps:
    """What was seen of some optimizer steps."""

    marks: list[float]
    """Times at the ends of the blocks, the first at their beginning."""
    losses: list[float]
    """Of each step, of the first point."""
    grad_norm: float
    """Smallest of the points in the last step."""
    peak_gib: float


def ours(scale: Scale, base: Any, rows: list[Example], trainings: list[Training], marked: Sequence[int]) -> Steps:
    """Steps of a pack; `marked` are the steps after which the clock is read."""
    setup = Setup(start_accelerator(), base, Data(rows, [], 0))
    reset_peak()
    steps = list(chain(*epochs_of(rows, trainings[0])))
    marks: list[float] = []
    sums: list[Tensor] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            evaluations = [Evaluation(Path(folder) / str(number)) for number in range(len(trainings))]
            with members_of(setup, trainings, evaluations) as (pack, members):
                norms = {member.name: _spy_on_clipping(member) for member in members}
                pack.model.train()
                for number, mine in enumerate(steps):
                    if number in marked:
                        marks.append(now(scale))
                    optimizer_step(setup, pack, members, [mine] * len(members))
                    sums.append(members[0].loss.clone())
                marks.append(now(scale))
                peak = peak_gib()
                smallest = min(float(norm[-1]) for norm in norms.values())
    finally:
        forget(setup.accelerator.free_memory)
    losses = torch.stack(sums).diff(prepend=torch.zeros_like(sums[0])[None]).tolist()
    return Steps(marks, losses, smallest, peak)


def epochs_of(rows: list[Example], training: Training) -> list[list[list[int]]]:
    """The rows of each step of each epoch."""
    return [epoch_steps(rows, ROWS, training.seed, epoch) for epoch in range(int(training.num_train_epochs))]


def _spy_on_clipping(member: Member) -> list[Tensor]:
    """The gradient norms that clipping will find."""
    norms: list[Tensor] = []
    clip = member.clip
    assert clip is not None
    member.clip = lambda: norms.append(clip())
    return norms


class Clock(TrainerCallback):
    """Reads the clock before some steps."""

    def __init__(self, scale: Scale, marked: Sequence[int]) -> None:
        self.scale = scale
        self.marked = marked
        self.marks: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.marked:
            self.marks.append(now(self.scale))


def trainer(scale: Scale, base: Any, rows: list[Example], training: Training, marked: Sequence[int]) -> Steps:
    """The same steps by transformers' Trainer + PEFT; it is asked for nothing that would make the device wait."""
    forget()  # Accelerate's state, which fixes mixed precision for all that comes
    reset_peak()
    epochs = epochs_of(rows, training)
    clock = Clock(scale, marked)
    model = peer.adapted(base, training)
    with tempfile.TemporaryDirectory() as folder:
        wanted = peer.arguments(
            training, Path(folder), use_cpu=scale.cpu, bf16=not scale.cpu,
            logging_steps=sum(map(len, epochs)), logging_nan_inf_filter=False,
        )  # fmt: skip
        order = peer.Order([list(chain(*steps)) for steps in epochs])
        run = peer.Ordered(
            model, wanted, peer.collate, train_dataset=peer.features(rows), order=order, callbacks=[clock]
        )
        run.train()
        end = now(scale)
    peak = peak_gib()
    norm = next(entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry)
    losses = torch.stack(run.losses).tolist()
    detach(model)
    del run, model
    forget()
    return Steps([*clock.marks, end], losses, float(norm), peak)


def forget(free: Callable[[], object] = lambda: None) -> None:
    """Give back the device's memory and Accelerate's settings."""
    free()
    AcceleratorState._reset_state(reset_partial_state=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_memory(scale: Scale, base: Any, rows: list[Example], points: int, marked: Sequence[int]) -> tuple[Steps, int]:
    """Steps of a pack in as large passes as fit, and the rows of one point in a pass."""
    micro = ROWS
    while True:
        try:
            return ours(scale, base, rows, settings(points, 0.05, micro=micro), marked), micro
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
        micro //= 2


def row(setting: str, seen: Steps, tokens: Sequence[int], work: float, points: int = 1) -> dict[str, Any]:
    """Figures of one setting: the median of its blocks. `tokens` are those of one point in each block."""
    seconds = [end - begin for begin, end in zip(seen.marks[:-1], seen.marks[1:], strict=True)]
    rates = [points * count / each for count, each in zip(tokens, seconds, strict=True)]
    rate = statistics.median(rates)
    return {
        "setting": setting,
        "tokens_per_s": rate,
        "share_of_matmul_rate": rate * work,
        "step_s": statistics.median(seconds),
        "peak_gib": seen.peak_gib,
        "grad_norm": seen.grad_norm,
        "losses": seen.losses,
        "tokens_per_s_of_blocks": rates,
    }


def measure(scale: Scale, length: int) -> dict[str, Any]:
    """All settings, in blocks of `length` steps, and the check of ours against the Trainer's losses without dropout."""
    rate = matmul_rate(scale)
    base = base_model(scale)
    parameters = sum(p.numel() for p in base.parameters()) - base.get_input_embeddings().weight.numel()
    rows = rows_like_alpaca(scale, ROWS * (WARM_UP + BLOCKS * length))
    marked = [WARM_UP + block * length for block in range(BLOCKS)]
    (steps,) = epochs_of(rows, settings(1, 0.0)[0])
    each = [sum(len(rows[number].tokens) for number in step) for step in steps]
    tokens = [sum(each[first : first + length]) for first in marked]
    work = 4 * parameters / rate
    found = [row("Trainer + PEFT", trainer(scale, base, rows, settings(1, 0.05)[0], marked), tokens, work)]
    for points in scale.packs:
        seen, micro = in_memory(scale, base, rows, points, marked)
        name = "ours, alone" if points == 1 else f"ours, {points} packed"
        found.append(row(name if micro == ROWS else f"{name}, {micro} rows a pass", seen, tokens, work, points))
    for figures in found:
        figures["step_s"] /= length
    return {
        "rows": found,
        "matmul_tflops": rate / 1e12,
        "parameters": parameters,
        "mean_row_tokens": sum(each) / len(rows),
        "check": check(scale, base, rows[:ROWS]),
    }


def check(scale: Scale, base: Any, rows: list[Example]) -> dict[str, Any]:
    """Our step losses against the Trainer's without dropout, all steps on the same rows."""
    (training,) = settings(1, 0.0, rate=scale.check_rate, epochs=CHECK_STEPS)
    mine, theirs = ours(scale, base, rows, [training], []).losses, trainer(scale, base, rows, training, []).losses
    return {
        "ours": mine,
        "trainer": theirs,
        "largest_difference": max(abs(a - b) for a, b in zip(mine, theirs, strict=True)),
        "fall": theirs[0] - theirs[-1],
    }


def untrue(content: Mapping[str, Any]) -> list[str]:
    """A sentence for each number that cannot be true."""
    sentences = []
    for each in content["rows"]:
        if not (math.isfinite(each["grad_norm"]) and each["grad_norm"] > 0):
            sentences.append(f"{each['setting']}: the gradient norm is {each['grad_norm']}")
        if not all(map(math.isfinite, each["losses"])):
            sentences.append(f"{each['setting']}: a loss is not finite")
    off, fall = content["check"]["largest_difference"], content["check"]["fall"]
    if not off <= CHECK_SHARE * fall:
        sentences.append(f"our step losses differ from the Trainer's by {off:.1e}, while these fall by {fall:.1e}")
    return sentences


def show(content: Mapping[str, Any]) -> None:
    columns = ["setting", "tokens/s", "share of matmul rate", "s per step", "peak GiB", "gradient norm", "loss"]
    rows = [
        [
            each["setting"], f"{each['tokens_per_s']:.0f}", f"{each['share_of_matmul_rate']:.1%}",
            f"{each['step_s']:.4f}", each["peak_gib"], f"{each['grad_norm']:.3g}",
            f"{each['losses'][0]:.3f} to {each['losses'][-1]:.3f}",
        ]
        for each in content["rows"]
    ]  # fmt: skip
    title = f"{content['parameters'] / 1e9:.3g} G parameters, matrix products at {content['matmul_tflops']:.3g} TFLOP/s"
    report.table(title, columns, rows)
    off, fall = content["check"]["largest_difference"], content["check"]["fall"]
    print(f"without dropout our step losses are the Trainer's within {off:.1e}, while these fall by {fall:.2g}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--steps", type=int, default=5, help=f"of each of the {BLOCKS} timed blocks (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU, to see that it works")
    options = parser.parse_args(words)
    if options.tiny:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        print("there is no GPU here; --tiny runs a tiny shape on the CPU", file=sys.stderr)
        return 1
    content = measure(TINY if options.tiny else FULL, options.steps)
    show(content)
    if options.json:
        report.write(options.json, content)
    wrong = untrue(content)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
