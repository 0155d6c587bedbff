"""`python -m blackbox.confirm REQUEST`: points again with other training seeds, in one block. For `bbo confirm`.

Writes to the store alone, never to a run log. A line of JSON on stdout says what is planned, then one for each answer.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bbo.errors import InputError, MachineError
from bbo.experiment import read_experiment
from bbo.run import Run
from bbo.store import Result, Stopped, Store
from blackbox.block import Blackbox, Source
from blackbox.jobs import Candidate
from blackbox.program import status_of


def run(request: Mapping[str, Any]) -> None:
    """The request's points, each with the `seeds` training seeds after the search's own."""
    wire = os.dup(1)
    os.dup2(2, 1)  # a library's banner is no answer
    experiment = read_experiment(Path(request["experiment"]))
    # One block is all that is asked: no process stays behind.
    experiment = replace(experiment, resources=experiment.resources.model_copy(update={"worker": "fresh"}))
    run_, store = Run(Path(request["run"])), Store(Path(request["store"]))
    blackbox = Blackbox(experiment, store, run_.preflight_file)
    try:
        planned = _planned(blackbox, request)
        _write(wire, {"planned": [{"point": p, "seed": seed, "key": c.key} for (p, seed), c in planned.items()]})
        trained = set[str]()

        def told(candidate: Candidate, ended: Result | Stopped, source: Source) -> None:
            if isinstance(ended, Stopped):
                raise MachineError(f"{candidate.key} was stopped at epoch {ended.epoch:g}: {ended.reason}")
            trained.update({candidate.key} if source == "trained" else ())
            good = ended.status == "ok"
            values = [output.value(ended.metrics) for output in experiment.outputs] if good else None
            reason = None if good else ended.reason or "failed"
            _write(wire, {"key": candidate.key, "values": values, "reason": reason, "source": source})

        blackbox.evaluate(list(planned.values()), told, lambda _: experiment.resources.kept is None)
    except InputError as error:
        raise experiment.located(error) from None
    if experiment.resources.kept is not None:
        own = store.root.absolute() == run_.evals.absolute()
        of_the_run = {ask.key for ask in run_.log().asks}
        for candidate in planned.values():
            if candidate.key not in of_the_run and (own or candidate.key in trained):
                store.evaluation(candidate.key).drop_weights()


def _planned(blackbox: Blackbox, request: Mapping[str, Any]) -> dict[tuple[int, int], Candidate]:
    """(number of the point, seed) -> its evaluation. Raises InputError where the search's own could not be repeated."""
    planned = {}
    for number, each in enumerate(request["points"]):
        point, fidelity = tuple(each["point"]), each["fidelity"]
        hyperparameters = blackbox.experiment.space.decode(point)
        if blackbox.candidate(hyperparameters, point, fidelity).key != each["key"]:
            raise InputError(
                f"{each['key']}: model, data, settings or the trainer have changed since this was evaluated: other "
                "seeds would be compared with something else; run the search again"
            )
        first = blackbox.training(hyperparameters).seed + 1
        for seed in range(first, first + request["seeds"]):
            candidate = blackbox.candidate({**hyperparameters, "seed": seed}, point, fidelity)
            planned[number, seed] = candidate
    return dict(sorted(planned.items(), key=lambda item: item[0][::-1]))  # whoever is killed has whole seeds


def _write(wire: int, entry: Mapping[str, Any]) -> None:
    os.write(wire, json.dumps(entry).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(status_of(run))
