"""A member of a pack: one point's adapter with its own optimizer, schedule, loss, data order and dropout."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributed.tensor import DTensor
from torch.nn import CrossEntropyLoss, Parameter
from transformers.optimization import get_scheduler

from bbo.stopping import Judge
from bbo.store import Evaluation, write_json
from blackbox import applied
from blackbox.applied import Counts
from blackbox.full import pack_of, save_model
from blackbox.outcome import Ended, PointFailed
from blackbox.pack import Pack
from blackbox.settings import Training
from blackbox.setup import Setup


@dataclass
class Member:
    """One adapter in training, with all that acts on it and what has come of it so far."""

    name: str
    training: Training
    evaluation: Evaluation
    parameters: Mapping[str, Parameter]
    generator: Generator
    optimizer: Any
    scheduler: Any
    whole: int
    """Steps of its schedule, from beginning to end."""
    per_epoch: int
    """Steps of one pass over the data."""
    criterion: CrossEntropyLoss
    clip: Callable[[], Any] | None
    counts: Counts
    judge: Judge
    loss: Tensor
    """Sum of this epoch's step losses, this process's part, on the device."""
    rate: float = 0.0
    """Learning rate of the last step."""
    epoch: int = 0
    """Epochs behind it."""
    first_epoch: int = 0
    """Epochs that its ancestors had behind them when its schedule began: the data order goes on from there."""
    share: float = 1.0
    """Of its schedule: what it trains. Below 1 it is an interval."""
    share_behind: float = 0.0
    """Of its schedule: what its ancestors have behind them."""
    train_loss: float = 0.0
    """Sum of the step losses of all its epochs."""
    epoch_loss: float = 0.0
    """Of the last one: the sum while it lasts, then the mean."""
    eval_loss: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What else the last validation measured: a classifier's accuracy."""
    train_seconds: float = 0.0
    """Its share of the pack's time; so are the next two."""
    score_seconds: float = 0.0
    eval_runtime: float = 0.0
    """Of the last validation."""
    ended: Ended | None = None

    @property
    def data_epoch(self) -> int:
        """The epoch whose data order comes next."""
        return self.first_epoch + (self.behind + self.counts.steps) // self.per_epoch

    @property
    def behind(self) -> int:
        """Steps of its schedule that its ancestors took."""
        return round(self.share_behind * self.whole)

    @property
    def steps(self) -> int:
        """Steps that it has to take itself."""
        return round((self.share_behind + self.share) * self.whole) - self.behind


@contextmanager
def members_of(
    setup: Setup, trainings: Sequence[Training], evaluations: Sequence[Evaluation]
) -> Iterator[tuple[Pack, list[Member]]]:
    """Fresh adapters on the base model, ready to train; taken off again at the end, however it ends."""
    accelerator = setup.accelerator
    pack = pack_of(setup, trainings)
    checkpointing = trainings[0].gradient_checkpointing
    try:
        if checkpointing:
            generators = list(pack.generators.values())
            options = {"use_reentrant": False, "context_fn": partial(_drawing_the_same, generators)}
            pack.adapted.activation_checkpointing_enable(options)
        optimizers = [
            torch.optim.AdamW(
                pack.groups(name),
                lr=training.learning_rate,
                betas=(training.adam_beta1, training.adam_beta2),
                eps=training.adam_epsilon,
                weight_decay=training.weight_decay,
                fused=True,
            )
            for name, training in zip(pack.names, trainings, strict=True)
        ]
        pack.model, *optimizers = accelerator.prepare(pack.adapted, *optimizers)
        yield (
            pack,
            [_member(setup, pack, *each) for each in zip(pack.names, trainings, evaluations, optimizers, strict=True)],
        )
    finally:
        if checkpointing:
            pack.adapted.activation_checkpointing_disable()
        setup.base = pack.close()


def _member(setup: Setup, pack: Pack, name: str, training: Training, evaluation: Evaluation, optimizer: Any) -> Member:
    accelerator = setup.accelerator
    steps = training.steps(len(setup.data.train), accelerator.num_processes)
    scheduler = get_scheduler(
        training.lr_scheduler_type, optimizer.optimizer, training.warmup(steps), num_training_steps=steps
    )
    parameters = pack.parameters(name)
    clip = partial(accelerator.clip_grad_norm_, list(parameters.values()), max_norm=training.max_grad_norm)
    return Member(
        name=name,
        training=training,
        evaluation=evaluation,
        parameters=parameters,
        # Dropout differs between processes, which have different rows.
        generator=pack.generators[name].manual_seed((training.seed + accelerator.process_index) % 2**63),
        optimizer=optimizer,
        scheduler=scheduler,
        whole=steps,
        per_epoch=training.steps_per_epoch(len(setup.data.train), accelerator.num_processes),
        criterion=CrossEntropyLoss(reduction="sum", label_smoothing=training.label_smoothing_factor),
        clip=clip if training.max_grad_norm else None,
        judge=Judge(None, evaluation),
        counts=Counts(seed=(pack.generators[name].initial_seed() - accelerator.process_index) % 2**63),
        loss=torch.zeros((), dtype=torch.float64, device=accelerator.device),
    )


