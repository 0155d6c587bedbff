"""params/NAME.yaml: what the numbers mean (space, outputs) and how to train; checked once, at the door.

The sections model, data, training and scores belong to the blackbox and are handed on as they stand; `section` checks
them there with the same messages, `params/bbo3.yaml:7: training.warmup_steps: ...`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bbo.errors import InputError
from bbo.points import read_text
from bbo.space import Space, Variable, dependence_error

Section = TypeVar("Section", bound=BaseModel)
Location = tuple[str | int, ...]


class Resources(BaseModel):
    """What an evaluation may use, and what is kept of it. No part of it changes a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executor: Literal["local"] = "local"
    gpus_per_job: int | None = Field(None, ge=0)
    """GPUs, and so processes, of one job; unset: one if the machine has any, else the CPU."""
    cpus_per_job: int | None = Field(None, ge=1)
    """Cores of one job that uses no GPU, so that several run side by side; unset: all."""
    processes_per_job: int | None = Field(None, ge=1)
    """Processes of one job where they are not one per GPU."""
    pack: int | None = Field(None, ge=1)
    """Most points that one job takes; unset: the whole block, shared out over the slots."""
    keep: str = "best 3"
    """Adapters kept on disk: `all`, `none` or `best N` of a run."""
    time_limit: float | None = Field(None, gt=0)
    """Seconds one evaluation may train and score; longer is a failure of the point."""
    max_failed: int = Field(5, ge=1)
    """Failed evaluations in a row that stop a run."""

    @field_validator("keep")
    @classmethod
    def _keep(cls, value: str) -> str:
        if not re.fullmatch(r"all|none|best [1-9]\d*", value):
            raise ValueError("must be all, none or best N")
        return value

    @property
    def kept(self) -> int | None:
        """How many adapters are kept; None: all."""
        return None if self.keep == "all" else 0 if self.keep == "none" else int(self.keep.split()[1])


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
    def failed(self) -> float:
        """The number of a failed point: NOMAD aborts on an infinite constraint of X0, and needs Inf in an objective."""
        return float("inf") if self.kind == "OBJ" else 0.0


class _Document(BaseModel):
    """The YAML's shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["instruct"] = "instruct"
    model: dict[str, Any] | Literal["toy"]
    data: dict[str, Any] = {}
    space: dict[str, Variable]
    training: dict[str, Any] = {}
    outputs: list[str] = Field(min_length=1)
    objectives: int = Field(1, ge=1)
    """How many outputs, counted from the first that is no constraint, are objectives; the others are recorded."""
    scores: dict[str, Any] = {}
    resources: Resources = Resources()
    accelerate: str | None = None
    """A configuration file of `accelerate config` for the launch of each job."""
    relative_to: str | None = None
    """The folder that paths are relative to, where it is not the YAML's own (copies in the store)."""


@dataclass(frozen=True)
class Experiment:
    """A checked params/NAME.yaml."""

    path: Path
    base: Path
    document: Mapping[str, Any]
    """The YAML as read, environment variables expanded."""
    lines: Mapping[Location, int]
    task: str
    model: dict[str, Any] | str
    data: dict[str, Any]
    space: Space
    training: dict[str, Any]
    outputs: tuple[Output, ...]
    scores: dict[str, Any]
    resources: Resources
    accelerate: Path | None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def objective(self) -> int:
        """Index of the (first) objective among the outputs."""
        return next(index for index, output in enumerate(self.outputs) if output.kind == "OBJ")

    def rank(self, values: Sequence[float]) -> tuple[bool, float]:
        """Smaller is better: whether a constraint is violated, then the objective."""
        violated = any(v > 0 for v, output in zip(values, self.outputs, strict=True) if output.kind == "PB")
        return violated, values[self.objective]

    def section(self, name: str, model: type[Section]) -> Section:
        """Section `name` checked by a pydantic model. Raises InputError with file, line, rule and value."""
        content = self.document.get(name, {})
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise InputError(*_explain(self.path, self.lines, error, (name,))) from None

    def error(self, place: str, sentence: str) -> InputError:
        """An InputError about the entry at dotted `place`, with the line where it (or what encloses it) stands."""
        return InputError(_located(self.path, self.lines, tuple(place.split(".")), sentence))

    def located(self, error: InputError) -> InputError:
        """The same mistakes, those that begin with a section's name led by the file and line of that entry."""
        return InputError(*(str(self.locate(message)) for message in error.messages))

    def locate(self, message: str) -> InputError:
        """`data.train: no rows` -> `params/x.yaml:9: data.train: no rows`; other messages as they are."""
        place, colon, sentence = message.partition(": ")
        known = place.split(".")[0] in _Document.model_fields
        return self.error(place, sentence) if colon and known else InputError(message)

    def dump(self) -> str:
        """YAML that reads back as this experiment from any folder."""
        content = {**self.document, "relative_to": str(self.base)}
        return f"# Copy of {self.path}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_experiment(path: Path) -> Experiment:
    """The checked experiment. Raises InputError with all that is wrong, each with file and line where there is one."""
    content, lines = _read_yaml(path)
    errors: list[str] = []
    content = _expand(content, (), path, lines, errors)
    if errors:
        raise InputError(*errors)
    try:
        document = _Document.model_validate(content)
    except ValidationError as error:
        raise InputError(*_explain(path, lines, error)) from None
    outputs = _read_outputs(document, path, lines)
    wrong = dependence_error(document.space)
    if wrong is not None:
        raise InputError(_located(path, lines, ("space", wrong[0], "times"), wrong[1]))
    if all(variable.kind == "fixed" for variable in document.space.values()):
        raise InputError(_located(path, lines, ("space",), "needs at least one variable that is not fixed"))
    base = Path(document.relative_to or path.parent).absolute()
    accelerate = None if document.accelerate is None else base / document.accelerate
    if accelerate is not None and not accelerate.is_file():
        raise InputError(_located(path, lines, ("accelerate",), f"no such file: {accelerate}"))
    return Experiment(
        path=path,
        base=base,
        document=content,
        lines=lines,
        task=document.task,
        model=document.model,
        data=document.data,
        space=Space(document.space),
        training=document.training,
        outputs=outputs,
        scores=document.scores,
        resources=document.resources,
        accelerate=accelerate,
    )


