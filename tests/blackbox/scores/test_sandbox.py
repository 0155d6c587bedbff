"""Generated programs that mean harm, each run where it can do none."""

import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bbo.errors import MachineError
from blackbox.scores import sandbox, seccomp
from blackbox.scores.sandbox import Limits, Verdict, run
from tests.conftest import ROOT

WHY_NOT = sandbox.available()

shut_in = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

COLUMN = list(seccomp.ARCHITECTURES).index(seccomp.machine() or "x86_64")

LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"

TELL = """
def tell(what, action):
    try:
        print(what, "done", action())
    except Exception as error:
        print(what, "refused", type(error).__name__)
"""
"""Each attempt's outcome on a line of its own."""


def attempts(program: str) -> list[str]:
    verdict = run(TELL + program, Limits(wall=20))
    assert verdict.status == 0, verdict.output
    return verdict.output.splitlines()


def all_refused(program: str) -> int:
    """How many attempts there were, all of them in vain."""
    lines = attempts(program)
    assert [line for line in lines if " refused " not in line] == []
    return len(lines)


def below(pid: int) -> set[psutil.Process]:
    """The processes that this one started, and so on."""
    return set(psutil.Process(pid).children(recursive=True))


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@shut_in
def test_what_a_program_did_is_reported() -> None:
    good = run("import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr)")
    assert (good.status, good.timed_out, good.output.split()) == (0, False, ["out", "err"])
    assert run("raise SystemExit(7)").status == 7
    assert "ZeroDivisionError" in run("1 / 0").output
    assert run("import faulthandler; faulthandler._sigsegv()").status == -signal.SIGSEGV
    assert run("import sys; assert sys.stdin.read() == ''").status == 0
    assert run("assert list({'a', 'b', 'c'}) == " + run("print(list({'a', 'b', 'c'}))").output).status == 0


@shut_in
def test_the_packages_are_there() -> None:
    pytest.importorskip("numpy")
    assert run("import numpy; print(numpy.ones((9, 9)) @ numpy.ones(9))").status == 0


@shut_in
@pytest.mark.parametrize("program", ["while True: pass", "10 ** 10 ** 9"])
def test_an_endless_computation_ends(program: str) -> None:
    verdict = run(program, Limits(cpu=1, wall=60))
    assert (verdict.timed_out, verdict.status) == (True, -signal.SIGXCPU)
    assert 0.5 < verdict.cpu < 1.5


@shut_in
def test_an_endless_computation_that_ignores_its_end_ends() -> None:
    verdict = run(
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", Limits(cpu=1, wall=60)
    )
    assert (verdict.timed_out, verdict.status) == (True, -signal.SIGKILL)


@shut_in
@pytest.mark.parametrize("program", ["time.sleep(600)", "signal.pause()", "threading.Lock().acquire() and 0 or []"])
def test_an_endless_wait_ends(program: str) -> None:
    prepared = "import time, signal, threading\nfor n in {1, 2, 15, 24}: signal.signal(n, signal.SIG_IGN)\n"
    started = time.monotonic()
    verdict = run(f"{prepared}{program}\ntime.sleep(600)", Limits(wall=0.5))
    assert verdict.timed_out
    assert time.monotonic() - started < 10


@shut_in
def test_no_process_is_started() -> None:
    program = f"""{LIBC}
import os, subprocess, multiprocessing
def checked(value):
    if value < 0: raise OSError(ctypes.get_errno())
    return value
tell("fork", os.fork)
tell("fork of the library", lambda: checked(libc.fork()))
tell("vfork", lambda: checked(libc.vfork()))
tell("clone", lambda: checked(libc.syscall({seccomp.CLONE[COLUMN]}, 17, 0, 0, 0, 0)))
tell("clone3", lambda: checked(libc.syscall({seccomp.CLONE3[COLUMN]}, (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17), 88)))
tell("posix_spawn", lambda: os.posix_spawn({sandbox._interpreter()!r}, ["x"], {{}}))
tell("subprocess", lambda: subprocess.run([{sandbox._interpreter()!r}]))
tell("multiprocessing", lambda: multiprocessing.Process(target=print).start())
tell("daemon", lambda: os.fork() or os.setsid())
"""
    assert all_refused(program) == 9


@shut_in
@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(99,)).start()\n"
        "    except RuntimeError: pass",
    ],
)
def test_a_bomb_is_bounded_and_leaves_nothing(program: str) -> None:
    before = below(os.getpid())
    seen: set[psutil.Process] = set()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(run, program, Limits(cpu=1, wall=60))
        while not asked.done():
            seen |= below(os.getpid()) - before
            time.sleep(0.02)
    assert asked.result().timed_out
    assert len(seen) == 3
    assert not any(process.is_running() for process in seen)


