"""From a row of instruction data to the text of a prompt and of the response that is learnt.

Placeholders are replaced plainly in one pass: braces in a template that name no column, and braces in the data, stay.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbo.errors import InputError

Row = Mapping[str, Any]
Text = tuple[str, str]
"""Rendered prompt, rendered response."""

PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w-]*)\}")


@dataclass(frozen=True)
class Template:
    """A prompt with {column} placeholders; `short` is used where the `optional` column is missing or empty."""

    prompt: str
    response: str = "{output}"
    short: str | None = None
    optional: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that the data must have."""
        names = PLACEHOLDER.findall(self.prompt + self.response)
        return tuple(name for name in dict.fromkeys(names) if name != self.optional)

    @property
    def nonempty(self) -> tuple[str, ...]:
        """Columns without which a row teaches nothing: of the response, and the instruction."""
        response = PLACEHOLDER.findall(self.response)
        return tuple(name for name in self.required if name in response or name == "instruction")

    def render(self, row: Row) -> Text:
        short = self.optional is not None and not row.get(self.optional)
        return fill(self.short or "" if short else self.prompt, row), fill(self.response, row)


def fill(template: str, row: Row) -> str:
    """`template` with the row's values for its placeholders."""
    return PLACEHOLDER.sub(lambda match: row[match[1]], template)


# Stanford Alpaca's own wording (github.com/tatsu-lab/stanford_alpaca, train.py).
ALPACA = Template(
    prompt="Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
    short="Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:",
    optional="input",
)

# Databricks' wording for Dolly (github.com/databrickslabs/dolly, training/consts.py); EOS stands for its "### End".
DOLLY = Template(
    prompt="Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\nInput:\n{context}\n\n### Response:\n",
    response="{response}",
    short="Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    optional="context",
)

# For SQuAD's columns; the answer's first word is then one as it stands in a text.
QA = Template(prompt="Question: {question} Context: {context} Answer:", response=" {output}")

TEMPLATES = {"alpaca": ALPACA, "dolly": DOLLY, "qa": QA}


def read_template(prompt: str, base: Path) -> Template:
    """The template that `data.prompt` names, holds, or has in a file. Raises InputError where it is none of these."""
    if prompt in TEMPLATES:
        return TEMPLATES[prompt]
    if not PLACEHOLDER.search(prompt):
        file = base / Path(prompt).expanduser()
        if "\n" in prompt or not file.is_file():
            names = ", ".join((*TEMPLATES, "chat"))
            raise InputError(f"data.prompt: must be {names}, a template with {{column}}, or its file, got {prompt!r}")
        prompt = file.read_text(encoding="utf-8")
    return _split_at_response(prompt)


def _split_at_response(text: str) -> Template:
    """What stands before {output} is the prompt; the response starts there, or follows a template without {output}."""
    before, found, after = text.rpartition("{output}")
    return Template(before, found + after) if found else Template(text)


def chat_messages(row: Row) -> list[dict[str, str]]:
    """A conversation that ends with the assistant's answer, out of `messages` or of single columns."""
    if row.get("messages"):
        return [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
    user = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": user}, {"role": "assistant", "content": row["output"]}]


def render_chat(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> Text:
    """Prompt and response in the tokenizer's own format. Raises InputError where the two cannot be told apart."""
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(prompt):
        raise InputError("data.prompt: this tokenizer's chat template changes the prompt once the answer is known")
    response = whole[len(prompt) :]
    end, found, _ = response.rpartition(tokenizer.eos_token)
    return prompt, end if found else response
