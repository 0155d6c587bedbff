"""The preflight's identity check: noise of the machine is no adapter, an adapter is."""

from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError
from bbo.experiment import read_experiment
from blackbox import checks, model, pack
from blackbox.data import Example
from blackbox.settings import read_settings
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, list[Example]]:
    settings = read_settings(read_experiment(ROOT / "params/quickstart.yaml"))
    folder = Path(settings.model.resolved(settings.base))
    examples = [Example(tuple(range(5, 5 + length)), 3) for length in (20, 12)]
    return model.load_model(folder, settings.model), settings.training_for({"lora_rank": 8}), examples


def test_a_fresh_adapter_passes(parts: tuple[Any, Any, list[Example]]) -> None:
    base, training, examples = parts
    checks._check_identity(base, training, examples)


def test_an_adapter_that_is_no_identity_is_refused(
    parts: tuple[Any, Any, list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, training, examples = parts
    settings = read_settings(read_experiment(ROOT / "params/quickstart.yaml"))
    base = model.load_model(Path(settings.model.resolved(settings.base)), settings.model)
    attach = model.attach

    def spoiled(*arguments: Any) -> Any:
        adapted = attach(*arguments)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.01)
        return adapted

    monkeypatch.setattr(pack, "attach", spoiled)
    with pytest.raises(InputError, match="a fresh adapter changes the logits by"):
        checks._check_identity(base, training, examples)
