"""Sheets of cases as one PNG: what it is, what was predicted, how surely.

sheet(cases, "Most confident mistakes").save("misclassified.png")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE, LINE, GAP = 160, 15, 10
"""Pixels: a picture's side, a line of text, the space between tiles."""

RIGHT, WRONG, INK = "#00664B", "#B03A00", "#1A1A1A"


@dataclass(frozen=True)
class Tile:
    """One case of a sheet."""

    picture: np.ndarray
    """[H, W, 3] uint8 RGB, square."""
    lines: tuple[str, ...]
    """What stands below it, a line each."""
    right: bool | None = None
    """Whether the decision was right; None where the truth is not known."""
    overlay: np.ndarray | None = None
    """The picture with its Grad-CAM, same shape, shown beside it."""


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, so that sheets look the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def sheet(tiles: Sequence[Tile], title: str, *, columns: int = 6) -> Image.Image:
    """Lay the tiles out in rows below a title; a frame and a word say right or wrong."""
    pairs = any(tile.overlay is not None for tile in tiles)
    width = TILE * (2 if pairs else 1)
    columns = max(1, min(columns // 2 if pairs else columns, len(tiles)))
    lines = max((len(tile.lines) for tile in tiles), default=0)
    height = TILE + LINE * lines + 6
    rows = -(-len(tiles) // columns)
    size = (max(GAP + columns * (width + GAP), 720), 46 + rows * (height + GAP))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 12), title, fill=INK, font=font(17, bold=True))
    for k, tile in enumerate(tiles):
        left, top = GAP + (k % columns) * (width + GAP), 46 + (k // columns) * (height + GAP)
        _draw_tile(page, draw, tile, left, top, width if pairs else TILE)
    return page


def _draw_tile(
    page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, width: int
) -> None:
    for k, picture in enumerate(p for p in (tile.picture, tile.overlay) if p is not None):
        page.paste(Image.fromarray(picture).resize((TILE, TILE)), (left + k * TILE, top))
    colour = {True: RIGHT, False: WRONG, None: INK}[tile.right]
    draw.rectangle((left, top, left + width - 1, top + TILE - 1), outline=colour, width=3)
    for k, line in enumerate(tile.lines):
        place = (left, top + TILE + 3 + k * LINE)
        draw.text(place, line, fill=colour if k == 0 else INK, font=font(11, bold=k == 0))
