"""Facts about this machine and this code: cores, processor, memory, GPU, versions, git revision.

    python -m pipeline info      # one screen, for a bug report

RUN/config.json holds them too. Versions come from package metadata, so nothing is imported.
"""

import ctypes
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    *("torch", "torchvision", "accelerate", "numpy", "pandas", "wandb", "webdataset"),
    *("simplejpeg", "opencv-python-headless", "nvidia-dali-cuda130"),
)
"""Packages on which pixels, weights and figures depend."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""

HARDWARE, ARCH_MISMATCH = 3, 7
"""Of nvjpeg.h: the backend that decodes in JPEG engines, and the status where a GPU has none."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_with_launcher() -> None:
    """Let the kernel send this process SIGTERM when the launcher that started it dies (Linux).

    A plain ``python train.py`` outlives its shell, as ``nohup`` expects.
    """
    launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    if launched and sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            raise SystemExit(128 + signal.SIGTERM)


def git_revision() -> str:
    """Return the commit of this code, with "+" where tracked files differ; "" outside git."""
    here = str(Path(__file__).parent)
    try:
        revision, changes = (
            subprocess.run(
                ["git", "-C", here, *words], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return revision + ("+" if changes else "")


def versions() -> dict[str, str]:
    """Return the versions of this project, Python and ``PACKAGES``; "": not installed."""
    own = {"dermpipe": installed("dermpipe") or "checkout", "python": platform.python_version()}
    return {**own, **{name: installed(name) for name in PACKAGES}}


def installed(package: str) -> str:
    """Return the version of a package, "" where it is not installed (as DALI outside Linux)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory in GiB, system, and the GPU where torch sees one."""
    import torch  # takes two seconds, so only where hardware is asked for

    on_gpu = torch.cuda.is_available()
    return {
        "cpu": processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if on_gpu else "",
        "gpus": torch.cuda.device_count() if on_gpu else 0,
        "gpu memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if on_gpu else 0,
        "jpeg engines": jpeg_engines() if on_gpu else 0,
        "driver": driver(),
        "cuda of torch": torch.version.cuda or "",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else bf16_cpu(),
        "system": platform.platform(),
    }


def bf16_cpu() -> bool:
    """Return whether the processor has instructions for bf16: elsewhere torch emulates it."""
    import torch

    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def jpeg_engines() -> int | None:
    """Return the number of the GPU's JPEG engines; None where nvJPEG is not found or not usable.

    Starts CUDA. An A100 has one engine of five cores, which count as five.
    """
    wheels = [each for path in sys.path for each in Path(path).glob("nvidia/*/lib/libnvjpeg.so.*")]
    for name in (*wheels, "libnvjpeg.so.13", "libnvjpeg.so.12"):
        with suppress(OSError, AttributeError):  # no such library, or one without the function
            nvjpeg, handle = ctypes.CDLL(str(name)), ctypes.c_void_p()
            engines, each = ctypes.c_uint(), ctypes.c_uint()
            status = nvjpeg.nvjpegCreateEx(HARDWARE, None, None, 0, ctypes.byref(handle))
            if status:
                return 0 if status == ARCH_MISMATCH else None
            ask = nvjpeg.nvjpegGetHardwareDecoderInfo
            status = ask(handle, ctypes.byref(engines), ctypes.byref(each))
            nvjpeg.nvjpegDestroy(handle)
            return None if status else engines.value * max(1, each.value)
    return None


def driver() -> str:
    """Return the version of NVIDIA's kernel driver; "" where there is none."""
    facts = Path("/proc/driver/nvidia/version")
    words = facts.read_text().split() if facts.is_file() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def processor() -> str:
    """Return the processor's name."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def info() -> str:
    """Return what a bug report needs, a line each."""
    facts = {"git revision": git_revision(), **hardware(), **versions()}
    facts["executable"] = sys.executable
    width, words = max(map(len, facts)), {None: "unknown", "": "-"}
    return "\n".join(f"{name:<{width}}  {words.get(x, x)}" for name, x in facts.items())
