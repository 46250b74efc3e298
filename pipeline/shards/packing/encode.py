"""From an image file's bytes to the JPEG that is packed; every image is decoded once, strictly.

    jpeg, note = encode(path.read_bytes(), EncodeSettings(image_size=256))

A JPEG that every decoder reads alike (8 bits, three components, upright) keeps its bytes unless
``image_size`` shrinks it. Anything else that Pillow opens is converted to such a JPEG, and the
note says from what. A damaged file raises ``BadImageError``.

The decoder is libjpeg-turbo through simplejpeg in strict mode. It refuses what libjpeg only warns
about (data that ends early, extraneous bytes); OpenCV and Pillow accept such a file and show grey
below the damage. A JPEG whose bytes stay is decoded at 1/8 scale: the entropy decoding, where
damage shows, is the same, at two thirds of the cost. To shrink one, libjpeg scales by the smallest
n/8 that is not below the target, and Pillow does the rest in fixed-point arithmetic, so that pixels
do not depend on the processor.
"""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.ham10000.decoding.jpeg import SOI, BadImageError, JpegHeader, read_header
from pipeline.shards.packing.shard_plan import SUBSAMPLING, EncodeSettings

MAX_PIXELS = 100_000_000
"""Most pixels of one image; one whose header claims more is refused before it is decoded."""

_ORIENTATION = 0x0112
_FORMATS = ("PNG", "BMP", "TIFF", "WEBP")


def encode(data: bytes, settings: EncodeSettings) -> tuple[bytes, str | None]:
    """Return the JPEG to pack for an image file, and what was converted (None: nothing).

    Raises:
        BadImageError: the file is empty, damaged, too large or no image; the message is the reason.
    """
    if not data:
        raise BadImageError("the file is empty")
    if not data.startswith(SOI):
        return _convert_file(data, settings)
    header = read_header(data)
    _check_pixels(header.width, header.height)
    orientation = _orientation(data) if header.has_exif else 1
    note = _why_convert(header, data, orientation)
    if note:
        return _write(_upright_rgb(data, header, orientation), settings), note
    target = _target(header.width, header.height, settings.image_size)
    if target is None:
        _decode(data, "GRAY", min_height=1, min_width=1, min_factor=8)
        return data, None
    pixels = _decode(data, "RGB", min_height=target[1], min_width=target[0])
    return _write(pixels, settings, target), None


def _why_convert(header: JpegHeader, data: bytes, orientation: int) -> str | None:
    """Return why a JPEG cannot be packed as it is, None if it can."""
    if header.components == 1:
        return "greyscale JPEG to RGB"
    if header.components == 4:
        return "CMYK JPEG to RGB"
    if not header.common:
        return "unusual JPEG coding to baseline"
    if orientation != 1:
        return f"EXIF orientation {orientation} applied"
    if _colorspace(data) != "YCbCr":
        return "JPEG not in YCbCr to YCbCr"
    return None


def _upright_rgb(data: bytes, header: JpegHeader, orientation: int) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] uint8 of any JPEG, rotated as its EXIF block says."""
    if header.components == 4:
        _decode(data, "CMYK")  # only for the strict check; Pillow handles Adobe's inverted inks
        image = _pillow(data, ("JPEG",)).convert("RGB")
    else:
        image = Image.fromarray(_decode(data, "RGB"))
    if orientation != 1:
        exif = image.getexif()
        exif[_ORIENTATION] = orientation
        image = ImageOps.exif_transpose(image)
    return np.asarray(image)


def _convert_file(data: bytes, settings: EncodeSettings) -> tuple[bytes, str]:
    """Return the JPEG for a file of another format, and the note that says so."""
    try:
        image = _pillow(data, _FORMATS)
    except BadImageError as error:
        raise BadImageError(f"{error}; it begins with {data[:16]!r}") from error
    pixels = _eight_bits(ImageOps.exif_transpose(image))
    return _write(pixels, settings), f"{image.format} ({image.mode}) to RGB JPEG"


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] uint8; of 16-bit samples the upper eight bits."""
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise BadImageError("its samples have more than 16 bits")
        return np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise BadImageError("its samples are floating-point numbers")
    return np.asarray(image.convert("RGB"))


def _pillow(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Open and load an image with Pillow; every failure is a ``BadImageError``."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        _check_pixels(*image.size)
        image.load()
    except BadImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError("not an image of a known format") from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(f"cannot be decoded: {error}") from error
    return image


def _orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 (upright) if the block names none."""
    try:
        value = Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(_ORIENTATION, 1)
    except Exception as error:  # a damaged EXIF block, which decoders read differently
        raise BadImageError(f"unreadable EXIF block: {error}") from error
    return value if value in range(1, 9) else 1


def _colorspace(data: bytes) -> str:
    try:
        return simplejpeg.decode_jpeg_header(data, strict=True)[2]
    except ValueError as error:
        raise BadImageError(f"damaged JPEG: {error}") from error


def _decode(data: bytes, colorspace: str, **scale: int) -> NDArray[np.uint8]:
    """Decode a JPEG strictly to [H, W, channels] uint8."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace, strict=True, **scale)
    except ValueError as error:
        raise BadImageError(f"damaged JPEG: {error}") from error


def _check_pixels(width: int, height: int) -> None:
    if not width or not height:
        raise BadImageError("damaged image: it has no pixels")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels; the limit is {MAX_PIXELS:,} pixels")


def _target(width: int, height: int, image_size: int | None) -> tuple[int, int] | None:
    """Return width and height to shrink to, None where the image stays as it is."""
    shorter = min(width, height)
    if image_size is None or shorter <= image_size:
        return None
    return (
        max(image_size, (2 * width * image_size + shorter) // (2 * shorter)),
        max(image_size, (2 * height * image_size + shorter) // (2 * shorter)),
    )


def _write(
    pixels: NDArray[np.uint8], settings: EncodeSettings, target: tuple[int, int] | None = None
) -> bytes:
    """Return ``pixels`` [H, W, 3] as a JPEG, shrunk to ``target`` or as the settings ask."""
    height, width = pixels.shape[:2]
    target = target or _target(width, height, settings.image_size)
    if target is not None and target != (width, height):
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize(target, Image.Resampling.BILINEAR))
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=settings.jpeg_quality,
        colorspace="RGB",
        colorsubsampling=SUBSAMPLING,
    )
