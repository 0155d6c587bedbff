"""The frozen base model, its tokenizer, and the LoRA adapters that go on it and off again."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.nn import Linear, Module
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging
from transformers.utils.import_utils import is_bitsandbytes_available

from bbo.errors import InputError
from blackbox import heads
from blackbox.data import Example
from blackbox.labels import padding_token
from blackbox.remote import MODEL_FILES
from blackbox.settings import ClassificationSettings, ModelSettings, Settings, Training

WEIGHTS = "*.safetensors"


def find_model(settings: ModelSettings, base: Path) -> Path:
    """The folder with the model's files, downloaded first where it is a hub id or a URL.

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
    """The base model on the CPU (quantized: on the GPU), frozen, in evaluation mode."""
    model, _ = _load(folder, settings, AutoModelForCausalLM, {})
    return model


def load_classifier(folder: Path, settings: ModelSettings, num_labels: int, pad_token_id: int) -> PreTrainedModel:
    """The same with a head for so many classes in the place of the language model's."""
    about = {"num_labels": num_labels, "pad_token_id": pad_token_id}
    model, info = _load(folder, settings, AutoModelForSequenceClassification, about)
    if not any(hasattr(model, name) for name in heads.NAMES):
        raise InputError(f"model.path: {type(model).__name__} has no head that PEFT would train ({heads.NAMES})")
    heads.mark_fresh(model, [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    return model


def load_for(settings: Settings, folder: Path, tokenizer: Any) -> PreTrainedModel:
    """The base model of the experiment's task."""
    if isinstance(settings.data, ClassificationSettings):
        return load_classifier(folder, settings.model, settings.data.num_labels, padding_token(tokenizer))
    return load_model(folder, settings.loaded)


def check_length(model: Any, examples: Iterable[Example]) -> None:
    """Raise InputError for rows that a model with a table of positions (BERT's has 512) would stop at."""
    table = getattr(model.config, "max_position_embeddings", math.inf)
    longest = max(len(example.tokens) for example in examples)
    if longest > table:
        raise InputError(f"data.max_length: the longest row has {longest} tokens, the model takes {table}")


def _load(folder: Path, settings: ModelSettings, kind: Any, about: Mapping[str, Any]) -> tuple[PreTrainedModel, Any]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder,
            config=_without_dropout(AutoConfig.from_pretrained(folder, trust_remote_code=False, **about)),
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=bool(about),  # another head than the one we want
            **_quantized(settings),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"model.path: {folder} cannot be loaded: {_first_line(error)}") from None
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise InputError(f"model.path: damaged weights in {folder}: {_first_line(error)}") from None
        raise
    model.requires_grad_(False)
    return model.eval(), info


def _quantized(settings: ModelSettings) -> dict[str, Any]:
    """How the weights become 4-bit numbers while they are loaded. Raises InputError where they cannot."""
    if settings.quantization is None:
        return {}
    if not torch.cuda.is_available():
        raise InputError("model.quantization: nf4 needs an NVIDIA GPU, and torch sees none here: leave it out")
    if not is_bitsandbytes_available():
        raise InputError("model.quantization: nf4 needs bitsandbytes: `pip install bitsandbytes`")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        llm_int8_skip_modules=["lm_head", *heads.NAMES],
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


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
        heads.draw(model, adapted, first)
        for name, other in others:
            torch.manual_seed(trainings[name].seed)
            adapted.add_adapter(name, other)
            heads.draw(model, adapted, name)
    except ValueError as error:
        heads.take_off(model)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, LoraLayer):
                model.set_submodule(name, layer.get_base_layer())
        known = ", ".join(linear_names(model))
        if any(training.target_modules is None for training in trainings.values()):
            raise InputError(f"training.target_modules: PEFT has no default for this model, it has {known}") from None
        raise InputError(f"training.target_modules: {_first_line(error)}") from None
    tuner: Any = adapted.base_model
    if heads.is_classifier(model):
        heads.activate(adapted, list(trainings))
    else:
        tuner.set_adapter(list(trainings))
    return adapted


def _lora_config(model: PreTrainedModel, training: Training) -> LoraConfig:
    targets, alpha = training.target_modules, training.lora_alpha
    missing = [] if isinstance(targets, str | None) else [name for name in targets if not _matches(model, name)]
    if missing:
        known = ", ".join(linear_names(model))
        raise InputError(f"training.target_modules: the model has no {', '.join(missing)}, it has {known}")
    classifies = heads.is_classifier(model)
    whole = [name for name in targets or () if name in heads.NAMES] if classifies and targets != "all-linear" else []
    if whole:
        raise InputError(f"training.target_modules: {', '.join(whole)} is the head, which is trained whole")
    return LoraConfig(
        task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
        modules_to_save=(heads.modules_to_save(model) or None) if classifies else None,
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
    heads.take_off(model)
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
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(MODEL_FILES)))
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