def require_static(setup: Setup, pack: Pack, member: Member, wanted: Training) -> None:
    """Raise PointFailed where adapter, optimizer or schedule hold something else than is wanted."""
    held = _read_static(setup, pack, member, wanted)
    proposed = _proposed(setup, wanted)
    _require({name: value for name, value in proposed.items() if name in held}, held)


def finish(setup: Setup, pack: Pack, member: Member, wanted: Training) -> None:
    """Show that what was applied is what was wanted, and save the adapter or the model. Raises PointFailed."""
    counts = shared_counts(setup, member.counts)
    used = _read_static(setup, pack, member, wanted)
    used |= applied.read_loop(member.criterion, member.clip, counts, member.per_epoch)
    proposed = _proposed(setup, wanted) | {"num_train_epochs": member.steps / member.per_epoch}
    if member.share < 1:
        proposed["epochs_behind"] = member.behind / member.per_epoch
        used["epochs_behind"] = (member.scheduler.last_epoch - counts.steps) / member.per_epoch
    if setup.accelerator.is_main_process:
        write_json(member.evaluation.applied_file, used)
    _require(proposed, used)
    if wanted.method == "lora":
        save_adapter(setup, pack, member)
    elif setup.accelerator.is_main_process:
        save_model(pack.adapted, setup.tokenizer, member.evaluation.model)


def save_adapter(setup: Setup, pack: Pack, member: Member) -> None:
    """Save in PEFT's format: whole under its name, or not there."""
    state = {
        name: parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        for name, parameter in pack.adapted.named_parameters()
        if f".{member.name}." in name
    }
    if not setup.accelerator.is_main_process:
        return
    folder = member.evaluation.adapter
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    pack.adapted.save_pretrained(
        str(temporary), selected_adapters=[member.name], state_dict=state, save_embedding_layers=False
    )
    shutil.rmtree(folder, ignore_errors=True)
    (temporary / member.name).rename(folder)
    shutil.rmtree(temporary)


def _proposed(setup: Setup, wanted: Training) -> dict[str, Any]:
    rows, valid_rows = len(setup.data.train), len(setup.data.valid)
    return applied.expected(wanted, rows, valid_rows, setup.accelerator.num_processes)


def _steps_per_epoch(setup: Setup, wanted: Training) -> int:
    return wanted.steps_per_epoch(len(setup.data.train), setup.accelerator.num_processes)


def _read_static(setup: Setup, pack: Pack, member: Member, wanted: Training) -> dict[str, Any]:
    """What adapter or model, optimizer and schedule hold right now."""
    if wanted.method == "full":
        held = applied.read_model(pack.adapted, member.optimizer)
    else:
        held = applied.read_adapter(pack.adapted, member.name, wanted)
    return held | applied.read_optimizer(member.optimizer, member.scheduler, _steps_per_epoch(setup, wanted))


def shared_counts(setup: Setup, mine: Counts) -> Counts:
    """The loop's counts over all processes."""
    numbers = torch.tensor([[mine.rows, mine.micro, mine.eval_rows]], device=setup.accelerator.device)
    rows, micro, eval_rows = zip(*setup.accelerator.gather(numbers).tolist(), strict=True)
    return replace(mine, rows=sum(rows), micro=max(micro), eval_rows=max(eval_rows))


def _require(proposed: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    wrong = applied.differences(proposed, used)
    if wrong:
        raise PointFailed("applied differs from proposed: " + "; ".join(wrong))


def _drawing_the_same(
    generators: Sequence[Generator],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For torch's checkpointing, which computes a layer twice: the second time with the dropout of the first."""
    before: list[Tensor] = []

    @contextmanager
    def first() -> Iterator[None]:
        before[:] = [generator.get_state() for generator in generators]
        yield

    @contextmanager
    def again() -> Iterator[None]:
        now = [generator.get_state() for generator in generators]
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        try:
            yield
        finally:  # torch leaves by an exception as soon as it has what it needs
            for generator, state in zip(generators, now, strict=True):
                generator.set_state(state)

    return first(), again()
