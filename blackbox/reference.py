"""`python -m blackbox.reference > Docs/reference.md`: all that may stand in a params pair, made from the schema."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bbo import nomad, problem
from bbo.experiment import Entries, Fidelity, Stopping
from bbo.resources import Resources
from bbo.space import Variable
from blackbox import block, toy
from blackbox.hyperparameters import OF_LORA, Training
from blackbox.scores import qa
from blackbox.scores.settings import ScoresSettings, TaskSettings
from blackbox.settings import ClassificationSettings, DataSettings, ModelSettings, QaSettings, Sides, Source

HEAD = """# Reference: a params pair

<!-- Made by `python -m blackbox.reference > Docs/reference.md` from the schema: change that, not this page. -->

An experiment is `params/NAME.txt`, NOMAD's parameter file, and `params/NAME.yaml`, what its numbers mean and how to
train. Both are checked before anything runs; each mistake is one line with file and line number:

```
bbo check params/quickstart.txt          # a pair, its model and its data
nomad params/quickstart.txt --dry-run    # the decoded X0, the launch line, what is missing
```
"""

KEYWORDS_HEAD = """## NAME.txt

All of NOMAD 4's keywords, as NOMAD itself reads and checks them; `nomad -h KEYWORD` explains one, `nomad -h all` lists
them. These have to agree with the YAML:
"""

KEYWORDS_TAIL = """
- Refused too: `PROBLEM_DIR` (paths are relative to the file's folder), and `VARIABLE_GROUP`, with which NOMAD 4.5.1
  aborts.
- Set by `nomad` itself, whatever the file says: {ours}.
- May change between two starts of a run: {budget}, and what begins with `DISPLAY` or ends with `FILE`. Everything else
  is another run, under another `--run NAME`.
"""

YAML_HEAD = """## NAME.yaml

Paths are relative to the YAML's folder. `${NAME}` and `${NAME:-default}` are environment variables. A name that is none
of these is refused. A setting without a word on it means what it means in transformers' `TrainingArguments` or PEFT's
`LoraConfig`.
"""


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("model", "", ModelSettings),
    ("data", "Of every task:", Sides),
    ("data, with `task: instruct`", "Also:", DataSettings),
    (
        "data, with `task: classification`",
        "Also, and more in [classification](classification.md):",
        ClassificationSettings,
    ),
    ("data, with `task: qa`", "Also, and more in [question answering](question_answering.md):", QaSettings),
    ("source", 'The long form of `train` and `valid`: `{path: rows.jsonl, split: "train[:3000]"}`.', Source),
    (
        "variable",
        "`space: {NAME: VARIABLE}`, as in `lora_rank: {choice: [4, 8, 16]}`. NAME is any [training](#training) setting "
        "but `method`. Exactly one of the first five is given.",
        Variable,
    ),
    (
        "training",
        "Each may be a variable instead. `method: full` has none of "
        f"{_code(sorted(OF_LORA))}. `model: toy` takes {_code(toy.ToyTraining.model_fields)}, and no others.",
        Training,
    ),
    ("scores", "[Scores](scores.md).", ScoresSettings),
    ("task", "`scores: {tasks: {NAME: TASK}}`.", TaskSettings),
    ("resources", "No part of it changes a result; all of it may change between two starts of a run.", Resources),
    ("stopping", "[Early stopping](stopping.md).", Stopping),
    ("fidelity", "`fidelity: {NAME: FIDELITY}`. `full` is always there.", Fidelity),
)
"""Heading, sentence, schema."""

KEYWORDS_READ = {
    "DIMENSION": "how many free variables the YAML has",
    "BB_INPUT_TYPE": "`I` for choice and int, `R` for float and log10",
    "LOWER_BOUND": "as in the YAML, in coordinates: 1 for a choice, the exponent for log10",
    "UPPER_BOUND": "likewise; of a choice how many values it has",
    "X0": "the starting point; several are numbered: `X0 0 ( ... )`, `X0 1 ( ... )`",
    "BB_OUTPUT_TYPE": "a word per output of the YAML: `OBJ`, `PB` or `EB` for a constraint, `EXTRA_O`",
    "BB_EXE": '`"$python3 $-m $blackbox NAME.yaml"`, with `$--fidelity $NAME` behind it at most',
    "SURROGATE_EXE": "the same with a fidelity below full",
}
"""What the two files say to each other."""


def main() -> None:
    print(page(), end="")


def page() -> str:
    """The whole page, in Markdown."""
    assert set(KEYWORDS_READ) == set(problem.READ_HERE)
    parts = [HEAD, *_parameter_file(), YAML_HEAD, *table(Entries), *_outputs()]
    for heading, sentence, schema in _sections():
        parts += [f"## {heading}\n", *([f"{sentence}\n"] if sentence else []), *table(schema)]
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, str, type[BaseModel]]]:
    """SECTIONS, each followed by those that stand within it."""
    known = [schema for *_, schema in SECTIONS]
    for heading, sentence, schema in SECTIONS:
        yield heading, sentence, schema
        for name, info in schema.model_fields.items():
            inner = info.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in known:
                yield f"{heading}.{name}", "", inner


def _parameter_file() -> Iterator[str]:
    yield KEYWORDS_HEAD
    yield from ("| keyword | value |", "|---|---|")
    yield from (f"| `{name}` | {value} |" for name, value in KEYWORDS_READ.items())
    yield "\nRefused, as a run could not be led through its record with them:\n"
    yield from ("| keyword | instead |", "|---|---|")
    yield from (f"| `{name}` | {reason} |" for name, reason in nomad.UNREPLAYABLE.items())
    yield KEYWORDS_TAIL.format(ours=_code(sorted(nomad.OURS - {"PROBLEM_DIR"})), budget=_code(sorted(nomad.BUDGET)))


def _outputs() -> Iterator[str]:
    yield "## outputs\n"
    yield "What can be named, beside [lm-eval's tasks](scores.md); what the forms mean: [objectives](objectives.md).\n"
    yield from ("| experiment | measured |", "|---|---|")
    yield f"| every training | {_code(block.METRICS)} |"
    for task, metrics in {**block.OF_TASK, qa.TASK: qa.METRICS}.items():
        yield f"| `task: {task}` | also {_code(metrics)} |"
    yield f"| `model: toy` | {_code(toy.METRICS)} |\n"


def table(schema: type[BaseModel]) -> Iterator[str]:
    """A row for each field: name, type, default, meaning."""
    types = schema.model_json_schema()["properties"]
    meanings = dict(_docstrings(schema))
    yield from ("| name | type | default | meaning |", "|---|---|---|---|")
    for field, info in schema.model_fields.items():
        if schema is Sides or not issubclass(schema, Sides) or field not in Sides.model_fields:
            name = info.alias or field
            default = "required" if info.is_required() else _default(info.default)
            yield f"| `{name}` | {_type(types[name])}{_limits(info)} | {default} | {meanings.get(field, '')} |"
    yield ""


def _docstrings(schema: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Field -> the docstring below it, of the class and of those it inherits from."""
    for each in reversed([c for c in schema.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = following.value if isinstance(following, ast.Expr) else None
                if isinstance(text, ast.Constant):
                    yield statement.target.id, " ".join(str(text.value).split()).replace("|", "\\|")


LINKS = {schema.__name__: heading for heading, _, schema in _sections()}
WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}
LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
ANY = 4
"""So many types are any value."""


def _type(entry: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in entry:
        name = LINKS[entry["$ref"].rpartition("/")[2]]
        return f"[{name}](#{name.replace('.', '')})"
    if "anyOf" in entry:
        types = dict.fromkeys(_type(each) for each in entry["anyOf"] if each.get("type") != "null")
        return "value" if len(types) >= ANY else " or ".join(types)
    if "enum" in entry or "const" in entry:
        return _code(entry.get("enum") or [entry["const"]])
    if "prefixItems" in entry:
        return f"two {_type(entry['prefixItems'][0])}s"
    if entry["type"] == "array":
        return f"list of {_type(entry['items'])}"
    values = entry.get("additionalProperties")
    return f"mapping of names to {_type(values)}" if isinstance(values, dict) else WORDS[entry["type"]]


def _limits(info: FieldInfo) -> str:
    found = [
        (sign, getattr(each, name)) for each in info.metadata for name, sign in LIMITS.items() if hasattr(each, name)
    ]
    return ",".join(f" {sign} {'2^63' if limit == 2**63 else f'{limit:g}'}" for sign, limit in found)


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, str | int | float):
        return f"`{value if isinstance(value, str) else f'{value:g}'}`"
    return "see there" if isinstance(value, BaseModel) else "unset"


if __name__ == "__main__":
    main()