def _read_outputs(document: _Document, path: Path, lines: Mapping[Location, int]) -> tuple[Output, ...]:
    outputs: list[Output] = []
    objectives = 0
    for index, text in enumerate(document.outputs):
        match = re.fullmatch(r"(-?)\s*([A-Za-z_][\w:.@/-]*?)(?:\s*(<=|>=)\s*([-+.\deE]+))?", text.strip())
        if match is None or (match[1] and match[3]):
            rule = "must be a metric, -metric or metric <= bound"
            raise InputError(_located(path, lines, ("outputs", index), f"{rule}, got {text!r}"))
        minus, metric, relation, bound = match.groups()
        if relation:
            outputs.append(Output(metric, "PB", 1.0 if relation == "<=" else -1.0, float(bound)))
        else:
            objectives += 1
            kind: Literal["OBJ", "EXTRA_O"] = "OBJ" if objectives <= document.objectives else "EXTRA_O"
            outputs.append(Output(metric, kind, -1.0 if minus else 1.0))
    if objectives < document.objectives:
        rule = f"needs {document.objectives} objective(s), has {objectives} outputs that are no constraint"
        raise InputError(_located(path, lines, ("outputs",), rule))
    return tuple(outputs)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with YAML 1.2's floats: `1e-4` is a number, not text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        loader = _Loader(read_text(path))
        node = loader.get_single_node()
        lines: dict[Location, int] = {}
        _number_lines(node, (), lines, path)
        content = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not an experiment: must be a mapping with model, space and outputs")
    return content, lines


def _number_lines(node: yaml.Node | None, place: Location, lines: dict[Location, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            if inner in lines:
                raise InputError(f"{path}:{key.start_mark.line + 1}: {_dotted(inner)}: given twice")
            lines[inner] = key.start_mark.line + 1
            _number_lines(value, inner, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = value.start_mark.line + 1
            _number_lines(value, (*place, index), lines, path)


def _expand(content: Any, place: Location, path: Path, lines: Mapping[Location, int], errors: list[str]) -> Any:
    """Replace ${NAME} and ${NAME:-default} in every string; an unset NAME without default is an error."""
    if isinstance(content, dict):
        return {key: _expand(value, (*place, key), path, lines, errors) for key, value in content.items()}
    if isinstance(content, list):
        return [_expand(value, (*place, i), path, lines, errors) for i, value in enumerate(content)]
    if not isinstance(content, str):
        return content

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            errors.append(_located(path, lines, place, f"the environment variable {match[1]} is not set"))
        return found or ""

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, content)


def _explain(path: Path, lines: Mapping[Location, int], error: ValidationError, prefix: Location = ()) -> list[str]:
    """One located sentence per error; of a union's several, the first alone, since they are about one value."""
    sentences: dict[tuple[str, ...], str] = {}
    for item in error.errors():
        place = (*prefix, *item["loc"])
        while len(place) > 1 and place not in lines:
            place = place[:-1]
        message = item["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if item["type"] == "extra_forbidden":
            place, message = (*prefix, *item["loc"]), "no such setting"
        elif item["type"] not in ("missing",) and "got " not in message:
            message = f"{message}, got {item['input']!r}"
        sentences.setdefault(tuple(map(str, place)), _located(path, lines, place, message))
    return list(sentences.values())


def _located(path: Path, lines: Mapping[Location, int], place: Location, sentence: str) -> str:
    known = place
    while known and known not in lines:
        known = known[:-1]
    line = f":{lines[known]}" if known else ""
    return f"{path}{line}: {_dotted(place)}: {sentence}"


def _dotted(place: Location) -> str:
    return ".".join(str(part) for part in place)
