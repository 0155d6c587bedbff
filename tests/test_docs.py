"""README and Docs/: every command is one that our programs take, every file and setting that is named is there."""

import argparse
import ast
import importlib
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import bbo.cli
import bbo.nomad
import bbo.optimize
from bbo.experiment import Entries, read_experiment
from bbo.optimizers import Outcome
from bbo.optimizers.registry import OPTIMIZERS
from blackbox import reference
from blackbox.settings import DATA, SECTIONS
from tests.conftest import ROOT
from tests.documents import PAGES, Fence, fences, links, simple, spans

COMMANDS = typer.main.get_command(bbo.cli.app)

MADE_HERE = {"params/mine.txt", "params/mine.yaml"}
"""Files that a page tells its reader to make."""

PLACEHOLDERS = {"params/x.txt"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands() -> Iterator[Any]:
    for page in PAGES:
        lines = [(f"{name_of(page)}:{fence.line}", line) for fence in fences(page) for line in fence.commands]
        lines += [(name_of(page), span) for span in spans(page) if is_whole(span)]
        for where, line in lines:
            yield from (pytest.param(words, id=f"{where}: {' '.join(words)}") for words in simple(line))


def is_whole(span: str) -> bool:
    """Whether code in running text is a command line and not only its beginning, as `bbo run --optimizer`."""
    shape = r"([A-Z_]+=\S+ )*((nomad|bbo run|bbo compare) params/|bbo (?!run|nomad|compare)[a-z]+ [\w/]+|runs/\w+\.sh)"
    return bool(re.match(shape, span)) and not re.search(r"\.\.\.|\[|my_module", span)


class Parsed(Exception):
    """The command line was taken."""


@pytest.fixture
def stops_when_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse's parsers read the command line as ever, and then nothing is run."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> None:
        parse(parser, *arguments, **keywords)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)


