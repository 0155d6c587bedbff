"""Optuna's own figures of a run: importances, slices, contours. They are called, and given our colours."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bbo.optimizers.study import silence
from bbo.reports.pictures import SMALL
from bbo.reports.style import plain_ticks
from bbo.reports.svg import INK

MOST = 3
"""Parameters whose pairs are shown as contours: the most important ones."""

LATER = ("#9ecae1", "#2171b5")
"""From the first trial to the last: Optuna's own blues begin at white and end near black."""


def figures(study: Study, metric: str) -> Iterator[tuple[str, str, Any]]:
    """Name, caption and figure of each that the study has enough trials for; under `svg.drawing`."""
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415 - slow to load
    from optuna.visualization import matplotlib as optunas  # noqa: PLC0415

    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [
        name
        for name in (whole[0].params if whole else ())
        if len({trial.params[name] for trial in whole}) > 1 and len({trial.values[0] for trial in whole}) > 1
    ]
    axes: Any
    target: dict[str, Any] = {"target_name": metric} | ({"target": _first} if len(study.directions) > 1 else {})
    with silence():
        important = importances(study, varied)
        if important:
            axes = optunas.plot_param_importances(study, params=varied, target=_loss(study), target_name=metric)
            yield "importances", f"Importance of each hyperparameter for {metric} (Optuna)", _dress(axes, 2.6)
        for name in important:
            axes = optunas.plot_slice(study, [name], **target)
            axes.collections[0].set_cmap(LinearSegmentedColormap.from_list("order", LATER))
            yield f"slice-{_word(name)}", f"{metric} against {name}, darker is later (Optuna's slice)", _dress(axes)
        for pair in combinations(list(important)[:MOST], 2):
            axes = optunas.plot_contour(study, list(pair), **target)
            caption = f"{metric} over {pair[0]} and {pair[1]} (Optuna's contour, interpolated)"
            yield f"contour-{_word(pair[0])}-{_word(pair[1])}", caption, _dress(axes)


def importances(study: Study, names: list[str]) -> dict[str, float]:
    """By Optuna's default evaluator, for the first objective, the greatest first; empty where it cannot say."""
    from optuna.importance import get_param_importances  # noqa: PLC0415 - slow to load

    if not names:
        return {}
    try:
        return get_param_importances(study, params=names, target=_loss(study))
    except (RuntimeError, ValueError):  # too few trials, or all alike
        return {}


def _first(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _loss(study: Study) -> Callable[[FrozenTrial], float] | None:
    """Of several objectives the first, lower being better, as Optuna's evaluator takes a target; else its own way."""
    sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0
    return (lambda trial: sign * _first(trial)) if len(study.directions) > 1 else None


def _dress(axes: Any, height: float = SMALL[1]) -> Any:
    """Optuna's figures have a style of their own, in which words are grey and titles repeat what the caption says."""
    figure = axes.figure
    figure.set_size_inches(SMALL[0], height)
    figure.patch.set_alpha(0)
    for panel in figure.axes:
        for side in ("left", "center", "right"):
            panel.set_title("", loc=side)
        for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
            if axis.get_scale() == "log":
                plain_ticks(axis, *limits)
        panel.set_facecolor("none")
        panel.tick_params(which="both", colors=INK, labelsize=9)
        panel.grid(visible=panel is axes, color=INK, alpha=0.15)
        for text in (panel.xaxis.label, panel.yaxis.label, *panel.texts):
            text.set_color(INK)
            text.set_fontsize(9)
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    return figure


def _word(name: str) -> str:
    """For file names."""
    return name.replace(" / ", "-per-").replace("/", "-")
