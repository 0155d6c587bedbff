"""Before the first training: does everything fit together? Its verdict and the base score stand in preflight.json."""

import argparse
import fcntl
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bbo import lifeline
from bbo.errors import InputError, MachineError
from bbo.executors.protocol import Executor, Files, Launch
from bbo.experiment import Experiment, read_experiment
from bbo.store import Store, write_json
from blackbox.failure import failure_file, raise_failure, write_failure
from blackbox.launch import SHARED_CORES
from blackbox.scores.requests import Wanted


class Preflight:
    """The record of one run folder's preflight. It holds for one `digest`: model, data and training settings."""

    def __init__(self, file: Path, experiment: Experiment, digest: str, store: Store) -> None:
        self.file = file
        self.experiment = experiment
        self.digest = digest
        self.store = store

    def read(self) -> dict[str, Any]:
        """What is known; empty where nothing is, or where it is about something else."""
        try:
            content: dict[str, Any] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        return content if content.get("digest") == self.digest else {}

    def base(self) -> dict[str, float]:
        """Metrics of the untouched base model, as far as jobs have found them."""
        return self.read().get("base") or {}

    def base_scores(self) -> set[str]:
        """Names of the scores among them."""
        return set((self.read().get("base_scores") or {}).values())

    def keep_base(self, file: Path, wanted: Mapping[str, Wanted] = {}) -> None:
        """Take over what a job wrote about the base model: its metrics, and under `scores` those of each score."""
        if not file.is_file():
            return
        metrics = json.loads(file.read_text())
        scores = metrics.pop("scores", {})
        found = {output: each for output, each in wanted.items() if each.request.name in scores}
        metrics |= {output: each.value(scores[each.request.name]) for output, each in found.items()}
        names = {output: each.request.name for output, each in found.items()}

        def add(content: dict[str, Any]) -> dict[str, Any]:
            base, known = content.get("base") or {}, content.get("base_scores") or {}
            return content | {"base": base | metrics, "base_scores": known | names}

        self._update(add)
        file.unlink()

    def ensure(self, executor: Executor, files: Callable[[], Files]) -> None:
        """Check unless it was checked before; whoever comes second waits. Raises InputError with all that is wrong."""
        if self.read():
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.read():
                self._check(executor, files)

    def _check(self, executor: Executor, files: Callable[[], Files]) -> None:
        print("preflight: checking model, data and identity before the first training", file=sys.stderr, flush=True)
        job = self.store.jobs / f"preflight-{self.digest}"
        report, failure, log = (job.with_suffix(".json"), job.with_suffix(".error.json"), job.with_suffix(".log"))
        failure.unlink(missing_ok=True)
        experiment = str(self.experiment.path.absolute())
        arguments = [sys.executable, "-m", "blackbox.preflight", experiment, "--json", str(report.absolute())]

        def carried() -> Files:
            return replace(files(), makes=[report.absolute(), failure.absolute()])

        check = Launch("preflight", arguments, log, lambda slot: None, SHARED_CORES, files=carried)
        for _, how in executor.run([check], lambda launch, pid: None, lambda: None):
            raise_failure(failure, log)
            if how.status != 0:
                raise MachineError(f"the preflight ended with status {how.status}, see {log}")
        content = json.loads(report.read_text())
        report.unlink()
        known = ("base", "base_scores")
        self._update(lambda old: {"digest": self.digest, "report": content, **{name: old.get(name) for name in known}})

    def _update(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        write_json(self.file, change(self.read()))


def main() -> int:
    """Exit status 0 when all is well, 1 with one sentence per mistake."""
    parser = argparse.ArgumentParser("python -m blackbox.preflight")
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="check what needs no model in memory, in under a second")
    what.add_argument("--plan", action="store_true", help="print launch line, memory and time; check nothing")
    what.add_argument("--json", type=Path, metavar="FILE", help="write the report here instead of printing it")
    rule = "with --quick: the stopping rule, where it is not the YAML's"
    parser.add_argument("--stopping", metavar="RULE", help=rule)
    parser.add_argument("--budget", metavar="N", type=int, help="with --quick: evaluations there will be at most")
    options = parser.parse_args()
    lifeline.watch()
    warnings.simplefilter("ignore", FutureWarning)  # from one library to another
    try:
        experiment = read_experiment(options.experiment)
        try:
            _report(experiment, options)
        except InputError as error:
            raise experiment.located(error) from None
    except InputError as error:
        print(error, file=sys.stderr)
        if options.json:
            write_failure(failure_file(options.json), error)
        return 1
    return 0


def _report(experiment: Experiment, options: argparse.Namespace) -> None:
    from blackbox import checks  # noqa: PLC0415 - which imports this module

    if options.quick:
        checks.quick(experiment, options.stopping, options.budget)
    elif options.plan:
        print("\n".join(checks.plan(experiment)))
    else:
        checks.quick(experiment)
        report = checks.full(experiment)
        if options.json:
            write_json(options.json, report)
        else:
            print("\n".join(checks.describe(report)))


if __name__ == "__main__":
    sys.exit(main())
