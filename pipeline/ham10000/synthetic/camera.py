"""Photographs of a painted lesion: viewpoint, light, and what camera and patient add.

``photograph`` rotates, zooms and shifts a canvas of ``drawing`` and adds light, hairs, dark
corners, a ruler, gel bubbles, blur and noise. Two photographs of one lesion therefore share its
landmarks and differ otherwise, as in HAM10000.

Canvases are ``[S, S, 3] float32``, RGB, 0-255; photographs are ``[H, W, 3] uint8``.

    photo = photograph(np.random.default_rng(0), canvas, (300, 225))
"""

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.ham10000.synthetic.drawing import Canvas, draw_curve


def photograph(rng: Generator, canvas: Canvas, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return one photograph of ``canvas``, ``[H, W, 3] uint8`` RGB, of ``size`` (width, height)."""
    width, height = size
    turn = cv2.getRotationMatrix2D(
        (canvas.shape[1] / 2, canvas.shape[0] / 2), rng.uniform(0, 360), rng.uniform(0.85, 1.25)
    )
    turn[:, 2] += np.array([width, height]) / 2 - canvas.shape[1] / 2
    turn[:, 2] += rng.uniform(-0.07, 0.07, 2) * height
    view = cv2.warpAffine(
        canvas, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    view = np.asarray(view * (rng.uniform(0.9, 1.08) * rng.normal(1, 0.025, 3)), np.float32)
    for chance, add in ((0.35, _hairs), (0.12, _ruler), (0.1, _bubbles), (0.3, _vignette)):
        if rng.random() < chance:
            add(rng, view)
    if rng.random() < 0.5:
        view[:] = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.3, 0.9) * height / 225)
    view += rng.normal(0, 2.0, view.shape).astype(np.float32)
    return np.clip(view, 0, 255).astype(np.uint8)


def _hairs(rng: Generator, view: Canvas) -> None:
    """Draw dark curved hairs across the view."""
    height, width = view.shape[:2]
    colour = np.array([48, 36, 30]) * rng.uniform(0.6, 2.2)
    along = np.linspace(0, 1, 16)[:, None]
    for _ in range(rng.integers(3, 16)):
        start, end = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        bend = (start + end) / 2 + rng.normal(0, 0.12, 2) * width
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        draw_curve(view, curve, colour.tolist(), max(1, round(height / 200)))


def _ruler(rng: Generator, view: Canvas) -> None:
    """Draw the ticks of a ruler along the upper or the lower edge."""
    height, width = view.shape[:2]
    step, top = width * rng.uniform(0.03, 0.06), rng.random() < 0.5
    for index in range(math.ceil(width / step)):
        length = height * (0.1 if index % 5 == 0 else 0.06)
        x, ends = round(index * step), (0, length) if top else (height - length, height)
        cv2.line(view, (x, round(ends[0])), (x, round(ends[1])), (40, 40, 44), 1, cv2.LINE_AA)


def _bubbles(rng: Generator, view: Canvas) -> None:
    """Draw pale rings: bubbles in the gel."""
    height, width = view.shape[:2]
    for _ in range(rng.integers(1, 6)):
        at = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        cv2.circle(view, at, int(rng.uniform(0.01, 0.05) * height), (244, 240, 240), 1, cv2.LINE_AA)


def _vignette(rng: Generator, view: Canvas) -> None:
    """Darken the corners, like the rim of a dermatoscope."""
    height, width = view.shape[:2]
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / (width / 2)
    x = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / (width / 2)
    edge, soft = rng.uniform(0.88, 1.12), rng.uniform(0.05, 0.3)
    view *= np.clip((edge + soft - np.hypot(x, y)) / soft, 0.08, 1).astype(np.float32)[..., None]
