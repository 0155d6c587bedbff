"""The YAML's model, data, training and scores sections, checked once at the door.

Imports neither torch nor transformers: `python -m blackbox` answers a cached block in well under a second.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from bbo.errors import InputError
from bbo.experiment import Experiment
from blackbox.hyperparameters import OF_LORA, Float, Int, Section, Training
from blackbox.prompts import PLACEHOLDER
from blackbox.remote import fetch_file, fetch_model, is_url
from blackbox.scores.settings import ScoresSettings

__all__ = [
    "ClassificationSettings",
    "DataSettings",
    "ModelSettings",
    "QaSettings",
    "Settings",
    "Source",
    "Training",
    "read_settings",
]

FILE_TYPES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


class ModelSettings(Section):
    """Which frozen base model."""

    path: str = Field(min_length=1)
    """A folder in Hugging Face's format, a hub id, or the URL of a folder, as s3://bucket/llama."""
    revision: str | None = None
    """A commit, tag or branch of the hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights and the products."""
    attn_implementation: str | None = None
    """As transformers has it: sdpa, eager, flash_attention_2."""
    quantization: Literal["nf4"] | None = None
    """nf4: the frozen weights in 4 bits, through bitsandbytes on a GPU (QLoRA, arXiv 2305.14314)."""

    def resolved(self, base: Path) -> str:
        """The absolute folder (what starts with . / ~ or exists is one, relative to `base`), or else the hub id.

        A URL's folder is downloaded first: raises as blackbox/remote.py.
        """
        if is_url(self.path):
            return str(fetch_model(self.path))
        folder = (base / Path(self.path).expanduser()).resolve()
        local = self.path.startswith((".", "/", "~")) or self.path.count("/") > 1 or folder.is_dir()
        return str(folder) if local else self.path