@shut_in
def test_threads_are_allowed_and_counted() -> None:
    program = """
import threading, time
count = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        count += 1
except RuntimeError:
    print(count)
"""
    with ThreadPoolExecutor() as pool:  # one program's threads are not counted for another
        counts = [int(verdict.output) for verdict in pool.map(run, [program] * 3)]
    assert all(20 < count <= Limits.threads for count in counts), counts


@shut_in
@pytest.mark.parametrize(
    "hog", ["[0] * 10**10", "bytearray(10**10)", "[bytearray(10**7) for _ in range(10**6)]", "'x' * 10**10"]
)
def test_memory_is_bounded(hog: str) -> None:
    assert "MemoryError" in run(hog, Limits(memory=256 << 20)).output


@shut_in
def test_there_is_no_memory_beside_its_own() -> None:
    program = f"""{LIBC}
import os
def checked(value):
    if value < 0: raise OSError(ctypes.get_errno())
    return value
tell("memfd", lambda: os.memfd_create("x"))
tell("shared memory", lambda: checked(libc.shmget(0, 1 << 20, 0o1600)))
tell("queue", lambda: checked(libc.msgget(0, 0o1600)))
tell("semaphores", lambda: checked(libc.semget(0, 1, 0o1600)))
tell("a mount", lambda: checked(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)))
tell("locked", lambda: checked(libc.mlockall(1)))
tell("/dev/shm", lambda: open("/dev/shm/x", "w"))
"""
    assert all_refused(program) == 7


@shut_in
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"""
import socket, asyncio
tell("this machine", lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2))
tell("the internet", lambda: socket.create_connection(("1.1.1.1", 443), 2))
tell("a name", lambda: socket.getaddrinfo("example.com", 443))
tell("a datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.1.1.1", 53)))
for family in range(50):
    tell(family, lambda: socket.socket(family, socket.SOCK_DGRAM))
    tell(family, lambda: socket.socket(family, socket.SOCK_RAW))
"""
        assert all_refused(program) == 104
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert attempts("import asyncio\ntell('a loop', lambda: asyncio.run(asyncio.sleep(0)))") == ["a loop done None"]


@shut_in
def test_an_abstract_socket_is_out_of_reach() -> None:
    """A pair of sockets may be had, and one of them bound for elsewhere."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0bbo{os.getpid()}")
        program = f"""
import socket
mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
tell("connect", lambda: mine.connect("\\0bbo{os.getpid()}"))
tell("send", lambda: mine.sendto(b"x", "\\0bbo{os.getpid()}"))
"""
        assert all_refused(program) == 2


@shut_in
def test_the_users_files_are_out_of_sight(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    program = f"""
import os
for path in {[str(tmp_path), str(tmp_path / "secret"), str(ROOT), str(ROOT / "README.md"), sandbox.__file__]!r}:
    tell(path, lambda: os.stat(path))
for path in ["/proc/1/environ", "/proc/{os.getpid()}/environ", "/proc/self/root", "/sys", "/run", "/var", "/home",
             "/etc/passwd", "/etc/hostname", "/dev/kmsg", "/dev/vda", "/dev/tty", "/boot", "/opt", "/mnt"]:
    tell(path, lambda: os.stat(path))
"""
    assert all_refused(program) == 20
    seen = run(
        "import os\nfor f, _, names in os.walk('/'):\n  for n in names: print(f'{f}/{n}')", Limits(output=1 << 30)
    )
    assert "/program.py" in seen.output
    folders = (*sandbox._root()["binds"].values(), "/packages/", "/dev/", "//program.py")
    assert [line for line in seen.output.splitlines() if not line.startswith(folders)] == []


@shut_in
def test_home_has_nothing_but_the_interpreter() -> None:
    home = Path.home()
    seen = run(f"import os\nprint(*os.listdir({str(home)!r}) if os.path.isdir({str(home)!r}) else [], sep='\\n')")
    allowed = {
        Path(path).relative_to(home).parts[0] for path in sandbox._root()["binds"] if Path(path).is_relative_to(home)
    }
    assert set(seen.output.split()) <= allowed


@shut_in
def test_the_old_root_is_gone() -> None:
    program = f"""{LIBC}
import os
def checked(value):
    if value < 0: raise OSError(ctypes.get_errno())
    return value
