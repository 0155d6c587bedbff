"""BB_EXE: the command that NOMAD makes of it, and what is wrong with it before NOMAD finds out."""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_BUILTINS = (".", "cd", "exec", "export", "ulimit", "umask")


def resolve(word: str, folder: Path) -> Path:
    """The file a word of BB_EXE means: one without its own `$` belongs to the problem's folder."""
    return Path(os.path.abspath(word[1:] if word.startswith("$") else folder / word))


def experiment_word(words: Sequence[str]) -> str | None:
    """The YAML's word in a command such as `$python3 $-m $blackbox bbo3.yaml`; None for any other command."""
    rest = list(words)
    if not rest or not re.fullmatch(r"\$(\S*/)?python(3(\.\d+)?)?", rest.pop(0)):
        return None
    while rest and re.fullmatch(r"\$-[a-ln-zA-Z]+", rest[0]):  # -u and the like, all but -m
        rest.pop(0)
    return rest[2] if rest[:2] == ["$-m", "$blackbox"] and len(rest) > 2 else None


def faults(words: Sequence[str], folder: Path) -> Iterator[str]:
    """One sentence per word that NOMAD or its shell could not find."""
    program = words[0].removeprefix("$")
    if words[0].startswith("$"):
        if not _is_shell(program) and not shutil.which(program, path=_search_path()):
            yield f"the program must be on PATH, got {program}"
    elif not (folder / program).is_file():
        yield f"the program must exist (beside this file, or with a $ on PATH), got {folder / program}"
    elif not os.access(folder / program, os.X_OK):
        yield f"the program must be executable (chmod +x), got {folder / program}"
    for word in words[1:]:
        file = resolve(word, folder)
        if _is_shell(word.removeprefix("$")) or file.exists():
            continue
        if word.startswith("-"):
            yield f"an option must begin with $, or NOMAD takes it for a file: ${word}, got {word}"
        elif file.suffix in (".yaml", ".yml", ".py", ".sh"):
            yield f"the file must exist, got {file}"


def _is_shell(word: str) -> bool:
    """NOMAD hands the command to a shell: assignments, variables, built-in commands are not ours to judge."""
    return bool(re.search(r"[^\w@%+:,./-]", word)) or word in _BUILTINS


def _search_path() -> str:
    """`nomad` puts its own interpreter's folder first on the PATH of the child."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
