"""The training loop of a pack: epochs, optimizer steps, validations.

A step's loss is the mean over its label tokens, however the step is cut into processes and passes. Every member has its
own rows, loss, clipping, optimizer and schedule, so that its result does not depend on its companions; whoever leaves
(a loss that is not finite, time over, stopped early) is not computed any more.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn import CrossEntropyLoss

from bbo.errors import InputError
from bbo.stopping import Judge
from bbo.store import write_json
from blackbox import state
from blackbox.data import by_length, deal, epoch_steps, label_tokens
from blackbox.labels import constant_answer
from blackbox.member import Member
from blackbox.outcome import Ended
from blackbox.pack import Pack
from blackbox.setup import Setup

CHECK_STEPS = 10
"""Steps between two looks at the losses: looking makes a GPU wait, and all processes must look together."""

SHOW_SECONDS = 2.0


def fit(setup: Setup, pack: Pack, members: Sequence[Member]) -> None:
    """Train the members, which agree in batch, length and what is behind them, until each is through or has ended."""
    if members:
        Fit(setup, pack, members).run()


class Fit:
    """One training of a pack, under way."""

    def __init__(self, setup: Setup, pack: Pack, members: Sequence[Member]) -> None:
        training = members[0].training
        self.setup = setup
        self.pack = pack
        self.members = list(members)
        """Those that are still in."""
        self.size = training.batch(setup.accelerator.num_processes).size
        self.micro = training.per_device_eval_batch_size
        self.steps = members[0].steps
        self._marked = time.monotonic()

    @property
    def step(self) -> int:
        """Steps behind all members."""
        return self.members[0].counts.steps

    def run(self) -> None:
        self.pack.model.train()
        self._marked = time.monotonic()
        if self.step:
            self._stop(Judge.rule)  # a process that was killed may not have asked
        while self.members and self.step < self.steps:
            self._epoch()
            if self.members:
                self._validate()
            for member in self.members:
                member.epoch += 1
                if self.step < self.steps or self.setup.keep_state:
                    state.capture(self.setup, member)
            self._stop(Judge.verdict)

    def _epoch(self) -> None:
        setup, shown, first = self.setup, time.monotonic(), self.step
        orders = {m.name: epoch_steps(setup.data.train, self.size, m.training.seed, m.data_epoch) for m in self.members}
        begin = (self.members[0].behind + first) % self.members[0].per_epoch  # an interval may begin within an epoch
        for number in range(begin, min(self.members[0].per_epoch, begin + self.steps - first)):
            optimizer_step(setup, self.pack, self.members, [orders[m.name][number] for m in self.members])
            if self.step % CHECK_STEPS == 0 or (setup.accelerator.num_processes == 1 and any(self._late())):
                self._look()
                if not self.members:
                    return
            if time.monotonic() - shown > SHOW_SECONDS and setup.accelerator.is_main_process:
                shown = time.monotonic()
                for member in self.members:
                    member.evaluation.progress({"step": self.step, "steps": self.steps})
        self._look()
        for member in self.members:
            member.train_loss += member.epoch_loss
            member.epoch_loss /= self.step - first
            member.loss.zero_()

    def _look(self) -> None:
        """See how the epoch's losses stand, over all processes; who has failed leaves."""
        late = torch.tensor(self._late(), dtype=torch.float64, device=self.members[0].loss.device)
        seen = torch.stack([torch.stack([member.loss for member in self.members]), late])
        losses, late_processes = self.setup.accelerator.reduce(seen, "sum").tolist()
        share, step = self._share(), self.step
        for member, loss, is_late in zip(self.members, losses, late_processes, strict=True):
            member.train_seconds += share
            member.epoch_loss = loss
            if not math.isfinite(loss):
                member.ended = Ended(reason=f"training loss is {loss} by step {step} of {self.steps}")
            elif is_late:
                limit = f"resources.time_limit {self.setup.time_limit:g} s"
                member.ended = Ended(reason=f"took longer than {limit}, at step {step} of {self.steps}")
        self._leave()

    def _validate(self) -> None:
        setup, step = self.setup, self.step
        found = validations(setup, self.pack, [member.name for member in self.members], self.micro)
        share = self._share()
        most = max(map(len, validation_passes(setup, self.micro)))
        for member, (loss, metrics) in zip(self.members, found, strict=True):
            member.eval_loss, member.metrics, member.eval_runtime = loss, metrics, share
            member.score_seconds += share
            member.counts.eval_rows = most
            if not math.isfinite(loss):
                member.ended = Ended(reason=f"validation loss is {loss} after step {step} of {self.steps}")
            elif setup.accelerator.is_main_process:
                epoch = (member.behind + step) / member.per_epoch
                if setup.says:
                    where = f"{member.evaluation.key}: epoch {epoch:g}, step {step} of {self.steps}"
                    losses = f"eval_loss {loss:.5g}, train_loss {member.epoch_loss:.5g}"
                    print(f"{where}: {losses}", file=sys.stderr, flush=True)
                member.evaluation.progress(
                    {
                        "epoch": epoch,
                        "step": step,
                        "steps": self.steps,
                        "eval_loss": loss,
                        **metrics,
                        "train_loss": member.epoch_loss,
                        "learning_rate": member.rate,
                        "seconds": member.train_seconds + member.score_seconds,
                    }
                )
        self._leave()

    def _stop(self, ask: Callable[[Judge], str | None]) -> None:
        """Who was asked to stop, or is stopped by the run's rule, leaves; not after the last epoch."""
        if not self.members or self.step >= self.steps:
            return
        accelerator = self.setup.accelerator
        verdicts = [ask(member.judge) if accelerator.is_main_process else None for member in self.members]
        stop = torch.tensor([verdict is not None for verdict in verdicts], device=accelerator.device).long()
        for member, verdict, stops in zip(self.members, verdicts, accelerator.reduce(stop, "sum"), strict=True):
            if stops:
                member.ended = Ended(reason=verdict, stopped=True)
        self._leave()

    def _late(self) -> list[bool]:
        """Which members have used up their time; in a pack each counts its share."""
        limit = math.inf if self.setup.time_limit is None else self.setup.time_limit
        now = (time.monotonic() - self._marked) / len(self.members)
        return [member.train_seconds + member.score_seconds + now > limit for member in self.members]

    def _share(self) -> float:
        """Seconds since the last call, per member."""
        before, self._marked = self._marked, time.monotonic()
        return (self._marked - before) / len(self.members)

    def _leave(self) -> None:
        self.members = [member for member in self.members if member.ended is None]


