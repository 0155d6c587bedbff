"""Parameter files: what is read, what is refused and how, and that NOMAD itself sees it the same way."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bbo import keywords
from bbo.errors import InputError
from bbo.problem import Problem, experiment_file, read_problem

BASE = """\
DIMENSION 3
BB_EXE bb.sh
BB_OUTPUT_TYPE OBJ
LOWER_BOUND * -5
UPPER_BOUND * 9
X0 ( 1 2 3 )
MAX_BB_EVAL 6
"""
INF = math.inf
POINT_FILE = "1 2 3\n4 5\n6\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A problem's folder: a blackbox that notes the points it gets, an experiment, a file of two points."""
    blackbox = tmp_path / "bb.sh"
    blackbox.write_text(
        '#!/bin/sh\nfor p; do :; done\ncat "$p" >> "${0%/*}/calls"\nwhile read -r a b c; do echo "$a"; done < "$p"\n'
    )
    blackbox.chmod(0o755)
    (tmp_path / "plain.py").write_text("")
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "x0.txt").write_text(POINT_FILE)
    (tmp_path / "short.txt").write_text("1 2 3 4\n")
    (tmp_path / "text.txt").write_text("one two three\n")
    return tmp_path


def changed(*lines: str) -> str:
    """BASE with `lines` instead of its own lines of the same keywords; `-KEYWORD` only removes them."""
    names = {line.split()[0].lstrip("-").upper() for line in lines}
    kept = [line for line in BASE.splitlines() if line.split()[0] not in names]
    return "\n".join([*kept, *(line for line in lines if not line.startswith("-"))]) + "\n"


def read(folder: Path, text: str | bytes) -> Problem:
    path = folder / "p.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_problem(path)


def run_nomad(folder: Path, lines: list[str]) -> tuple[int, list[list[float]]]:
    """NOMAD's exit code on the lines, and the points that the blackbox got."""
    for left in ("calls", "c.txt"):
        (folder / left).unlink(missing_ok=True)
    code = "import json, sys, PyNomad; PyNomad.optimizeWithMainStep(json.load(sys.stdin))"
    lines = [*lines, f"PROBLEM_DIR {folder}/", "DISPLAY_DEGREE 0"]
    child = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(lines).encode(), cwd=folder, capture_output=True, check=False
    )
    calls = folder / "calls"
    text = calls.read_text() if calls.exists() else ""
    return child.returncode, [[float(word) for word in line.split()] for line in text.splitlines()]


def test_everything_at_once(folder: Path) -> None:
    problem = read(
        folder,
        "# a comment, \u00e9 included\r\n"
        "  bb_input_type (I I R)\r\n"
        'BB_EXE "$python3 $-u $-m $blackbox a.yaml"\t# quoted\n'
        "bb_output_type obj Cstr EB - NOTHING EXTRA_O CNT_EVAL BBO_UNDEFINED\n"
        "LOWER_BOUND 0-1 1\n"
        "LOWER_BOUND 2 -5.0e-1\n"
        "UPPER_BOUND ( 9 - +inf )\n"
        "X0 ( 5 5 0.1 )\n"
        "X0 1 * 3\n"
        "X0 1 2 0.30000000000000004\n"
        "Dimension 3  #late\n"
        "max_bb_eval 20\n"
        "BB_MAX_BLOCK_SIZE 4\n"
        "MEGA_SEARCH_POLL y\n"
        "NB_THREADS_PARALLEL_EVAL 2\n"
        "SEED 7\n"
        "DISPLAY_STATS BBE ( SOL ) OBJ\n",
    )
    assert (problem.dimension, problem.input_types) == (3, ("I", "I", "R"))
    assert (problem.lower, problem.upper) == ((1, 1, -0.5), (9, INF, INF))
    assert problem.x0 == ((5, 5, 0.1), (3, 3, 0.30000000000000004))
    assert problem.output_types == ("OBJ", "PB", "EB", "EXTRA_O", "EXTRA_O", "EXTRA_O", "CNT_EVAL", "EXTRA_O")
    assert problem.bb_exe == ("$python3", "$-u", "$-m", "$blackbox", "a.yaml")
    assert experiment_file(problem) == folder / "a.yaml"
    assert (problem.max_bb_eval, problem.block_size, problem.threads, problem.seed) == (20, 4, 2, 7)
    assert [(s.line, s.values) for s in problem.settings["X0"]][1] == (9, ("1", "*", "3"))
    assert problem.settings["DISPLAY_STATS"][0].values == ("BBE", "(", "SOL", ")", "OBJ")
    assert problem.where("SEED") == f"{folder}/p.txt:16"
    assert len(problem.warnings) == 1 and ":6: LOWER_BOUND: lines 5, 6" in problem.warnings[0]
    assert "UPPER_BOUND ( 9 - - )" in problem.lines and "X0 1 ( 3 3 0.30000000000000004 )" in problem.lines


