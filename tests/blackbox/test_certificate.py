"""Packed = alone = Trainer + PEFT, in little: benchmarks/certificate.py says how; more points and steps there."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from benchmarks import certificate
from blackbox import pack

pytestmark = pytest.mark.usefixtures("on_cpu")

FEW: list[dict[str, Any]] = [
    {"lora_rank": 2, "lora_alpha": 8, "learning_rate": 1e-2, "label_smoothing_factor": 0.1, "warmup_steps": 2},
    {"lora_rank": 16, "lora_dropout": 0.2, "learning_rate": 1e-3, "target_modules": "all-linear"},
    {"lora_rank": 4, "learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.3, "seed": 1},
]


def test_companions_change_nothing_that_matters() -> None:
    content = certificate.certify(FEW, 10)
    assert certificate.broken(content) == []
    assert [point["vs_trainer"] is None for point in content["points"]] == [False, True, False]
    assert all(point["rows_per_product"] > 1 for point in content["points"])
    losses = [point["eval_loss"]["packed"] for point in content["points"]]
    assert len(set(losses)) == 3 and max(losses) < 3.2, "the base model has 3.265"


def test_a_product_that_takes_in_a_companions_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = pack._AddProducts.forward

    def off(ctx: Any, result: Any, x: Any, products: Sequence[Any], *weights: Any) -> Any:
        shifted = [each._replace(first=max(0, each.first - 64)) for each in products]
        return forward(ctx, result, x, shifted, *weights)

    monkeypatch.setattr(pack._AddProducts, "forward", staticmethod(off))
    monkeypatch.setattr(certificate, "trainer_loss", lambda *_: torch.nan)
    (sentence, *_) = certificate.broken(certificate.certify([FEW[0], {**FEW[0], "lora_rank": 4}], 3))
    assert sentence.startswith("max_step_relative: ")
