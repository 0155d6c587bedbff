"""The frozen base model, its tokenizer, and the LoRA adapters that go on it and off again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.nn import Linear, Module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from bbo.errors import InputError
from blackbox.settings import ModelSettings, Training

WEIGHTS = "*.safetensors"
FILES = (WEIGHTS, "*.json", "*.jinja", "*.model", "*.txt")


def find_model(settings: ModelSettings, base: Path) -> Path:
    """The folder with the model's files, downloaded first where it is a hub id.

    Raises InputError with one sentence: what is missing, or where to ask for access and how to download.
    """
    found = settings.resolved(base)
    folder = Path(found) if Path(found).is_absolute() else _download(found, settings.revision)
    if not folder.is_dir():
        raise InputError(f"model.path: no such folder: {folder}")
    if not (folder / "config.json").is_file():
        raise InputError(f"model.path: no config.json in {folder}: not a model in Hugging Face's format")
    if not any(folder.glob(WEIGHTS)):
        raise InputError(
            f"model.path: no *.safetensors in {folder} (other weight formats can run code and are not read)"
        )
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model.path: no tokenizer could be read from {folder}: {_first_line(error)}") from None
    return tokenizer


def load_model(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """The base model on the CPU, frozen, in evaluation mode."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            config=_without_dropout(AutoConfig.from_pretrained(folder, trust_remote_code=False)),
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"model.path: {folder} cannot be loaded: {_first_line(error)}") from None
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise InputError(f"model.path: damaged weights in {folder}: {_first_line(error)}") from None
        raise
    model.requires_grad_(False)
    return model.eval()


def _without_dropout(config: Any) -> Any:
    """GPT-2, say, brings dropout of its own: drawn for all rows together, it would tie a point to its companions."""
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if "drop" in name and isinstance(value, int | float):
                setattr(part, name, 0.0)
    return config


def attach(model: PreTrainedModel, trainings: Mapping[str, Training]) -> PeftModel:
    """Put fresh LoRA adapters on the base model, by name. Raises InputError naming the modules that there are."""
    configs = {name: _lora_config(model, training) for name, training in trainings.items()}
    (first, config), *others = configs.items()
    try:
        torch.manual_seed(trainings[first].seed)  # each adapter starts as it would alone
        adapted = get_peft_model(model, config, adapter_name=first)
        for name, other in others:
            torch.manual_seed(trainings[name].seed)
            adapted.add_adapter(name, other)
    except ValueError as error:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, LoraLayer):
                model.set_submodule(name, layer.get_base_layer())
        known = ", ".join(linear_names(model))
        if any(training.target_modules is None for training in trainings.values()):
            raise InputError(f"training.target_modules: PEFT has no default for this model, it has {known}") from None
        raise InputError(f"training.target_modules: {_first_line(error)}") from None
    tuner: Any = adapted.base_model
    tuner.set_adapter(list(trainings))
    return adapted


def _lora_config(model: PreTrainedModel, training: Training) -> LoraConfig:
    targets, alpha = training.target_modules, training.lora_alpha
    missing = [] if isinstance(targets, str | None) else [name for name in targets if not _matches(model, name)]
    if missing:
        known = ", ".join(linear_names(model))
        raise InputError(f"training.target_modules: the model has no {', '.join(missing)}, it has {known}")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=training.lora_rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]  # a scale, any number works
        lora_dropout=training.lora_dropout,
        use_rslora=training.use_rslora,
        target_modules=list(targets) if isinstance(targets, tuple) else targets,
        bias="none",
    )


@contextmanager
def with_adapters(model: PreTrainedModel, folders: Mapping[str, Path]) -> Iterator[PeftModel]:
    """Saved adapters on the base model, by name, in evaluation mode; taken off again at the end."""
    (first, folder), *others = folders.items()
    adapted = PeftModel.from_pretrained(model, folder, adapter_name=first)
    try:
        for name, other in others:
            adapted.load_adapter(other, adapter_name=name)
        yield adapted.eval()
    finally:
        detach(adapted)


def detach(model: PeftModel) -> PreTrainedModel:
    """Take the adapter off: the base model as it was."""
    base: PreTrainedModel = model.unload()
    return base


def linear_names(model: Module) -> list[str]:
    """Last parts of the names of all linear layers (GPT-2's are Conv1D): what `target_modules` may list."""
    return sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)}
    )


def _matches(model: Module, target: str) -> bool:
    return any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules())


def _download(repository: str, revision: str | None) -> Path:
    """The hub model's folder in the local cache, brought up to date where the hub can be reached."""
    command = f"`hf download {repository}`"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError:
        raise InputError(
            f"model.path: {repository} is gated: ask for access at https://huggingface.co/{repository}, then set "
            f"HF_TOKEN to a token of your account (or run `hf auth login`) and run {command}"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"model.path: no model {repository} on the hub and no such folder; if it is private, set HF_TOKEN to a "
            f"token that may read it, then run {command}"
        ) from None
    except HFValidationError:
        raise InputError(f"model.path: {repository!r} is neither a folder nor a hub id such as org/name") from None
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"model.path: {repository} is not in the local cache and the hub cannot be reached: run {command} where "
            f"there is a network (gated models need HF_TOKEN too): {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
