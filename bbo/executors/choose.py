"""Which executor an experiment's `resources` ask for. What needs an extra is imported only where it is chosen."""

from pathlib import Path

from bbo.executors.local import Local
from bbo.executors.protocol import Executor
from bbo.executors.slots import slots_of
from bbo.executors.slurm import Slurm
from bbo.resources import Resources
from bbo.run import Run


def executor_of(resources: Resources, folder: Path) -> Executor:
    """For a run in this folder. Starts nothing. Raises InputError where a job asks for more than there is, or where an
    extra is not installed."""
    if resources.executor == "ray":
        from bbo.executors.ray import Ray  # noqa: PLC0415 - only where it is chosen

        return Ray(resources, Run(folder))
    if resources.executor == "slurm":
        return Slurm.of(resources)
    return Local(slots_of(resources.gpus_per_job, resources.cpus_per_job))
