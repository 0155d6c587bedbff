"""Ask, evaluate, tell: drive an optimizer on one run, from its record to its budget.

The optimizer is told the answers in the order in which their calls were complete, those of one call in the order of
their numbers: that order stands in the run log, and so does how many answers each ask was proposed upon (`told`). A
fresh optimizer that is led through it the same way must propose the same.
"""

import math
import shutil
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from bbo.arrivals import Arrivals
from bbo.errors import InputError, MachineError
from bbo.evaluate import Call, Evaluator
from bbo.experiment import Experiment
from bbo.guard import Ended, Guard, Limits, Watch
from bbo.optimizers import Optimizer, Outcome, Proposal
from bbo.points import format_number
from bbo.processes import end
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.session import ENVIRONMENT as SESSION
from bbo.session import Numbers, Session, open_session
from bbo.store import Store

POLL = 0.05
REPEATS = 2
"""Repeated calls that died without one new answer; after that the trouble is not an accident."""


@dataclass(frozen=True)
class Plan:
    """How an optimizer's proposals are evaluated."""

    command: Sequence[str]
    """BB_EXE, ready to be called."""
    budget: int
    """Proposals at most."""
    block: int = 1
    """Points that the optimizer is asked for at once, and that one call gets."""
    places: int = 1
    """Calls in flight."""
    intervals: int | None = None
    """How many proposals make a whole training, of an optimizer that has such."""
    stopping: str | None = None
    """The stopping rule, where it is not the experiment's."""


@dataclass(eq=False)
class Group:
    """Proposals for one call: all of one answer to `ask`."""

    first: int
    told: int
    proposals: Sequence[Proposal]
    answered: int = 0
    deaths: int = 0
    """Calls that died since so many were answered."""


