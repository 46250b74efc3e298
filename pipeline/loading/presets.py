"""Train and eval preprocessing, side by side, as numbers that a backend applies.

    train: TRAIN_PRESETS[name] -> augment.draw -> a warp matrix, a colour matrix, a rectangle
    eval: shorter side to the image size (antialiased), centre crop, normalise; nothing random

Imports no torch, so that flags can name a preset.
"""

from dataclasses import dataclass
from typing import Literal

MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
"""Mean of the channels over ImageNet, of values in 0 to 1."""

STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
"""Standard deviation of the channels over ImageNet, of values in 0 to 1."""

Augment = Literal["basic", "strong", "trivial", "none"]
"""Names of ``TRAIN_PRESETS``."""


@dataclass(frozen=True)
class TrainPreset:
    """Ranges from which the parameters of a sample are drawn, uniformly unless stated."""

    area: tuple[float, float] | None = None
    """Share of the image's area that a random crop keeps, before a side that would be longer than
    the image's is cut to it; None keeps the centre square."""

    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random crop, uniform in the logarithm."""

    rotation: float = 0.0
    """Degrees, to either side."""

    horizontal_flip: float = 0.0
    """Probability."""

    vertical_flip: float = 0.0
    """Probability."""

    brightness: float = 0.0
    """A factor between 1 - b and 1 + b."""

    contrast: float = 0.0
    """A factor between 1 - c and 1 + c, about mid-grey."""

    saturation: float = 0.0
    """A factor between 1 - s and 1 + s."""

    hue: float = 0.0
    """Degrees around the colour circle, to either side."""

    erase: float = 0.0
    """Probability that a rectangle of 2 to 20 % of the image is set to the mean colour (random
    erasing: Zhong et al., AAAI 2020)."""

    trivial: bool = False
    """Whether one random operator of random strength is applied (TrivialAugment, wide: Müller and
    Hutter, ICCV 2021)."""


TRAIN_PRESETS: dict[Augment, TrainPreset] = {
    "none": TrainPreset(),
    "basic": TrainPreset(
        rotation=30, horizontal_flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=7
    ),
    "strong": TrainPreset(
        area=(0.4, 1.0),
        rotation=180,
        horizontal_flip=0.5,
        vertical_flip=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=18,
        erase=0.25,
    ),
    "trivial": TrainPreset(horizontal_flip=0.5, vertical_flip=0.5, trivial=True),
}
"""What ``--augment`` names."""


def eval_geometry(width: int, height: int, image_size: int) -> tuple[int, int, int, int]:
    """Return, in pixels, width and height after the resize, then left and top of the crop."""
    short = min(width, height)
    new_width, new_height = width * image_size // short, height * image_size // short
    return new_width, new_height, (new_width - image_size) // 2, (new_height - image_size) // 2
