"""Train and score a job: `accelerate launch -m blackbox.train JOB.json`, its points in packs over one base model.

Each result is recorded as soon as its training is over; the benchmarks come after.

What a point does wrong itself is recorded as its failed result; anything else ends the process, and `failure_file(JOB)`
says why, since exit statuses do not survive `accelerate launch`.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bbo import lifeline
from bbo.errors import InputError
from bbo.executors.protocol import INPUT_REFUSED, LAUNCHED, MACHINE_FAILED, RESTARTED
from bbo.experiment import read_experiment
from bbo.stopping import Asked, Judge
from bbo.store import Evaluation
from blackbox import state
from blackbox.failure import failure_file, write_failure
from blackbox.fit import fit, score_base
from blackbox.member import Member, finish, members_of, require_static
from blackbox.outcome import Ended, Phases, PointFailed, failed, make_result, peak_gib, reset_peak
from blackbox.pack import Pack
from blackbox.planner import alike, evenly, most_members, shape_of
from blackbox.scores.live import score_job
from blackbox.settings import Training
from blackbox.setup import Setup, load, share_of, trainings_of
from blackbox.trackers import report


@dataclass(frozen=True)
class Entry:
    """One evaluation of a job."""

    item: Mapping[str, Any]
    training: Training
    evaluation: Evaluation

    @property
    def parent(self) -> Path | None:
        """The captured state that it starts from."""
        return None if self.item.get("state") is None else Path(self.item["state"])

    @property
    def is_over(self) -> bool:
        """Whether an earlier start of this very job, by a cluster, has brought it to its end."""
        ended = self.evaluation.result() or self.evaluation.stopped()
        return RESTARTED in os.environ and ended is not None

    @property
    def judge(self) -> Judge:
        """Who says when to leave it, for those who asked for it."""
        asked = self.item.get("asked")
        return Judge(None if asked is None else Asked(**asked), self.evaluation)


def main() -> int:
    """Exit status 0: every evaluation has a result, or was stopped; 1: bad input; 75: the machine's failure."""
    lifeline.watch()
    status, setup = attempt(Path(sys.argv[1]))
    if setup is not None:
        setup.accelerator.end_training()
    return status


def attempt(job_file: Path, setup: Setup | None = None) -> tuple[int, Setup | None]:
    """`run` with its exit status, the reason of a failure noted, and what is loaded and good for the next job."""
    try:
        return 0, run(job_file, setup)
    except InputError as error:
        return _give_up(job_file, error, INPUT_REFUSED), setup
    except Exception as error:
        traceback.print_exc()
        return _give_up(job_file, error, MACHINE_FAILED), None


def run(job_file: Path, setup: Setup | None = None) -> Setup:
    """Train, score and record every evaluation of the job. Returns what was loaded for it, good for the next job."""
    began = time.time()
    job = json.loads(job_file.read_text())
    experiment = read_experiment(Path(job["experiment"]))
    setup = setup or load(experiment)
    trainings = trainings_of(job, experiment, setup.accelerator.num_processes)
    setup.time_limit = experiment.resources.time_limit
    setup.keep_state = bool(job.get("keep_state"))
    setup.says = True
    entries = [
        Entry(item, training, Evaluation(Path(item["folder"])))
        for item, training in zip(job["evaluations"], trainings, strict=True)
    ]
    entries = [entry for entry in entries if not (entry.item.get("trained") or entry.is_over)]
    phases = Phases(start=began - float(os.environ.get(LAUNCHED, job["launched"])), load=time.time() - began).shared(
        max(1, len(entries))
    )
    base_score = None if job["base_score"] is None else Path(job["base_score"])
    loaded, setup = setup, setup.on_all_rows() if job.get("all_rows") else setup
    for pack in _packs(setup, entries):
        done = train_pack(setup.at(pack[0].item["fidelity"]), pack, base_score)
        for entry, ended in done:
            if setup.accelerator.is_main_process or not ended.shared:
                whole = replace(phases, train=ended.train_seconds, score=ended.score_seconds)
                _record(setup, job, entry, ended, whole)
            if not ended.shared and setup.accelerator.num_processes > 1:
                os._exit(1)  # the others wait for us in a collective; torchrun ends them all when one process is gone
        base_score = None
        if setup.accelerator.is_main_process:
            report(setup.accelerator, [(entry.training, entry.evaluation) for entry, _ in done], experiment.name)
    score_job(setup, experiment, job)
    return loaded


