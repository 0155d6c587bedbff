"""NomadSampler in real Optuna studies."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from bbo.optimizers.optuna_nomad import NomadSampler
from tests.bbo.optimizers.batch import RANKS, SHAPES, batch_run, loss, places

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("rate", 1e-6, 1e-1, log=True)
    rank = trial.suggest_categorical("rank", RANKS)
    dropout = trial.suggest_float("dropout", 0, 0.3, step=0.05)
    return loss(math.log10(rate), rank, dropout, trial.suggest_categorical("shape", SHAPES))


def params(study: optuna.Study) -> list[dict[str, object]]:
    return [trial.params for trial in study.trials]


def optimized(trials: int, sampler: NomadSampler | None = None, direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(sampler=sampler or NomadSampler(seed=1), direction=direction)
    sign = 1 if direction == "minimize" else -1
    study.optimize(lambda trial: sign * objective(trial), n_trials=trials)
    return study


def test_reaches_the_optimum_of_a_mixed_function() -> None:
    study = optimized(80)
    assert study.best_value < 1e-3
    assert (study.best_params["rank"], study.best_params["shape"]) == (16, "cosine")
    assert study.trials[0].params["rate"] == pytest.approx(10**-3.5)
    assert params(optimized(20)) == params(study)[:20]
    assert params(optimized(20, NomadSampler(seed=2))) != params(study)[:20]
    assert params(optimized(20, direction="maximize")) == params(study)[:20]


def test_equals_the_batch_run(tmp_path: Path) -> None:
    """In the order of the names: the step of the dropout, place of rank, logarithm of the rate, place of the shape."""
    box = ("BB_INPUT_TYPE ( I I R I )", "LOWER_BOUND ( 0 0 -6 0 )", "UPPER_BOUND ( 6 5 -1 2 )", "X0 ( 3 2 -3.5 1 )")
    batch = batch_run(tmp_path, places, "BB_OUTPUT_TYPE OBJ", *box, "SEED 1", "MAX_BB_EVAL 40")
    walk = [
        {"rate": 10**rate, "rank": RANKS[int(rank)], "dropout": 0.05 * step, "shape": SHAPES[int(shape)]}
        for step, rank, rate, shape in batch
    ]
    assert len(batch) == 40
    for trial, expected in zip(optimized(40).trials, walk, strict=True):
        numbers = {"rate": expected.pop("rate"), "dropout": expected.pop("dropout")}
        assert {name: trial.params[name] for name in numbers} == pytest.approx(numbers, rel=1e-12)
        assert {name: trial.params[name] for name in expected} == expected


def test_a_study_is_resumed_from_its_storage(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=storage, study_name="s", sampler=NomadSampler(seed=1)).optimize(objective, n_trials=12)
    study = optuna.load_study(storage=storage, study_name="s", sampler=NomadSampler(seed=1))
    study.optimize(objective, n_trials=12)
    assert params(study) == params(optimized(24))


def test_a_pickled_sampler_goes_on() -> None:
    study = optimized(10)
    study.sampler = pickle.loads(pickle.dumps(study.sampler))
    study.optimize(objective, n_trials=10)
    assert params(study) == params(optimized(20))


def test_one_sampler_serves_two_studies() -> None:
    sampler = NomadSampler(seed=1)
    one, other = (optuna.create_study(sampler=sampler) for _ in range(2))
    for _ in range(4):
        one.optimize(objective, n_trials=1)
        other.optimize(objective, n_trials=1)
    assert params(one) == params(other) == params(optimized(4))


def broken(kind: type[Exception]) -> Callable[[optuna.Trial], float]:
    def run(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.number and trial.params["shape"] == "cosine":
            trial.report(value, 1)
            raise kind
        return value

    return run


@pytest.mark.parametrize("kind", [ValueError, optuna.TrialPruned])
def test_failed_and_pruned_trials_are_no_incumbents(kind: type[Exception]) -> None:
    study = optuna.create_study(sampler=NomadSampler(seed=1))
    study.enqueue_trial({"rate": 1e-5, "rank": 2, "dropout": 0.3, "shape": "constant"})
    study.optimize(broken(kind), n_trials=60, catch=ValueError)
    assert len([t for t in study.trials if t.state in (TrialState.FAIL, TrialState.PRUNED)]) > 3
    assert study.best_value == pytest.approx(1, abs=0.02)
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert len(set(points)) == len(points), "an ended trial was proposed again"


def test_a_pruned_trial_is_told_the_best_so_far() -> None:
    """Every other trial is pruned at -9: the same trials as if it had ended with the best of the others."""

    def drive(pruned: bool) -> list[dict[str, object]]:
        study, best = optuna.create_study(sampler=NomadSampler(seed=1)), math.inf
        for number in range(30):
            trial = study.ask()
            value = objective(trial)
            if number % 2 == 0:
                best = min(best, value)
                study.tell(trial, value)
            elif pruned:
                trial.report(-9, 1)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, best)
        return params(study)

    assert drive(pruned=True) == drive(pruned=False)


def test_a_start_whose_logarithm_is_rounded_is_not_repeated() -> None:
    rate = next(rate for rate in (n * 1e-6 for n in range(2, 99)) if 10 ** math.log10(rate) != rate)
    study = optuna.create_study(sampler=NomadSampler(seed=1))
    study.enqueue_trial({"rate": rate, "rank": 2, "dropout": 0.3, "shape": "constant"})
    study.optimize(objective, n_trials=6)
    seen = [(round(math.log10(trial.params["rate"]), 9), *list(trial.params.values())[1:]) for trial in study.trials]
    assert len(set(seen)) == 6


def test_ask_and_tell_in_blocks() -> None:
    study = optuna.create_study(sampler=NomadSampler(seed=1, block_size=4))
    study.optimize(objective, n_trials=1)
    for _ in range(12):
        asked = [study.ask() for _ in range(4)]
        values = [objective(trial) for trial in asked]
        for trial, value in reversed(list(zip(asked, values, strict=True))):
            study.tell(trial, value)
    ours = [trial for trial in study.trials if "nomad:point" in trial.system_attrs]
    assert len(ours) > 36, "blocks are not filled"
    assert len({tuple(trial.params.values()) for trial in ours}) == len(ours)
    assert study.best_value < 1


def test_define_by_run() -> None:
    """A parameter that only some trials have is drawn at random; the common ones are NOMAD's."""

    def conditional(trial: optuna.Trial) -> float:
        x = trial.suggest_int("x", 1, 1000, log=True)
        return abs(x - 7) + (trial.suggest_float("y", 0, 1) if x > 100 else 0)

    study = optuna.create_study(sampler=NomadSampler(seed=1))
    study.optimize(conditional, n_trials=40)
    assert study.best_params["x"] == 7


def test_constraints() -> None:
    def constrained(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 4), trial.suggest_int("y", 0, 9, step=3)
        trial.set_constraint("sum", 5 - x - y)
        return x + 2 * y

    study = optuna.create_study(sampler=NomadSampler(seed=1))
    study.optimize(constrained, n_trials=60)
    feasible = [trial for trial in study.trials if trial.constraints["sum"] <= 0]
    assert min(trial.value or math.inf for trial in feasible) == pytest.approx(8, abs=0.1)  # x = 2, y = 3
