"""Made-up lesions: what a diagnosis looks like, painted onto skin.

``paint_lesion`` paints a square canvas: skin with its tone, freckles and pores, and on it a patch
whose shape, border, colours and inner structure follow its diagnosis (``LOOKS``). The classes
overlap on purpose: a few lesions borrow the look of another class. ``pipeline.ham10000.camera``
takes photographs of the canvas; ``pipeline.ham10000.synthetic`` makes a dataset of them.

Canvases are ``[S, S, 3] float32``, RGB, 0-255.

    python -m pipeline.ham10000 synthesize --out data/demo
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

SKIN: tuple[Colour, ...] = ((226, 194, 184), (214, 170, 146), (218, 156, 156), (202, 176, 196))
"""Pale, tan, flushed and bluish (cross-polarised) skin."""

REACH = 2.0
"""How far a lesion may reach from its centre, in mean radii."""

BORROWED = 0.03
"""Share of lesions painted with the look of the class they are most often mistaken for."""


@dataclass(frozen=True)
class Look:
    """How lesions of one diagnosis are painted; spans are drawn from evenly."""

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
    """Fewest and most patches of an odd colour."""
    patch_colours: tuple[Colour, ...]
    """Colours of those patches, RGB 0-255."""
    structure: str
    """Name of the inner structure, a key of ``STRUCTURES``."""
    mistaken_for: str
    """The class whose look is sometimes borrowed."""


LOOKS: dict[str, Look] = {
    "akiec": Look(
        ((208, 122, 112), (196, 134, 112)), (0.22, 0.36), (0.12, 0.3), (0.3, 0.6), (8, 16),
        (1, 3), ((236, 222, 208), (178, 92, 78)), "scales", "bkl",
    ),
    "bcc": Look(
        ((222, 150, 142), (214, 160, 148)), (0.16, 0.32), (0.08, 0.2), (0.15, 0.35), (5, 10),
        (2, 5), ((92, 62, 70), (72, 62, 84), (184, 70, 64)), "vessels", "bkl",
    ),
    "bkl": Look(
        ((168, 126, 92), (150, 118, 100), (186, 148, 106)), (0.17, 0.34), (0.06, 0.18),
        (0.04, 0.12), (8, 16), (0, 2), ((128, 92, 70),), "cysts", "mel",
    ),
    "df": Look(
        ((196, 140, 122), (188, 132, 134)), (0.15, 0.26), (0.03, 0.1), (0.4, 0.7), (4, 8),
        (0, 0), ((0, 0, 0),), "scar", "nv",
    ),
    "mel": Look(
        ((92, 58, 44), (112, 74, 58), (74, 50, 48)), (0.2, 0.38), (0.16, 0.36), (0.06, 0.25),
        (14, 28), (2, 5), ((34, 28, 34), (92, 98, 124), (160, 78, 72), (186, 156, 146)),
        "streaks", "nv",
    ),
    "nv": Look(
        ((146, 98, 72), (128, 84, 62), (170, 114, 92)), (0.1, 0.27), (0.01, 0.07), (0.1, 0.3),
        (3, 9), (0, 1), ((108, 70, 52),), "network", "mel",
    ),
    "vasc": Look(
        ((172, 46, 66), (140, 44, 92), (190, 50, 84)), (0.1, 0.22), (0.03, 0.12), (0.05, 0.15),
        (5, 12), (0, 0), ((0, 0, 0),), "lacunae", "df",
    ),
}  # fmt: skip
"""One look per diagnosis."""


def paint_lesion(rng: Generator, dx: str, size: tuple[int, int]) -> Canvas:
    """Return a canvas, large enough to be turned and shifted, with one lesion of class ``dx``.

    Args:
        rng: what all choices are drawn from.
        dx: the diagnosis, a key of ``LOOKS``.
        size: width and height of the photographs to be taken, pixels.
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
    STRUCTURES[look.structure](rng, lesion, radius)
    cover = _outline(rng, side, radius, rng.uniform(*look.wobble), rng.uniform(*look.softness))
    skin += (cover * rng.uniform(0.75, 1.0))[..., None] * (lesion - skin)
    return canvas


