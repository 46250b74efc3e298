"""What a run was made with, for config.json and trackers: versions, revision, hardware."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.training.processes import usable_cores

PACKAGES = (
    *("torch", "torchvision", "accelerate", "numpy", "wandb", "webdataset"),
    *("simplejpeg", "opencv-python-headless", "nvidia-dali-cuda130"),
)


def git_revision() -> str:
    """Return the commit of this code, with "+" where tracked files differ; "" outside git."""
    here = Path(__file__).parent
    try:
        revision, changes = (
            subprocess.run(
                ["git", "-C", str(here), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return revision + ("+" if changes else "")


def resolved(accelerator: Accelerator, *, threads: int) -> dict[str, Any]:
    """Return what the flags came to on this machine."""
    return {
        "processes": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "precision": accelerator.mixed_precision,
        "threads": threads,
        "versions": {
            "python": platform.python_version(),
            **{package: installed(package) for package in PACKAGES},
        },
        **hardware(accelerator),
    }


def installed(package: str) -> str:
    """Return the version of a package; "" where it is not there, as DALI outside Linux."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """Return what this machine is: processor, cores, memory, GPU."""
    on_gpu = accelerator.device.type == "cuda"
    return {
        "cpu": processor(),
        "cores": usable_cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "gpu": torch.cuda.get_device_name(accelerator.device) if on_gpu else "",
        "gpus": torch.cuda.device_count() if on_gpu else 0,
        "system": platform.platform(),
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def memory_bytes() -> int:
    """Return the machine's memory; 0 where it is not told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
