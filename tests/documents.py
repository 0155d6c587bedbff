"""README and Docs/ as their readers use them: fenced blocks, commands, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "Docs").rglob("*.md"))]

OURS = ("nomad", "bbo", "python", "make", "runs/")
"""What a line of ours begins with, behind variables; other programs are their own business."""


@dataclass(frozen=True)
class Fence:
    """A block between two lines of three backticks."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The shell lines of a block without a language; of a session with `$` those behind it."""
        if self.language:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")]
        return typed or [line for line in lines if line and not line.startswith("#")]


def fences(page: Path) -> Iterator[Fence]:
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Fence(page, text[: match.start()].count("\n") + 1, match[1], match[2])


def spans(page: Path) -> Iterator[str]:
    """What stands between single backticks, outside of fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(match[1].split()) for match in re.finditer(r"`([^`]+)`", prose))


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures."""
    yield from (match[1] for match in re.finditer(r"\]\(([^)\s]+)\)", page.read_text()))


def simple(line: str) -> Iterator[list[str]]:
    """The words of each of our programs in a shell line, without variables before it and files behind `>`."""
    words: list[str] = []
    for word in [*_words(line), ";"]:
        if not set(word) <= set(";|&"):
            words.append(word)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words and words[0].startswith(OURS):
            yield [w for w in (words[: words.index(">")] if ">" in words else words) if w != "..."]
        words = []


def _words(line: str) -> list[str]:
    words = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    words.whitespace_split = True
    try:
        return list(words)
    except ValueError:  # an apostrophe: no command, or a wrong one
        return line.split() if line.startswith(OURS) else []
