"""What all points of a job share: the frozen base model, the data as tokens, and Accelerate."""

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from bbo.errors import InputError
from bbo.experiment import Experiment
from blackbox.data import Data, load_data, part_of
from blackbox.hyperparameters import at_fidelity
from blackbox.launch import refuse_own_optimizer
from blackbox.model import find_model, load_model, load_tokenizer
from blackbox.settings import Training, read_settings


@dataclass
class Setup:
    """What all points of a job share; a resident worker keeps it from job to job."""

    accelerator: Accelerator
    base: Any
    data: Data
    tokenizer: Any = None
    """For the benchmarks."""
    time_limit: float | None = None
    """Seconds that an evaluation may take."""
    keep_state: bool = False
    """Whether states are captured after the last epoch too, and kept."""

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
    accelerator = start_accelerator()
    with accelerator.main_process_first():  # so that one process downloads
        folder = find_model(settings.model, settings.base)
    tokenizer = load_tokenizer(folder)
    data = load_data(settings.data, settings.base, tokenizer)
    setup = Setup(accelerator, load_model(folder, settings.model), data, tokenizer)
    if not setup.sharded:  # else each process gets its part only
        setup.base = setup.base.to(accelerator.device)
    gc.freeze()  # all this stays: later collections, one after each pack, need not look at it
    return setup


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
