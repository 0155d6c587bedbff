"""The tokenizer and the base model: a byte-level BPE and a small LLaMA, trained from nothing on corpus.py's text."""

from collections.abc import Iterator
from itertools import chain, islice
from math import cos, pi
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from blackbox.tiny.corpus import documents

VOCABULARY = 2048
SPECIAL = ["<pad>", "<s>", "</s>"]  # ids 0, 1, 2
# Words with the space before them, runs of other signs, and every digit alone: sums need single digits.
PIECES = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
# The words of the usual prompts, so that a template costs one token per word. The tokenizer alone sees them together.
PROMPT_WORDS = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n\n### Input:\n\n### Context:\n\n### Response:\n Question: Answer:\n"
)
BATCH, LENGTH = 16, 256
PEAK_RATE, WARM_UP = 3e-3, 0.05


def build_tokenizer(seed: int, texts: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text comes back byte by byte; a beginning token is put first, as LLaMA's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = [PROMPT_WORDS] * max(1, texts // 10)
    tokenizer.train_from_iterator(chain(islice(documents(seed), texts), prompts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def new_model(seed: int, vocabulary: int) -> LlamaForCausalLM:
    """A LLaMA of 1.6 million parameters with random weights, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches (BATCH x LENGTH token ids) of documents behind each other, each between <s> and </s>."""
    waiting: list[int] = []
    texts = documents(seed)
    while True:
        while len(waiting) < BATCH * LENGTH:
            for ids in tokenizer(list(islice(texts, 256)))["input_ids"]:
                waiting += [*ids, tokenizer.eos_token_id]
        yield torch.tensor(waiting[: BATCH * LENGTH]).view(BATCH, LENGTH)
        waiting = waiting[BATCH * LENGTH :]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then half a cosine down to a twentieth."""
    warm_up = max(1, int(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.05 + 0.95 * (1 + cos(pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> Iterator[float]:
    """Train in place; yields the loss of every step (nats per token)."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))
    model.train()
    for step, ids in zip(range(steps), batches(tokenizer, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate(step, steps)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer in the Hugging Face layout, weights as safetensors."""
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
