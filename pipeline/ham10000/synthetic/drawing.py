"""Synthetic lesions: what a diagnosis looks like, painted on skin.

``paint_lesion`` paints a square canvas: skin with its tone, freckles and pores, and on it a lesion
whose outline, border, colours and inner structure follow its diagnosis (``LOOKS``). Classes
overlap: a few lesions are painted with the look of another class. ``camera`` photographs the
canvas, ``dataset`` writes the photographs.

Canvases are ``[S, S, 3] float32``, RGB, 0-255.

    canvas = paint_lesion(np.random.default_rng(0), "mel", (300, 225))
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Canvas = NDArray[np.float32]
Colour = tuple[float, float, float]
Span = tuple[float, float]
Paint = Callable[[Generator, Canvas, float], None]
"""Draws on a lesion's canvas; the last argument is the lesion's mean radius, pixels."""

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
    variegation: Span
    """Strength of slow changes of brightness inside, grey levels."""
    patches: tuple[int, int]
    """Fewest and most patches of another colour."""
    patch_colours: tuple[Colour, ...]
    """Colours of those patches, RGB 0-255."""
    structure: tuple[Paint, ...]
    """What is drawn inside, in this order."""
    mistaken_for: str
    """The class whose look is sometimes borrowed."""


def paint_lesion(rng: Generator, dx: str, size: tuple[int, int]) -> Canvas:
    """Return a canvas with one lesion, large enough to be rotated and shifted.

    ``size`` is width and height of the photographs to be taken, pixels.
    """
    look = LOOKS[dx]
    if (dx != "nv" and rng.random() < BORROWED) or rng.random() < BORROWED / 3:
        look = LOOKS[look.mistaken_for]
    canvas = _skin(rng, round(1.25 * max(size)), size[1])
    radius = rng.uniform(*look.radius) * size[1]
    side = min(2 * round(REACH * radius), len(canvas) // 2 * 2)
    start = (len(canvas) - side) // 2
    skin = canvas[start : start + side, start : start + side]
    lesion = np.empty_like(skin)
    lesion[:] = np.asarray(_pick(rng, look.colours)) + rng.normal(0, 8) + rng.normal(0, 4, 3)
    lesion += (_noise(rng, side, 0.7 * radius) * rng.uniform(*look.variegation))[..., None]
    for _ in range(rng.integers(look.patches[0], look.patches[1] + 1)):
        _blend(lesion, _blob(rng, side, radius), _pick(rng, look.patch_colours), 0.85)
    for paint in look.structure:
        paint(rng, lesion, radius)
    cover = _outline(rng, side, radius, rng.uniform(*look.wobble), rng.uniform(*look.softness))
    skin += (cover * rng.uniform(0.75, 1.0))[..., None] * (lesion - skin)
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


def _blend(canvas: Canvas, cover: NDArray[np.float32], colour: Colour, strength: float) -> None:
    """Blend ``colour`` into ``canvas`` by ``strength * cover``, both 0-1."""
    canvas += (strength * cover)[..., None] * (np.asarray(colour, np.float32) - canvas)


def _skin(rng: Generator, side: int, height: int) -> Canvas:
    """Return bare skin: tone, mottling, fine texture, freckles."""
    first, second = _pick(rng, SKIN), _pick(rng, SKIN)
    mix = rng.random()
    tone = (1 - mix) * np.asarray(first) + mix * np.asarray(second) + rng.normal(0, 6, 3)
    skin = np.empty((side, side, 3), np.float32)
    skin[:] = tone
    redness = _noise(rng, side, side / 7)[..., None] * np.array([2, -4, -3], np.float32)
    grain = _noise(rng, side, 0.03 * height) * rng.uniform(1, 5) + _noise(rng, side, 3) * 3
    skin += redness + grain[..., None]
    radii, colour = (0.008 * height, 0.02 * height), (0.86 * tone[0], 0.76 * tone[1], 0.7 * tone[2])
    _spots(rng, skin, 1.0, count=(0, 30), reach=0.7 * side, radii=radii, colour=colour)
    return np.asarray(cv2.GaussianBlur(skin, (0, 0), 0.8), np.float32)


def _outline(
    rng: Generator, side: int, radius: float, wobble: float, softness: float
) -> NDArray[np.float32]:
    """Return the lesion's cover ``[side, side]``, 0-1: an irregular ellipse with a soft border."""
    axis = (np.arange(side, dtype=np.float32) - side / 2) / radius
    y, x = np.meshgrid(axis, axis, indexing="ij")
    stretch = rng.uniform(0.8, 1.25)
    far, angle = np.hypot(x * stretch, y / stretch), np.arctan2(y, x)
    edge = np.ones_like(far)
    for waves in range(2, 9):
        height = wobble * rng.normal() / math.sqrt(waves)
        edge += np.float32(height) * np.cos(waves * angle + np.float32(rng.uniform(0, 6.283)))
    edge += _noise(rng, side, 0.25 * radius) * np.float32(0.3 * wobble)
    edge = np.clip(edge, 0.35, REACH - 0.05 - softness)
    return np.clip(0.5 + (edge - far) / (2 * softness), 0, 1).astype(np.float32)


def _blob(rng: Generator, side: int, radius: float) -> NDArray[np.float32]:
    """Return the cover ``[side, side]``, 0-1, of an irregular patch off the lesion's centre."""
    cover = np.zeros((side, side), np.float32)
    angle, far = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.25, 0.85)
    centre = np.array([side / 2 + far * math.cos(angle), side / 2 + far * math.sin(angle)])
    spokes = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    reach = radius * rng.uniform(0.18, 0.45) * rng.uniform(0.55, 1.3, 14)
    points = centre + np.stack([np.cos(spokes), np.sin(spokes)], 1) * reach[:, None]
    cv2.fillPoly(cover, [np.round(points).astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.08 * radius), np.float32)


