"""Which system calls a generated program is refused: a filter for the kernel (seccomp), as bytes.

All else stays allowed. Files, other processes and the machine's settings are out of reach by namespaces and for want
of rights; what is refused here gets around those, or around the limits:

- new processes, so that memory and processor time of a program are those of one process, which the kernel limits;
- sockets, since AF_VSOCK reaches the host of a virtual machine from any network namespace; io_uring makes sockets too;
- memory that counts for no process: memfd, System V and POSIX queues, and what a user namespace of its own could mount;
- the keys of the session, the kernel's log, other processes' memory, and three doors that were often the way to root.
"""

import platform
import struct
from errno import ENOSYS, EPERM

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_*, linux/audit.h."""

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

REFUSED = {
    "fork": (57, None), "vfork": (58, None), "socket": (41, 198), "io_uring_setup": (425, 425),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "unshare": (272, 97), "setns": (308, 268), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "syslog": (103, 116), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}  # fmt: skip
"""Numbers on x86_64 and aarch64: asm/unistd_64.h and asm-generic/unistd.h."""

CLONE = (56, 220)
CLONE3 = (435, 435)
CLONE_THREAD = 0x10000

NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets into struct seccomp_data; of the argument, the low half where bytes are little-endian."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000

X32 = 0x40000000
"""Added to the numbers of x86_64's second set of calls."""


def machine() -> str | None:
    """The machine's architecture where we know its calls by number."""
    name = platform.machine()
    return name if name in ARCHITECTURES else None


def rules(architecture: str) -> bytes:
    """An array of struct sock_filter (linux/filter.h)."""
    column = list(ARCHITECTURES).index(architecture)
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[architecture]), (RETURN, 0, 0, KILL)]
    program += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERROR | EPERM)]
    # Its flags lie in memory, where a filter cannot look: without it, the C library takes clone.
    program += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERROR | ENOSYS)]
    program += [(EQUAL, 1, 0, CLONE[column]), (RETURN, 0, 0, ALLOW)]
    program += [(LOAD, 0, 0, FIRST_ARGUMENT), (ANY_BIT, 1, 0, CLONE_THREAD)]
    program += [(RETURN, 0, 0, ERROR | EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in program)