def _pick(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[rng.integers(len(colours))]


def _noise(rng: Generator, side: int, bump: float) -> NDArray[np.float32]:
    """Return smooth noise ``[side, side]`` of about unit variance with bumps of ``bump`` pixels."""
    cells = max(4, round(side / bump))
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


def _blend(canvas: Canvas, cover: NDArray[np.float32], colour: Colour, strength: float) -> None:
    """Move ``canvas`` towards ``colour`` where ``cover`` (0-1) says so."""
    canvas += (strength * cover)[..., None] * (np.asarray(colour, np.float32) - canvas)


def _stamp(
    rng: Generator, canvas: Canvas, count: int, reach: float, radii: Span, colour: Colour
) -> None:
    """Paint ``count`` round spots around the centre, within ``reach`` pixels of it."""
    centre = len(canvas) / 2
    for _ in range(count):
        angle, far = rng.uniform(0, 2 * math.pi), reach * math.sqrt(rng.random())
        x, y = centre + far * math.cos(angle), centre + far * math.sin(angle)
        shade = np.asarray(colour) + rng.normal(0, 8)
        cv2.circle(canvas, (round(x * 16), round(y * 16)), round(rng.uniform(*radii) * 16),
                   shade.tolist(), -1, cv2.LINE_AA, 4)  # fmt: skip


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
    freckle = tuple(tone * [0.86, 0.76, 0.7])
    _stamp(
        rng, skin, int(rng.integers(0, 30)), 0.7 * side, (0.008 * height, 0.02 * height), freckle
    )  # type: ignore[arg-type]
    return np.asarray(cv2.GaussianBlur(skin, (0, 0), 0.8), np.float32)


def _outline(
    rng: Generator, side: int, radius: float, wobble: float, softness: float
) -> NDArray[np.float32]:
    """Return the lesion's cover ``[side, side]``, 0-1: a wobbly ellipse with a soft border."""
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
    """Return an irregular spot off the lesion's centre, cover 0-1."""
    cover = np.zeros((side, side), np.float32)
    angle, far = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.25, 0.85)
    centre = np.array([side / 2 + far * math.cos(angle), side / 2 + far * math.sin(angle)])
    spokes = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    reach = radius * rng.uniform(0.18, 0.45) * rng.uniform(0.55, 1.3, 14)
    points = centre + np.stack([np.cos(spokes), np.sin(spokes)], 1) * reach[:, None]
    cv2.fillPoly(cover, [np.round(points).astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.08 * radius), np.float32)


def _net(rng: Generator, lesion: Canvas, radius: float, *, mesh: float, by: Colour) -> None:
    """Add ``by`` along a mesh of lines whose holes are about ``mesh`` of the radius wide."""
    field = _noise(rng, len(lesion), mesh * radius)
    lines = np.exp(-np.square(field / np.float32(0.3)))
    lesion += lines[..., None] * (np.asarray(by, np.float32) * np.float32(rng.uniform(0.6, 1.3)))


def _vessels(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Draw thin red branching vessels."""
    for _ in range(rng.integers(3, 8)):
        at = np.full(2, len(lesion) / 2) + rng.uniform(-0.8, 0.8, 2) * radius
        heading = rng.uniform(0, 2 * math.pi)
        path = [at]
        for _ in range(8):
            heading += rng.normal(0, 0.5)
            path.append(path[-1] + 0.12 * radius * np.array([math.cos(heading), math.sin(heading)]))
        cv2.polylines(lesion, [np.round(np.array(path) * 16).astype(np.int32)], False,
                      (176, 52, 56), 1 + int(radius > 60), cv2.LINE_AA, 4)  # fmt: skip


def _scales(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Red mesh around pale follicles, and white scales."""
    _net(rng, lesion, radius, mesh=0.22, by=(6, -30, -26))
    flakes = np.clip(_noise(rng, len(lesion), 0.2 * radius) - 1.2, 0, 1)
    _blend(lesion, flakes, (246, 236, 226), 0.9)


def _cysts(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Brain-like furrows and small pale cysts."""
    _net(rng, lesion, radius, mesh=0.4, by=(-30, -26, -20))
    _stamp(rng, lesion, int(rng.integers(6, 18)), 0.8 * radius,
           (0.03 * radius, 0.06 * radius), (232, 214, 180))  # fmt: skip


def _scar(rng: Generator, lesion: Canvas, radius: float) -> None:
    """A pale centre in a faint mesh."""
    _net(rng, lesion, radius, mesh=0.2, by=(-14, -14, -10))
    axis = (np.arange(len(lesion), dtype=np.float32) - len(lesion) / 2) / radius
    centre = np.exp(-4 * (axis[:, None] ** 2 + axis[None, :] ** 2))
    _blend(lesion, centre, (238, 218, 214), rng.uniform(0.6, 0.95))


def _streaks(rng: Generator, lesion: Canvas, radius: float) -> None:
    """A coarse broken mesh and dark dots."""
    _net(rng, lesion, radius, mesh=0.26, by=(-32, -26, -20))
    _stamp(rng, lesion, int(rng.integers(8, 26)), 0.95 * radius,
           (0.02 * radius, 0.06 * radius), (36, 28, 30))  # fmt: skip


def _lacunae(rng: Generator, lesion: Canvas, radius: float) -> None:
    """Round, sharply cut lakes of blood."""
    _stamp(rng, lesion, int(rng.integers(8, 22)), 0.85 * radius,
           (0.08 * radius, 0.2 * radius), (112, 20, 52))  # fmt: skip


STRUCTURES: dict[str, Callable[[Generator, Canvas, float], None]] = {
    "cysts": _cysts,
    "lacunae": _lacunae,
    "network": partial(_net, mesh=0.18, by=(-26, -22, -16)),
    "scales": _scales,
    "scar": _scar,
    "streaks": _streaks,
    "vessels": _vessels,
}
"""What paints the inside of a lesion; each draws on the canvas it is given."""
