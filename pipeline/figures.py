"""What all drawings share: colours, the font, plots as PNG, contact sheets and their cases.

    figure, (axes,) = blank(5, 5)
    save(figure, Path("roc.png"))
    rows = surest_mistakes(label, probability, threshold, count=24)
    sheet = contact_sheet([Tile((pictures[row],), lines=(ids[row],)) for row in rows], "Mistakes")
    save(sheet, Path("mistakes.png"))

The four colours can be told apart by colour-blind readers, and no meaning rests on colour alone.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from pipeline.files import write_output

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#7B3F8C"
GREY, INK = "#595959", "#1A1A1A"
RIGHT, WRONG = "#00664B", "#B03A00"
"""Of a right and of a wrong decision, dark enough for text."""

DPI = 110
GAP, LINE, TITLE = 10, 15, 46
"""Pixels of a contact sheet: between tiles, a line of text, the title with its margins."""


# -- plots


def blank(
    width: float, height: float, columns: int = 1, *, rows: int = 1, **how: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` x ``height`` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, **how).flat)
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def png(drawing: Figure | Image.Image) -> bytes:
    """Return a plot or a picture as PNG; equal drawings give equal bytes."""
    out = io.BytesIO()
    if isinstance(drawing, Figure):
        drawing.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    else:
        drawing.save(out, format="PNG", optimize=True)
    return out.getvalue()


def save(drawing: Figure | Image.Image, path: Path) -> None:
    """Write a plot or a picture as PNG, whole, or raise a DataError."""
    write_output(path, png(drawing))


def smaller_png(data: bytes) -> bytes:
    """Return a plot's PNG with 64 colours: a third of the bytes, for embedding in a page."""
    return png(Image.open(io.BytesIO(data)).convert("RGB").quantize(64))


def data_url(data: bytes, kind: str) -> str:
    """Return an image (``kind``: png, webp) as a data URL: a page then needs no file beside it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# -- which cases to show


def confidence(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return the distance from the threshold, [N]: 0 at it, 1 at either end of the scale."""
    room = np.where(probability >= threshold, 1 - threshold, threshold)
    return np.minimum(np.abs(probability - threshold) / np.maximum(room, 1e-12), 1)


def surest_mistakes(
    label: np.ndarray, probability: np.ndarray, threshold: float, count: int
) -> np.ndarray:
    """Return at most ``count`` rows that are decided wrongly, the most confident first.

    ``label`` is [N] 0 benign, 1 malignant; ``probability`` is [N] 0-1 of malignant, decided at or
    above ``threshold``.
    """
    wrong = np.flatnonzero((probability >= threshold) != (label == 1))
    order = np.argsort(-confidence(probability, threshold)[wrong], kind="stable")
    return wrong[order][:count]


def draw_cases(label: np.ndarray, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return ``count`` random rows, ascending, half of them malignant where there are enough.

    No two rows have the same of ``groups`` [N]: photographs of one lesion are drawn once.
    """
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(label))
    rows = generator.permutation(rows[np.unique(groups[rows], return_index=True)[1]])
    malignant, benign = (rows[label[rows] == kind] for kind in (1, 0))
    chosen = malignant[: max(count // 2, count - len(benign))]
    return np.sort(np.concatenate([chosen, benign[: count - len(chosen)]]))


# -- contact sheets


@dataclass(frozen=True)
class Tile:
    """One case of a contact sheet."""

    pictures: tuple[np.ndarray, ...]
    """Side by side, each [H, W, 3] uint8 RGB; scaled to the sheet's tile size."""
    lines: tuple[str, ...] = ()
    """Text below them; the first line is bold."""
    frame: str | None = None
    """Colour of a frame and of the first line; none where None."""


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib, so that sheets look the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def contact_sheet(
    tiles: Sequence[Tile],
    title: str,
    *,
    columns: int = 6,
    size: tuple[int, int] = (160, 160),
    headings: Sequence[str] = (),
) -> Image.Image:
    """Lay tiles, pictures of ``size`` (width, height, pixels), out in rows below a title."""
    heading = font(17, bold=True)
    wide = max((len(tile.pictures) for tile in tiles), default=1) * size[0]
    lines = max((len(tile.lines) for tile in tiles), default=0)
    columns = max(1, min(columns, len(tiles)))
    top = TITLE + (LINE + 5 if headings else 0)
    step = (wide + GAP, size[1] + LINE * lines + 6 + GAP)
    rows = -(-len(tiles) // columns)
    width = max(GAP + columns * step[0], int(heading.getlength(title)) + 2 * GAP)
    page = Image.new("RGB", (width, top + rows * step[1]), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 12), title, fill=INK, font=heading)
    for place, text in enumerate(headings):
        draw.text((GAP + place * step[0], TITLE - 2), text, fill=GREY, font=font(12))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        _draw_tile(page, tile, (GAP + column * step[0], top + row * step[1]), size)
    return page


def _draw_tile(
    page: Image.Image, tile: Tile, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    (left, top), draw = corner, ImageDraw.Draw(page)
    for place, picture in enumerate(tile.pictures):
        scaled = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        page.paste(scaled, (left + place * size[0], top))
    if tile.frame:
        right = left + len(tile.pictures) * size[0] - 1
        draw.rectangle((left, top, right, top + size[1] - 1), outline=tile.frame, width=3)
    for number, line in enumerate(tile.lines):
        colour = (tile.frame or INK) if number == 0 else INK
        at, face = (left, top + size[1] + 3 + number * LINE), font(11, bold=number == 0)
        draw.text(at, fitted(line, face, len(tile.pictures) * size[0]), fill=colour, font=face)


def fitted(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """Return a text that is at most ``width`` pixels wide; a longer one loses its middle."""
    kept, shown = len(text), text
    while face.getlength(shown) > width and kept:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
