"""A YAML file of the user's: its content, with the line of every entry for the messages about it."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bbo.errors import InputError
from bbo.points import read_text

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """What a YAML file says, environment variables expanded."""

    path: Path
    content: Mapping[str, Any]
    lines: Mapping[Location, int]
    defaults: Mapping[Location, str] = field(default_factory=dict)
    """Where a default stands for an environment variable that is not set, and which."""

    def sentence(self, place: Location, sentence: str) -> str:
        """`params/x.yaml:7: space.lora_rank: sentence`, with the line of the entry or of what encloses it."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        line = f":{self.lines[known]}" if known else ""
        unset = dict.fromkeys(
            self.defaults[each] for each in self.defaults if len(place) > 1 and each[: len(place)] == place
        )
        hint = f" ({', '.join(unset)} is not set)" if unset else ""
        return f"{self.path}{line}: {_dotted(place)}: {sentence}{hint}"

    def explain(self, error: ValidationError, prefix: Location = (), known: Collection[str] = ()) -> list[str]:
        """One sentence per error, with rule and value; of a union's several, the first alone.

        `known` are the names of the outermost settings, for whoever has misspelt one.
        """
        sentences: dict[tuple[str, ...], str] = {}
        for item in error.errors():
            place = (*prefix, *item["loc"])
            while len(place) > 1 and place not in self.lines:
                place = place[:-1]
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            if item["type"] == "extra_forbidden":
                place, message = (*prefix, *item["loc"]), "no such setting"
                if len(item["loc"]) == 1 and (close := get_close_matches(str(item["loc"][0]), known, 1)):
                    message += f", did you mean {close[0]}?"
            elif item["type"] != "missing" and "got " not in message:
                message = f"{message}, got {item['input']!r}"
            sentences.setdefault(tuple(map(str, place)), self.sentence(place, message))
        return list(sentences.values())


def read_document(path: Path) -> Document:
    """Raises InputError for what is no YAML mapping, gives an entry twice or names an unset environment variable."""
    try:
        loader = _Loader(read_text(path))
        node = loader.get_single_node()
        lines: dict[Location, int] = {}
        _number_lines(node, (), lines, path)
        content = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that there is not, an alias of itself
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not an experiment: must be a mapping with model, space and outputs")
    unset: list[tuple[Location, str]] = []
    defaults: dict[Location, str] = {}
    document = Document(path, _expand(content, (), unset, defaults), lines, defaults)
    if unset:
        raise InputError(
            *(document.sentence(place, f"the environment variable {name} is not set") for place, name in unset)
        )
    return document


def parse_value(text: str) -> Any:
    """What an entry's value in a YAML file means; a text that is no YAML means itself."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError):
        return text


class _Loader(yaml.CSafeLoader):  # libyaml's: every call of the blackbox reads its experiment, in a tenth of the time
    """PyYAML's safe loader, with YAML 1.2's floats: `1e-4` is a number, not text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


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


def _expand(content: Any, place: Location, unset: list[tuple[Location, str]], defaults: dict[Location, str]) -> Any:
    """Replace ${NAME} and ${NAME:-default} in every string; an unset NAME is listed, with a default in `defaults`."""
    if isinstance(content, dict):
        return {key: _expand(value, (*place, key), unset, defaults) for key, value in content.items()}
    if isinstance(content, list):
        return [_expand(value, (*place, i), unset, defaults) for i, value in enumerate(content)]
    if not isinstance(content, str):
        return content

    def value(match: re.Match[str]) -> str:
        given = os.environ.get(match[1])
        if not given and match[2] is None:
            unset.append((place, match[1]))
        elif not given:
            defaults[place] = match[1]
        if given and ("/" in given or "." in given) and Path(given).exists():
            return str(Path(given).absolute())  # a path typed in a shell is relative to where it was typed
        return given or match[2] or ""

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, content)


def _dotted(place: Location) -> str:
    return ".".join(str(part) for part in place)
