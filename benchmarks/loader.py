"""How fast batches come: this project's loaders beside peers and floors, in one run, in turns.

    python -m benchmarks.loader                                     # on made-up images
    python -m benchmarks.loader --originals DIR --json out.json --figure out.png
    python -m benchmarks.loader --peer-python ffcv=/envs/ffcv/bin/python spdl=/envs/x/bin/python

Same work for all: JPEG to batches of 64 normalised float32 images of 224 pixels on the CPU, with

- ``full``: resize, rotation, horizontal flip, colour jitter with hue: the preset ``basic``;
- ``crop``: random resized crop, horizontal flip, colour jitter: what FFCV has too;

from the images as they are (``originals``, repeated until there are enough) and packed at 256
pixels (``packed``). Each contestant has a process of its own (``loader_contest``) with one thread
or worker a core, and waits while another runs; turns go round several times and the median counts.
What needs an environment of its own is left out unless ``--peer-python`` names its interpreter
(``loader_peers`` says what to install). What the table favours peers with: batches of the Pillow
rows stay in planes, not turned channels-last; FFCV shifts no hue and reads files that it encoded
anew at quality 90, a fifth of the originals' bytes, so it may pass the floor; webdataset, SPDL,
LitData and Streaming run our operators, with a plain resize in place of the warp where they crop.
"""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.loader_contest import Player, Task
from benchmarks.loader_sources import Source, make_sources, warm
from benchmarks.loader_table import (
    ABOUT,
    FLOORS,
    PEERS,
    RECIPES,
    Row,
    draw,
    packing_gain,
    table,
)
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.machine import cores


@dataclass(frozen=True)
class Options:
    """Flags of the benchmark."""

    shards: Path | None = None
    """Packed images, split train; by default the originals are packed at 256 pixels."""
    originals: Path | None = None
    """Folder with JPEGs at their original size; by default some of 600 x 450 are made up."""
    images: int = 2000
    """Images of each set; the originals are repeated."""
    image_size: int = 224
    """Side of the output, pixels."""
    batch_size: int = 64
    """Images."""
    workers: int = 0
    """Threads or processes of every contestant; 0 is one a core."""
    seconds: float = 3.0
    """Of each turn, after warming up."""
    rounds: int = 3
    """Turns of each contestant at each task; the median counts."""
    only: tuple[str, ...] = ()
    """Contestants to run; all by default."""
    peer_python: tuple[str, ...] = ()
    """Interpreters of peers, as ffcv=/envs/ffcv/bin/python spdl=/envs/x/bin/python."""
    work: Path | None = None
    """Folder for packed images, used again by the next run; by default one that is removed."""
    json: Path | None = None
    """File for the figures."""
    figure: Path | None = None
    """File for the figure, .png or .svg."""

    def __post_init__(self) -> None:
        """Refuse names that nobody has."""
        for name in (*self.only, *self.interpreters):
            if name not in ABOUT:
                raise DataError(f"no contestant {name!r}; there are {', '.join(ABOUT)}")

    @property
    def interpreters(self) -> dict[str, str]:
        """Interpreter by name of peer."""
        pairs = [each.partition("=") for each in self.peer_python]
        return {name: path for name, _, path in pairs}


def main() -> None:
    """Run the contest, print the table, keep what is asked for."""
    options = parse(Options, about=(__doc__ or "").splitlines()[0])
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        work = work.resolve()
        sources = make_sources(
            work, originals=options.originals, shards=options.shards, images=options.images
        )
        warm(sources)
        rows, left_out = contest(options, sources, work)
    print(table(rows, left_out, sources))
    if options.json is not None:
        options.json.write_text(json.dumps(report(options, sources, rows, left_out), indent=1))
    if options.figure is not None:
        draw(rows, options.figure)


def contest(
    options: Options, sources: Sequence[Source], work: Path
) -> tuple[list[Row], dict[str, str]]:
    """Let every contestant take its turns; return the rows, and why others are left out."""
    players, left_out = line_up(options, work)
    answers: dict[tuple[str, str, str], list[dict]] = {}
    try:
        for number in range(options.rounds):
            for task in tasks(options, sources, work):
                for name, player in players.items():
                    key = (name, task.recipe, task.source)
                    takes_part = (name in FLOORS) == (task.recipe == "decode")
                    if not takes_part or name in left_out or f"{name} {task.recipe}" in left_out:
                        continue
                    answer = player.ask(task)
                    if reason := answer.get("skipped"):
                        failed = str(reason).startswith("failed")
                        left_out[name if failed else f"{name} {task.recipe}"] = reason
                        continue
                    answers.setdefault(key, []).append(answer)
                    progress(number, key, answer)
    finally:
        for player in players.values():
            player.stop()
    order = {name: place for place, name in enumerate(ABOUT)}
    rows = [summary(key, given) for key, given in answers.items()]
    rows.sort(key=lambda row: (RECIPES.index(row.recipe), row.source, order[row.contestant]))
    return rows, left_out


def line_up(options: Options, work: Path) -> tuple[dict[str, Player], dict[str, str]]:
    """Start the contestants' processes; return them, and why others cannot."""
    players, left_out = {}, {}
    for name in ABOUT:
        if options.only and name not in options.only:
            left_out[name] = "not among --only"
        elif name in PEERS and name not in options.interpreters:
            left_out[name] = f"no --peer-python {name}=PYTHON given"
        else:
            python = options.interpreters.get(name, sys.executable)
            module = "benchmarks.loader_peers" if name in PEERS else "benchmarks.loader_ours"
            players[name] = Player([python, "-m", module, name], work / f"{name}.log")
    return players, left_out


def tasks(options: Options, sources: Sequence[Source], work: Path) -> list[Task]:
    """Return the turns of a round."""
    return [
        Task(
            recipe=recipe,
            source=source.name,
            shards=str(source.shards.resolve()),
            files=str(source.files),
            scratch=str(work),
            image_size=options.image_size,
            batch_size=options.batch_size,
            workers=options.workers or cores(),
            seconds=options.seconds,
        )
        for recipe in RECIPES
        for source in sources
    ]


def summary(key: tuple[str, str, str], answers: Sequence[dict]) -> Row:
    """Return the row of one contestant at one task."""
    name, recipe, source = key
    rates = [answer["images"] / answer["seconds"] for answer in answers]
    return Row(
        contestant=name,
        recipe=recipe,
        source=source,
        images_per_s=round(statistics.median(rates), 1),
        rounds=[round(rate, 1) for rate in rates],
        images=sum(answer["images"] for answer in answers),
        layout=answers[-1]["layout"],
    )


def progress(number: int, key: tuple[str, str, str], answer: dict) -> None:
    """Say on standard error what has just been measured."""
    rate = answer["images"] / answer["seconds"]
    print(f"round {number + 1}: {' '.join(key):<40}{rate:>8.0f} images/s", file=sys.stderr)


def report(
    options: Options, sources: Sequence[Source], rows: Sequence[Row], left_out: dict[str, str]
) -> dict[str, object]:
    """Return what ``--json`` keeps."""
    return {
        "cores": os.cpu_count(),
        "workers": options.workers or cores(),
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "seconds": options.seconds,
        "sources": [
            {"name": s.name, "images": s.images, "kilobytes": s.kilobytes} for s in sources
        ],
        "rows": [asdict(row) for row in rows],
        "packing_gain": packing_gain(rows),
        "left_out": left_out,
    }


if __name__ == "__main__":
    guard(main)
