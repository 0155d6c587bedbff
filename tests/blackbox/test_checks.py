"""The preflight's identity check: noise of the machine is no adapter, an adapter is."""

import json
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 260}, True),
        ({"hidden_size": 64, "n_layer": 2, "vocab_size": 260}, True),  # BLOOM
        ({"n_embd": 64, "n_layer": 2, "vocab_size": 260}, True),  # GPT-2
        ({"dim": 64, "n_layers": 2, "vocab_size": 260}, True),  # DistilBERT
        ({"text_config": {}}, False),
    ],
)
def test_memory_is_estimated_whatever_a_model_calls_its_sizes(
    config: dict[str, Any], known: bool, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = read_settings(read_experiment(experiment(sections={"model": {"path": str(tmp_path)}})))
    memory = checks.estimate(settings, settings.training)
    assert memory is None if not known else memory is not None and 0 < memory < 1
