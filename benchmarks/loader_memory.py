"""What a rank's loader takes as data grows: peak memory, and time from start to first batch.

    python -m benchmarks.loader_memory [--json out.json]

Shards of tiny samples are made up: 10,000 in 100 shards and 100,000 in 1,000. A process of its own
opens each set as train.py does (tables, digests of the indexes, sha256 of the shards remembered
from an earlier start), makes the training loader and iterates one epoch. Seconds are from the
process's start, imports included; peak memory is the process's VmHWM after the epoch.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.tiny_shards import write_tiny_shards
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.intact import ensure_intact

PER_SHARD = 100
"""Samples in a shard."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    samples: tuple[int, ...] = (10_000, 100_000)
    """Samples of each set of shards; shards hold 100."""
    backends: tuple[Literal["dali", "portable"], ...] = ("portable", "dali")
    """Loaders to measure."""
    json: Path | None = None
    """Where to write the figures, besides the table."""


def rank(root: Path, backend: Literal["dali", "portable"], out: Path, begun: float) -> None:
    """Iterate an epoch as one rank does; write what it took to ``out``."""
    import torch

    from pipeline.loading.loader import make_loader

    imported = time.time()
    shards = open_shards(root)
    ensure_intact(shards, ["train"], progress=False)
    loader = make_loader(
        shards.split("train"), phase="train", image_size=32, batch_size=64, threads=2,
        backend=backend, device=torch.device("cpu"),
    )  # fmt: skip
    made = time.time()
    batches = loader.epoch(0)
    next(batches)
    first, at_first = time.time(), peak_bytes()
    count = 1 + sum(1 for _ in batches)
    assert count == loader.batches_per_epoch
    found = {
        "seconds_imports": round(imported - begun, 2),
        "seconds_open": round(made - imported, 2),
        "seconds_to_first_batch": round(first - begun, 2),
        "peak_mb_first_batch": round(at_first / 1e6, 1),
        "peak_mb": round(peak_bytes() / 1e6, 1),
        "seconds_epoch": round(time.time() - first, 1),
    }
    out.write_text(json.dumps(found))


def peak_bytes() -> int:
    """Return the most memory that this process has had resident, bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def measure(root: Path, backend: str) -> dict[str, float]:
    """Run a rank in a process of its own and return what it took."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        words = ["rank", root, backend, out.name]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.loader_memory", *map(str, words), str(time.time())],
            check=True,
        )
        return json.loads(Path(out.name).read_text())


def main() -> None:
    """Measure, print, and keep."""
    options = parse(Options, about="Measure a rank's memory and start as data grows.")
    for samples in options.samples:
        if samples < 64 or samples % PER_SHARD:
            raise DataError(f"--samples {samples}: expected a multiple of {PER_SHARD}")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # where intact shards are remembered
        roots = {samples: Path(folder) / str(samples) for samples in options.samples}
        for samples, root in roots.items():
            write_tiny_shards(root, shards=samples // PER_SHARD, samples_per_shard=PER_SHARD)
            ensure_intact(open_shards(root), ["train"], progress=False)
        print("backend    samples  shards  first batch    open      peak")
        for backend in options.backends:
            for samples, root in roots.items():
                found = measure(root, backend)
                rows.append({"backend": backend, "samples": samples, **found})
                print(
                    f"{backend:9} {samples:8,} {samples // PER_SHARD:7,} "
                    f"{found['seconds_to_first_batch']:10.1f} s {found['seconds_open']:5.1f} s "
                    f"{found['peak_mb']:6.0f} MB",
                    flush=True,
                )
            _print_ratio([row for row in rows if row["backend"] == backend])
    if options.json:
        content = {"cores": os.cpu_count(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def _print_ratio(rows: list[dict]) -> None:
    least, most = (pick(rows, key=lambda row: row["samples"]) for pick in (min, max))
    ratio = most["peak_mb"] / least["peak_mb"]
    print(f"{'':9} peak memory, {most['samples']:,} over {least['samples']:,} samples: {ratio:.2f}")


def run() -> None:
    """Be the command, or the rank that the command starts."""
    if sys.argv[1:2] == ["rank"]:
        root, backend, out, begun = sys.argv[2:]
        rank(Path(root), backend, Path(out), float(begun))  # type: ignore[arg-type]
    else:
        main()


if __name__ == "__main__":
    guard(run)
