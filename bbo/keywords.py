"""What the installed NOMAD itself says about parameter lines: no list of its keywords or kinds is kept here.

`PyNomad.help("all")` prints every keyword (190 in 4.5.1; asking about all 606 capitalized strings of the library found
no other), and the constructor of PyNomadMainStep reads and checks lines without running anything. It prints a
warning for each line it cannot read, aborts the process on a problem it refuses, and now and then corrupts memory
(`LOWER_BOUND -1 0`): it is called in a child process, once per parameter file (about 0.02 s and 2 ms per line).
"""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bbo.errors import MachineError

_MARK = "\x1e"  # no parameter line holds it: read_problem refuses control characters

# NOMAD 3's keywords (and two of 4.x) that have another name now, in the words of NOMAD 4's own hints.
_RENAMED = {
    "DISABLE": "QUAD_MODEL_SEARCH no and SGTELIB_MODEL_SEARCH no, or EVAL_QUEUE_SORT LEXICOGRAPHICAL",
    "GENERATE_ALL_POINTS_BEFORE_EVAL": "MEGA_SEARCH_POLL",
    "INITIAL_POLL_SIZE": "INITIAL_FRAME_SIZE",
    "MAX_SGTE_EVAL": "QUAD_MODEL_MAX_EVAL and SGTELIB_MODEL_MAX_EVAL",
    "MIN_POLL_SIZE": "MIN_FRAME_SIZE",
    "MODEL_RADIUS_FACTOR": "QUAD_MODEL_SEARCH_BOX_FACTOR",
    "MODEL_SEARCH": "QUAD_MODEL_SEARCH and SGTELIB_MODEL_SEARCH",
    "NB_THREADS_OPENMP": "NB_THREADS_PARALLEL_EVAL",
    "NM_SEARCH_DELTA_E": "NM_DELTA_E",
    "NM_SEARCH_DELTA_IC": "NM_DELTA_IC",
    "NM_SEARCH_DELTA_OC": "NM_DELTA_OC",
    "NM_SEARCH_GAMMA": "NM_GAMMA",
    "NM_SEARCH_MAX_TRIAL_PTS": "NM_SEARCH_MAX_TRIAL_PTS_NFACTOR",
    "NM_SEARCH_OPPORTUNISTIC": "NM_SEARCH_STOP_ON_SUCCESS",
    "OPPORTUNISTIC_EVAL": "EVAL_OPPORTUNISTIC",
    "OPT_ONLY_SGTE": "EVAL_SURROGATE_OPTIMIZATION",
    "RANDOM_EVAL_SORT": "EVAL_QUEUE_SORT RANDOM",
    "SEC_POLL_DIR_TYPE": "DIRECTION_TYPE_SECONDARY_POLL",
    "SGTELIB_MODEL_CANDIDATES_NB": "SGTELIB_MODEL_SEARCH_CANDIDATES_NB",
    "SGTELIB_MODEL_EVAL_NB": "SGTELIB_MODEL_MAX_EVAL",
    "SGTELIB_MODEL_EXCLUSION_AREA": "SGTELIB_MODEL_SEARCH_EXCLUSION_AREA",
    "SGTELIB_MODEL_FILTER": "SGTELIB_MODEL_SEARCH_FILTER",
    "SGTELIB_MODEL_TRIALS": "SGTELIB_MODEL_SEARCH_TRIALS",
    "SGTE_COST": "EVAL_SURROGATE_COST",
    "SGTE_EVAL_SORT": "EVAL_QUEUE_SORT SURROGATE",
    "SGTE_EXE": "SURROGATE_EXE",
    "VNS_SEARCH": "VNS_MADS_SEARCH",
}
# NOMAD 3's keywords that NOMAD 4 has nothing for.
_DROPPED = frozenset(
    """
    ASYNCHRONOUS BB_INPUT_INCLUDE_SEED BB_INPUT_INCLUDE_TAG CACHE_SAVE_PERIOD CACHE_SEARCH CLOSED_BRACE
    EXTENDED_POLL_ENABLED EXTENDED_POLL_TRIGGER F_TARGET HAS_SGTE INITIAL_MESH_INDEX INTENSIFICATION_TYPE
    INT_POLL_DIR_TYPES L_CURVE_TARGET MAX_CACHE_MEMORY MAX_CONSECUTIVE_FAILED_ITERATIONS MAX_EVAL_INTENSIFICATION
    MAX_SIM_BB_EVAL MESH_COARSENING_EXPONENT MESH_REFINING_EXPONENT MESH_TYPE MESH_UPDATE_BASIS MODEL_EVAL_SORT
    MODEL_EVAL_SORT_CAUTIOUS MODEL_NP1_QUAD_EPSILON MODEL_QUAD_MAX_Y_SIZE MODEL_QUAD_MIN_Y_SIZE
    MODEL_QUAD_RADIUS_FACTOR MODEL_QUAD_USE_WP MODEL_SEARCH_MAX_TRIAL_PTS MODEL_SEARCH_OPPORTUNISTIC
    MODEL_SEARCH_OPTIMISTIC MODEL_SEARCH_PROJ_TO_MESH MULTI_FORMULATION MULTI_F_BOUNDS MULTI_NB_MADS_RUNS
    MULTI_OVERALL_BB_EVAL MULTI_USE_DELTA_CRIT NEIGHBORS_EXE NM_SEARCH_INCLUDE_FACTOR NM_SEARCH_INIT_Y_BEST_VON
    NM_SEARCH_INIT_Y_ITER NM_SEARCH_INTENSIVE NM_SEARCH_MIN_SIMPLEX_VOL NM_SEARCH_SCALED_DZ NM_SEARCH_USE_ONLY_Y
    NM_SEARCH_USE_SHORT_Y0 OPEN_BRACE OPPORTUNISTIC_CACHE_SEARCH OPPORTUNISTIC_LH OPPORTUNISTIC_LUCKY_EVAL
    OPPORTUNISTIC_MIN_EVAL OPPORTUNISTIC_MIN_F_IMPRVMT OPPORTUNISTIC_MIN_NB_SUCCESS PERIODIC_VARIABLE
    POINT_DISPLAY_LIMIT POLL_UPDATE_BASIS ROBUST_MADS ROBUST_MADS_STANDARD_DEV_FACTOR SCALING SGTE_CACHE_FILE
    SNAP_TO_BOUNDS TREND_MATRIX TREND_MATRIX_BASIC_LINE_SEARCH TREND_MATRIX_EVAL_SORT
    """.split()
)
# NOMAD's message about a value -> the rule, as a person would say it.
_RULES = {
    r"^NOMAD crashes": "crashes NOMAD",
    r"bool": "must be yes or no",
    r"size_t": "must be one whole number of at least 0, or INF",
    r"integer parameter": "must be one whole number",
    r"double parameter": "must be one number",
    r"string parameter": "must be one word (in quotes if it has spaces)",
    r"expects exactly (\d+) values": r"must be \1 whole numbers",
    r"Internal parameter": "cannot be set in a parameter file: NOMAD computes it",
    r"Unrecognized string|cannot be converted to": "must be a value that `nomad -h` shows for it",
}


