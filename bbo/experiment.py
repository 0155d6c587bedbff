"""params/NAME.yaml: what the numbers mean (space, outputs) and how to train; checked once, at the door.

The sections model, data, training and scores belong to the blackbox and are handed on as they stand; `section` checks
them there with the same messages, `params/bbo3.yaml:7: training.warmup_steps: ...`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bbo.document import Document, read_document
from bbo.errors import InputError
from bbo.resources import Resources
from bbo.space import Space, Variable, dependence_error

Section = TypeVar("Section", bound=BaseModel)

Rank = tuple[float, ...]
"""How good an evaluation is, less is better: by how much constraints are violated, then the objectives."""

FULL = "full"
"""The fidelity of an evaluation where none is named."""


Rule = Literal["none", "median", "asha", "hyperband"]


class Stopping(BaseModel):
    """When evaluations of a run are left before their last epoch: see bbo/stopping.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule = "none"
    """Optuna's pruner that decides."""
    min_epochs: int = Field(1, ge=1)
    """Epochs that every evaluation gets: the first rung."""
    reduction_factor: int = Field(3, ge=2)
    """asha, hyperband: one of so many goes on at a rung, and each rung has so many times the epochs of the last."""
    n_startup: int = Field(5, ge=1)
    """median: evaluations that must be complete before one is stopped."""


class Fidelity(BaseModel):
    """How much of a whole training an evaluation gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs_fraction: float = Field(1.0, gt=0, le=1)
    """Of the epochs; the schedule is that of the shortened run, or, of an interval (`--parents`), that of the whole."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Of the training rows."""


@dataclass(frozen=True)
class Output:
    """One number per point on the wire: `eval_loss`, `-mmlu` (maximized) or `peak_gib <= 40` (a constraint)."""

    metric: str
    kind: Literal["OBJ", "PB", "EXTRA_O"]
    sign: float = 1.0
    bound: float = 0.0

    def value(self, metrics: Mapping[str, float]) -> float:
        """The number NOMAD reads; for a constraint metric - bound, satisfied when <= 0."""
        return self.sign * (metrics[self.metric] - self.bound)

    @property
    def condition(self) -> str:
        """A constraint as the YAML has it."""
        return f"{self.metric} {'<=' if self.sign > 0 else '>='} {self.bound:.10g}"

    @property
    def failed(self) -> float:
        """The number of a failed point: NOMAD aborts on an infinite constraint of X0, and needs Inf in an objective."""
        return float("inf") if self.kind == "OBJ" else 0.0


class Entries(BaseModel):
    """What may stand in params/NAME.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["instruct", "classification", "qa"] = "instruct"
    """What is learnt: responses to instructions, the class of a text, or answers to questions about a text."""
    model: dict[str, Any] | Literal["toy"]
    """The base model; `toy` is a closed form that trains nothing."""
    data: dict[str, Any] = {}
    """What is trained and validated on."""
    space: dict[str, Variable]
    """The variables: names of training settings, in the order of a point's coordinates."""
    training: dict[str, Any] = {}
    """The settings that are no variables."""
    outputs: list[str] = Field(min_length=1)
    """A number each per point, as BB_OUTPUT_TYPE has them: `NAME`, `-NAME`, `NAME <= BOUND` or `NAME >= BOUND`."""
    objectives: int = Field(1, ge=1)
    """How many outputs, counted from the first that is no constraint, are objectives; the others are recorded."""
    scores: dict[str, Any] = {}
    """How benchmarks among the outputs are scored."""
    allow_dead: list[str] = []
    """Variables that may change nothing, as far as a preflight can see."""
    resources: Resources = Resources()
    """What an evaluation may use, and what is kept of it."""
    stopping: Stopping = Stopping()
    """When evaluations are left early; a rule's name alone will do."""
    fidelity: dict[str, Fidelity] = {}
    """Shorter trainings by name, for `--fidelity NAME` and NOMAD's SURROGATE_EXE."""
    accelerate: str | None = None
    """A configuration file of `accelerate config` for the launch of each job."""
    relative_to: str | None = None
    """The folder that paths are relative to, where it is not the YAML's own (copies in the store)."""

    @field_validator("stopping", mode="before")
    @classmethod
    def _stopping(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value

    @field_validator("fidelity")
    @classmethod
    def _fidelity(cls, value: dict[str, Fidelity]) -> dict[str, Fidelity]:
        if value.get(FULL, Fidelity()) != Fidelity():
            raise ValueError(f"{FULL} is the whole training and must be {{}}")
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):  # NOMAD hands it to a shell
                raise ValueError(f"a name must be of letters, digits, _ . and -, got {name!r}")
        return value