def test_defaults(folder: Path) -> None:
    problem = read(folder, changed("-LOWER_BOUND", "-UPPER_BOUND", "-BB_OUTPUT_TYPE", "-MAX_BB_EVAL"))
    assert (problem.lower, problem.upper) == ((-INF,) * 3, (INF,) * 3)
    assert (problem.input_types, problem.output_types) == (("R",) * 3, ("OBJ",))
    assert (problem.max_bb_eval, problem.block_size, problem.threads, problem.seed) == (None, 1, 1, 0)
    assert experiment_file(problem) is None
    assert problem.folder == folder


def test_with_settings(folder: Path) -> None:
    problem = read(folder, changed("MAX_BB_EVAL inf", "DIRECTION_TYPE ORTHO 2N", "DIRECTION_TYPE DOUBLE"))
    other = problem.with_settings(MAX_BB_EVAL=20, SEED=3)
    assert (problem.max_bb_eval, other.max_bb_eval, other.seed) == (None, 20, 3)
    assert sorted(other.lines) == sorted({*problem.lines, "MAX_BB_EVAL 20", "SEED 3"} - {"MAX_BB_EVAL inf"})
    assert other.lines[0] == "DIMENSION 3"
    assert other.with_settings(MAX_BB_EVAL=None).max_bb_eval is None
    assert run_nomad(folder, list(other.lines))[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("$python3 $-m $blackbox a.yaml", "a.yaml"),
        ("$python $-m $blackbox sub/../a.yaml", "a.yaml"),
        ("$python3 $-u $-m $blackbox a.yaml", "a.yaml"),
        (f"${sys.executable} $-m $blackbox a.yaml", "a.yaml"),
        ("$python3 plain.py a.yaml", None),
        ("$python3 $-m $json.tool a.yaml", None),
        ("bb.sh a.yaml", None),
        ("$python3 $-m $blackbox", None),
    ],
)
def test_experiment_file(folder: Path, words: str, expected: str | None) -> None:
    (folder / "sub").mkdir()
    problem = read(folder, changed(f"BB_EXE '{words}'"))
    assert experiment_file(problem) == (folder / expected if expected else None)