@dataclass(frozen=True)
class Verdict:
    """NOMAD's answer: its keywords, the rule each refused line breaks (by its index), and what it says of the whole."""

    keywords: frozenset[str]
    refusals: Mapping[int, str]
    objection: str | None


def ask(lines: Sequence[str], dimension: int | None, whole: Sequence[str]) -> Verdict:
    """Let NOMAD read each of `lines` by itself, and check `whole` (a complete list of lines; empty: not yet)."""
    start = [] if dimension is None else [f"DIMENSION {dimension}"]
    question = json.dumps({"lines": [[*start, line] for line in lines], "whole": list(whole)})
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-c", "from bbo.keywords import answer; answer()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}
    try:
        child = subprocess.run(
            command, input=question.encode(), capture_output=True, env=environment, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        raise MachineError("NOMAD did not answer within 120 s when asked to check the parameters") from None
    sections: dict[str, str] = {}
    for part in child.stdout.decode(errors="replace").split(_MARK)[1:]:
        tag, _, text = part.partition("\n")
        sections[tag] = text
    keywords = frozenset(re.findall(r"^([A-Z][A-Z0-9_]*) \{", sections.get("keywords", ""), re.MULTILINE))
    if not keywords:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise MachineError(f"NOMAD cannot be asked for its keywords (pip install -r requirements.txt): {last[0]}")
    objections = {index: _objection(sections.get(str(index), "")) for index in range(len(lines))}
    if "whole" not in sections:  # the child died while it read the line of the last section
        objections[len(sections) - 2] = "NOMAD crashes on this value"
    refusals = {
        index: _rule(text) for index, text in objections.items() if text and "Dimension must be set" not in text
    }
    refused = "end" not in sections and "whole" in sections
    return Verdict(keywords, refusals, (_objection(sections["whole"]) or "NOMAD crashes on it") if refused else None)


def hint(name: str, keywords: frozenset[str]) -> str:
    """Why `name`, which is none of NOMAD's keywords, is refused, and what to write instead."""
    if name in _RENAMED:
        return f"is gone from NOMAD 4: use {_RENAMED[name]}"
    if name in _DROPPED:
        return "is a keyword of NOMAD 3 that NOMAD 4 does not have"
    close = get_close_matches(name[:80], sorted(keywords), 1, 0.7)
    return "is no keyword of NOMAD" + (f": did you mean {close[0]}?" if close else " (`nomad -h all` lists them)")


def answer() -> None:
    """The child process: everything NOMAD prints goes to stdout, in sections that begin with a mark and a tag."""
    import PyNomad  # noqa: PLC0415 - only the child may load it: it aborts the process

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    question = json.load(sys.stdin)
    os.dup2(1, 2)
    _begin("keywords")
    PyNomad.help("all")
    for index, lines in enumerate(question["lines"]):
        _begin(str(index))
        with contextlib.suppress(IndexError):
            PyNomad.PyNomadMainStep(_Endless(lines))
    _begin("whole")
    if question["whole"]:
        PyNomad.PyNomadMainStep(question["whole"])
    _begin("end")


class _Endless:
    """Lines that raise IndexError after the last: PyNomadMainStep has read them, but not yet checked the whole."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines) + 1

    def __getitem__(self, index: int) -> str:
        return self.lines[index]


def _begin(tag: str) -> None:
    os.write(1, f"{_MARK}{tag}\n".encode())


def _objection(text: str) -> str:
    """NOMAD's own sentence out of what it printed; empty if it printed no exception."""
    found = re.search(r"NOMAD::Exception thrown \([^)]*\) (.*)", text, re.DOTALL)
    words = " ".join(found[1].split()) if found else ""
    return re.sub(r"^(Invalid Parameter\. |Parameters check: |Check: |Error: )+", "", words).rstrip(". ")


def _rule(objection: str) -> str:
    for pattern, rule in _RULES.items():
        found = re.search(pattern, objection)
        if found:
            return found.expand(rule)
    return f"is refused by NOMAD ({objection})"
