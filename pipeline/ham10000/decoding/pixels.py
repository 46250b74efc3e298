"""From the bytes of an image file to pixels: upright, RGB, 8 bits, in sRGB; decoded strictly.

    found = examine(path.read_bytes())      # a JPEG that every decoder reads alike, or pixels
    rgb_pixels(path.read_bytes())           # [H, W, 3] uint8

Packing, the search for duplicates and predicting all read images through this module, so a picture
is the same to each of them, or refused by each. The decoder of JPEGs is libjpeg-turbo through
simplejpeg in strict mode. It refuses what libjpeg only warns about (data that ends early,
extraneous bytes); OpenCV and Pillow accept such a file and show grey below the damage.
"""

import functools
import io
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from pipeline.ham10000.decoding.formats import kind_of
from pipeline.ham10000.decoding.jpeg import SOI, BadImageError, JpegHeader, read_header

MAX_PIXELS = 100_000_000
"""Most pixels of one image; one whose header claims more is refused before it is decoded."""

SAME_COLOURS = 3
"""Grey levels (0 to 255) by which a profile may differ from sRGB and count as sRGB."""

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is the limit; Pillow's own is a warning before it
warnings.filterwarnings("ignore", module=r"PIL\b")  # what matters in a file is an error here

_ORIENTATION = 0x0112
_FORMATS = ("PNG", "BMP", "TIFF", "WEBP")


class Found(NamedTuple):
    """What an image file holds: a JPEG that can be used as it is, or pixels; its size in pixels."""

    jpeg: bytes
    """8 bits, YCbCr, upright; ends with its end marker; not yet decoded. Empty: see ``pixels``."""
    width: int
    height: int
    pixels: NDArray[np.uint8] | None
    """[H, W, 3] RGB where ``jpeg`` is empty."""
    note: str | None
    """What was converted; None: nothing."""


def examine(data: bytes) -> Found:
    """Return what an image file holds.

    BadImageError: the file is empty, damaged, too large or no image; the message is the reason.
    """
    if not data:
        raise BadImageError("the file is empty")
    if not data.startswith(SOI):
        return _other_format(data)
    header = read_header(data)
    _check_pixels(header.width, header.height)
    cut = len(data) - header.spans[-1][1]
    notes = [f"{cut:,} bytes beside the picture cut"] if cut else []
    info = _open(data, ("JPEG",)) if header.has_exif or header.has_profile else None
    orientation = _orientation(info) if info and header.has_exif else 1
    profile = _profile(info) if info else b""
    data = header.picture(data)
    reasons = _why_convert(header, data, orientation, profile)
    if not reasons:
        return Found(data, header.width, header.height, None, "; ".join(notes) or None)
    pixels = _upright_rgb(data, header, orientation, profile)
    return _of_pixels(pixels, "; ".join(notes + reasons))


def rgb_pixels(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] uint8 of an image file; BadImageError: see ``examine``."""
    found = examine(data)
    return decode(found.jpeg, "RGB") if found.pixels is None else found.pixels


def decode(jpeg: bytes, colorspace: str, **scale: int) -> NDArray[np.uint8]:
    """Decode a JPEG strictly to [H, W, channels] uint8; ``scale`` is as simplejpeg has it."""
    try:
        return simplejpeg.decode_jpeg(jpeg, colorspace, strict=True, **scale)
    except ValueError as error:
        raise BadImageError(f"damaged JPEG: {error}") from error


def _of_pixels(pixels: NDArray[np.uint8], note: str) -> Found:
    return Found(b"", pixels.shape[1], pixels.shape[0], pixels, note)


def _why_convert(header: JpegHeader, data: bytes, orientation: int, profile: bytes) -> list[str]:
    """Return why a JPEG cannot be used as it is; nothing if it can."""
    reasons = []
    if header.components == 1:
        reasons.append("greyscale JPEG to RGB")
    elif header.components == 4:
        reasons.append("CMYK JPEG to RGB")
    elif not header.common:
        reasons.append("unusual JPEG coding to baseline")
    elif _colorspace(data) != "YCbCr":
        reasons.append("JPEG not in YCbCr to YCbCr")
    if orientation != 1:
        reasons.append(f"EXIF orientation {orientation} applied")
    if profile:
        reasons.append("colour profile to sRGB")
    return reasons


def _upright_rgb(
    data: bytes, header: JpegHeader, orientation: int, profile: bytes
) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] uint8 of any JPEG, rotated as its EXIF block says, in sRGB."""
    if header.components == 4:
        decode(data, "CMYK")  # only for the strict check; Pillow handles Adobe's inverted inks
        image = _load(data, ("JPEG",))
    elif header.components == 1:
        image = Image.fromarray(decode(data, "GRAY")[..., 0])
    else:
        image = Image.fromarray(decode(data, "RGB"))
    if orientation != 1:
        exif = image.getexif()
        exif[_ORIENTATION] = orientation
        image = ImageOps.exif_transpose(image)
    return _eight_bits(image, profile)