os.makedirs("a/b/c")
tell("chroot", lambda: os.chroot("a"))
tell("mount", lambda: checked(libc.mount(b"none", b"/tmp", b"proc", 0, None)))
tell("umount", lambda: checked(libc.umount2(b"/tmp", 2)))
tell("remount", lambda: checked(libc.mount(b"none", b"/", None, 32 | 4096, None)))
tell("a user namespace", lambda: checked(libc.unshare(0x10000000)))
tell("another namespace", lambda: checked(libc.setns(0, 0)))
tell("user 0", lambda: os.setuid(0))
tell("group 0", lambda: os.setgid(0))
tell("a device", lambda: os.mknod("disk", 0o060666, os.makedev(254, 0)))
tell("keys", lambda: checked(libc.syscall({seccomp.REFUSED["keyctl"][COLUMN]}, 0, -3, 0)))
tell("the kernel's log", lambda: checked(libc.klogctl(10, 0, 0)))
tell("a host name", lambda: checked(libc.sethostname(b"x", 1)))
tell("more memory", lambda: __import__("resource").setrlimit(9, (-1, -1)))
tell("more time", lambda: __import__("resource").setrlimit(0, (-1, -1)))
"""
    assert all_refused(program) == 14
    up = run("import os\nfor _ in range(50): os.chdir('..')\nprint(sorted(os.listdir()) == sorted(os.listdir('/')))")
    assert up.output == "True\n"


@shut_in
def test_it_has_no_rights_and_can_get_none() -> None:
    program = f"""{LIBC}
import os
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, data) == 0
print(*data, libc.prctl(39, 0, 0, 0, 0), [n for n in range(64) if libc.prctl(23, n) == 1], 0 in os.getresuid())
"""
    assert run(program).output.split(None, 7) == [*"000000", "1", "[] False\n"]


@shut_in
def test_nothing_is_written_outside(tmp_path: Path) -> None:
    marks = [f"{folder}/bbo-{os.getpid()}.mark" for folder in (tmp_path, "/tmp", "/etc", "/", "/dev", "/usr/lib", ROOT)]
    interpreter = sandbox._interpreter()
    program = f"""
import os
for path in {marks!r}:
    tell(path, lambda: open(path, "w"))
tell("interpreter", lambda: open({interpreter!r}, "r+b"))
tell("its mode", lambda: os.chmod({interpreter!r}, 0o777))
tell("its library", lambda: os.unlink(os.__file__))
tell("itself", lambda: open("/program.py", "w"))
tell("a program", lambda: os.execv("/tmp/x", ["x"]))
open("/dev/null", "w").write("x")
"""
    done = [line.split()[0] for line in attempts(program) if " done " in line]
    assert done == [marks[1]]  # in a /tmp of its own
    assert not any(Path(mark).exists() for mark in marks)
    assert run(f"open({marks[1]!r})").status != 0  # and the next has another


@shut_in
def test_files_are_bounded() -> None:
    program = """
def many():
    for n in range(10**6):
        open(f"{n}", "w").close()
def huge():
    with open("huge", "wb") as file:
        for _ in range(10**6):
            file.write(bytes(1 << 20))
def several():
    for n in range(100):
        with open(f"large{n}", "wb") as file:
            file.write(bytes(1 << 20))
def sparse():
    with open("sparse", "wb") as file:
        file.truncate(1 << 40)
def descriptors():
    return [open("/dev/null") for _ in range(10**5)]
tell("huge", huge)
tell("several", several)
tell("sparse", sparse)
tell("many", many)
tell("descriptors", descriptors)
"""
    assert all_refused(program) == 5


@shut_in
def test_a_flood_of_output_keeps_its_end() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flood = "import sys\nfor _ in range(50): sys.stdout.write('x' * 10**6)\nprint('end')"
    verdict = run(flood, Limits(output=1000, wall=60, cpu=20))
    assert (verdict.status, len(verdict.output), verdict.output[-5:]) == (0, 1000, "xend\n")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 25 << 10  # kilobytes
    assert run("import os\nwhile True: os.write(2, b'x' * 10**6)", Limits(wall=0.5)).timed_out


@shut_in
def test_other_processes_are_out_of_reach() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as victim:
        program = f"""
import os, signal
for pid in ({victim.pid}, {os.getpid()}, {os.getppid()}):
    tell(pid, lambda: os.kill(pid, 9))
    tell(pid, lambda: os.pidfd_open(pid))
tell("all", lambda: os.kill(-1, 9))
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
tell("parent", lambda: os.kill(os.getppid(), 0) or 1 / 0)
"""
        lines = attempts(program)
        assert len(lines) == 8
        assert not [line for line in lines if "done" in line]
        assert victim.poll() is None
        victim.kill()


@shut_in
def test_a_program_cannot_harm_its_guard() -> None:
    program = """
import os, resource
for number in range(16):
    try:
        resource.prlimit(1, number, (0, 0))
    except (OSError, ValueError):
        pass