def optimizer_step(setup: Setup, pack: Pack, members: Sequence[Member], rows: Sequence[Sequence[int]]) -> None:
    """One step of every member over its rows, equally many for all."""
    accelerator, examples = setup.accelerator, setup.data.train
    processes = accelerator.num_processes
    micro = members[0].training.batch(processes).micro
    tokens = [label_tokens(examples[row] for row in mine) for mine in rows]
    dealt = [deal(mine, micro, processes, accelerator.process_index) for mine in rows]
    passes = list(zip(*dealt, strict=True))
    for number, parts in enumerate(passes, 1):
        # Gradients are exchanged in the last pass.
        with nullcontext() if number == len(passes) else accelerator.no_sync(pack.model):
            backward(setup, pack, members, parts, tokens)
    for member, mine in zip(members, dealt, strict=True):
        if member.clip is not None:
            member.clip()
        member.rate = member.optimizer.param_groups[0]["lr"]
        member.optimizer.step()
        member.scheduler.step()
        member.optimizer.zero_grad()
        if sum(map(len, mine)) > member.counts.rows:  # the last step of an epoch may be a smaller one
            member.counts.rows, member.counts.passes = sum(map(len, mine)), len(mine)
        member.counts.steps += 1


def backward(
    setup: Setup, pack: Pack, members: Sequence[Member], rows: Sequence[Sequence[int]], tokens: Sequence[int]
) -> None:
    """One pass forward and back over these rows of each member, whose steps have so many label tokens."""
    names = [member.name for member in members]
    layout = pack.lay_out(setup.data.train, rows, names)
    logits = pack.logits(layout, names).split([end - first for first, end in layout.labels])
    targets = [layout.targets[first:end] for first, end in layout.labels]
    sums = [member.criterion(*both) for member, *both in zip(members, logits, targets, strict=True)]
    losses = [loss / count for loss, count in zip(sums, tokens, strict=True)]
    # Between processes gradients are averaged; our loss is a sum over them.
    setup.accelerator.backward(torch.stack(losses).sum() * setup.accelerator.num_processes)
    for member, loss, mine in zip(members, losses, rows, strict=True):
        member.loss += loss.detach()
        member.counts.micro = max(member.counts.micro, len(mine))


@torch.no_grad()
def validations(setup: Setup, pack: Pack, names: Sequence[str], micro: int) -> list[tuple[float, Mapping[str, float]]]:
    """For each member the mean loss of the labels of the validation side, without label smoothing and dropout.

    With it, of classifiers, where it is the log loss: `accuracy`, the share of rows whose likeliest class is theirs.
    Without names: of the untouched base model, one entry.
    """
    accelerator, examples = setup.accelerator, setup.data.valid
    plain = CrossEntropyLoss(reduction="sum")
    count = max(1, len(names))
    losses, right = totals = torch.zeros(2, count, dtype=torch.float64, device=accelerator.device)
    pack.model.eval()
    for rows in validation_passes(setup, micro):
        layout = pack.lay_out(examples, [rows] * count, names)
        logits = pack.logits(layout, names)
        for place, (first, end) in enumerate(layout.labels):
            losses[place] += plain(logits[first:end], layout.targets[first:end])
            if pack.heads:
                right[place] += (logits[first:end].argmax(-1) == layout.targets[first:end]).sum()
    pack.model.train()
    labels = label_tokens(examples)
    found = zip(*accelerator.reduce(totals, "sum").tolist(), strict=True)
    return [(loss / labels, {"accuracy": hits / labels} if pack.heads else {}) for loss, hits in found]


def validation_passes(setup: Setup, micro: int) -> list[list[int]]:
    """The rows of each of this process's passes over the validation side."""
    examples, accelerator = setup.data.valid, setup.accelerator
    order = by_length(examples, range(len(examples)))
    return deal(order, micro, accelerator.num_processes, accelerator.process_index)


def score_base(setup: Setup, pack: Pack, micro: int, file: Path) -> None:
    """Write the validation loss of the base model, without any adapter.

    Of a classifier, whose head would be a random one: of the best answer that is the same for every row.
    """
    ((loss, metrics),) = [constant_answer(setup.data.valid)] if pack.heads else validations(setup, pack, [], micro)
    if not math.isfinite(loss):
        raise InputError(
            f"model: the validation loss of the untouched base model is {loss}: try dtype bfloat16 or float32"
        )
    if setup.accelerator.is_main_process:
        write_json(file, {"eval_loss": loss, **metrics})