@dataclass
class Loop:
    """One run under one optimizer, which must be fresh."""

    run: Run
    experiment: Experiment
    store: Store
    optimizer: Optimizer
    plan: Plan
    limits: Limits
    libraries: str = ""
    """Their versions when the run was begun and now: what to suspect where a replay leaves the record."""
    log: RunLog = field(init=False)
    _guard: Guard = field(init=False)
    _asked: int = 0
    """Proposals of the optimizer, within the budget."""
    _told: int = 0
    """Answers it knows."""
    _hopeless: int = -1
    """How many it knew when it last had nothing to propose."""
    _waiting: list[Group] = field(default_factory=list)
    _flying: list[tuple[Group, Call]] = field(default_factory=list)
    _arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.run.log()
        self._guard = Guard(self.run, self.experiment, self.store, self.limits, self.log)
        self._arrivals = Arrivals(self.log)

    def drive(self, watch: Watch) -> None:
        """Until the budget is spent, or the optimizer has nothing more to propose."""
        plan = self.plan
        session = open_session(self.run, self.log, self.store, plan.budget, numbered=True, stopping=plan.stopping)
        environment = {RUN: str(self.run.folder.absolute()), SESSION: session.name}
        with (
            self._guard.interruptible(),
            Evaluator(self.plan.command, self.run.temporary, self.run.blackbox_log, environment) as evaluator,
        ):
            try:
                self._replay(watch)
                while self._fill(evaluator):
                    time.sleep(POLL)
                    self._guard.look(watch)
                    self._reap(session)
            finally:
                end([call.process for _, call in self._flying])
                self.log.refresh()
                watch.update(self.log)
                shutil.rmtree(self.run.temporary, ignore_errors=True)
        if self._asked < self.plan.budget:
            watch.note(f"the optimizer has nothing more to propose after {self._asked} of {self.plan.budget}")

    def _replay(self, watch: Watch) -> None:
        """Find what lacks an answer, and lead the optimizer through the record, if it is to go on from there."""
        record = self.log.driven[: self.plan.budget]
        blocks = [list(asks) for _, asks in groupby(record, key=lambda ask: ask.block)]
        self._waiting = [self._again(asks) for asks in blocks if any(a.number not in self.log.answers for a in asks)]
        if len(record) == self.plan.budget:
            self._asked = len(record)
        while self._asked < len(record):
            self._guard.look(watch)
            watch.replayed(self._asked, len(record))
            self._tell(record[self._asked].told)
            self._propose()

    def _fill(self, evaluator: Evaluator) -> bool:
        """Start calls while there are places. Whether any is in flight."""
        while len(self._flying) < self.plan.places:
            if not self._waiting and self._asked < self.plan.budget:
                self._tell()
                if self._told > self._hopeless:
                    self._propose()
            if not self._waiting:
                break
            group = self._waiting.pop(0)
            self._flying.append((group, self._start(evaluator, group)))
        return bool(self._flying)

    def _tell(self, count: int | None = None) -> None:
        """Up to so many answers, or all that are there."""
        for answer in self._arrivals.complete()[self._told : count]:
            self.optimizer.tell(self._outcome(answer))
            self._told += 1

    def _outcome(self, answer: Answer) -> Outcome:
        ask = self.log.asks[answer.number - 1]
        number = self._place(ask.number)
        first, *others = self.experiment.objectives
        if answer.source == "failed" or answer.values is None:
            return Outcome(number, ask.point, "failed", math.inf, others=(math.inf,) * len(others))
        outputs = self.experiment.outputs
        objective = answer.values[first] if answer.objective is None else answer.objective
        constraints = tuple(v for v, output in zip(answer.values, outputs, strict=True) if output.kind == "PB")
        status: Literal["ok", "stopped"] = "stopped" if answer.source == "stopped" else "ok"
        further = tuple(answer.values[index] for index in others)
        return Outcome(number, ask.point, status, objective, constraints, answer.epoch, further)

    def _propose(self) -> None:
        """One question to the optimizer; what the record does not have yet is to be evaluated."""
        asked = self.optimizer.ask(self.plan.block)
        if not isinstance(asked, Sequence) or len(asked) > self.plan.block:
            raise InputError(f"the optimizer proposed {asked} where it was asked for {self.plan.block} at most")
        proposals = [self._checked(proposal) for proposal in asked]
        known = self.log.driven[self._asked : self._asked + len(proposals)]
        if not proposals:
            self._hopeless = self._told
            if self._asked < len(self.log.driven):
                raise self._left(self.log.driven[self._asked], "now nothing is proposed")
        for ask, proposal in zip(known, proposals, strict=False):
            self._compare(ask, proposal)
        self._asked += len(known)
        if new := proposals[len(known) :][: self.plan.budget - self._asked]:
            self._waiting.append(Group(self._asked + 1, self._told, new))
            self._asked += len(new)

    def _checked(self, proposal: Proposal) -> Proposal:
        """Raises InputError for what no evaluation could be made of: the optimizer may be the user's."""
        try:
            point, parent = tuple(float(x) for x in proposal.point), proposal.parent
            self.experiment.space.decode(point)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"the optimizer proposed {proposal}: {error}") from None
        if parent is not None and not (self.plan.intervals and self._has_answer(parent)):
            raise InputError(f"the optimizer proposed to go on from proposal {parent}, which has no training behind it")
        return Proposal(point, parent)

    def _compare(self, ask: Ask, proposal: Proposal) -> None:
        if ask.point != proposal.point:
            raise self._left(ask, f"now {proposal.point} is proposed")
        if ask.told != self._told:
            raise self._left(ask, f"proposed upon {ask.told} answers, now upon {self._told}")
        if ask.parent != self._number(proposal.parent):
            raise self._left(ask, f"going on from {ask.parent}, now from {self._number(proposal.parent)}")

    def _left(self, ask: Ask, how: str) -> Ended:
        sentence = f"evaluation {ask.number} was at {ask.point} in the record, {how}"
        return Ended(f"the replay left the record: {sentence}{self.libraries}", 3)

    def _again(self, asks: Sequence[Ask]) -> Group:
        """What to evaluate of the record."""
        proposals = [Proposal(a.point, None if a.parent is None else self._place(a.parent)) for a in asks]
        return Group(self._place(asks[0].number), asks[0].told or 0, proposals)

    def _start(self, evaluator: Evaluator, group: Group) -> Call:
        parents = [p.parent for p in group.proposals]
        numbers = Numbers(group.first, group.told, [self._number(parent) for parent in parents])
        options = []
        if self.plan.intervals:
            file = self.run.temporary / f"{group.first}.parents"
            file.write_text("".join("-\n" if p is None else f"{self.log.driven[p - 1].key}\n" for p in parents))
            options = ["--fidelity", f"epochs_fraction={format_number(1 / self.plan.intervals)}"]
            options += ["--parents", str(file)]
        return evaluator.start([p.point for p in group.proposals], options, numbers.environment())

    def _reap(self, session: Session) -> None:
        """Look after the calls that have ended; one that died is repeated."""
        for group, call in [each for each in self._flying if each[1].process.poll() is not None]:
            fault = call.fault()
            call.close()
            self._flying.remove((group, call))
            self.log.refresh()
            self._guard.stopped(session)
            asks = self.log.driven[group.first - 1 :][: len(group.proposals)]
            answered = sum(ask.number in self.log.answers for ask in asks)
            if answered == len(group.proposals):
                continue
            if fault is None:
                raise MachineError("BB_EXE gave an answer that it did not note in the run log")
            group.deaths, group.answered = (0 if answered > group.answered else group.deaths) + 1, answered
            if group.deaths > REPEATS:
                what = f"the blackbox {fault}, {group.deaths} times for evaluation {group.first}"
                raise MachineError(f"{what}, see {self.run.blackbox_log}")
            self._waiting.insert(0, group)

    def _has_answer(self, proposal: int) -> bool:
        return 1 <= proposal <= len(self.log.driven) and self.log.driven[proposal - 1].number in self.log.answers

    def _place(self, number: int) -> int:
        """Which proposal an ask of this number is. A native NOMAD may have asked in between."""
        return bisect_left(self.log.driven, number, key=lambda ask: ask.number) + 1

    def _number(self, proposal: int | None) -> int | None:
        return None if proposal is None else self.log.driven[proposal - 1].number