# -- inner structures; lengths are in units of the lesion's mean radius


def _net(rng: Generator, lesion: Canvas, radius: float, *, mesh: float, by: Colour) -> None:
    """Add ``by`` to the colour along a net with holes of about ``mesh``."""
    field = _noise(rng, len(lesion), mesh * radius)
    lines = np.exp(-np.square(field / np.float32(0.3)))
    lesion += lines[..., None] * (np.asarray(by, np.float32) * np.float32(rng.uniform(0.6, 1.3)))


def _spots(
    rng: Generator,
    canvas: Canvas,
    radius: float,
    *,
    count: tuple[int, int],
    reach: float,
    radii: Span,
    colour: Colour,
) -> None:
    """Paint round spots within ``reach`` of the centre."""
    centre = len(canvas) / 2
    for _ in range(rng.integers(*count)):
        angle, far = rng.uniform(0, 2 * math.pi), reach * radius * math.sqrt(rng.random())
        x, y = centre + far * math.cos(angle), centre + far * math.sin(angle)
        shade = (np.asarray(colour) + rng.normal(0, 8)).tolist()
        size = round(rng.uniform(radii[0] * radius, radii[1] * radius) * 16)
        cv2.circle(canvas, (round(x * 16), round(y * 16)), size, shade, -1, cv2.LINE_AA, shift=4)


def _vessels(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Draw thin red winding vessels."""
    for _ in range(rng.integers(3, 8)):
        path = [np.full(2, len(lesion) / 2) + rng.uniform(-0.8, 0.8, 2) * radius]
        heading = rng.uniform(0, 2 * math.pi)
        for _ in range(8):
            heading += rng.normal(0, 0.5)
            path.append(path[-1] + 0.12 * radius * np.array([math.cos(heading), math.sin(heading)]))
        draw_curve(lesion, np.array(path), (176, 52, 56), 2 if radius > 60 else 1)


def _scales(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Paint white scales."""
    flakes = np.clip(_noise(rng, len(lesion), 0.2 * radius) - 1.2, 0, 1)
    _blend(lesion, flakes, (246, 236, 226), 0.9)


def _pale_centre(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Fade the centre, as a scar does."""
    axis = (np.arange(len(lesion), dtype=np.float32) - len(lesion) / 2) / radius
    centre = np.exp(-4 * (axis[:, None] ** 2 + axis[None, :] ** 2))
    _blend(lesion, centre, (238, 218, 214), rng.uniform(0.6, 0.95))


CYSTS = partial(_spots, count=(6, 18), reach=0.8, radii=(0.03, 0.06), colour=(232, 214, 180))
DOTS = partial(_spots, count=(8, 26), reach=0.95, radii=(0.02, 0.06), colour=(36, 28, 30))
LACUNAE = partial(_spots, count=(8, 22), reach=0.85, radii=(0.08, 0.2), colour=(112, 20, 52))

LOOKS: dict[str, Look] = {
    "akiec": Look(
        ((208, 122, 112), (196, 134, 112)), (0.22, 0.36), (0.12, 0.3), (0.3, 0.6), (8, 16),
        (1, 3), ((236, 222, 208), (178, 92, 78)),
        (partial(_net, mesh=0.22, by=(6, -30, -26)), _scales), "bkl",
    ),
    "bcc": Look(
        ((222, 150, 142), (214, 160, 148)), (0.16, 0.32), (0.08, 0.2), (0.15, 0.35), (5, 10),
        (2, 5), ((92, 62, 70), (72, 62, 84), (184, 70, 64)), (_vessels,), "bkl",
    ),
    "bkl": Look(
        ((168, 126, 92), (150, 118, 100), (186, 148, 106)), (0.17, 0.34), (0.06, 0.18),
        (0.04, 0.12), (8, 16), (0, 2), ((128, 92, 70),),
        (partial(_net, mesh=0.4, by=(-30, -26, -20)), CYSTS), "mel",
    ),
    "df": Look(
        ((196, 140, 122), (188, 132, 134)), (0.15, 0.26), (0.03, 0.1), (0.4, 0.7), (4, 8),
        (0, 0), (), (partial(_net, mesh=0.2, by=(-14, -14, -10)), _pale_centre), "nv",
    ),
    "mel": Look(
        ((92, 58, 44), (112, 74, 58), (74, 50, 48)), (0.2, 0.38), (0.16, 0.36), (0.06, 0.25),
        (14, 28), (2, 5), ((34, 28, 34), (92, 98, 124), (160, 78, 72), (186, 156, 146)),
        (partial(_net, mesh=0.26, by=(-32, -26, -20)), DOTS), "nv",
    ),
    "nv": Look(
        ((146, 98, 72), (128, 84, 62), (170, 114, 92)), (0.1, 0.27), (0.01, 0.07), (0.1, 0.3),
        (3, 9), (0, 1), ((108, 70, 52),), (partial(_net, mesh=0.18, by=(-26, -22, -16)),), "mel",
    ),
    "vasc": Look(
        ((172, 46, 66), (140, 44, 92), (190, 50, 84)), (0.1, 0.22), (0.03, 0.12), (0.05, 0.15),
        (5, 12), (0, 0), (), (LACUNAE,), "df",
    ),
}  # fmt: skip
"""One look per diagnosis."""
