"""NOMAD as something that can be asked: a child process in which its run waits for the answers.

NOMAD has no ask and tell of its own that would be its batch run (`suggest` and `observe` are another algorithm). So the
child runs PyNomad.optimize, whose callback hands its points out and waits. The same process goes on with what is told
later; a new one is led through the known answers, and since NOMAD is deterministic it comes to the same points.

`python -m bbo.mads` is the child: a process of its own since bad parameters abort it, NOMAD holds the interpreter, and
a second run in one process differs from the first. A line of JSON each way: parameters in; then points out (none: it
has finished), their answers in. It ends when its standard input does.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from bbo import keywords
from bbo.errors import InputError, MachineError
from bbo.points import format_answer
from bbo.space import Point
from bbo.variables import statement

Answer = tuple[float, ...]
"""Objective and constraints."""

_OURS = {
    "DIMENSION", "BB_INPUT_TYPE", "BB_OUTPUT_TYPE", "LOWER_BOUND", "UPPER_BOUND", "X0", "SEED", "MAX_BB_EVAL", "BB_EXE",
    "BB_MAX_BLOCK_SIZE", "NB_THREADS_PARALLEL_EVAL", "DISPLAY_DEGREE", "CACHE_FILE", "FIXED_VARIABLE",
}  # fmt: skip


@dataclass
class Mads:
    """One run of NOMAD, of statements as in a parameter file (without BB_EXE)."""

    statements: tuple[str, ...]
    _process: "subprocess.Popen[str] | None" = field(default=None, init=False)
    _output: IO[bytes] | None = field(default=None, init=False)
    _block: list[Point] = field(default_factory=list, init=False)
    _end: Any = field(default=None, init=False)

    def unanswered(self, answer: Callable[[Point], Answer | None]) -> list[Point]:
        """The first points that `answer` does not know: one, or those of a block; none when NOMAD has finished.

        Raises InputError if NOMAD refuses the statements.
        """
        if self._process is None:
            self._start()
        while self._block:
            answers = [answer(point) for point in self._block]
            if None in answers:
                return [point for point, known in zip(self._block, answers, strict=True) if known is None]
            self._send([format_answer(known, len(known)) for known in answers if known is not None])
        return []

    def close(self) -> None:
        """End the child; the next question starts another one."""
        if self._end is not None:
            self._end()
        self._process, self._block = None, []

    def __getstate__(self) -> dict[str, Any]:
        """Without the child: a copy starts its own."""
        return {**self.__dict__, "_process": None, "_output": None, "_block": [], "_end": None}

    def _start(self) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - read only if the child dies
        # A session of its own: Ctrl-C would make NOMAD end its run as if it had finished.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bbo.mads"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._end = weakref.finalize(self, _stop, self._process, self._output)
        self._send(self.statements)

    def _send(self, message: Sequence[str]) -> None:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._died()
        self._block = [tuple(point) for point in json.loads(line)]

    def _died(self) -> None:
        assert self._process is not None and self._output is not None
        status, first = self._process.wait(), not self._block
        self._output.seek(0)
        said = " ".join(self._output.read().decode(errors="replace").split())
        self.close()
        if first:
            raise InputError(f"NOMAD refuses its parameters: {said}")
        raise MachineError(f"NOMAD ended with status {status}: {said}")


def _stop(process: "subprocess.Popen[str]", output: IO[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout, output):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            stream.close()
    process.wait()


def statements(
    lower: Sequence[float],
    upper: Sequence[float],
    whole: Sequence[bool],
    x0: Sequence[Point],
    constraints: int,
    seed: int,
) -> tuple[str, ...]:
    """The statements that every problem has; each lower bound is below the upper one."""
    return (
        f"DIMENSION {len(lower)}",
        f"BB_INPUT_TYPE ( {' '.join('I' if each else 'R' for each in whole)} )",
        f"BB_OUTPUT_TYPE {' '.join(['OBJ', *['PB'] * constraints])}",
        statement("LOWER_BOUND", tuple(map(float, lower))),
        statement("UPPER_BOUND", tuple(map(float, upper))),
        *(statement(f"X0 {index}", tuple(map(float, point))) for index, point in enumerate(x0)),
        f"SEED {seed}",
    )


def settings(direction_type: str | None, block_size: int, parameters: str) -> tuple[str, ...]:
    """Statements of the user's: `parameters` as in a parameter file, with `;` between them.

    Blocks come with MEGA_SEARCH_POLL: without it most of them hold one point. Raises InputError for what NOMAD refuses.
    """
    if block_size < 1:
        raise InputError(f"--set block_size: must be at least 1, got {block_size}")
    given = [" ".join(each.split()) for each in parameters.split(";") if each.strip()]
    ours = [f"DIRECTION_TYPE {direction_type}"] if direction_type else []
    verdict = keywords.ask([*ours, *given], 1, [])
    for index, line in enumerate([*ours, *given]):
        name = line.split()[0].upper()
        if name not in verdict.keywords:
            raise InputError(f"--set parameters: {name} {keywords.hint(name, verdict.keywords)}")
        if name in _OURS:
            raise InputError(f"--set parameters: {name} is set for you")
        if index in verdict.refusals:
            raise InputError(
                f"--set {'parameters' if line in given else 'direction_type'}: {line}: {verdict.refusals[index]}"
            )
    if block_size > 1:
        ours += [f"BB_MAX_BLOCK_SIZE {block_size}", "MEGA_SEARCH_POLL yes"]
    named = {line.split()[0].upper() for line in given}
    return (*(line for line in ours if line.split()[0] not in named), *given)


def main() -> None:
    """The child."""
    wire = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # NOMAD prints on 1
    import PyNomad  # noqa: PLC0415 - a C++ library that only the child needs

    def answer(*points: Any) -> None:
        # NOMAD says -0.0 now and then.
        block = [[point.get_coord(place) + 0.0 for place in range(point.size())] for point in points]
        try:
            print(json.dumps(block), file=wire, flush=True)
            line = sys.stdin.readline()
        except BrokenPipeError:
            line = ""
        if not line:  # whoever asks is gone
            os._exit(0)
        for point, words in zip(points, json.loads(line), strict=True):
            point.setBBO(words.encode())

    def one(point: Any) -> int:
        answer(point)
        return 1

    def several(block: Any) -> list[int]:
        answer(*(block.get_x(place) for place in range(block.size())))
        return [1] * block.size()

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lines = json.loads(sys.stdin.readline())
    in_blocks = any(line.startswith("BB_MAX_BLOCK_SIZE ") for line in lines)
    PyNomad.optimize(several if in_blocks else one, [], [], [], [*lines, "DISPLAY_DEGREE 0"])
    print("[]", file=wire, flush=True)


if __name__ == "__main__":
    main()