ACCEPTED = [
    ("X0 ( 1 2 3 )", "max_bb_eval 5"),
    ("X0 (1 2 3)",),
    ("X0 ( 1 2 3 ) # comment",),
    ("X0 * 1.5",),
    ("X0 ( +1 2. .3e1 )",),
    ("X0 ( 1 2 3 )", "X0 ( 4 5 6 )"),
    ("X0 0 ( 1 2 3 )", "X0 1 ( 4 5 6 )"),
    ("X0 * 1", "X0 1 * 2"),
    ("X0 0 0 1", "X0 0 1-2 3"),
    ("X0 0-2 1",),
    ("X0 x0.txt",),
    ("X0 ( 0 0 0 )", "X0 x0.txt"),
    ("BB_INPUT_TYPE (R I B)", "X0 ( 0.5 1 1 )"),
    ("BB_INPUT_TYPE ( r i r )",),
    ("BB_INPUT_TYPE * I",),
    ("BB_INPUT_TYPE *i",),
    ("BB_INPUT_TYPE ( B R R )", "X0 ( 1 2 3 )", "UPPER_BOUND * 9"),
    ("LOWER_BOUND ( - 0 - )",),
    ("LOWER_BOUND 0-1 0",),
    ("LOWER_BOUND 2 0",),
    ("LOWER_BOUND * -",),
    ("-LOWER_BOUND", "-UPPER_BOUND"),
    ("BB_OUTPUT_TYPE 'OBJ'",),
    ("-BB_OUTPUT_TYPE",),
    ("BB_EXE 'bb.sh a.yaml'",),
    ('BB_EXE "bb.sh x y"',),
    ("BB_EXE '$sh bb.sh'",),
    ("BB_EXE '$A=1 $sh bb.sh'",),
    ("MAX_BB_EVAL 5", "MAX_BB_EVAL 5"),
    ("MAX_BB_EVAL +INF", "MAX_EVAL 9"),
    ("SEED -1", "MAX_BB_EVAL 1"),
    ("QUAD_MODEL_SEARCH n", "SPECULATIVE_SEARCH 0"),
    ("DIRECTION_TYPE ORTHO 2N", "DIRECTION_TYPE SINGLE"),
    ("FIXED_VARIABLE 0",),
    ("FIXED_VARIABLE ( 1 - - )",),
    ("GRANULARITY ( 0 0.5 0 )",),
    ("INITIAL_FRAME_SIZE * 2", "MIN_FRAME_SIZE * 0.001"),
    ("-X0", "LH_SEARCH 4 0"),
    ("LH_EVAL 4",),
    ("H_NORM L1", "EVAL_QUEUE_SORT lexicographical"),
    ("CACHE_FILE c.txt", "HISTORY_FILE h.txt", "ADD_SEED_TO_FILE_NAMES no"),
    ("BB_OUTPUT_TYPE OBJ -", "BB_EXE '$echo 1 1'", "MAX_BB_EVAL 1"),
]


@pytest.mark.parametrize("lines", ACCEPTED, ids=" | ".join)
def test_accepted_as_by_nomad(folder: Path, lines: tuple[str, ...]) -> None:
    """NOMAD runs the raw lines and ours, and asks for the same points."""
    text = changed(*lines)
    problem = read(folder, text)
    assert run_nomad(folder, text.splitlines()) == (0, (points := run_nomad(folder, list(problem.lines))[1]))
    if problem.x0 and problem.seed >= 0 and not {"LH_EVAL", "BB_OUTPUT_TYPE"} & {line.split()[0] for line in lines}:
        assert points[0] in [list(point) for point in problem.x0]


