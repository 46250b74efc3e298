"""The recipes with simplejpeg and OpenCV on one sample: what peers that bring no operators run.

They get what this project found fastest (one warp or one resize, one matrix for all colours), so
that what differs between them and us is the loader around it.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch

from benchmarks.loader_contest import (
    CROP_AREA,
    CROP_ASPECT,
    HUE,
    JITTER,
    MEAN,
    ROTATION,
    STD,
    Task,
)

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


class Sample:
    """JPEG bytes to a normalised image, ``[S, S, 3] float32``."""

    def __init__(self, task: Task) -> None:
        """Take the recipe and the size."""
        self._size, self._recipe = task.image_size, task.recipe

    def __call__(self, jpeg: bytes) -> np.ndarray:
        """Decode, move, colour."""
        cv2.setNumThreads(0)
        image = self._crop(jpeg) if self._recipe == "crop" else self._turn(jpeg)
        return cv2.transform(image.astype(np.float32), colours())

    def _turn(self, jpeg: bytes) -> np.ndarray:
        """Resize, centre crop, rotation and flip in one warp of four channels."""
        height, width = map(int, simplejpeg.decode_jpeg_header(jpeg)[:2])
        shrink = 2 if min(height, width) >= 2 * self._size else 1
        image = simplejpeg.decode_jpeg(
            jpeg,
            "RGBA",
            min_height=-(-height // shrink),
            min_width=-(-width // shrink),
            min_factor=1,
        )
        height, width = image.shape[:2]
        scale = min(height, width) / self._size
        angle = math.radians(random.uniform(-ROTATION, ROTATION))
        flip = random.choice((-1, 1))
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        half = (self._size - 1) / 2
        matrix = np.array([[cos * flip, -sin, 0], [sin * flip, cos, 0]])
        matrix[:, 2] = (width - 1) / 2, (height - 1) / 2
        matrix[:, 2] -= matrix[:, :2] @ (half, half)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (self._size, self._size)
        border = cv2.BORDER_REPLICATE
        warped = cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border)
        return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)

    def _crop(self, jpeg: bytes) -> np.ndarray:
        """Random resized crop and flip."""
        image = simplejpeg.decode_jpeg(jpeg)
        height, width = image.shape[:2]
        area = random.uniform(*CROP_AREA) * width * height
        aspect = math.exp(random.uniform(*map(math.log, CROP_ASPECT)))
        wide = min(width, round(math.sqrt(area * aspect)))
        high = min(height, round(math.sqrt(area / aspect)))
        left, top = random.randint(0, width - wide), random.randint(0, height - high)
        part = image[top : top + high, left : left + wide]
        resized = cv2.resize(part, (self._size, self._size), interpolation=cv2.INTER_LINEAR)
        return cv2.flip(resized, 1) if random.random() < 0.5 else resized


def colours() -> np.ndarray:
    """Return ``[3, 4]``: brightness, contrast, saturation, hue and normalisation, drawn anew."""
    brightness, contrast, saturation = (random.uniform(1 - JITTER, 1 + JITTER) for _ in range(3))
    hue = math.radians(random.uniform(-HUE, HUE))
    cos, sin = saturation * math.cos(hue), saturation * math.sin(hue)
    chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    gain = brightness * contrast * (FROM_YIQ @ chroma @ TO_YIQ) / 255
    offset = brightness * (1 - contrast) / 2 - np.array(MEAN)
    return np.concatenate([gain, offset[:, None]], axis=1) / np.array(STD)[:, None]


def stack(samples: Sequence[Any]) -> tuple[torch.Tensor]:
    """Collate pairs of an image and anything: ``([B, 3, S, S] float32,)``, channels-last."""
    return (stack_images([each[0] for each in samples]),)


def stack_images(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Collate images ``[S, S, 3] float32`` into ``[B, 3, S, S]``, channels-last."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
