"""What tests of whole runs look at: the record, the results, the processes."""

import os
import subprocess
from pathlib import Path

import psutil

from bbo.runlog import RunLog
from tests.conftest import python

BLOCKS = {"SEED           0": "SEED 0\nBB_MAX_BLOCK_SIZE 4\nMEGA_SEARCH_POLL yes"}

SURROGATE_TEXT = {
    "SEED           0": 'SEED 0\nSURROGATE_EXE "$python3 $-m $blackbox toy.yaml $--fidelity $low"\n'
    "EVAL_QUEUE_SORT SURROGATE\nSURROGATE_MAX_BLOCK_SIZE 3"
}
SURROGATE_YAML = {"outputs:": "fidelity: {low: {epochs_fraction: 0.5, train_fraction: 0.25}}\noutputs:"}


def walk(folder: Path) -> list[tuple[object, ...]]:
    """The points a run asked for with the values it was told."""
    log = RunLog(folder / "log.jsonl")
    return [(ask.point, ask.key, log.answers[ask.number].values) for ask in log.driven]


def surrogate_walk(folder: Path) -> list[tuple[object, ...]]:
    """The points a run's surrogate was asked for, each block with the number of evaluations before it."""
    log, before, found = RunLog(folder / "log.jsonl"), 0, []
    for ask in log.replayed:
        before += not ask.surrogate
        if ask.surrogate:
            found.append((before, ask.point, ask.key, log.answers[ask.number].values))
    return found


def results(folder: Path) -> dict[str, float]:
    """Every stored result and when it was written."""
    return {file.parent.name: file.stat().st_mtime for file in folder.glob("evals/*/result.json")}


def start(tmp_path: Path, *arguments: str, module: str = "bbo.nomad") -> subprocess.Popen[str]:
    return subprocess.Popen(
        python(module, *arguments), cwd=tmp_path, stdout=-1, stderr=-1, text=True, start_new_session=True
    )


def ours(tmp_path: Path) -> list[psutil.Process]:
    """All living processes that work in this test's folder, but for ourselves."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.cwd() == str(tmp_path) and process.status() != "zombie":
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kind(process: psutil.Process) -> str:
    """Which of a run's processes this is, by its command line."""
    try:
        words = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "gone"
    names = {
        "bbo.nomad import": "driver",
        "bbo.cli import": "driver",
        "bbo.batch": "nomad",
        "-m blackbox ": "blackbox",
        "blackbox.train": "trainer",
        "blackbox.worker": "trainer",
    }
    return next((name for mark, name in names.items() if mark in words and "sh -c" not in words), "other")


MINE = '''
"""Proposes by chance, and what it was told in which order changes what it proposes."""
import random
from bbo.optimizers import Proposal

class Mine:
    def __init__(self, *, space, x0, budget, seed, copies: float = 0.5, most: int = 1000):
        self.variables, self.draw = [space.variables[name] for name in space.free], random.Random(seed)
        self.first, self.copies, self.left, self.told = list(x0), copies, most, []

    def ask(self, count):
        count = min(count, self.left)
        self.left -= count
        return [Proposal(self.first.pop(0) if self.first else self.one()) for _ in range(count)]

    def one(self):
        bounds = [(variable.whole, *variable.bounds) for variable in self.variables]
        point = [self.draw.randint(low, high) if whole else self.draw.uniform(low, -2) for whole, low, high in bounds]
        if self.told and self.draw.random() < self.copies:
            point[:3] = self.told[-1].point[:3]
        return tuple(map(float, point))

    def tell(self, outcome):
        self.told.append(outcome)
'''

FRONT_YAML = {"outputs: [eval_loss, train_loss]": "outputs: [eval_loss, trainable_parameters]\nobjectives: 2"}
FRONT_TEXT = {"OBJ EXTRA_O ": "OBJ OBJ ", "SEED  ": "DMULTIMADS_OPTIMIZATION yes\nDIRECTION_TYPE ORTHO 2N\nSEED  "}
BOUND_YAML = {"outputs: [eval_loss, train_loss]": "outputs: [eval_loss, trainable_parameters <= 4096]"}
BOUND_TEXT = {"OBJ EXTRA_O ": "OBJ PB "}
BOTH_YAML = {
    "outputs: [eval_loss, train_loss]": "outputs: [eval_loss, trainable_parameters, train_loss <= 1.4]\nobjectives: 2"
}
BOTH_TEXT = {**FRONT_TEXT, "OBJ EXTRA_O ": "OBJ OBJ PB "}
FAILING = {"3 16 3 -4.5": "3 32 3 -2"}
"""An X0 at which the toy diverges."""
