"""Packages for a machine without them and without network: a folder of wheels, or of their pieces.

NAME.whl, NAME2.whl.part00, NAME2.whl.part01 -> NAME.whl, NAME2.whl -> pip --target -> PYTHONPATH
"""

import argparse
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

from pipeline.errors import DataError

USES = (
    *("train", "eval", "pipeline.ham10000.__main__", "pipeline.shards.__main__"),
    *("pipeline.loading.portable", "pipeline.loading.dali.loader", "pipeline.judging.scoring"),
    *("benchmarks.training", "pytest", "pytest_timeout", "accelerate.commands.launch"),
    *("benchmarks.gpu.decode", "benchmarks.gpu.judge", "nvidia.dali.experimental.dynamic"),
)
"""Modules that the run loads."""
BEGAN = "BENCHMARK_BEGAN"
"""Variable that tells a second start the clock of the first."""
EXTENDED = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
"""Lets packages below ``nvidia`` lie in several folders: torch's, and those of the wheels."""


def join(folder: Path, out: Path) -> list[Path]:
    """Return the wheels of a folder; those that came in pieces are joined in ``out``.

    Raises:
        DataError: there is none, or a piece is missing.
    """
    wheels = sorted(folder.glob("*.whl"))
    pieces: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.whl.part*")):
        pieces.setdefault(path.name.partition(".part")[0], []).append(path)
    for name, parts in pieces.items():
        numbers = [int(path.name.partition(".part")[2]) for path in parts]
        if numbers != list(range(len(parts))):
            raise DataError(f"--wheels: {name} has pieces {numbers}; expected 0, 1, 2, ...")
        out.mkdir(parents=True, exist_ok=True)
        with (out / name).open("wb") as whole:
            for path in parts:
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        wheels.append(out / name)
    if not wheels:
        raise DataError(f"--wheels {folder}: no *.whl and no *.whl.part00 there")
    return wheels


def install(folder: Path, work: Path) -> Path:
    """Install the wheels of ``folder`` below ``work``; return what belongs on PYTHONPATH.

    Raises:
        DataError: pip refuses one; nothing is fetched.
    """
    site, wheels = work / "site", join(folder, work / "joined")
    flags = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--quiet"]
    words = [sys.executable, "-m", "pip", "install", *flags, "--target", str(site)]
    done = subprocess.run([*words, *map(str, wheels)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"--wheels: pip failed: {(done.stderr + done.stdout).strip()[-600:]}")
    if (site / "nvidia").is_dir():
        (site / "nvidia" / "__init__.py").write_text(EXTENDED)
    return site


def given(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the folder of ``--wheels`` on a command line, and the other words.

    By hand, because what reads command lines may be among the wheels.
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--wheels", type=Path)
    known, rest = reader.parse_known_args(words)
    return known.wheels, rest


def restart(words: Sequence[str], site: Path, began: float) -> int:
    """Run the benchmark with ``words`` again, with what lies in ``site``; return its exit code.

    ``began`` is the clock (``time.monotonic``) from which its minutes count.
    """
    env = {**os.environ, BEGAN: str(began)}
    libraries = [str(path) for path in sorted(site.glob("nvidia/*/lib"))]
    for name, folders in {"PYTHONPATH": [str(site)], "LD_LIBRARY_PATH": libraries}.items():
        env[name] = os.pathsep.join([*folders, *filter(None, [env.get(name)])])
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *words], env=env)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


def listing() -> list[str]:
    """Return NAME==VERSION of the packages that the run loads in this environment.

    DALI's own requirements are named too: it opens some of them as libraries.
    """
    for name in USES:
        importlib.import_module(name)
    owners = packages_distributions()
    tops = {name.partition(".")[0] for name in sys.modules} - {"nvidia"}
    names = {owner for top in tops for owner in owners.get(top, ())}
    pending = {"nvidia-dali-cuda130"}
    while pending:
        name = pending.pop()
        names.add(name)
        known = {each.lower().replace("_", "-") for each in names}
        pending |= {each for each in needs(name) if each not in known}
    return sorted(f"{name.lower().replace('_', '-')}=={version(name)}" for name in names)


def needs(package: str) -> list[str]:
    """Return what a package requires, for nvImageCodec its codecs too, where it is installed."""
    codecs = package.startswith("nvidia-nvimgcodec")
    found = []
    for line in requires(package) or []:
        name, _, marker = line.partition(";")
        if "extra" in marker and not codecs:
            continue
        plain = re.match(r"[\w.-]+", name)
        assert plain is not None
        found.append(plain.group().lower().replace("_", "-"))
    return sorted(set(found))
