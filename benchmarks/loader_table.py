"""The table and the figure of ``benchmarks.loader``, and the names of its contestants.

print(table(rows, left_out, sources))
draw(rows, Path("loader.png"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loader_sources import Source
from pipeline.errors import DataError

OURS = ("portable", "dali")
"""This project's backends."""

ABOUT = {
    "portable": "this project, simplejpeg and OpenCV in threads",
    "dali": "this project, DALI's CPU operators",
    "imagefolder": "ImageFolder, Pillow, DataLoader: the way of old",
    "webdataset-pillow": "webdataset, Pillow, torchvision's transforms",
    "webdataset-opencv": "webdataset, simplejpeg, our OpenCV operators",
    "ffcv": "FFCV, own operators without hue, files of its own",
    "ffcv-no-colour": "FFCV without colour jitter: less work",
    "spdl": "SPDL's threads, our OpenCV operators",
    "litdata": "LitData, our OpenCV operators",
    "streaming": "MosaicML Streaming, our OpenCV operators",
    "jpeg-decoding": "floor: JPEG decoding alone",
    "memory-copy": "floor: finished batches copied once",
    "dali-reader": "DALI's webdataset reader, decoding alone",
    "dali-callback": "DALI fed by our callback, decoding alone",
    "host-alone": "host side alone, per core: our callback, no decoding",
}
"""Contestants in the order of the table."""

PEERS = ("ffcv", "ffcv-no-colour", "spdl", "litdata", "streaming")
"""Those that live in environments of their own."""

FLOORS = ("jpeg-decoding", "memory-copy", "dali-reader", "dali-callback", "host-alone")
RECIPES = ("full", "crop", "decode")


@dataclass(frozen=True)
class Row:
    """What came of one contestant at one task."""

    contestant: str
    recipe: str
    source: str
    images_per_s: float
    """Median of the rounds."""
    rounds: list[float]
    """Images/s of each."""
    images: int
    """Counted in all rounds."""
    layout: str
    """Of a batch in memory: channels-last or planes."""


def table(rows: Sequence[Row], left_out: dict[str, str], sources: Sequence[Source]) -> str:
    """Return the table as text; ratios are those of the portable backend to each other row."""
    lines = [
        f"{source.name}: {source.images:,} images of {source.kilobytes} KB" for source in sources
    ]
    for recipe in RECIPES:
        chosen = [row for row in rows if row.recipe == recipe]
        if chosen:
            lines += ["", f"{recipe:<12}{'':<52}{'images/s':>10}{'portable is':>13}"]
        for row in chosen:
            ours = rate_of(rows, "portable", recipe, row.source)
            ratio = f"{ours / row.images_per_s:>12.2f}x" if ours else f"{'':>13}"
            words = f"{row.source:<12}{ABOUT[row.contestant]:<52}"
            lines.append(f"{words}{row.images_per_s:>10,.0f}{ratio}")
    gain = packing_gain(rows)
    if gain:
        lines += ["", f"full, portable from packed images over the way of old, originals: {gain}x"]
    if left_out:
        lines += ["", "left out:"]
        lines += [f"  {name:<28}{reason}" for name, reason in sorted(left_out.items())]
    return "\n".join(lines)


def rate_of(rows: Sequence[Row], contestant: str, recipe: str, source: str) -> float:
    """Return the images/s of a row, 0 where there is none."""
    wanted = (contestant, recipe, source)
    found = [r.images_per_s for r in rows if (r.contestant, r.recipe, r.source) == wanted]
    return found[0] if found else 0.0


def packing_gain(rows: Sequence[Row]) -> float:
    """Return what packing and this loader give over ImageFolder on the originals, as a factor."""
    ours = rate_of(rows, "portable", "full", "packed")
    old = rate_of(rows, "imagefolder", "full", "originals")
    return round(ours / old, 2) if old else 0.0


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw bars of images/s, a panel for each recipe and source, the floors as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        (recipe, source)
        for recipe in ("full", "crop")
        for source in ("packed", "originals")
        if any((row.recipe, row.source) == (recipe, source) for row in rows)
    ]
    if not panels:
        raise DataError("--figure: nothing but floors was run")
    figure = Figure(figsize=(11, 3.4 * -(-len(panels) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (recipe, source) in zip(axes, panels, strict=False):
        chosen = [row for row in rows if (row.recipe, row.source) == (recipe, source)][::-1]
        names = [row.contestant for row in chosen]
        values = [row.images_per_s for row in chosen]
        colours = ["#0072B2" if name in OURS else "#BBBBBB" for name in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3)
        floor = rate_of(rows, "jpeg-decoding", "decode", source)
        if floor:
            axis.axvline(floor, color="#D55E00", linestyle="--")
        axis.set_xlim(0, 1.2 * max([*values, floor]))
        axis.set_title(f"recipe {recipe}, images {source}", loc="left")
        axis.set_xlabel("images/s")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Batches of normalised images, images/s; dashed: decoding the JPEGs alone")
    figure.savefig(path, dpi=110)
