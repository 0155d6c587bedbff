"""Shuts itself in and becomes the generated program: what sandbox.py starts. Standard library alone, run as a file.

Three processes. The *watch* leaves the user's namespaces, starts the *guard* and ends it at the time limit; it dies
with the process that asked. The guard is process 1 of the new process namespace: with it the kernel ends all others in
there, and it ends with the watch. It builds a root of its own and starts the *program*, which gives up what is left of
its rights before its first instruction.

Why not `unshare` or `bwrap`: the first can neither limit nor filter, the second is not everywhere; the calls are few.
An ordinary user gets his rights over namespaces from a user namespace. root does without, and the program runs as a
user number that nobody has: processes of the machine's root are not counted, so that no limit would hold for them.
"""

import base64
import ctypes
import json
import os
import resource
import select
import signal
import sys
from contextlib import suppress
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
"""The first four are MOUNT_ATTR_* too."""
MNT_DETACH = 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 24, 38, 2

ROOT = "/proc"
"""Where the new root is put together: in this mount namespace alone, and nothing of what is bound lies below it."""

NOBODY = 0x70000000
"""First of the user numbers that no convention gives away (systemd.io/UIDS-GIDS); the watch's pid is added."""

ALIVE, READY = b".", b"!"
LOST = {"status": -signal.SIGKILL, "cpu": 0.0, "timed_out": False}

libc = ctypes.CDLL(None, use_errno=True)


class Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("count", ctypes.c_ushort), ("rules", ctypes.c_char_p))


def call(name: str, *arguments: Any, about: str = "") -> None:
    """A function of the C library; numbers are passed as longs, which suits all of those used here."""
    longs = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    if getattr(libc, name)(*longs) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"{name} {about}".strip())


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    call("mount", *words, flags, options.encode(), about=target.removeprefix(ROOT))


def restrict(target: str, attributes: int, depth: int = 0) -> None:
    """Add to a mount's attributes, with depth AT_RECURSIVE also to those of all mounts below it. Linux 5.12."""
    change = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    size = ctypes.sizeof(change)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, target.encode(), depth, ctypes.byref(change), size, about="mount_setattr")


def main() -> None:
    spec = json.load(sys.stdin)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec["parent"]:
        return
    print(json.dumps(watch(spec)), flush=True)


def watch(spec: dict[str, Any]) -> dict[str, Any]:
    """The program's end: its status, and seconds of processor time; or an `error` that kept it from starting."""
    nobody = NOBODY + os.getpid() if os.geteuid() == 0 else None
    os.umask(0o022)
    with suppress(OSError):
        write("/proc/self/oom_score_adj", "1000")  # rather the program than the trainer
    try:
        leave()
    except OSError as error:
        return {"error": describe(error)}
    said, tell = os.pipe()
    hear, report = os.pipe()
    guarding = os.fork()
    if guarding == 0:
        os.close(said)
        os.close(hear)
        guard(spec, tell, report, nobody)
    os.close(tell)
    os.close(report)
    begun = read_all(said)  # ends where the program begins: exec closes the last end
    if begun != ALIVE + READY:
        os.waitpid(guarding, 0)
        return {"error": begun.strip(ALIVE + READY).decode(errors="replace") or "killed while it was set up"}
    ended, _, _ = select.select([os.pidfd_open(guarding)], [], [], spec["wall"])
    if not ended:
        os.kill(guarding, signal.SIGKILL)
    os.waitpid(guarding, 0)
    return {**LOST, "timed_out": True} if not ended else json.loads(read_all(hear) or json.dumps(LOST))


def leave() -> None:
    """Into namespaces of its own; those of users and processes begin with the next child."""
    user, group = os.getuid(), os.getgid()
    if os.geteuid() == 0:
        call("unshare", NAMESPACES)
        return
    call("unshare", NAMESPACES | CLONE_NEWUSER)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")


def guard(spec: dict[str, Any], tell: int, report: int, nobody: int | None) -> None:
    """Never returns. The program may send signals to it: as process 1 it gets those alone that it has a handler for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = 1
    try:
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(tell, ALIVE)  # fails where the watch was dead before it could take us along
        build(spec)
        running = os.fork()
        if running == 0:
            become(spec, tell, nobody)
        os.close(tell)
        _, status, used = os.wait4(running, 0)
        ended = {"status": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime, "timed_out": False}
        os.write(report, json.dumps(ended).encode())
        code = 0
    except BaseException as error:
        with suppress(OSError):
            os.write(tell, describe(error).encode())
    os._exit(code)


def build(spec: dict[str, Any]) -> None:
    """A root with the interpreter, read-only, and an empty folder of limited size; the old one is gone afterwards."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("sandbox", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.mkdir(ROOT + "/tmp")
    # Before the others: the interpreter may stand in a /tmp.
    mount("sandbox", ROOT + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,{spec['folder']}")
    for target, link in spec["links"].items():
        os.makedirs(os.path.dirname(ROOT + target), exist_ok=True)
        os.symlink(link, ROOT + target)
    for target, source in spec["binds"].items():
        device = target.startswith("/dev/")
        if os.path.isdir(source):
            os.makedirs(ROOT + target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(ROOT + target), exist_ok=True)
            write(ROOT + target, "")
        mount(source, ROOT + target, None, MS_BIND | MS_REC)
        restrict(ROOT + target, MS_RDONLY | MS_NOSUID | (MS_NOEXEC if device else MS_NODEV), AT_RECURSIVE)
    for target in spec["hidden"]:
        mount("sandbox", ROOT + target, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV)
    write(ROOT + "/program.py", spec["program"])
    restrict(ROOT, MS_RDONLY)
    os.chdir(ROOT)
    call("syscall", spec["pivot_root"], b".", b".", about="pivot_root")  # pivot_root(2), "pivot_root(".", ".")"
    call("umount2", b".", MNT_DETACH, about="of the old root")
    os.chdir("/tmp")
    call("sethostname", b"sandbox", len("sandbox"))


def become(spec: dict[str, Any], tell: int, nobody: int | None) -> None:
    """The program: its own limits, no rights, no way to others."""
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(2, 1)
    for name, wanted in spec["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        soft, hard = (value if most == resource.RLIM_INFINITY else min(value, most) for value in wanted)
        resource.setrlimit(kind, (soft, hard))
    for capability in range(64):
        with suppress(OSError):  # beyond the last one
            call("prctl", PR_CAPBSET_DROP, capability)
    if nobody is not None:
        call("setgroups", 0, None)
        call("setresgid", nobody, nobody, nobody)
        call("setresuid", nobody, nobody, nobody)
    rules = base64.b64decode(spec["filter"])
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(rules) // 8, rules)), about="seccomp")
    os.write(tell, READY)
    os.execve(spec["command"][0], spec["command"], spec["environment"])


def describe(error: BaseException) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else repr(error)


def read_all(pipe: int) -> bytes:
    with open(pipe, "rb") as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)


if __name__ == "__main__":
    main()
