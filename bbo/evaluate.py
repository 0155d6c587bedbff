"""Call BB_EXE as NOMAD does: point file as the last word, from the caller's folder, k lines come back."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bbo import lifeline
from bbo.command import resolve
from bbo.points import format_point, parse_answer
from bbo.problem import Problem
from bbo.processes import end, own_python_first
from bbo.space import Point


@dataclass(eq=False)
class Call:
    """One call under way, in a session of its own; the files of its points and of its answer."""

    points: Sequence[Point]
    process: subprocess.Popen[bytes]
    files: tuple[Path, Path]

    def fault(self) -> str | None:
        """Why an optimizer that only reads the answer would take its points for failed; for a call that has ended."""
        status = self.process.returncode
        if status != 0:
            return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        lines = self.files[1].read_text(errors="replace").splitlines()[: len(self.points)]
        readable = [line for line in lines if parse_answer(line) is not None]
        return None if len(readable) == len(self.points) else f"answered {len(readable)} of {len(self.points)} points"

    def close(self) -> None:
        """End what still runs of it, and remove its files."""
        if self.process.poll() != 0:
            end([self.process])
        for file in self.files:
            file.unlink(missing_ok=True)


class Evaluator:
    """Starts calls of one command. They all end when we do: see bbo/lifeline.py."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        """`folder` is where the files of points and answers are, `log` has what the calls say on stderr."""
        self.command = command
        self.folder = folder
        self.log = log
        self.environment = {**os.environ, **own_python_first(), **environment, lifeline.ENVIRONMENT: "1"}
        self._started = 0

    def __enter__(self) -> "Evaluator":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        # One pipe for all calls: what stays loaded between them (bbo/executors/resident.py) hangs on it too.
        self._lifeline, self._our_end = os.pipe()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._our_end)
        os.close(self._lifeline)

    def start(self, points: Sequence[Point], options: Sequence[str], environment: Mapping[str, str]) -> Call:
        """Call the command with these options and points."""
        self._started += 1
        questions, answers = (self.folder / f"{self._started}.{kind}" for kind in ("points", "answers"))
        questions.write_text("".join(format_point(point) + "\n" for point in points))
        with answers.open("wb") as answer, self.log.open("ab") as log:
            process = subprocess.Popen(
                [*self.command, *options, str(questions)],
                stdin=self._lifeline,
                stdout=answer,
                stderr=log,
                env={**self.environment, **environment},
                start_new_session=True,
            )
        return Call(points, process, (questions, answers))


def words(problem: Problem) -> list[str]:
    """The command of a BB_EXE without shell syntax, as `bbo.pair.fidelity_of` demands it."""
    return [str(resolve(word, problem.folder)) if not word.startswith("$") else word[1:] for word in problem.bb_exe]
