"""Train and eval preprocessing, side by side, as numbers that a backend applies.

The random part of an augmentation is drawn here, not in a library: parameters are a pure function
of (seed, epoch, position in the epoch), from a counter-based generator, so that each backend gets
the same ones, any batch can be drawn by itself, and threads cannot reorder anything.

    uniforms -> Augmentation: one warp matrix (crop, resize, rotation, flips), one colour matrix
    (brightness, contrast, saturation, hue, normalisation), a rectangle to erase, pixel operators

Evaluation draws nothing: shorter side to the image size (antialiased), centre crop, normalise.
"""

from dataclasses import dataclass
from typing import Literal

MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
"""Mean of the channels over ImageNet, of values in 0 to 1."""

STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
"""Standard deviation of the channels over ImageNet, of values in 0 to 1."""

Augment = Literal["basic", "strong", "trivial", "none"]


@dataclass(frozen=True)
class TrainPreset:
    """Ranges from which the parameters of one sample are drawn, uniformly unless said."""

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
    """Probability that a rectangle of 2 to 20 % of the image is set to the mean colour."""

    trivial: bool = False
    """Whether one operator of TrivialAugment (wide) with a random strength is applied."""


TRAIN_PRESETS: dict[Augment, TrainPreset] = {
    "none": TrainPreset(),
    "basic": TrainPreset(
        rotation=30,
        horizontal_flip=0.5,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=7,
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


@dataclass(frozen=True)
class EvalGeometry:
    """Where the eval preset takes its pixels: resize to ``width x height``, then crop a square."""

    width: int
    """Pixels after the resize."""

    height: int
    """Pixels after the resize."""

    left: int
    """First column of the crop."""

    top: int
    """First row of the crop."""


def eval_geometry(width: int, height: int, image_size: int) -> EvalGeometry:
    """Return how an image of ``width x height`` pixels becomes a square of ``image_size``."""
    short = min(width, height)
    new_width, new_height = width * image_size // short, height * image_size // short
    return EvalGeometry(
        width=new_width,
        height=new_height,
        left=(new_width - image_size) // 2,
        top=(new_height - image_size) // 2,
    )
