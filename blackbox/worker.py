"""The resident worker, `python -m blackbox.worker SOCKET DEVICES IDLE`: model, data and Accelerate stay loaded.

Started and handed jobs by bbo/executors/resident.py.
"""

import gc
import sys
from pathlib import Path

from bbo import lifeline
from bbo.executors.serve import serve, vanish


def main() -> int:
    file, devices, idle = Path(sys.argv[1]), sys.argv[2].split(","), float(sys.argv[3])
    lifeline.watch(lambda: vanish(file), outlives_parent=True)  # the driver's, not that of the call that starts us
    import torch  # noqa: PLC0415 - heavy: the lifeline is watched first

    from blackbox import train  # noqa: PLC0415 - heavy

    setup = None

    def work(job_file: Path) -> int:
        nonlocal setup
        status, setup = train.attempt(job_file, setup)
        gc.collect()
        torch.cuda.empty_cache()
        return status

    serve(file, devices, idle, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
