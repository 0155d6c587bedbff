"""What all points of a job share: the frozen base model, the data as tokens, and Accelerate."""

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from bbo.errors import InputError
from bbo.experiment import Experiment
from blackbox import labels
from blackbox.data import Data, find_leak, load_data, part_of, read_texts, tokenize
from blackbox.hyperparameters import at_fidelity
from blackbox.launch import refuse_own_optimizer
from blackbox.model import find_model, load_for, load_tokenizer
from blackbox.settings import ClassificationSettings, DataSettings, Settings, Training, read_settings


@dataclass
class Setup:
    """What all points of a job share; a resident worker keeps it from job to job."""

    accelerator: Accelerator
    base: Any
    data: Data
    tokenizer: Any = None
    """For the benchmarks."""
    dtype: str = "float32"
    """In which all weights are trained, under method full."""
    time_limit: float | None = None
    """Seconds that an evaluation may take."""
    keep_state: bool = False
    """Whether states are captured after the last epoch too, and kept."""
    says: bool = False
    """Whether each epoch's losses are printed, for the log of a job."""

    @property
    def sharded(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    def at(self, fidelity: Mapping[str, float]) -> "Setup":
        """The same model and processes, with the training rows that a fidelity leaves."""
        fraction = fidelity.get("train_fraction", 1.0)
        return replace(self, data=replace(self.data, train=part_of(self.data.train, fraction)))

    def on_all_rows(self) -> "Setup":
        """The same, the validation side being trained on too: its loss says nothing any more."""
        return replace(self, data=replace(self.data, train=[*self.data.train, *self.data.valid]))


def load(experiment: Experiment) -> Setup:
    """Start Accelerate, load base model and data. Raises InputError."""
    settings = read_settings(experiment)
    quantized = settings.model.quantization is not None
    accelerator = start_accelerator()
    if accelerator.distributed_type == DistributedType.FSDP and (quantized or settings.task == "classification"):
        what = "model.quantization: FSDP cannot shard 4-bit weights" if quantized else "task: FSDP shards no classifier"
        raise InputError(f"{what}: leave it out of accelerate's configuration, DDP is offered")
    with accelerator.main_process_first():  # so that one process downloads
        folder = find_model(settings.model, settings.base)
    tokenizer = load_tokenizer(folder)
    data = data_for(settings, tokenizer)
    setup = Setup(accelerator, load_for(settings, folder, tokenizer), data, tokenizer, settings.model.dtype)
    # Of a sharded model each process gets its part only; of one whose copies are trained the GPU has no need.
    if not setup.sharded and not quantized and settings.training.method == "lora":
        setup.base = setup.base.to(accelerator.device)
    gc.freeze()  # all this stays: later collections, one after each pack, need not look at it
    return setup


def data_for(settings: Settings, tokenizer: Any) -> Data:
    """Both sides of the experiment's task. Raises InputError."""
    if isinstance(settings.data, ClassificationSettings):
        return labels.load_data(settings.data, settings.base, tokenizer)
    assert isinstance(settings.data, DataSettings)
    return load_data(settings.data, settings.base, tokenizer)


def examine_for(settings: Settings, tokenizer: Any) -> tuple[Data, dict[str, Any]]:
    """The same, and what a preflight reports of it. Raises InputError for rows on both sides too."""
    if isinstance(settings.data, ClassificationSettings):
        return labels.examine(settings.data, settings.base, tokenizer)
    assert isinstance(settings.data, DataSettings)
    return _examine(settings.data, settings.base, tokenizer)


def _examine(settings: DataSettings, base: Path, tokenizer: Any) -> tuple[Data, dict[str, Any]]:
    """Instruction data, and what to report of it. Raises InputError for rows on both sides too."""
    texts = read_texts(settings, base, tokenizer)
    leak = find_leak(texts)
    if leak.shared and not settings.allow_leak:
        raise InputError(
            f"data.valid: {len(leak.shared)} of {len(texts.valid)} validation rows are training rows too (row "
            f"{', '.join(map(str, leak.shared[:5]))}{' ...' if len(leak.shared) > 5 else ''}): the loss would flatter; "
            "remove them, or set data.allow_leak: true"
        )
    train = tokenize(texts.train, tokenizer, settings.max_length, "data.train")
    valid = tokenize(texts.valid, tokenizer, settings.max_length, "data.valid")
    return Data(train, valid, texts.dropped), {
        "train_rows": len(texts.train),
        "valid_rows": len(texts.valid),
        "dropped_rows": texts.dropped,
        "rows_on_both_sides": len(leak.shared),
        "repeats": {"train": leak.repeats_train, "valid": leak.repeats_valid},
    }


def trainings_of(job: Mapping[str, Any], experiment: Experiment, processes: int) -> list[Training]:
    """The settings of each point of a job, of an interval those of the whole. Raises InputError."""
    settings = read_settings(experiment)
    trainings = []
    for item in job["evaluations"]:
        training = settings.training_for(item["hyperparameters"])
        trainings.append(training if share_of(item) < 1 else at_fidelity(training, item["fidelity"]))
    assert processes == 1 or len(trainings) == 1, "a job of several processes holds one point"
    for training in trainings:
        training.batch(processes)
    return trainings


def share_of(item: Mapping[str, Any]) -> float:
    """What an entry of a job trains of its schedule: below 1 for an interval, which has parent or children."""
    return 1.0 if item.get("parent") is None else float(item["fidelity"].get("epochs_fraction", 1.0))


def start_accelerator() -> Accelerator:
    """Accelerate as the launcher's environment configures it. Raises InputError for what would overrule a point."""
    accelerator = Accelerator()
    state = accelerator.state
    if state.deepspeed_plugin is not None:
        refuse_own_optimizer(state.deepspeed_plugin.deepspeed_config, "DeepSpeed's configuration")
        raise InputError("accelerate: distributed_type DEEPSPEED is not offered, FSDP (fsdp_version 2) shards too")
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wanted and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate turns FSDP on for GPUs alone, though all that it calls works on CPUs, where we test it.
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = DistributedType.FSDP
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError("accelerate: fsdp_config.fsdp_version must be 2")
    return accelerator
