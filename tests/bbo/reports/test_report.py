"""The whole page of runs: what is in it, that it needs nothing beside it, and how a browser shows it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bbo.errors import InputError
from bbo.reports.report import write_report
from bbo.store import write_json
from tests.bbo.reports.made import Made
from tests.browser import DESKTOP, PHONE, chromium, errors, resize
from tests.conftest import ROOT


def fill(run: Made) -> None:
    """Twenty evaluations on two slots, some failed and stopped."""
    write_json(run.run.preflight_file, {"base": {"eval_loss": 3.0}})
    for block in range(5):
        points = [(1 + (block + n) % 6, 1 + (13 * block + 7 * n) % 64, 1 + n, -4.5 + 0.1 * block + n) for n in range(4)]
        for number in run.ask(*points):
            n = (number - 1) % 4
            how = {"start": 12.0 * block + 1, "seconds": 10.0 - n, "slot": f"cpu{n % 2}"}
            if number in (4, 8):
                run.end(number, None, **how)
            elif number in (11, 12):
                run.stop(number, 2.5, 2.25, start=12.0 * block, slot="cpu1")
            else:
                loss = 1 + (points[n][3] + 3) ** 2 / 4
                run.curve(number, loss + 1, loss + 0.3, loss + 0.1, loss)
                run.end(number, loss, **how)


def confirm(run: Made) -> None:
    verdicts = {2: ("best", 1.05), 6: ("tie", 1.06), 10: ("worse", 1.2), 14: ("worse", 1.3), 18: ("worse", 1.4)}
    points = [
        {"evaluation": number, "key": f"K{number}", "verdict": verdict, "searched": 1.0, "mean": mean,
         "standard_error": 0.01, "values": {"1": mean - 0.01, "2": mean + 0.01}}
        for number, (verdict, mean) in verdicts.items()
    ]  # fmt: skip
    write_json(run.run.folder / "confirmed.json", {"points": points, "winner_demoted": True})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One for all that only read it."""
    run = Made(tmp_path_factory.mktemp("runs") / "made", ROOT / "params" / "toy.yaml")
    fill(run)
    confirm(run)
    return run


@pytest.fixture(scope="module")
def page(run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([run.read()], tmp_path_factory.mktemp("out"))


def test_one_page_that_needs_nothing_and_the_same_figures_as_files(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\((?!#)|@import|https?://(?!www\.w3\.org)', text)
    files = {file.stem for file in page.parent.glob("*.svg")}
    assert {
        "best-by-evaluations",
        "best-by-time",
        "parallel",
        "confirmed",
        "curves",
        "timeline",
        "importances",
    } <= files
    assert {"slice-learning_rate", "slice-lora_rank"} <= files and any(file.startswith("contour-") for file in files)
    assert text.count("<figure") == len(files)
    for file in page.parent.glob("*.svg"):
        ElementTree.parse(file)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_head_and_the_warnings_stand_in_it(page: Path) -> None:
    text = page.read_text()
    for words in ("gain over the base model", "2 failed, 2 stopped early", "Within the noise", "out of memory: 40 GiB"):
        assert words in text, words


def test_written_again_the_figures_are_the_same_and_nothing_in_the_run_has_changed(
    run: Made, page: Path, tmp_path: Path
) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        files = [file for file in run.run.folder.rglob("*") if file.is_file()]
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    before = state()
    write_report([run.read()], tmp_path)
    assert state() == before
    for file in page.parent.glob("*.svg"):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_runs_overlaid(made: Callable[..., Made], tmp_path: Path) -> None:
    runs = [made("first"), made("second")]
    for loss, run in enumerate(runs, 1):
        run.ask((3, 16, 3, -4.5), (4, 16, 3, -4.5))
        run.end(1, loss)
        run.end(2, loss)  # all alike: nothing for Optuna to say
    page = write_report([run.read() for run in runs], tmp_path / "out")
    names = {file.stem for file in page.parent.glob("*.svg")}
    assert {"best-by-evaluations", "first-parallel", "second-parallel"} <= names
    assert (page.parent / "best-by-evaluations.svg").read_text().count(">second<") == 1


def test_runs_of_different_objectives_are_not(made: Callable[..., Made], tmp_path: Path) -> None:
    one = made("first")
    one.ask((3, 16, 3, -4.5))
    record = one.read()
    two = made("second", in_yaml={"outputs: [eval_loss": "outputs: [-eval_loss"})
    two.ask((3, 16, 3, -4.5))
    with pytest.raises(InputError, match=r"different objectives: .*first eval_loss, .*second -eval_loss"):
        write_report([record, two.read()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answered", [0, 1])
def test_a_run_that_has_hardly_begun(made: Callable[..., Made], tmp_path: Path, answered: int) -> None:
    run = made()
    run.ask((3, 16, 3, -4.5), (4, 16, 3, -4.5))
    if answered:
        run.end(1, None)
    text = write_report([run.read()], tmp_path / "out").read_text()
    assert "no good evaluation" in text and "Few finished" in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_in_a_browser(page: Path, browser: Any, size: tuple[int, int]) -> None:
    resize(browser, size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    figures = browser.find_elements("css selector", "figure")
    for figure in figures:
        drawn = figure.find_element("css selector", "svg")
        assert drawn.is_displayed() and drawn.rect["height"] > 80, figure.text
        assert figure.rect["x"] >= 0 and figure.rect["x"] + figure.rect["width"] <= size[0]
        small = (
            "return Math.min(...[...arguments[0].querySelectorAll('text')].map(t => t.getBoundingClientRect().height))"
        )
        assert browser.execute_script(small, drawn) >= 6
    assert len(figures) == len(list(page.parent.glob("*.svg"))) and errors(browser) == []


@pytest.mark.browser
def test_the_best_share_can_be_chosen(page: Path, browser: Any) -> None:
    resize(browser, DESKTOP)
    browser.get(page.as_uri())
    choose = """
        const chooser = document.querySelector(".chooser input");
        chooser.value = arguments[0];
        chooser.dispatchEvent(new Event("input"));
        return [document.querySelectorAll("figure[data-order] .out").length,
                document.querySelector(".chooser output").value]"""
    assert browser.execute_script(choose, 25) == [15, "25"]
    shown = "return [...document.querySelectorAll('[id*=evaluation-]:not(.out) title')].map(title => title.textContent)"
    assert len(browser.execute_script(shown)) == 5
    assert all("eval_loss 1.0" in words for words in browser.execute_script(shown))
    assert browser.execute_script(choose, 100) == [0, "100"]
    assert errors(browser) == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ink_stands_out_from_the_paper(page: Path, browser: Any, scheme: str) -> None:
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(page.as_uri())
    words = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    ink = sum(map(int, re.findall(r"\d+", browser.execute_script(words))[:3]))
    paper = "return getComputedStyle(document.body).backgroundColor"
    ground = sum(map(int, re.findall(r"\d+", browser.execute_script(paper))[:3]))
    assert abs(ink - ground) > 400 and (ground > 600) == (scheme == "light")
