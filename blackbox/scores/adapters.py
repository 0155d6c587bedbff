"""Which adapter of a PeftModel speaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel


@contextmanager
def active(model: PeftModel, name: str | None) -> Iterator[None]:
    """This adapter alone, or none."""
    if name is None:
        with model.disable_adapter():
            yield
    else:
        tuner: Any = model.base_model
        tuner.set_adapter(name, inference_mode=True)
        yield


@contextmanager
def unchanged(model: PeftModel) -> Iterator[None]:
    """Afterwards the same adapters are active and the same parameters train."""
    tuner: Any = model.base_model
    names, trained = tuner.active_adapter, [parameter.requires_grad for parameter in model.parameters()]
    try:
        yield
    finally:
        tuner.set_adapter(names)
        for parameter, was in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(was)
