"""How good the shuffle is: ours beside a true permutation and beside webdataset's own.

    python -m benchmarks.shuffle [--json out.json]

For each layout of shards and each way of shuffling, the orders of some epochs are compared in
pairs. *Rank correlation* is the mean |Spearman| of the samples' positions in two epochs; chance
alone gives about sqrt(2 / (pi n)). *Neighbours kept* is the share of the pairs that follow each
other in one epoch and are neighbours in the other, either way round; chance gives 2 / n. The same
two against the order in which the samples were packed say how much of the storage shows through.

webdataset is really run, over tiny tars in a temporary folder: WebDataset(shardshuffle=...) and
.shuffle(buffer). Its shard shuffle has one seed for all epochs, so its shards come in one order in
each; detshuffle=True gives it another in each epoch.
"""

import json
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm
from webdataset.compat import WebDataset

from benchmarks.tiny_shards import write_tiny_shards
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.loading.order import WINDOW_SAMPLES, epoch_order

Orders = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Options:
    """What to compare."""

    layouts: tuple[str, ...] = ("28x250", "4x2000", "100x500")
    """Shards x samples in each. The last default is one that our window does not hold whole."""
    epochs: int = 8
    """Epochs whose orders are compared, each with each."""
    buffer: int = 1000
    """Samples in webdataset's buffer, its own default."""
    seed: int = 0
    """Of all shuffles."""
    json: Path | None = None
    """Where to write the figures, besides the table."""

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        for layout in self.layouts:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", layout):
                raise DataError(f"--layouts {layout}: expected SHARDSxSAMPLES, as 28x250")
        if self.epochs < 2:
            raise DataError(f"--epochs {self.epochs}: it takes 2 to compare")


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of two permutations of 0 to n - 1 (there are no ties)."""
    n = len(first)
    squares = ((first - second).astype(np.float64) ** 2).sum()
    return float(1 - 6 * squares / (n * (n**2 - 1)))


def neighbours_kept(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of adjacent samples of order ``first`` that are adjacent in ``second``."""
    position = np.argsort(second)
    return float((np.abs(np.diff(position[first])) == 1).mean())


def figures(orders: Sequence[np.ndarray]) -> dict[str, float]:
    """Compare orders, each ``[n]`` sample numbers in packing order, in pairs and with packing."""
    positions = [np.argsort(order) for order in orders]
    packing = np.arange(len(orders[0]))
    pairs = list(combinations(range(len(orders)), 2))
    rank = [abs(spearman(positions[a], positions[b])) for a, b in pairs]
    kept = [neighbours_kept(orders[a], orders[b]) for a, b in pairs]
    return {
        "rank_correlation": float(np.mean(rank)),
        "neighbours_kept": float(np.mean(kept)),
        "rank_correlation_with_packing": float(
            np.mean([abs(spearman(position, packing)) for position in positions])
        ),
        "neighbours_kept_of_packing": float(
            np.mean([neighbours_kept(packing, order) for order in orders])
        ),
    }


def ways(root: Path, shards: int, per_shard: int, options: Options) -> dict[str, Orders]:
    """Return, by name, what gives the orders of the epochs."""
    shard_of = np.repeat(np.arange(shards), per_shard)

    def ours() -> Iterator[np.ndarray]:
        for epoch in range(options.epochs):
            yield epoch_order(shard_of, seed=options.seed, epoch=epoch)

    def permutation() -> Iterator[np.ndarray]:
        generator = np.random.default_rng(options.seed)
        for _ in range(options.epochs):
            yield generator.permutation(len(shard_of))

    def theirs(detshuffle: bool) -> Orders:
        return lambda: webdataset_orders(root, shards, options, detshuffle=detshuffle)

    return {
        f"this project (windows of {WINDOW_SAMPLES:,})": ours,
        "true permutation": permutation,
        f"webdataset, .shuffle({options.buffer:,})": theirs(detshuffle=False),
        f"webdataset, detshuffle, .shuffle({options.buffer:,})": theirs(detshuffle=True),
    }


def webdataset_orders(
    root: Path, shards: int, options: Options, detshuffle: bool
) -> Iterator[np.ndarray]:
    """Yield the orders in which webdataset gives the samples of ``options.epochs`` epochs."""
    tars = [str(path) for path in sorted((root / "train").glob("*.tar"))]
    dataset = WebDataset(
        tars, shardshuffle=shards, seed=options.seed, detshuffle=detshuffle
    ).shuffle(options.buffer, rng=random.Random(options.seed))
    for _ in range(options.epochs):
        keys = (sample["__key__"] for sample in cast(Iterable[dict], dataset))
        yield np.array([int(key.removeprefix("ISIC_")) for key in keys])


def compare(layout: str, options: Options, bar: tqdm) -> list[dict[str, object]]:
    """Return the figures of every way of shuffling for shards laid out as ``layout``."""
    shards, per_shard = (int(word) for word in layout.split("x"))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tiny"
        write_tiny_shards(root, shards=shards, samples_per_shard=per_shard)
        for name, orders in ways(root, shards, per_shard, options).items():
            bar.set_description(f"{layout}: {name}")
            gathered = []
            for order in orders():
                assert np.array_equal(np.sort(order), np.arange(shards * per_shard))
                gathered.append(order)
                bar.update()
            rows.append({"layout": layout, "shuffle": name, **figures(gathered)})
    return rows


def main() -> None:
    """Compare, print, and keep."""
    options = parse(Options, about="Compare shuffles: ours, webdataset's, a permutation.")
    rows: list[dict[str, object]] = []
    total = len(options.layouts) * 4 * options.epochs
    with tqdm(total=total, unit=" epochs", disable=None, leave=False) as bar:
        for layout in options.layouts:
            rows += compare(layout, options, bar)
    pairs = options.epochs * (options.epochs - 1) // 2
    print(f"over {pairs} pairs of epochs; in brackets: against the order of packing\n")
    print(f"{'shards':9} {'shuffle':44} {'rank correlation':>19} {'neighbours kept':>20}")
    for row in rows:
        print(
            f"{row['layout']:9} {row['shuffle']:44} "
            f"{row['rank_correlation']:9.4f} ({row['rank_correlation_with_packing']:.4f}) "
            f"{row['neighbours_kept']:10.4%} ({row['neighbours_kept_of_packing']:.3%})"
        )
    if options.json:
        content = {"epochs": options.epochs, "cores": os.cpu_count(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    guard(main)
