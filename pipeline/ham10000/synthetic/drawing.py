"""Synthetic lesions: what a diagnosis looks like, painted on skin.

``paint_lesion`` paints a square canvas: skin with its tone, mottling and freckles, and on it a
lesion whose size, outline, border, colours, net and spots follow its diagnosis (``LOOKS``). Classes
overlap: a few lesions are painted with the look of another class. ``camera`` photographs the
canvas, ``dataset`` writes the photographs.

Canvases are ``[S, S, 3] float32``, RGB, 0-255.

    canvas = paint_lesion(np.random.default_rng(0), "mel", (300, 225))
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Canvas = NDArray[np.float32]
Colour = tuple[float, float, float]
Span = tuple[float, float]

SKIN: tuple[Colour, ...] = ((226, 194, 184), (214, 170, 146), (218, 156, 156), (202, 176, 196))
"""Pale, tan, flushed and bluish (cross-polarised) skin."""

REACH = 2.0
"""Largest distance of a lesion's edge from its centre, in mean radii."""

BORROWED = 0.03
"""Share of lesions painted with the look of the class they are most often mistaken for."""


@dataclass(frozen=True)
class Look:
    """How lesions of one diagnosis are painted; values are drawn uniformly from the spans."""

    colours: tuple[Colour, ...]
    """Main colour, one of these, RGB 0-255."""
    radius: Span
    """Mean radius, share of the image's height."""
    wobble: Span
    """Irregularity of the outline, share of the radius."""
    softness: Span
    """Width of the border, share of the radius."""
    patches: tuple[int, int]
    """Fewest and most patches of another colour."""
    patch_colours: tuple[Colour, ...]
    """Colours of those patches, RGB 0-255."""
    net: tuple[float, float]
    """Mesh of the pigment net, share of the radius, and how much darker it is, grey levels."""
    spots: tuple[int, int]
    """Fewest and most round spots."""
    spot_radius: float
    """Mean radius of a spot, share of the lesion's."""
    spot_colour: Colour
    """RGB 0-255."""
    mistaken_for: str
    """The class whose look is sometimes borrowed."""


def paint_lesion(rng: Generator, dx: str, size: tuple[int, int]) -> Canvas:
    """Return a canvas with one lesion, for photographs of ``size`` (width, height, pixels)."""
    look = LOOKS[dx]
    if (dx != "nv" and rng.random() < BORROWED) or rng.random() < BORROWED / 3:
        look = LOOKS[look.mistaken_for]
    canvas = _skin(rng, round(1.25 * max(size)), size[1])
    radius = rng.uniform(*look.radius) * size[1]
    side = min(2 * round(REACH * radius), len(canvas) // 2 * 2)
    start = (len(canvas) - side) // 2
    skin = canvas[start : start + side, start : start + side]
    wobble, softness = rng.uniform(*look.wobble), rng.uniform(*look.softness)
    lesion = np.empty_like(skin)
    lesion[:] = np.asarray(_pick(rng, look.colours)) + rng.normal(0, 8) + rng.normal(0, 4, 3)
    lesion += (_noise(rng, side, 0.7 * radius) * rng.uniform(4, 14))[..., None]
    for _ in range(rng.integers(look.patches[0], look.patches[1] + 1)):
        patch = _outline(rng, side, radius * rng.uniform(0.2, 0.5), 0.2, 0.3)
        down, right = rng.integers(-round(0.6 * radius), round(0.6 * radius) + 1, 2)
        cover = np.float32(0.85) * np.roll(patch, (down, right), (0, 1))
        lesion += cover[..., None] * (np.asarray(_pick(rng, look.patch_colours)) - lesion)
    mesh, darker = look.net
    lines = np.exp(-np.square(_noise(rng, side, mesh * radius) / np.float32(0.3)))
    lesion -= (lines * rng.uniform(0.6, 1.3) * darker)[..., None].astype(np.float32)
    reach, size_of = 0.9 * radius, look.spot_radius * radius
    _spots(rng, lesion, look.spots, reach=reach, radius=size_of, colour=look.spot_colour)
    cover = _outline(rng, side, radius, wobble, softness) * np.float32(rng.uniform(0.75, 1.0))
    skin += cover[..., None] * (lesion - skin)
    return canvas


def draw_curve(canvas: Canvas, points: NDArray[np.float64], colour: Colour, width: int) -> None:
    """Draw a curve through ``points`` ``[n, 2]`` (x, y), to a sixteenth of a pixel."""
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, colour, width, cv2.LINE_AA, shift=4)