REFUSED = [  # by NOMAD too, which aborts
    ("X0 ( 1 2 )", r":7: X0: must be 3 values \(DIMENSION 3\), got 2: \( 1 2 \)"),
    ("X0 ( 1 2 3 4 )", r"X0: must be 3 values"),
    ("X0 ( 1 2 3", r"X0: the list must be closed by \)"),
    ("X0 1 2 3", r"X0: must number the points .* parentheses"),
    ("X0 1, 2, 3", r"X0: .* parentheses"),
    ("X0 [ 1 2 3 ]", r"X0: must be \( v1"),
    ("X0 ( 1 2 3x )", r"X0: must be numbers, got 3x"),
    ("X0 ( 1 2 ) \\", r"X0: the list must be closed"),
    ("X0 ( 1 2 10 )", r"X0\[2\]: must be at most 9 \(UPPER_BOUND\), got 10"),
    ("X0 ( -5.5 2 3 )", r"X0\[0\]: must be at least -5 \(LOWER_BOUND\), got -5.5"),
    ("X0 ( 1 - 3 )", r"X0\[1\]: must be a finite number, got none"),
    ("X0 1 ( 1 2 3 )", r"X0: must number the points"),
    ("X0 nofile.txt", r"X0: must be a file of points or a point: .*nofile.txt: no such file"),
    ("X0 text.txt", r"X0: must be numbers, got one"),
    ("BB_INPUT_TYPE ( R I C )", r"BB_INPUT_TYPE: must be of R, I \(integer\), B \(binary\), got C"),
    ("BB_INPUT_TYPE ( R I )", r"BB_INPUT_TYPE: must have 3 letters \(DIMENSION 3\), got 2"),
    ("BB_INPUT_TYPE R I B", r"BB_INPUT_TYPE: must be \( R I B \) or \* R"),
    ("LOWER_BOUND ( 1 2 3 4 )", r"LOWER_BOUND: must be 3 values"),
    ("LOWER_BOUND -1 0", r"LOWER_BOUND: must be \( v1"),
    ("LOWER_BOUND 0-7 0", r"LOWER_BOUND: must have indices from 0 to 2"),
    ("LOWER_BOUND * 9", r"LOWER_BOUND\[0\]: must be below UPPER_BOUND\[0\] 9, got 9"),
    ("BB_OUTPUT_TYPE OBJ STAT_AVG", r"BB_OUTPUT_TYPE: must be of OBJ, PB.*, got STAT_AVG"),
    ("BB_OUTPUT_TYPE ( OBJ )", r"BB_OUTPUT_TYPE: must be of OBJ"),
    ("BB_OUTPUT_TYPE OBJ OBJ", r"BB_OUTPUT_TYPE: several OBJ need DMULTIMADS_OPTIMIZATION yes, got 2"),
    ("BB_EXE $python3 plain.py", r"BB_EXE: must stand in quotes"),
    ("BB_EXE ''", r"BB_EXE: must name a program"),
    ("BB_EXE plain.py", r"BB_EXE: the program must be executable \(chmod \+x\), got /.*/plain.py"),
    ("BB_EXE nope.sh", r"BB_EXE: the program must exist .* got /.*/nope.sh"),
    ("-BB_EXE", r"BB_EXE is missing"),
    ("-X0", r"X0 is missing"),
    ("-DIMENSION", r"DIMENSION is missing"),
    ("DIMENSION 0", r"DIMENSION: must be a whole number from 1 to 10000, got 0"),
    ("DIMENSION 3 3", r"DIMENSION: must be a whole number .*, got 3 3"),
    ("MAX_BB_EVAL abc", r":7: MAX_BB_EVAL: must be one whole number of at least 0, or INF, got abc"),
    ("MAX_BB_EVAL 5.0", r"MAX_BB_EVAL: must be one whole number .* got 5.0"),
    ("MAX_BB_EVAL 0", r"MAX_BB_EVAL: must be at least 1, got 0"),
    ("SEED 1e3", r"SEED: must be one whole number, got 1e3"),
    ("SEED -5", r":8: NOMAD refuses the problem: SEED must be non-negative"),
    ("QUAD_MODEL_SEARCH maybe", r"QUAD_MODEL_SEARCH: must be yes or no, got maybe"),
    ("QUAD_MODEL_SEARCH yes no", r"QUAD_MODEL_SEARCH: must be yes or no, got yes no"),
    ("RHO 0.1f", r"RHO: must be one number, got 0.1f"),
    ("HISTORY_FILE a b", r"HISTORY_FILE: must be one word .*, got a b"),
    ("LH_SEARCH 10", r"LH_SEARCH: must be 2 whole numbers, got 10"),
    ("DIRECTION_TYPE FOO", r"DIRECTION_TYPE: must be a value that `nomad -h` shows for it, got FOO"),
    ("H_NORM L3", r"H_NORM: must be a value"),
    ("OBJ_WIDTH 3", r"OBJ_WIDTH: cannot be set in a parameter file"),
    ("VARIABLE_GROUP 0 1", r"VARIABLE_GROUP: must be left out, since NOMAD 4.5.1 aborts"),
    ("GRANULARITY ( 0 -1 0 )", r":8: NOMAD refuses the problem: .*"),
    ("FIXED_VARIABLE ( 2 - - )", r":8: NOMAD refuses the problem: fixed variable"),
    ("DMULTIMADS_OPTIMIZATION yes", r":8: NOMAD refuses the problem: .*D"),
]
IGNORED = [  # what NOMAD takes without a word, or only prints about, although it cannot be meant
    ("MAX_BB_EVALS 3", r":8: MAX_BB_EVALS: is no keyword of NOMAD: did you mean MAX_BB_EVAL\?"),
    ("X0=( 1 2 3 )", r"X0=\(: is no keyword of NOMAD"),
    ("NB_THREADS_OPENMP 4", r":8: NB_THREADS_OPENMP: is gone from NOMAD 4: use NB_THREADS_PARALLEL_EVAL"),
    ("VNS_SEARCH yes", r"VNS_SEARCH: is gone from NOMAD 4: use VNS_MADS_SEARCH"),
    ("F_TARGET 0", r"F_TARGET: is a keyword of NOMAD 3 that NOMAD 4 does not have"),
    ("HISTORY_FILE", r":8: HISTORY_FILE: must have a value, got none"),
    ('HISTORY_FILE "a', r':8: the quote " must be closed, got HISTORY_FILE "a'),
    ("X0 short.txt", r"X0: must be a file with 3 numbers per point, got 4 numbers in short.txt"),
    ("LOWER_BOUND 2-0 1", r"LOWER_BOUND: must have indices from 0 to 2 in rising order"),
    ("BB_OUTPUT_TYPE PB", r"BB_OUTPUT_TYPE: must have an OBJ, got PB"),
    ("BB_EXE '$no-such-program x'", r"BB_EXE: the program must be on PATH, got no-such-program"),
    ("BB_EXE '$python3 -m $blackbox a.yaml'", r"BB_EXE: an option must begin with \$, .*: \$-m, got -m"),
    ("BB_EXE '$python3 $-m $blackbox no.yaml'", r"BB_EXE: the file must exist, got /.*/no.yaml"),
]


