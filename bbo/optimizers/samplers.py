"""Optuna's samplers behind ask / tell (bbo/optimizers/study.py): random, Sobol, TPE, GP, NSGA-II, CMA-ES."""

from collections.abc import Sequence
from typing import Any

from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from bbo.errors import InputError
from bbo.optimizers import Outcome
from bbo.optimizers.study import Sampled, silence
from bbo.space import Point, Space

_INFEASIBLE = 1e100
"""More than any loss."""


class Random(Sampled):
    """Uniform in the coordinates."""

    def __init__(self, space: Space, x0: Sequence[Point], budget: int, seed: int, *, objectives: int = 1) -> None:
        super().__init__(RandomSampler(seed), space, x0, objectives)


class Sobol(Sampled):
    """Points of a Sobol sequence (Optuna's QMC sampler)."""

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        objectives: int = 1,
        scramble: bool = True,
    ) -> None:
        with silence():
            sampler = QMCSampler(qmc_type="sobol", scramble=scramble, seed=seed)
        super().__init__(sampler, space, (), objectives)
        self.known_from_the_start(sampler)


class TPE(Sampled):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), Optuna's.

    What failed is a complete trial of objective inf: TPE looks at ranks alone, so it is one of the bad points, where a
    failed trial would be forgotten and its surroundings proposed again. What was stopped is a pruned trial, which TPE
    ranks by its epoch and its value there, behind all that are complete. Pending points count as bad ones. Of several
    objectives the good points are the fronts, the last one by hypervolume (Ozaki et al. 2022).
    """

    def __init__(  # noqa: PLR0913 - the settings
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        objectives: int = 1,
        n_startup_trials: int = 10,
        n_ei_candidates: int = 24,
        multivariate: bool = True,
    ) -> None:
        _check_startup(n_startup_trials, budget)
        _check_positive("n_ei_candidates", n_ei_candidates)
        sampler = TPESampler(
            n_startup_trials=n_startup_trials,
            n_ei_candidates=n_ei_candidates,
            multivariate=multivariate,
            constant_liar=True,
            seed=seed,
        )
        super().__init__(sampler, space, x0, objectives)

    def close(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.status != "stopped" or outcome.others:  # Optuna prunes no trial of several objectives
            return super().close(trial, outcome)
        for place, value in enumerate(outcome.constraints):
            trial.set_constraint(str(place), value)
        trial.report(outcome.objective, round(1000 * (outcome.epoch or 0)))  # steps are whole, epochs need not be
        self._study.tell(trial, state=TrialState.PRUNED)
        return None


class _QuickGP(GPSampler):
    """Optuna's, in a third of the time: a replay asks for every point anew."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Local searches of the acquisition function, of 10: the best of 28 points was as good or within 0.001 (8 runs).
        self._n_local_search = 4

    def _sample_relative_impl(self, *arguments: Any) -> dict[str, Any]:
        # Around this, GPSampler sets torch's device to the CPU, by a mode that sees each of the many small calls; it is
        # the CPU anyway. The same points in 0.57 of the time.
        import torch  # noqa: PLC0415 - two seconds that the other samplers do not need

        with torch._C.DisableTorchFunction():
            return super()._sample_relative_impl(*arguments)


class GP(Sampled):
    """Gaussian process with log expected improvement, Optuna's; with pending points qLogEI, with constraints LogCEI, of
    several objectives the hypervolume's (LogEHVI).

    What failed is a complete trial of objective inf, which GPSampler takes for the worst value that it has seen at each
    fit; so for its constraints. What was stopped counts as complete with its last value: GPSampler reads no others, and
    would propose it again.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        objectives: int = 1,
        n_startup_trials: int = 10,
        deterministic_objective: bool = False,
    ) -> None:
        _check_startup(n_startup_trials, budget)
        with silence():
            sampler = _QuickGP(
                n_startup_trials=n_startup_trials, deterministic_objective=deterministic_objective, seed=seed
            )
        super().__init__(sampler, space, x0, objectives)


class NSGAII(Sampled):
    """NSGA-II (Deb et al. 2002), a genetic algorithm for several objectives, Optuna's.

    Ranks and, within a front, crowding are all it sees: what failed is Inf in everything, behind what violates
    constraints, and that, by its violation, behind all that is feasible. What was stopped has its last value. A
    generation begins when so many of the last one have been told; until then its parents have further children.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        objectives: int = 1,
        population_size: int = 8,
    ) -> None:
        """`population_size` is 50 in Optuna: too many for the budgets of trainings."""
        if not 2 <= population_size < budget:
            rule = f"must be at least 2 and below the budget of {budget}, as the first generation is random"
            raise InputError(f"--set population_size: {rule}, got {population_size}")
        super().__init__(NSGAIISampler(population_size=population_size, seed=seed), space, x0, objectives)


class CMAES(Sampled):
    """CMA-ES, with margin (Hamano et al. 2022) unless told otherwise, Optuna's. Its mean begins at the first X0.

    Ranks are all it sees of the objective: what failed comes last, behind what violates constraints, and that, by its
    violation, behind all that is feasible (Deb 2000). What was stopped has its last value. A choice of words has no
    place in a normal distribution: Optuna draws it at random.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        sigma0: float | None = None,
        popsize: int | None = None,
        with_margin: bool = True,
    ) -> None:
        """`sigma0` is a share of the bounds' width (default 1/6)."""
        if sigma0 is not None:
            _check_positive("sigma0", sigma0)
        if popsize is not None and not 2 <= popsize < budget:
            raise InputError(f"--set popsize: must be at least 2 and below the budget of {budget}, got {popsize}")
        with silence():
            sampler = CmaEsSampler(
                sigma0=sigma0, popsize=popsize, with_margin=with_margin, n_startup_trials=0, seed=seed
            )
        super().__init__(sampler, space, x0)
        self.known_from_the_start(sampler, numerical=True)
        if x0:
            # Its parameter x0 would want these names alone.
            sampler._x0 = self.params(x0[0])

    def close(self, trial: Trial, outcome: Outcome) -> None:
        violation = sum(max(value, 0.0) for value in outcome.constraints)
        self._study.tell(trial, _INFEASIBLE * (1 + violation) if violation else outcome.objective)


def _check_startup(n_startup_trials: int, budget: int) -> None:
    if not 0 <= n_startup_trials < budget:
        raise InputError(
            f"--set n_startup_trials: {n_startup_trials} random points of a budget of {budget} leave none to be "
            f"proposed by the model, it must be from 0 to {budget - 1}"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"--set {name}: must be above 0, got {value:g}")