os.setpriority(os.PRIO_PROCESS, 0, 19)
raise SystemExit(5)
"""
    assert run(program).status == 5


@shut_in
def test_nothing_is_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        program = """
import os
def there(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
print([n for n in range(64) if there(n)], "HF_TOKEN" in os.environ, sorted(os.environ))
"""
        assert run(program).output == f"[0, 1, 2] False {sorted([*sandbox.ENVIRONMENT])}\n"


@shut_in
def test_nothing_outlives_the_one_who_asked() -> None:
    program = f"{LIBC}import time\nlibc.prctl(1, 0)\nlibc.prctl(15, b'hidden')\ntime.sleep(600)"
    code = f"from blackbox.scores.sandbox import *; run({program!r}, Limits(wall=600))"
    with subprocess.Popen([sys.executable, "-c", code]) as asking:
        wait_for(lambda: any(process.name() == "hidden" for process in below(asking.pid)))
        started = below(asking.pid)
        asking.kill()
    assert len(started) == 3
    wait_for(lambda: not any(process.is_running() for process in started))


@shut_in
def test_a_killed_watch_is_the_machines_fault() -> None:
    before = below(os.getpid())
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(run, "import time; time.sleep(600)", Limits(wall=600))
        wait_for(lambda: len(below(os.getpid()) - before) == 3)
        started = below(os.getpid()) - before
        next(process for process in started if process.ppid() == os.getpid()).kill()
        with pytest.raises(MachineError, match="the sandbox broke down"):
            asked.result()
    wait_for(lambda: not any(process.is_running() for process in started))


@shut_in
def test_several_at_once_do_not_meet() -> None:
    program = "import os, time\nopen('mine', 'x')\ntime.sleep(0.2)\nos.remove('mine')"
    with ThreadPoolExecutor(4) as pool:
        assert {verdict.status for verdict in pool.map(run, [program] * 8)} == {0}


def without_rights() -> None:
    ctypes.CDLL(None).prctl(24, 21)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN: as root in a container


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user has no right to give up")
def test_without_the_right_to_it_nothing_is_run(tmp_path: Path) -> None:
    code = f"""
from blackbox.scores import sandbox
print(sandbox.available())
sandbox.run("open({str(tmp_path / "ran")!r}, 'w')")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=without_rights, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stdout == "programs cannot be shut in here: unshare: Operation not permitted\n"
    assert "MachineError: programs cannot be shut in here" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_leak_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`available` believes what a program could do, not what was set up."""
    sandbox.available.cache_clear()
    try:
        monkeypatch.setattr(sandbox, "run", lambda program, limits: Verdict(0, False, 0.1, "see /home/me/.ssh\n"))
        assert sandbox.available() == "a program that was shut in could still: see /home/me/.ssh"
        sandbox.available.cache_clear()
        monkeypatch.setattr(sandbox, "run", in_the_open)
        reason = sandbox.available()
        assert reason is not None
        assert "connect to this machine" in reason
        assert str(sandbox.CONFINE) in reason
        sandbox.available.cache_clear()
        monkeypatch.setattr(sandbox, "PROBE", WRITES_ONLY)
        reason = sandbox.available()
        assert reason is not None
        assert "write into" in reason
    finally:
        sandbox.available.cache_clear()


WRITES_ONLY = "open({folders!r}[3] + '/' + {mark!r}, 'w'); print('sealed'); {port}; {secrets!r}"


def in_the_open(program: str, limits: Limits) -> Verdict:
    """What must never be: the probe as an ordinary process, its writing and forking left out."""
    tame = program.replace("os.fork", "os.getpid").replace('"/etc"', '"/nowhere"')
    tame = re.sub(r"for folder in \[.*\]", "for folder in []", tame)
    done = subprocess.run([sys.executable, "-c", tame], capture_output=True, text=True, check=True)
    return Verdict(0, False, 0.1, done.stdout)


def test_the_filters_jumps_stay_inside() -> None:
    for architecture in seccomp.ARCHITECTURES:
        rules = seccomp.rules(architecture)
        lines = [rules[first : first + 8] for first in range(0, len(rules), 8)]
        for position, line in enumerate(lines):
            if line[0] in (seccomp.EQUAL, seccomp.AT_LEAST, seccomp.ANY_BIT):
                assert position + 1 + max(line[2], line[3]) < len(lines)
        assert lines[-1][0] == seccomp.RETURN


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_the_kernels(column: int, header: str) -> None:
    if not Path(header).is_file():
        pytest.skip(f"{header} is not installed")
    known = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", Path(header).read_text()))
    ours = {**seccomp.REFUSED, "clone": seccomp.CLONE, "clone3": seccomp.CLONE3}
    ours["pivot_root"] = tuple(seccomp.PIVOT_ROOT.values())
    for name, numbers in ours.items():
        assert known.get(name) == (None if numbers[column] is None else str(numbers[column])), name