@pytest.mark.parametrize(("line", "message"), [*REFUSED, *IGNORED])
def test_refused(folder: Path, line: str, message: str) -> None:
    text = changed(line)
    with pytest.raises(InputError) as caught:
        read(folder, text)
    pattern = message if message.startswith(":") else f".*{message}"
    assert any(re.match(f"{folder}/p.txt{pattern}", given) for given in caught.value.messages), str(caught.value)
    if (line, message) in REFUSED:
        assert run_nomad(folder, text.splitlines())[0] != 0


@pytest.mark.parametrize(("line", "message"), IGNORED)
def test_ignored_by_nomad(folder: Path, line: str, message: str) -> None:
    """The reason why we check: NOMAD ends well on these."""
    assert run_nomad(folder, changed(line).splitlines())[0] == 0


def test_all_mistakes_at_once_in_order(folder: Path) -> None:
    lines = ["MAX_BB_EVALS 3", "SEED x", "X0 ( 1 2 10 )", "BB_EXE '$nope a.yaml'", "MAX_BB_EVAL 3", "MAX_BB_EVAL 4"]
    with pytest.raises(InputError) as caught:
        read(folder, changed("-DIMENSION", *lines))
    found = [message.removeprefix(f"{folder}/p.txt") for message in caught.value.messages]
    assert found == [
        ": DIMENSION is missing: the number of variables",
        ":4: MAX_BB_EVALS: is no keyword of NOMAD: did you mean MAX_BB_EVAL?",
        ":5: SEED: must be one whole number, got x",
        ":7: BB_EXE: the program must be on PATH, got nope",
        ":9: MAX_BB_EVAL: must be given once, got 4 after 3 on line 8",
    ]


def test_a_line_that_crashes_nomad_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"GRANULARITY: crashes NOMAD|NOMAD refuses the problem"):
        read(folder, changed("GRANULARITY -1 0.5"))


def test_unknown_keywords_may_be_allowed(folder: Path) -> None:
    problem = read(folder, changed("REJECT_UNKNOWN_PARAMETERS no", "MY_OWN 3"))
    assert "MY_OWN: is no keyword" in problem.warnings[0]
    assert "MY_OWN" not in problem.settings and "MY_OWN 3" not in problem.lines


def test_infinite_bounds_mean_none(folder: Path) -> None:
    """NOMAD 4.5.1 itself proposes points with inf then."""
    text = changed("LOWER_BOUND ( -inf -5 -inf )", "UPPER_BOUND * INF")
    problem = read(folder, text)
    assert (problem.lower, problem.upper) == ((-INF, -5, -INF), (INF, INF, INF))
    assert any(math.inf in map(abs, point) for point in run_nomad(folder, text.splitlines())[1])
    assert not any(math.inf in map(abs, point) for point in run_nomad(folder, list(problem.lines))[1])


