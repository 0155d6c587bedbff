"""NOMAD as a sampler for Optuna."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bbo.mads import Answer, Mads, settings, statements
from bbo.space import Point

_X0 = "nomad:x0"
_POINT = "nomad:point"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class NomadSampler(BaseSampler):
    """NOMAD's mesh adaptive direct search in any Optuna study, trial by trial what its batch run evaluates.

        import optuna
        from bbo.optimizers.optuna_nomad import NomadSampler

        def objective(trial):
            rate = trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True)
            rank = trial.suggest_categorical("rank", [4, 8, 16, 32])
            return train(rate, rank)

        study = optuna.create_study(sampler=NomadSampler(seed=1))
        study.optimize(objective, n_trials=50)

    The first trial is the middle of the space (or what was enqueued). NOMAD starts from the trials that are complete
    when it is first asked, and moves the parameters that all trials have in common; others are drawn at random, and so
    is a trial for which NOMAD has no point before it hears of running ones, or none at all any more. Nothing but the
    study is remembered: another process goes on with it.

    Not for n_jobs above 1: running trials in one thread are asked and told (`study.ask`, `study.tell`).

    Failed trials are `Inf` to NOMAD, pruned ones the larger of their last value and the best so far, constraints
    (`trial.set_constraint`) PB. It sees the logarithm of what has log=True (an integer: rounded), the number of the
    step of what has steps, and the place of a category. One objective.
    """

    def __init__(
        self, *, seed: int = 0, direction_type: str | None = None, block_size: int = 1, parameters: str = ""
    ) -> None:
        """`direction_type` as `ORTHO 2N`; `parameters`: other statements of NOMAD's, with `;` between them.

        With `block_size` above 1, ask that many trials before you tell the first. Raises InputError.
        """
        self._seed = seed
        self._settings = settings(direction_type, block_size, parameters)
        self._random = RandomSampler(seed)
        self._common = IntersectionSearchSpace(include_pruned=True)
        self._mads: tuple[str, Mads] | None = None

    def reseed_rng(self) -> None:
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._raise_error_if_multi_objective(study)
        return {name: space for name, space in self._common.calculate(study).items() if not space.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        starts = _starts(trials, search_space)
        if not search_space or not starts:
            return {}
        record = _Record(study, trials, search_space, starts)
        mads = self._run(study.study_name, record)
        running = {record.key(point) for each in trials if (point := _pending(each, search_space))}
        for point in mads.unanswered(record.answer):
            if record.key(point) not in running:
                study._storage.set_trial_system_attr(trial._trial_id, _X0, [each.number for each in starts])
                study._storage.set_trial_system_attr(trial._trial_id, _POINT, list(point))
                return _decode(search_space, point)
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number == 0:
            return _Axis(param_distribution).middle()
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _run(self, study: str, record: "_Record") -> Mads:
        """The child that is at work on this very problem, or a new one."""
        axes = [_Axis(space) for space in record.space.values()]
        lines = statements(
            [axis.lower for axis in axes],
            [axis.upper for axis in axes],
            [axis.whole for axis in axes],
            record.starts,
            record.constraints,
            self._seed,
        )
        if self._mads is None or self._mads[0] != study or self._mads[1].statements != (*lines, *self._settings):
            if self._mads is not None:
                self._mads[1].close()
            self._mads = study, Mads((*lines, *self._settings))
        return self._mads[1]


class _Axis:
    """One distribution as a variable of NOMAD's."""

    def __init__(self, space: BaseDistribution) -> None:
        self.space = space
        self.log = isinstance(space, FloatDistribution | IntDistribution) and space.log
        step = None if self.log else getattr(space, "step", None)
        self.step: float = step or 1
        self.whole = isinstance(space, CategoricalDistribution) or step is not None
        if isinstance(space, CategoricalDistribution):
            self.lower, self.upper = 0.0, len(space.choices) - 1.0
        else:
            assert isinstance(space, FloatDistribution | IntDistribution)
            self.lower, self.upper = self.encode(space.low), self.encode(space.high)

    def encode(self, value: Any) -> float:
        if isinstance(self.space, CategoricalDistribution):
            return self.space.to_internal_repr(value)
        if self.log:
            return math.log10(value)
        return float(round((value - self.space.low) / self.step)) if self.whole else float(value)  # type: ignore[attr-defined]

    def decode(self, x: float) -> Any:
        space = self.space
        if isinstance(space, CategoricalDistribution):
            return space.to_external_repr(x)
        assert isinstance(space, FloatDistribution | IntDistribution)
        value = 10.0**x if self.log else space.low + self.step * x if self.whole else x
        value = min(max(value, space.low), space.high)
        return round(value) if isinstance(space, IntDistribution) else value

    def middle(self) -> Any:
        centre = (self.lower + self.upper) / 2
        return self.decode(math.floor(centre) if self.whole else centre)


class _Record:
    """What a study knows, by values of the parameters."""

    def __init__(
        self,
        study: Study,
        trials: list[FrozenTrial],
        space: Mapping[str, BaseDistribution],
        starts: list[FrozenTrial],
    ) -> None:
        self.space = space
        # Their values by their points, since a logarithm and back may be a unit in the last place off.
        self._of_start = {_encode(space, each.params): self._values(each.params) for each in starts}
        names = sorted({name for each in trials for name in each.constraints})
        self.constraints = len(names)
        self._answers: dict[tuple[Any, ...], Answer] = {}
        incumbent = math.inf
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        for each in trials:  # in the order of their numbers, not of their ends: that could not be repeated
            if each.state not in _FINISHED or not space.keys() <= each.params.keys():
                continue
            constraints = tuple(each.constraints.get(name, 0.0) for name in names)
            value = math.inf if each.value is None or each.state == TrialState.FAIL else sign * each.value
            value = max(value, -1e300)  # -Inf is no number to NOMAD's user, and its best one
            if each.state == TrialState.PRUNED and incumbent < math.inf:
                value = max(value, incumbent)
            elif each.state == TrialState.COMPLETE and all(x <= 0 for x in constraints):
                incumbent = min(incumbent, value)
            self._answers.setdefault(self._values(each.params), (value, *constraints))

    @property
    def starts(self) -> tuple[Point, ...]:
        return tuple(self._of_start)

    def answer(self, point: Point) -> Answer | None:
        return self._answers.get(self.key(point))

    def key(self, point: Point) -> tuple[Any, ...]:
        return self._of_start.get(point) or self._values(_decode(self.space, point))

    def _values(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(space.to_internal_repr(params[name]) for name, space in self.space.items())


def _starts(trials: list[FrozenTrial], space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """The trials that NOMAD started from; when it has not yet, all that have a value."""
    having = {each.number: each for each in trials if space.keys() <= each.params.keys()}
    for each in trials:
        numbers = each.system_attrs.get(_X0, [])
        if numbers and len(each.system_attrs[_POINT]) == len(space) and all(number in having for number in numbers):
            return [having[number] for number in numbers]
    return [each for each in having.values() if each.state in _FINISHED and each.value is not None]


def _pending(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> Point | None:
    point = trial.system_attrs.get(_POINT, ())
    return tuple(point) if trial.state == TrialState.RUNNING and len(point) == len(space) else None


def _encode(space: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> Point:
    return tuple(_Axis(each).encode(params[name]) for name, each in space.items())


def _decode(space: Mapping[str, BaseDistribution], point: Point) -> dict[str, Any]:
    return {name: _Axis(each).decode(x) for (name, each), x in zip(space.items(), point, strict=True)}
