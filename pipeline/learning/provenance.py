"""What a run was made with, for config.json: versions, revision, processes."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

PACKAGES = ("torch", "torchvision", "accelerate", "numpy")


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
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