def test_an_experiment_beside_the_file_is_found_from_any_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "p.txt").write_text(changed('BB_EXE "$python3 $-m $blackbox a.yaml"', "X0 x0.txt"))
    monkeypatch.chdir(folder.parent)
    problem = read_problem(Path(folder.name) / "p.txt")
    assert experiment_file(problem) == folder / "a.yaml"
    assert problem.x0 == ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize("name", ["with space", "acc\u00e9nt", "a&b"])
def test_folders_that_nomad_cannot_use(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / "bb.sh").rename(folder / name / "bb.sh")
    with pytest.raises(InputError, match="folder's name must have no spaces"):
        read(folder / name, BASE)


NONSENSE: list[str | bytes] = [
    b"",
    b"\n\n  \n",
    b"# nothing\n",
    bytes(range(256)) * 20,
    b"\x7fELF\x02\x01\x01" + b"\x00" * 100,
    "DIMENSION 3\n".encode("utf-16"),
    b"\xff\xfe\xfd DIMENSION 3",
    "\ufeff" + BASE,
    "DIMENSION \u0663\n",
    changed("HISTORY_FILE h\u00e9.txt"),
    changed("HISTORY_FILE \x1e0"),
    changed("X0 ( ( 1 2 3 ) )"),
    changed("X0 ((((("),
    changed("X0 )"),
    changed("X0 ''"),
    changed('X0 "'),
    changed("LOWER_BOUND )("),
    changed("LOWER_BOUND ''"),
    changed("BB_INPUT_TYPE ''"),
    changed("BB_INPUT_TYPE *"),
    changed("BB_OUTPUT_TYPE ''"),
    changed("DIMENSION ''"),
    changed("DIMENSION 999999999999999999999"),
    changed("DIMENSION INF"),
    changed("X0 99999 ( 1 2 3 )"),
    changed("X0 a.yaml"),
    changed("X0 ."),
    changed("X0 p.txt"),
    changed("BB_EXE '$'"),
    changed("BB_EXE ."),
    changed("MAX_BB_EVAL ''"),
    changed("REJECT_UNKNOWN_PARAMETERS ''"),
    changed("(.* 3"),
    "X" * 10_000_000,
    "X0 " + "1 " * 2_000_000,
    "FOO " + "a" * 10_000_000,
    "A 1\n" * 100_000,
    changed("X0 ( " + "1 " * 1_000_000 + ")"),
]


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_an_input_error(folder: Path, text: str | bytes) -> None:
    with pytest.raises(InputError) as caught:
        read(folder, text)
    assert all(message.startswith(f"{folder}/p.txt") for message in caught.value.messages)
    assert all(len(message) < 500 and message.isprintable() for message in caught.value.messages)


@pytest.mark.parametrize(("name", "message"), [("none.txt", "no such file"), ("sub", "is a directory")])
def test_no_file(folder: Path, name: str, message: str) -> None:
    (folder / "sub").mkdir()
    with pytest.raises(InputError, match=message):
        read_problem(folder / name)


def test_hints_name_keywords_that_exist() -> None:
    verdict = keywords.ask([], None, [])
    assert {"MAX_BB_EVAL", "X0", "CACHE_FILE", "MEGA_SEARCH_POLL"} <= verdict.keywords
    assert len(verdict.keywords) == 190
    for old, advice in keywords._RENAMED.items():
        assert old not in verdict.keywords
        assert set(re.findall(r"[A-Z]\w*_\w+", advice)) <= verdict.keywords
    assert not keywords._DROPPED & verdict.keywords


def test_reading_is_quick_and_imports_nothing_heavy(folder: Path) -> None:
    seconds = []
    for _ in range(3):
        start = sum(os.times()[:4])  # processor time, our children's too: the machine may be busy
        read(folder, BASE)
        seconds.append(sum(os.times()[:4]) - start)
    assert min(seconds) < 0.3
    code = "import sys, bbo.problem; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"PyNomad", "numpy", "pydantic", "rich", "torch", "typer", "yaml"} & set(loaded)