@pytest.mark.usefixtures("stops_when_parsed")
@pytest.mark.parametrize("words", [*commands()])
def test_a_command_is_one_that_there_is(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match words:
        case ["nomad" | "bbo", *_]:
            understood(words)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
        case ["python", "-m", "pytest", *paths]:
            assert all((ROOT / path).exists() for path in paths if path.startswith("tests"))
        case ["python", "-m", module, *arguments]:
            monkeypatch.setattr(sys, "argv", [module, *arguments])
            if has_parser(module):
                with pytest.raises(Parsed):
                    runpy.run_module(module, run_name="__main__")
        case [script, *arguments] if script.startswith("runs/"):
            assert (ROOT / script).is_file()
            with pytest.raises(Parsed):
                bbo.nomad.run(["params/x.txt", *arguments])


def understood(words: list[str]) -> None:
    """Let typer's or argparse's own parser read a command line of `nomad` or `bbo`."""
    for option, value in pairwise(words):
        if option in ("--optimizer", "--optimizers"):
            assert all(name in OPTIMIZERS or ":" in name for name in value.split(","))
    match words:
        case ["nomad", *arguments] | ["bbo", "nomad", *arguments]:
            with pytest.raises(Parsed):
                bbo.nomad.run(arguments)
        case ["bbo", "run", *arguments]:
            with pytest.raises((Parsed, SystemExit)) as ended:
                bbo.optimize.run(arguments)
            assert ended.type is Parsed or arguments == ["--help"]
        case ["bbo", name, *arguments]:
            assert isinstance(COMMANDS, typer.core.TyperGroup)
            command = COMMANDS.commands[name]
            if "--help" not in arguments:
                command.make_context(name, list(arguments))


def has_parser(module: str) -> bool:
    """Whether it, or what it hands its command line to, reads that by argparse."""
    spec = find_spec(module)
    assert spec is not None, f"no module {module}"
    if spec.submodule_search_locations is not None:
        spec = find_spec(f"{module}.__main__")
    assert spec is not None
    source = Path(str(spec.origin)).read_text()
    handed = re.search(r"^ +from (blackbox\.\w+) import main$", source, re.MULTILINE)
    return "argparse" in source or (handed is not None and has_parser(handed[1]))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_in_running_text(page: Path) -> None:
    """Such as `bbo stop RUN` and `bbo run --parallel`: not whole command lines, but names that there are."""
    for span in spans(page):
        match re.sub(r"[.,:]$", "", span).split():
            case ["bbo", "run" | "nomad", *words]:
                taken = source_of("bbo.optimize", "bbo.conduct", "bbo.nomad")
                assert not [w for w in words if w.startswith("--") and f'"{w.split("=")[0]}"' not in taken], span
            case ["bbo", name, *words] if name.isalpha() and name.islower():
                assert isinstance(COMMANDS, typer.core.TyperGroup)
                assert name in COMMANDS.commands, span
                options = [o for p in COMMANDS.commands[name].params for o in p.opts]
                assert not [w for w in words if w.startswith("--") and w.split("=")[0] not in options], span
            case ["python", "-m", module, *_] if not module.isupper() and "NAME" not in module:
                assert find_spec(module) is not None, span
            case ["pip", "install", wanted] if wanted.strip("'").startswith("bbo["):
                extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                assert wanted.strip("'")[4:-1] in extras, span


def source_of(*modules: str) -> str:
    return "".join(Path(str(importlib.import_module(module).__file__)).read_text() for module in modules)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_and_files(page: Path) -> None:
    for target in links(page):
        if not re.match(r"https?:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target
    named = re.findall(r"(?<![\w./-])(?:params|bbo|blackbox|benchmarks|tests|Docs)/[\w./-]*\.\w+", page.read_text())
    named += re.findall(r"(?<![\w./-])runs/\w+\.(?:sh|slurm|oar)", page.read_text())
    for file in set(named) - MADE_HERE - PLACEHOLDERS:
        generated = "NAME" in file or file.startswith("benchmarks/results/")
        assert generated or (ROOT / file).exists(), file


YAML = [fence for page in PAGES for fence in fences(page) if fence.language == "yaml"]


@pytest.mark.parametrize("fence", YAML, ids=lambda fence: f"{name_of(fence.page)}:{fence.line}")
def test_yaml_names_settings_that_there_are(fence: Fence) -> None:
    content = yaml.safe_load(fence.text)
    if "apiVersion" in content:  # Kubernetes' business
        return
    assert set(content) <= set(Entries.model_fields)
    for section in SECTIONS:
        schemas = DATA.values() if section == "data" else [SECTIONS[section]]
        known = {name for schema in schemas for name in schema.model_fields} | {"..."}
        given = content.get(section, {})
        assert isinstance(given, str) or set(given) <= known, section


PYTHON = [fence for page in PAGES for fence in fences(page) if fence.language == "python"]


@pytest.mark.parametrize("fence", PYTHON, ids=lambda fence: f"{name_of(fence.page)}:{fence.line}")
def test_python_imports_what_there_is(fence: Fence) -> None:
    for node in ast.walk(ast.parse(fence.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("bbo", "blackbox"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), alias.name


def test_the_optimizer_of_the_how_to() -> None:
    page = next(fence for fence in PYTHON if fence.page.name == "optimizer.md")
    names: dict[str, Any] = {}
    exec(page.text, names)
    space = read_experiment(ROOT / "params/toy.yaml").space
    one, other = (names["Walk"](space, [space.middle()], 12, 3) for _ in range(2))
    for number in range(1, 13, 4):
        proposals = one.ask(4)
        assert proposals == other.ask(4)
        for count, proposal in enumerate(proposals):
            space.decode(proposal.point)  # within the bounds, whole where it must be
            for walk in (one, other):
                walk.tell(Outcome(number + count, proposal.point, "ok", -proposal.point[0]))
    assert one.best[0] > space.middle()[0]


def test_the_reference_is_the_schema() -> None:
    committed = (ROOT / "Docs/reference.md").read_text()
    assert committed == reference.page(), "run `make docs`"


def test_the_site_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'bbo[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES) - 2
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?:[^\"]+)", page.read_text())
        assert not loaded, page


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "Docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'Docs')}\n" in navigation, page
