"""What a user may mean by an adapter, and what is said where it is none."""

import re
import shutil
from pathlib import Path

import pytest

from bbo.best import read_searched
from bbo.errors import InputError
from bbo.store import write_json
from blackbox.saved import find, load, worst


def test_a_run_an_evaluation_and_a_folder_are_the_same_adapter(searched: Path, tmp_path: Path) -> None:
    best = read_searched(str(searched)).good[0].evaluation
    named = [find(str(name)) for name in (searched, best.folder, best.adapter)]
    assert {saved.folder for saved in named} == {best.adapter}
    assert all(s.evaluation and s.evaluation.key == best.key and s.experiment is not None for s in named)
    alone = tmp_path / "alone"
    shutil.copytree(best.adapter, alone)
    saved = find(str(alone))
    assert saved.evaluation is None and saved.model[0].path.endswith("model0") and not saved.whole
    with pytest.raises(InputError, match="give its --experiment"):
        saved.known  # noqa: B018
    assert find(str(alone), str(best.experiment_file)).known.training["seed"] == 1
    assert worst(str(searched)).folder.parent.name == read_searched(str(searched)).good[-1].evaluation.key


def test_what_is_confirmed_is_the_best(searched: Path, tmp_path: Path) -> None:
    run = tmp_path / "x"
    shutil.copytree(searched, run)
    good = read_searched(str(run)).good
    points = [{"key": good[2].evaluation.key}, {"key": good[0].evaluation.key}]
    write_json(run / "confirmed.json", {"points": points})
    assert find(str(run)).folder.parent.name == good[2].evaluation.key
    write_json(run / "confirmed.json", {"points": points[:1]})  # the search has found a better one since
    assert find(str(run)).folder.parent.name == good[0].evaluation.key


def test_an_adapter_that_was_not_kept_and_none_at_all(searched: Path, tmp_path: Path) -> None:
    lost = read_searched(str(searched)).good[1].evaluation
    with pytest.raises(InputError, match=re.escape(f"`python -m blackbox.eval {lost.point_file} --again`")):
        find(str(lost.folder))
    with pytest.raises(InputError, match="no adapter"):
        find(str(tmp_path))
    with pytest.raises(InputError, match="is no run"):
        worst(str(lost.folder))


def test_an_adapter_of_another_model(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(find(str(searched)).folder, folder)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 4'))
    with pytest.raises(InputError, match="does not fit its base model"):
        load(find(str(folder)))
