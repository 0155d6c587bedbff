"""What a run says at its end: base, X0 and best, what was evaluated, where the adapters are, what is next."""

from collections.abc import Iterator, Mapping, Sequence

from bbo.display import beside, clock, describe, scores, spelt, violated
from bbo.experiment import Experiment
from bbo.front import front_of, least_violating, told
from bbo.lineage import schedule
from bbo.run import RUNS, Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.space import Point
from bbo.store import Store


def summary(
    run: Run,
    experiment: Experiment,
    store: Store,
    log: RunLog,
    base: Mapping[str, float] | None,
    seconds: float,
    x0: Sequence[Point],
) -> list[str]:
    """The lines: a front where there are several objectives, the best one where there is one."""
    best = front_of(experiment, log)
    rows = [("base score", _base(experiment, base))] if experiment.trains_a_model else []
    if first := next(((ask, answer) for ask, answer in told(log) if ask.point in x0), None):
        ask, answer = first
        words = describe(experiment.space.decode(ask.point))
        rows.append(("X0's score", f"{_score(experiment, answer)}{violated(experiment, answer)}   ({words})"))
    if not best:
        rows.append(("best score", _none(experiment, log)))
    elif len(experiment.objectives) == 1:
        rows += _best(experiment, store, *best[0])
    else:
        rows += _front(experiment, best)
    rows += [("evaluations", _counts(log)), ("wall time", clock(seconds))]
    evaluations = [store.evaluation(ask.key) for ask, _ in best]
    if best and experiment.trains_a_model:
        kept = [weights for evaluation in evaluations if (weights := evaluation.weights)]
        none = "none on disk (see resources.keep)"
        what = kept[0].name if kept else "adapter"
        several = f"{len(kept)} of the front in {store.root}/*/{what}"
        where = none if not kept else str(kept[0]) if len(experiment.objectives) == 1 else several
        rows.append((f"best {what}" if len(experiment.objectives) == 1 else f"{what}s", where))
    rows.append(("next", f"bbo report {run.name if run.folder.parent == RUNS else run.folder}"))
    if best:
        rows.append(("", f"python -m blackbox.eval {evaluations[0].point_file}"))
    return [f"{name:<22}{value}" for name, value in rows]


def _base(experiment: Experiment, base: Mapping[str, float] | None) -> str:
    outputs = [experiment.outputs[index] for index in experiment.objectives]
    known = [output.metric for output in outputs if base and output.metric in base]
    if not base or not known:
        return "not scored"
    return f"{base[known[0]]:.6g}" if len(outputs) == 1 else "  ".join(f"{name} {base[name]:.6g}" for name in known)


def _score(experiment: Experiment, answer: Answer) -> str:
    """One objective without its name, several with theirs."""
    words = "failed" if answer.source == "failed" else scores(experiment, answer, 6)
    return words.rpartition(" ")[2] if len(experiment.objectives) == 1 else words


def _best(experiment: Experiment, store: Store, ask: Ask, answer: Answer) -> Iterator[tuple[str, str]]:
    output = experiment.outputs[experiment.objective]
    yield "best score", f"{_score(experiment, answer)}   ({output.metric}, evaluation #{ask.number})"
    if holding := _constraints(experiment, answer):
        yield "constraints", f"{holding}   (all hold)"
    yield "best hyperparameters", describe(experiment.space.decode(ask.point))
    if (changes := schedule(store, ask.key)) is not None:
        yield "best schedule", changes


def _front(experiment: Experiment, best: Sequence[tuple[Ask, Answer]]) -> Iterator[tuple[str, str]]:
    metrics = " and ".join(experiment.outputs[index].metric for index in experiment.objectives)
    holding = ", all constraints hold" if _constraints(experiment, best[0][1]) else ""
    yield "Pareto front", f"{len(best)} evaluation{'s' if len(best) > 1 else ''}, by {metrics}{holding}"
    for ask, answer in best:
        constraints = _constraints(experiment, answer)
        held = f"   [{constraints}]" if constraints else ""
        words = describe(experiment.space.decode(ask.point))
        yield f"  #{ask.number}", f"{_score(experiment, answer)}{held}   {words}   {ask.key}"


def _constraints(experiment: Experiment, answer: Answer) -> str:
    """What is under constraint, as it was measured."""
    pairs = zip(experiment.outputs, answer.values or (), strict=True)
    return "  ".join(f"{o.condition}: {spelt(o.sign * v + o.bound, 6)}" for o, v in pairs if o.kind == "PB")


def _none(experiment: Experiment, log: RunLog) -> str:
    nearest = least_violating(experiment, log)
    if nearest is None:
        return "no good evaluation"
    ask, answer = nearest
    what = f"{_score(experiment, answer)}{violated(experiment, answer)}"
    return f"no feasible evaluation; nearest is #{ask.number}: {what}"


def _counts(log: RunLog) -> str:
    evaluated = told(log)
    sources = ("trained", "store", "failed", "stopped")
    count = {source: sum(answer.source == source for _, answer in evaluated) for source in sources}
    surrogates = {ask.key for ask in log.replayed if ask.surrogate and ask.number in log.answers}
    stopped = f", {count['stopped']} stopped" if count["stopped"] else ""
    counts = f"({count['trained']} trained, {count['store']} from the store, {count['failed']} failed{stopped})"
    return f"{len(evaluated)}   {counts}{beside(surrogates)}"
