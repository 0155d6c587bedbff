"""`python -m blackbox.tiny build`: make the embedded model and its instruction data again from a seed."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from blackbox.tiny.tasks import rows

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """The embedded default: a tiny LLaMA and instruction data, both made by this project from a seed."""


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path(__file__).parent,
    seed: Annotated[int, typer.Option(help="Seed of the text, the weights and the data.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Pre-training steps of 4,096 tokens.")] = 1400,
) -> None:
    """Write OUT/model, OUT/train.jsonl and OUT/valid.jsonl (about 9 minutes on 2 free cores)."""
    # torch takes seconds to import: `--help` should not wait for it.
    import torch  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    from blackbox.tiny.pretrain import build_tokenizer, new_model, pretrain, save  # noqa: PLC0415

    logging.disable_progress_bar()
    # Sums depend on how they are split over threads: a fixed number gives the same weights on a machine of any size.
    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    for name, side in zip(("train", "valid"), rows(seed), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in side)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    tokenizer = build_tokenizer(seed, texts=40 * min(steps, 500))
    model = new_model(seed, len(tokenizer))
    with Progress() as progress:
        bar = progress.add_task("pre-training", total=steps)
        for loss in pretrain(model, tokenizer, seed + 1, steps):
            progress.update(bar, advance=1, description=f"pre-training, loss {loss:.3f}")
    save(model, tokenizer, out / "model")
    print(f"{model.num_parameters():,} parameters and {len(tokenizer):,} tokens in {out / 'model'}")


if __name__ == "__main__":
    app()
