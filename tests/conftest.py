"""What every room's tests share: made-up data, its shards, real data if near, tiny trainings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("WANDB_MODE", "offline")  # no test may reach for a server


def run_command(
    *words: str | Path, cwd: Path = ROOT, timeout: float = 300, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with ``words`` as a user would, and return what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The public commands: ``command("-m", "pipeline.shards", "verify", root)``."""
    return run_command


def checked(words: Sequence[str | Path]) -> None:
    """Run a command that a fixture rests on; show its output where it fails."""
    done = run_command(*words)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def synthetic_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up dataset of 120 images in HAM10000's layout. Read only."""
    out = tmp_path_factory.mktemp("source") / "synthetic"
    checked(["-m", "pipeline.ham10000", "synthesize", "--out", out, "--images", "120"])
    return out


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, synthetic_source: Path) -> Path:
    """Shards of ``synthetic_source``, 64 pixels, 20 samples a shard. Read only."""
    out = tmp_path_factory.mktemp("shards") / "packed"
    flags = ["--image-size", "64", "--samples-per-shard", "20", "--workers", "2"]
    checked(["-m", "pipeline.shards", "build", "--source", synthetic_source, "--out", out, *flags])
    return out


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """The whole real dataset, where it lies beside this checkout; skipped elsewhere."""
    source = ROOT.parent / "shared" / "ham10000"
    if not (source / "HAM10000_metadata.csv").is_file():
        pytest.skip(f"real data not found at {source}")
    return source


@pytest.fixture(scope="session")
def ham10000_originals() -> Path:
    """113 real images at full size, where they lie beside this checkout; skipped elsewhere."""
    source = ROOT.parent / "shared" / "ham10000_originals"
    if not (source / "HAM10000_metadata.csv").is_file():
        pytest.skip(f"real images not found at {source}")
    return source


TINY = (
    *("--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--lr", "1e-3"),
    *(
        "--epochs",
        "3",
        "--batch-size",
        "6",
        "--threads",
        "1",
        "--tracker",
        "none",
        "--dropout",
        "0.2",
    ),
    *("--optimizer", "adamw", "--schedule", "onecycle", "--ema-decay", "0.9"),
)
"""Flags of a training that has dropout, an average and a moving rate, in a second or two."""


@dataclass(frozen=True)
class Outcome:
    """What became of the ranks of a training."""

    codes: list[int]
    text: str
    """What all ranks printed."""


Train = Callable[..., Outcome]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """``train(*flags, ranks=1, die=None, env=None, file_limit=0) -> Outcome``."""
    logs = tmp_path_factory.mktemp("logs")
    pad = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "training" / "launchpad.py")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert pad.stdin and pad.stdout
    stdin, stdout = pad.stdin, pad.stdout

    def order(
        *flags: str | Path,
        ranks: int = 1,
        die: Sequence[object] | None = None,
        env: dict[str, str] | None = None,
        file_limit: int = 0,
    ) -> Outcome:
        log = logs / "log"
        words = {"argv": [*map(str, flags)], "ranks": ranks, "die": die, "log": str(log)}
        words["file_limit"] = file_limit
        stdin.write(json.dumps({**words, "env": env or {}}) + "\n")
        stdin.flush()
        codes = json.loads(stdout.readline())
        text = "".join(Path(f"{log}.{rank}").read_text() for rank in range(ranks))
        return Outcome(codes, text)

    yield order
    stdin.close()
    pad.wait(timeout=30)


@pytest.fixture(scope="session")
def tiny(packed: Path) -> list[str]:
    """The flags of a tiny training on made-up shards, but for its run folder."""
    return ["--shards", str(packed), *TINY]