def _other_format(data: bytes) -> Found:
    """Return the pixels of a file that is no JPEG, and the note that says so."""
    image = _load(data, _FORMATS)
    mode, profile = image.mode, _profile(image)
    note = f"{image.format} ({mode}) to RGB JPEG" + ("; colour profile to sRGB" if profile else "")
    try:
        return _of_pixels(_eight_bits(ImageOps.exif_transpose(image), profile), note)
    except (ValueError, OSError, SyntaxError) as error:
        raise BadImageError(f"{image.format} ({mode}) cannot be made RGB: {error}") from error


def _eight_bits(image: Image.Image, profile: bytes) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] uint8; of 16-bit samples the upper eight bits."""
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise BadImageError("its samples have more than 16 bits")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.mode == "F":
        raise BadImageError("its samples are floating-point numbers")
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    to_srgb = _transform(profile, image.mode) if profile else None
    return np.array(to_srgb.apply(image) if to_srgb else image.convert("RGB"))


# -- colour profiles


def _profile(image: Image.Image) -> bytes:
    """Return an image's colour profile; empty where it has none, or one that changes nothing."""
    profile = image.info.get("icc_profile") or b""
    mode = image.mode if image.mode in ("L", "CMYK") else "RGB"
    return profile if profile and _transform(profile, mode) else b""


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what takes pixels of a profile to sRGB; None where it is sRGB or cannot be used."""
    try:
        found = ImageCms.getOpenProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(found, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(*[levels] * 3, indexing="ij"), axis=-1).reshape(1, -1, 3)
    if mode == "CMYK":
        return transform
    test = Image.fromarray(colours if mode == "RGB" else levels[None])
    before, after = (np.asarray(i.convert("RGB"), int) for i in (test, transform.apply(test)))
    return transform if np.abs(after - before).max() > SAME_COLOURS else None


# -- Pillow and simplejpeg


def _load(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Open and load an image with Pillow; every failure is a ``BadImageError``."""
    image = _open(data, formats)
    _check_pixels(*image.size)
    try:
        image.load()
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(f"cannot be decoded: {error}") from error
    return image


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"not an image that is read: {kind_of(data)}") from error
    except Exception as error:
        raise BadImageError(f"cannot be decoded: {error}") from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if the block names none."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # a damaged EXIF block, which decoders read differently
        raise BadImageError(f"unreadable EXIF block: {error}") from error
    return value if value in range(1, 9) else 1


def _colorspace(data: bytes) -> str:
    try:
        return simplejpeg.decode_jpeg_header(data, strict=True)[2]
    except ValueError as error:
        raise BadImageError(f"damaged JPEG: {error}") from error


def _check_pixels(width: int, height: int) -> None:
    if not width or not height:
        raise BadImageError("damaged image: it has no pixels")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels; the limit is {MAX_PIXELS:,} pixels")
