"""No orphans: a process started with a lifeline ends when the one that started it is gone, however it died.

The lifeline is the child's standard input: the read end of a pipe whose write end only the parent holds. The kernel
closes it on any death of the parent, and every launcher in between (sh, accelerate, torchrun) hands stdin on.
"""

import os
import select
import signal
import threading
from collections.abc import Callable

ENVIRONMENT = "BBO_LIFELINE"


def watch(on_death: Callable[[], None] | None = None, outlives_parent: bool = False) -> None:
    """Start a daemon thread that ends this process, after `on_death()`, once the lifeline is cut or the parent gone.

    `outlives_parent`: the lifeline is that of somebody further up. Without BBO_LIFELINE in the environment (somebody
    typed the command) nothing is watched.
    """
    if os.environ.get(ENVIRONMENT) != "1":
        return
    parent = os.getppid()

    poll = select.poll()
    poll.register(0, select.POLLHUP)

    def end() -> None:
        if on_death is not None:
            on_death()
        os.kill(os.getpid(), signal.SIGKILL)

    def wait() -> None:
        while not poll.poll(500) and (outlives_parent or os.getppid() == parent):
            pass
        end()

    if poll.poll(0):  # cut before we began: not one step more
        end()
    threading.Thread(target=wait, name="lifeline", daemon=True).start()
