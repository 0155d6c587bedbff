"""`bbo check` without a file: versions, devices, disk and token of this machine."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import psutil

from bbo.executors.slots import visible_gpus

PACKAGES = ("PyNomadBBO", "torch", "transformers", "peft", "accelerate", "datasets", "lm-eval")


def main() -> int:
    """Exit status 0 when all packages are there, 1 when one is missing."""
    missing = []
    print(f"python        {platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        try:
            print(f"{package:<13} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
            print(f"{package:<13} missing")
    import torch  # noqa: PLC0415 - after the versions, which explain why it may fail

    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        print(f"GPU {index}         {device.name}, {device.total_memory / 2**30:.0f} GiB")
    if visible_gpus() and not torch.cuda.is_available():
        print(f"GPU           {len(visible_gpus())} on this machine, but torch {torch.__version__} cannot use them")
    print(f"CPU           {os.cpu_count()} cores, {psutil.virtual_memory().available / 2**30:.1f} GiB free")
    print(f"disk          {shutil.disk_usage('.').free / 2**30:.1f} GiB free here")
    from huggingface_hub import get_token  # noqa: PLC0415

    print(f"HF_TOKEN      {'there' if get_token() else 'not set (gated models such as LLaMA need one)'}")
    if missing:
        print(f"install what is missing: pip install -r requirements.txt ({', '.join(missing)})")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