class Source(Section):
    """Where rows come from: a JSON, JSONL, CSV or Parquet file, also at a URL, or a data set on the hub."""

    path: str = Field(min_length=1)
    """A .json, .jsonl, .csv or .parquet file, or the hub's id of a data set."""
    split: str = "train"
    """A split of the hub's data set, or a slice in the notation of `datasets`: train[:3000], test[10%:]."""
    name: str | None = None
    """The hub data set's configuration, as `main` of openai/gsm8k."""
    revision: str | None = None
    """A commit, tag or branch of the hub's data set."""

    @field_validator("path")
    @classmethod
    def _is_file(cls, value: str) -> str:
        if is_url(value) and Path(value).suffix.lower() not in FILE_TYPES:
            raise ValueError(f"a URL must end in one of {', '.join(FILE_TYPES)}")
        return value

    @field_validator("split")
    @classmethod
    def _is_split(cls, value: str) -> str:
        if not re.fullmatch(r"[^\[\]]+(\[[^\[\]]*\])?", value):
            raise ValueError("must be a split or a slice of one, as train or train[:3000]")
        return value

    @property
    def file_type(self) -> str | None:
        """How `datasets` calls this file's format; None for a hub id."""
        return FILE_TYPES.get(Path(self.path).suffix.lower())

    def file(self, base: Path) -> Path | None:
        """The local file, relative to `base`; a URL's is downloaded first (blackbox/remote.py). None for a hub id."""
        if is_url(self.path):
            return fetch_file(self.path)
        return (base / Path(self.path).expanduser()).absolute() if self.file_type else None


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _as_share(value: Any) -> Any:
    """A share may arrive as text, out of an environment variable."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return _as_source(value)


class Sides(Section):
    """The two sides of the data, and the length that rows are cut at."""

    train: Annotated[Source, BeforeValidator(_as_source)]
    """The rows that are trained on; a path alone will do."""
    valid: Annotated[Float | Source, BeforeValidator(_as_share)]
    """A source of its own, or the share of `train` that is split off by `split_seed` and content."""
    max_length: Int = Field(512, ge=2)
    """Tokens of a whole row, prompt and response together; what is longer is cut at its end."""
    split_seed: Int = 0
    """Of the draw of a share."""
    allow_leak: bool = False
    """Train although rows stand on both sides."""

    @field_validator("valid")
    @classmethod
    def _is_share(cls, value: Source | float) -> Source | float:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a number is a share of the training data and must lie between 0 and 1")
        return value


class DataSettings(Sides):
    """Instruction data: rows and the prompt they are rendered with."""

    prompt: str = "alpaca"
    """alpaca, dolly, qa, chat (the tokenizer's), a template with {column} placeholders, or a file that holds one."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The prompt's column names -> the data's where they differ: {instruction: question, output: answer}."""


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ClassificationSettings(Sides):
    """Rows of text with the number of their class."""

    text: Annotated[tuple[str, ...], BeforeValidator(_as_names)] = Field(min_length=1)
    """Columns that are read. One is the text; several are joined in this order, each led by its name."""
    template: str | None = None
    """Joins them otherwise: text with each column as a placeholder, as in "{Question} [SEP] {Response}"."""
    label: str = Field(min_length=1)
    """The column with the class, a whole number from 0."""
    num_labels: Int = Field(ge=2)
    """Classes: 0 to num_labels - 1."""
    group: str | None = None
    """A column whose equal values never stand on both sides, as the question of several answers."""

    @model_validator(mode="after")
    def _template_has_the_columns(self) -> "ClassificationSettings":
        if self.template is not None and set(PLACEHOLDER.findall(self.template)) != set(self.text):
            raise ValueError(
                f"template must have each of text's columns in braces and no other: {', '.join(self.text)}"
            )
        return self


class QaSettings(DataSettings):
    """Questions in SQuAD's format: a row's prompt is made of context and question, its response is the first answer."""

    prompt: str = "qa"
    """Which prompt, as for instructions."""
    max_new_tokens: Int = Field(32, ge=1)
    """Tokens of an answer that is scored: exact_match, f1."""


DATA: Mapping[str, type[Sides]] = {
    "instruct": DataSettings,
    "classification": ClassificationSettings,
    "qa": QaSettings,
}
"""The data section of each task."""

SECTIONS: Mapping[str, type[Section]] = {
    "model": ModelSettings,
    "data": Sides,
    "training": Training,
    "scores": ScoresSettings,
}


@dataclass(frozen=True)
class Settings:
    """The four sections of one experiment, its task, and the folder that relative paths start from."""

    base: Path
    model: ModelSettings
    data: Sides
    """DataSettings, or as DATA has it for the task."""
    training: Training
    scores: ScoresSettings
    task: str = "instruct"

    @property
    def loaded(self) -> ModelSettings:
        """The base model as it is loaded: whoever trains all its weights has them in float32."""
        return self.model.model_copy(update={"dtype": "float32"}) if self.training.method == "full" else self.model

    def training_for(self, hyperparameters: Mapping[str, Any]) -> Training:
        """The training section with a point's values in it. Raises InputError for an unknown name or a bad value."""
        if "method" in hyperparameters:
            raise InputError("space.method: belongs to the training section, it is no variable")
        adapters = sorted(OF_LORA & set(hyperparameters))
        if self.training.method == "full" and adapters:
            raise InputError(
                f"space: method full trains all weights and has no adapter: leave out {', '.join(adapters)}"
            )
        unknown = sorted(set(hyperparameters) - set(Training.model_fields))
        if unknown:
            known = ", ".join(Training.model_fields)
            raise InputError(
                *(f"space.{name}: no such training setting, {_meant(name)}there are {known}" for name in unknown)
            )
        try:
            return Training.model_validate({**self.training.model_dump(), **hyperparameters})
        except ValidationError as error:
            raise InputError(*(_sentence(item) for item in error.errors())) from None


def _meant(name: str) -> str:
    close = get_close_matches(name, Training.model_fields, 1)
    return f"did you mean {close[0]}? " if close else ""


def _sentence(item: Any) -> str:
    place, message = item["loc"], item["msg"].removeprefix("Value error, ")
    got = f", got {item['input']!r}" if place else ""
    return f"{'.'.join(('space', str(place[0]))) if place else 'space'}: {message[0].lower()}{message[1:]}{got}"


def read_settings(experiment: Experiment) -> Settings:
    """Check the sections that training and scoring need. Raises InputError with file and line of every error."""
    problems: list[str] = []
    sections: dict[str, Any] = {}
    for name, model in SECTIONS.items():
        try:
            sections[name] = experiment.section(name, DATA[experiment.task] if name == "data" else model)
        except InputError as error:
            problems += error.messages
    if problems:
        raise InputError(*problems)
    settings = Settings(experiment.base, task=experiment.task, **sections)
    if settings.training.method == "full":
        _check_full(experiment, settings)
    return settings


def _check_full(experiment: Experiment, settings: Settings) -> None:
    if settings.task == "classification":
        raise experiment.error("training.method", "full is not offered for classification: lora trains the head too")
    if settings.model.quantization:
        raise experiment.error("model.quantization", "4-bit weights cannot be trained: leave it out with method full")
    if settings.model.dtype == "float16":
        sentence = "float16 is not offered with method full, it overflows without a scaled loss: bfloat16 or float32"
        raise experiment.error("model.dtype", sentence)