def _pick(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[rng.integers(len(colours))]


def _noise(rng: Generator, side: int, bump: float) -> NDArray[np.float32]:
    """Return smooth noise ``[side, side]`` of about unit variance with bumps of ``bump`` pixels."""
    cells = max(4, round(side / bump))
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


def _skin(rng: Generator, side: int, height: int) -> Canvas:
    """Return bare skin: tone, mottling, fine texture, freckles."""
    first, second, mix = _pick(rng, SKIN), _pick(rng, SKIN), rng.random()
    tone = (1 - mix) * np.asarray(first) + mix * np.asarray(second) + rng.normal(0, 6, 3)
    skin = np.empty((side, side, 3), np.float32)
    skin[:] = tone
    redness = _noise(rng, side, side / 7)[..., None] * np.array([2, -4, -3], np.float32)
    grain = _noise(rng, side, 0.03 * height) * rng.uniform(1, 5) + _noise(rng, side, 3) * 3
    skin += redness + grain[..., None]
    freckle = (0.86 * tone[0], 0.76 * tone[1], 0.7 * tone[2])
    _spots(rng, skin, (0, 30), reach=0.7 * side, radius=0.014 * height, colour=freckle)
    return np.asarray(cv2.GaussianBlur(skin, (0, 0), 0.8), np.float32)


def _outline(
    rng: Generator, side: int, radius: float, wobble: float, softness: float
) -> NDArray[np.float32]:
    """Return a cover ``[side, side]``, 0-1: an irregular ellipse in the middle, its border soft."""
    axis = (np.arange(side, dtype=np.float32) - side / 2) / radius
    y, x = np.meshgrid(axis, axis, indexing="ij")
    stretch = rng.uniform(0.8, 1.25)
    far, angle = np.hypot(x * stretch, y / stretch), np.arctan2(y, x)
    edge = np.ones_like(far)
    for waves in range(2, 9):
        height = wobble * rng.normal() / np.sqrt(waves)
        edge += np.float32(height) * np.cos(waves * angle + np.float32(rng.uniform(0, 6.283)))
    edge = np.clip(edge, 0.35, REACH - 0.05 - softness)
    return np.clip(0.5 + (edge - far) / (2 * softness), 0, 1).astype(np.float32)


def _spots(
    rng: Generator,
    canvas: Canvas,
    count: tuple[int, int],
    *,
    reach: float,
    radius: float,
    colour: Colour,
) -> None:
    """Paint round spots within ``reach`` pixels of the centre, of ``radius`` pixels on average."""
    for _ in range(rng.integers(count[0], count[1] + 1)):
        angle, far = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
        x, y = (len(canvas) / 2 + far * turn(angle) for turn in (np.cos, np.sin))
        shade = (np.asarray(colour) + rng.normal(0, 8)).tolist()
        place, size = (round(x * 16), round(y * 16)), round(rng.uniform(0.5, 1.5) * radius * 16)
        cv2.circle(canvas, place, size, shade, -1, cv2.LINE_AA, shift=4)


LOOKS: dict[str, Look] = {
    # main colours; radius, wobble, softness; patches; net; spots; mistaken for
    "akiec": Look(
        ((208, 122, 112), (196, 134, 112)), (0.22, 0.36), (0.12, 0.3), (0.3, 0.6),
        (1, 3), ((236, 222, 208), (178, 92, 78)), (0.22, 16), (4, 10), 0.1, (244, 234, 224), "bkl",
    ),
    "bcc": Look(
        ((222, 150, 142), (214, 160, 148)), (0.16, 0.32), (0.08, 0.2), (0.15, 0.35),
        (2, 5), ((92, 62, 70), (72, 62, 84), (184, 70, 64)), (0.3, 6), (3, 9), 0.04, (176, 52, 56),
        "bkl",
    ),
    "bkl": Look(
        ((168, 126, 92), (150, 118, 100), (186, 148, 106)), (0.17, 0.34), (0.06, 0.18),
        (0.04, 0.12), (0, 2), ((128, 92, 70),), (0.4, 26), (6, 18), 0.045, (232, 214, 180), "mel",
    ),
    "df": Look(
        ((196, 140, 122), (188, 132, 134)), (0.15, 0.26), (0.03, 0.1), (0.4, 0.7),
        (1, 1), ((238, 218, 214),), (0.2, 13), (0, 0), 0.1, (238, 218, 214), "nv",
    ),
    "mel": Look(
        ((92, 58, 44), (112, 74, 58), (74, 50, 48)), (0.2, 0.38), (0.16, 0.36), (0.06, 0.25),
        (2, 5), ((34, 28, 34), (92, 98, 124), (160, 78, 72), (186, 156, 146)), (0.26, 26),
        (8, 26), 0.04, (36, 28, 30), "nv",
    ),
    "nv": Look(
        ((146, 98, 72), (128, 84, 62), (170, 114, 92)), (0.1, 0.27), (0.01, 0.07), (0.1, 0.3),
        (0, 1), ((108, 70, 52),), (0.18, 21), (0, 0), 0.1, (108, 70, 52), "mel",
    ),
    "vasc": Look(
        ((172, 46, 66), (140, 44, 92), (190, 50, 84)), (0.1, 0.22), (0.03, 0.12), (0.05, 0.15),
        (0, 0), ((112, 20, 52),), (0.3, 10), (8, 22), 0.14, (112, 20, 52), "df",
    ),
}  # fmt: skip