@dataclass(frozen=True)
class Experiment:
    """A checked params/NAME.yaml."""

    source: Document
    base: Path
    """The folder that relative paths start from."""
    task: str
    model: dict[str, Any] | str
    data: dict[str, Any]
    space: Space
    training: dict[str, Any]
    outputs: tuple[Output, ...]
    scores: dict[str, Any]
    allow_dead: tuple[str, ...]
    resources: Resources
    stopping: Stopping
    fidelities: Mapping[str, Mapping[str, float]]
    """Name -> its fractions below 1; always with `full`, which has none."""
    accelerate: Path | None

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def document(self) -> Mapping[str, Any]:
        """The YAML as read, environment variables expanded."""
        return self.source.content

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def trains_a_model(self) -> bool:
        """And so leaves an adapter: the toy and a function do not."""
        return isinstance(self.model, dict) and "callable" not in self.model

    @property
    def objectives(self) -> tuple[int, ...]:
        """Indices of the objectives among the outputs."""
        return tuple(index for index, output in enumerate(self.outputs) if output.kind == "OBJ")

    @property
    def objective(self) -> int:
        """Index of the (first) objective among the outputs."""
        return self.objectives[0]

    def rank(self, values: Sequence[float]) -> Rank:
        """0 where all constraints hold, else the sum of what is beyond their bounds; then the objectives."""
        constraints = (v for v, output in zip(values, self.outputs, strict=True) if output.kind == "PB")
        return (sum(max(v, 0.0) for v in constraints), *(values[index] for index in self.objectives))

    def fidelity(self, name: str) -> Mapping[str, float]:
        """The fractions below 1 of a fidelity, which is all that counts of it. Raises InputError.

        `name` is one of the YAML's, or says the fractions itself: epochs_fraction=0.25,train_fraction=0.5.
        """
        if "=" in name:
            return _reductions(_read_fidelity(name))
        if name not in self.fidelities:
            raise self.error("fidelity", f"no fidelity {name!r}, there are {', '.join(self.fidelities)}")
        return self.fidelities[name]

    def section(self, name: str, model: type[Section]) -> Section:
        """Section `name` checked by a pydantic model. Raises InputError with file, line, rule and value."""
        content = self.document.get(name, {})
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise InputError(*self.source.explain(error, (name,), model.model_fields)) from None

    def error(self, place: str, sentence: str) -> InputError:
        """An InputError about the entry at dotted `place`, with the line where it (or what encloses it) stands."""
        return InputError(self.source.sentence(tuple(place.split(".")), sentence))

    def located(self, error: InputError) -> InputError:
        """The same mistakes, those that begin with a section's name led by the file and line of that entry."""
        return InputError(*(str(self.locate(message)) for message in error.messages))

    def locate(self, message: str) -> InputError:
        """`data.train: no rows` -> `params/x.yaml:9: data.train: no rows`; other messages as they are."""
        place, colon, sentence = message.partition(": ")
        known = place.split(".")[0] in Entries.model_fields
        return self.error(place, sentence) if colon and known else InputError(message)

    def dump(self, training: Mapping[str, Any] = {}) -> str:
        """YAML that reads back as this experiment from any folder; with these training settings instead of its own."""
        content = {**self.document, "relative_to": str(self.base)}
        if training:
            content["training"] = {**self.training, **training}
        text: str = yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        return f"# Copy of {self.path}\n{text}"


def read_experiment(path: Path) -> Experiment:
    """The checked experiment. Raises InputError with all that is wrong, each with file and line where there is one."""
    source = read_document(path)
    try:
        document = Entries.model_validate(source.content)
    except ValidationError as error:
        raise InputError(*source.explain(error, known=Entries.model_fields)) from None
    outputs = _read_outputs(document, source)
    wrong = dependence_error(document.space)
    if wrong is not None:
        raise InputError(source.sentence(("space", wrong[0], "times"), wrong[1]))
    if all(variable.kind == "fixed" for variable in document.space.values()):
        raise InputError(source.sentence(("space",), "needs at least one variable that is not fixed"))
    base = Path(document.relative_to or path.parent).absolute()
    accelerate = None if document.accelerate is None else (base / document.accelerate).resolve()
    if accelerate is not None and not accelerate.is_file():
        raise InputError(source.sentence(("accelerate",), f"no such file: {accelerate}"))
    return Experiment(
        source=source,
        base=base,
        task=document.task,
        model=document.model,
        data=document.data,
        space=Space(document.space),
        training=document.training,
        outputs=outputs,
        scores=document.scores,
        allow_dead=tuple(document.allow_dead),
        resources=document.resources,
        stopping=document.stopping,
        fidelities={FULL: {}} | {name: _reductions(each) for name, each in document.fidelity.items()},
        accelerate=accelerate,
    )


def _read_fidelity(text: str) -> Fidelity:
    words = [part.partition("=")[::2] for part in text.split(",")]
    fractions = dict(words)
    if len(fractions) < len(words):
        raise InputError(f"--fidelity: each fraction once, got {text!r}")
    try:
        return Fidelity.model_validate(fractions)
    except ValidationError as error:
        rules = (f"{e['loc'][0]}: {e['msg'][0].lower()}{e['msg'][1:]}, got {e['input']!r}" for e in error.errors())
        raise InputError(*(f"--fidelity: {rule}" for rule in rules)) from None


def _reductions(fidelity: Fidelity) -> dict[str, float]:
    return {name: fraction for name, fraction in fidelity if fraction < 1}


def _read_outputs(document: Entries, source: Document) -> tuple[Output, ...]:
    outputs: list[Output] = []
    objectives = 0
    for index, text in enumerate(document.outputs):
        match = re.fullmatch(r"(-?)\s*([A-Za-z_][\w:.@/-]*?)(?:\s*(<=|>=)\s*([-+.\deE]+))?", text.strip())
        if match is None or (match[1] and match[3]):
            rule = "must be a metric, -metric or metric <= bound"
            raise InputError(source.sentence(("outputs", index), f"{rule}, got {text!r}"))
        minus, metric, relation, bound = match.groups()
        if relation:
            outputs.append(Output(metric, "PB", 1.0 if relation == "<=" else -1.0, float(bound)))
        else:
            objectives += 1
            kind: Literal["OBJ", "EXTRA_O"] = "OBJ" if objectives <= document.objectives else "EXTRA_O"
            outputs.append(Output(metric, kind, -1.0 if minus else 1.0))
    if objectives < document.objectives:
        rule = f"needs {document.objectives} objective(s), has {objectives} outputs that are no constraint"
        raise InputError(source.sentence(("outputs",), rule))
    return tuple(outputs)