def _packs(setup: Setup, entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Who trains with whom: who agrees in length, batch and what is behind it, as many as fit into memory."""
    shapes = [(shape_of(e.training), str(e.item["fidelity"]), _behind(e)) for e in entries]
    for group in alike(entries, shapes):
        yield from evenly(group, most_members(setup, [entry.training for entry in group]))


def train_pack(setup: Setup, entries: Sequence[Entry], base_score: Path | None) -> list[tuple[Entry, Ended]]:
    """Train these together and say how each ended; what goes wrong in a pack is tried again in halves.

    Halves go on from the last captured states. Raises InputError and MachineError.
    """
    try:
        return _train_together(setup, entries, base_score)
    except Exception as error:
        ended = failed(error)
        traceback.print_exc()
    finally:
        setup.accelerator.free_memory()  # accelerate's own references to models and optimizers
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if len(entries) == 1:
        return [(entries[0], ended)]
    print(f"{ended.reason}: {len(entries)} points in one pack, trying halves", file=sys.stderr, flush=True)
    half = len(entries) // 2
    # Who diverged before the trouble has no state of the epochs that its companions have behind them.
    parts = [pack for part in (entries[:half], entries[half:]) for pack in alike(part, list(map(_behind, part)))]
    bases = [base_score, *(None for _ in parts[1:])]
    return [done for part, base in zip(parts, bases, strict=True) for done in train_pack(setup, part, base)]


def _behind(entry: Entry) -> tuple[int, float]:
    """Epochs that an earlier attempt has behind it, and the share of the schedule that the parent has."""
    shared = 0.0 if entry.parent is None else state.share_behind(entry.parent)
    return state.epochs_behind(entry.evaluation.state_file), shared


def _train_together(setup: Setup, entries: Sequence[Entry], base_score: Path | None) -> list[tuple[Entry, Ended]]:
    reset_peak()
    trainings, evaluations = [entry.training for entry in entries], [entry.evaluation for entry in entries]
    with members_of(setup, trainings, evaluations) as (pack, members):
        if base_score is not None:
            score_base(setup, pack, trainings[0].per_device_eval_batch_size, base_score)
        for entry, member in zip(entries, members, strict=True):
            _begin(setup, pack, entry, member)
        fit(setup, pack, [member for member in members if member.ended is None])
        peak = setup.accelerator.reduce(torch.tensor(peak_gib(), device=setup.accelerator.device), "sum")
        return [
            (entry, _end(setup, pack, entry, member, float(peak)))
            for entry, member in zip(entries, members, strict=True)
        ]


def _begin(setup: Setup, pack: Pack, entry: Entry, member: Member) -> None:
    """At the beginning, where a killed job was, or where the parent ended."""
    member.judge = entry.judge
    member.share = share_of(entry.item)
    if behind := state.epochs_behind(entry.evaluation.state_file):
        state.resume(setup, member, entry.evaluation.state_file)
        print(f"{entry.evaluation.key} goes on after epoch {behind}", file=sys.stderr, flush=True)
    elif entry.parent is not None:
        state.follow(setup, member, entry.parent)
    if member.share < 1 and member.steps < 2:  # one may be the smaller last step of an epoch
        raise InputError(
            f"fidelity: epochs_fraction {member.share:g} of {member.whole} optimizer steps is no interval: at least 2"
        )
    if setup.accelerator.is_main_process:
        entry.evaluation.rewind(member.counts.steps)
    try:
        require_static(setup, pack, member, entry.training)
    except PointFailed as error:
        member.ended = Ended(reason=str(error))


def _end(setup: Setup, pack: Pack, entry: Entry, member: Member, peak: float) -> Ended:
    """How a member ended, and what it took."""
    ended = member.ended or _through(setup, pack, entry, member, peak)
    return replace(ended, train_seconds=member.train_seconds, score_seconds=member.score_seconds)


def _through(setup: Setup, pack: Pack, entry: Entry, member: Member, peak: float) -> Ended:
    """Metrics of a member that is through, its adapter saved."""
    try:
        finish(setup, pack, member, entry.training)
    except PointFailed as error:
        return Ended(reason=str(error))
    metrics = {
        "eval_loss": member.eval_loss,
        **member.metrics,
        "train_loss": member.train_loss / member.counts.steps,
        "eval_runtime": member.eval_runtime,
        "train_runtime": member.train_seconds,
        "trainable_parameters": float(sum(parameter.numel() for parameter in member.parameters.values())),
        "peak_gib": peak,
    }
    return Ended(metrics)


def _record(setup: Setup, job: Mapping[str, Any], entry: Entry, ended: Ended, phases: Phases) -> None:
    """Write the result, or where it was stopped; then it keeps its state."""
    if ended.stopped:
        assert ended.reason is not None, "the main process has asked"
        entry.judge.record(ended.reason, sum(vars(phases).values()), job["gpus"], job["id"])
        return
    if not ended.shared and entry.evaluation.result() is not None:
        return  # of several processes the first to fail knows why: the others only see that it is gone
    entry.evaluation.record(make_result(job, entry.item, ended, phases, entry.training.seed))
    if not setup.keep_state:
        state.forget(entry.evaluation)


def _give_up(job_file: Path, error: Exception, status: int) -> int:
    write_failure(failure_file(job_file), error)
    print(error, file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
