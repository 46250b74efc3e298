"""Each row of the table of bad images in shards/README.md."""

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.shards.packing.encode import encode
from pipeline.shards.packing.shard_plan import EncodeSettings

UNTOUCHED = EncodeSettings()


def photo(size: tuple[int, int] = (90, 60)) -> Image.Image:
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(30, 226, (5, 7, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return out.getvalue()


def opened(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert image.getexif().get(0x0112, 1) == 1
    return np.asarray(image).astype(int)


def assert_close(jpeg: bytes, expected: Image.Image) -> None:
    found, wanted = opened(jpeg), np.asarray(expected.convert("RGB")).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 6


WHOLE = saved(photo())
PROGRESSIVE = saved(photo(), progressive=True)


@pytest.mark.parametrize("data", [WHOLE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_whole_jpeg_keeps_its_bytes(data):
    assert encode(data, UNTOUCHED) == (data, None)
    assert encode(data, EncodeSettings(image_size=60)) == (data, None)


@pytest.mark.parametrize("data", [WHOLE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("image_size", [None, 32])
def test_jpeg_truncated_anywhere_is_rejected(data, image_size):
    for length in [*range(2, 40), *range(40, len(data), 41), len(data) - 2, len(data) - 1]:
        with pytest.raises(BadImageError):
            encode(data[:length], EncodeSettings(image_size))


@pytest.mark.parametrize("image_size", [None, 32])
def test_truncated_jpeg_with_an_end_marker_put_on_is_rejected(image_size):
    with pytest.raises(BadImageError, match="damaged JPEG"):
        encode(WHOLE[: len(WHOLE) // 2] + b"\xff\xd9", EncodeSettings(image_size))


@pytest.mark.parametrize("tail", [b"\n", b"\0" * 64, b"<html>", WHOLE, b"\xff\xd9"])
@pytest.mark.parametrize("data", [WHOLE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_bytes_after_the_end_are_cut_and_noted(data, tail):
    assert encode(data + tail, UNTOUCHED) == (data, f"{len(tail):,} bytes beside the picture cut")
    assert encode(data + tail, EncodeSettings(32))[0] == encode(data, EncodeSettings(32))[0]


def test_of_a_file_with_several_pictures_the_first_is_taken_without_the_list_of_the_others():
    out = io.BytesIO()
    photo().save(out, "MPO", save_all=True, append_images=[photo((9, 6))], quality=95)
    jpeg, said = encode(out.getvalue(), UNTOUCHED)
    assert np.array_equal(opened(jpeg), opened(WHOLE))
    assert said is not None and said.endswith("bytes beside the picture cut")
    assert b"MPF" not in jpeg and encode(jpeg, UNTOUCHED) == (jpeg, None)


def test_what_names_a_person_or_a_place_is_cut_and_the_pixels_stay():
    exif = Image.Exif()
    exif[0x013B], exif[0xA431] = "MARKER artist", "MARKER serial number"
    exif.get_ifd(0x8825)[1], exif.get_ifd(0x8825)[2] = "N", (48.0, 12.0, 30.0)
    notes = {"exif": exif, "comment": b"MARKER comment", "xmp": b"<x:xmpmeta>MARKER</x:xmpmeta>"}
    data = saved(photo(), **notes)
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x06MARKER"
    preview = b"JFXX\0\x10" + saved(photo((8, 8)), comment=b"MARKER")
    for code, body in ((0xED, iptc), (0xE0, preview), (0xE5, b"MARKER")):
        segment = bytes([0xFF, code]) + (len(body) + 2).to_bytes(2, "big") + body
        data = data[:2] + segment + data[2:]
    assert data.count(b"MARKER") == 7
    for size in (None, 60, 32):
        jpeg, said = encode(data, EncodeSettings(size))
        assert b"MARKER" not in jpeg and said is None
        image = Image.open(io.BytesIO(jpeg))
        assert not image.getexif() and not set(image.info) & {"comment", "xmp", "exif"}
    jpeg, _ = encode(data, UNTOUCHED)
    assert np.array_equal(opened(jpeg), opened(WHOLE)) and encode(jpeg, UNTOUCHED) == (jpeg, None)


def test_thumbnail_with_an_end_marker_of_its_own_is_no_trailing_garbage():
    exif = Image.Exif()
    exif[0x010E] = "a lesion"
    data = saved(photo(), exif=exif)
    length = int.from_bytes(data[4:6], "big")
    thumbnail = saved(photo((8, 8)))
    inside = data[2:4] + (length + len(thumbnail)).to_bytes(2, "big") + data[6 : 4 + length]
    whole = data[:2] + inside + thumbnail + data[4 + length :]
    jpeg, said = encode(whole, UNTOUCHED)
    assert np.array_equal(opened(jpeg), opened(WHOLE)) and said is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (bytes(5000), "not an image.*bytes of zeros"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image.*<!DOCTYPE"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8" + b"spam" * 100, "no marker"),
        (b"GIF89a" + bytes(50), "a GIF image: convert it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(9), "a HEIC image: convert it"),
        (b"II*\0" + bytes(9), "a damaged TIFF image"),
        (b"\x89PNG\r\n\x1a\n", "a damaged PNG image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
        (b"PK\x03\x04" + bytes(50), "a zip archive: unpack it"),
        (bytes(128) + b"DICM" + bytes(50), "a DICOM file: convert it"),
        (saved(photo(), "PNG")[:-40], "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_rejected_with_the_reason(data, reason):
    with pytest.raises(BadImageError, match=reason):
        encode(data, UNTOUCHED)


def test_no_byte_string_makes_anything_but_a_jpeg_or_a_rejection():
    rng = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(WHOLE)
        for place in rng.integers(2, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        try:
            jpeg, _ = encode(bytes(data), EncodeSettings(32))
        except BadImageError:
            continue
        assert min(opened(jpeg).shape[:2]) <= 32 or jpeg == bytes(data)


@pytest.mark.parametrize(
    ("image", "kind", "options", "note"),
    [
        (photo().convert("L"), "JPEG", {}, "greyscale JPEG to RGB"),
        (photo().convert("CMYK"), "JPEG", {}, "CMYK JPEG to RGB"),
        (photo(), "JPEG", {"keep_rgb": True}, "JPEG not in YCbCr"),
        (photo(), "PNG", {}, r"PNG \(RGB\) to RGB JPEG"),
        (photo().convert("RGBA"), "PNG", {}, r"PNG \(RGBA\) to RGB JPEG"),
        (photo().quantize(200), "PNG", {}, r"PNG \(P\) to RGB JPEG"),
        (photo().convert("L"), "PNG", {}, r"PNG \(L\) to RGB JPEG"),
        (photo(), "BMP", {}, "BMP"),
        (photo(), "TIFF", {}, "TIFF"),
        (photo(), "WEBP", {"lossless": True}, "WEBP"),
    ],
)
def test_other_forms_become_rgb_jpegs_and_the_conversion_is_named(image, kind, options, note):
    data = saved(image, kind, **options)
    jpeg, said = encode(data, UNTOUCHED)
    assert_close(jpeg, Image.open(io.BytesIO(data)))
    assert said is not None and re.match(note, said)
    shrunk, _ = encode(data, EncodeSettings(30))
    assert opened(shrunk).shape == (30, 45, 3)


def test_sixteen_bit_png_keeps_its_upper_bits():
    ramp = np.linspace(0, 65535, 90 * 60).reshape(60, 90).astype(np.uint16)
    data = saved(Image.fromarray(ramp), "PNG")
    jpeg, said = encode(data, UNTOUCHED)
    assert said == "PNG (I;16) to RGB JPEG"
    assert_close(jpeg, Image.fromarray((ramp >> 8).astype(np.uint8)))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("image_size", [None, 30])
def test_exif_orientation_is_applied(orientation, image_size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo(), exif=exif)
    jpeg, said = encode(data, EncodeSettings(image_size))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image_size:
        upright = upright.resize((upright.width // 2, upright.height // 2), Image.Resampling.BOX)
    assert_close(jpeg, upright)
    assert said == f"EXIF orientation {orientation} applied"


def test_exif_that_says_upright_keeps_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 1
    jpeg, said = encode(saved(photo(), exif=exif), UNTOUCHED)
    assert np.array_equal(opened(jpeg), opened(WHOLE)) and said is None


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((600, 450), 256, (341, 256)),
        ((600, 450), 64, (85, 64)),
        ((450, 600), 100, (100, 133)),
        ((90, 60), 59, (89, 59)),
        ((1000, 31), 30, (968, 30)),
        ((333, 334), 300, (300, 301)),
        ((90, 60), 1, (2, 1)),
    ],
)
def test_shorter_side_shrinks_and_the_ratio_stays(size, image_size, expected):
    jpeg, said = encode(saved(photo(size)), EncodeSettings(image_size))
    assert Image.open(io.BytesIO(jpeg)).size == expected and said is None


def test_shrunk_pixels_are_those_of_an_antialiased_resize():
    big = photo((600, 450))
    jpeg, _ = encode(saved(big), EncodeSettings(150))
    assert_close(jpeg, big.resize((200, 150), Image.Resampling.LANCZOS))


def test_small_images_are_never_enlarged():
    assert opened(encode(saved(photo((40, 30)), "PNG"), EncodeSettings(500))[0]).shape == (
        30,
        40,
        3,
    )


def test_png_of_more_pixels_than_the_limit_is_refused():
    data = saved(Image.new("1", (10_001, 10_000)), "PNG")
    with pytest.raises(BadImageError, match="10001 x 10000 pixels; the limit is 100,000,000"):
        encode(data, UNTOUCHED)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (65535, 65535, "65535 x 65535 pixels; the limit"),
        (10_001, 10_000, "10001 x 10000 pixels; the limit"),
        (10_000, 10_000, "damaged JPEG"),  # at the limit: decoded, and found to end early
    ],
)
def test_jpeg_header_over_the_limit_is_refused_before_decoding(width, height, reason):
    place = WHOLE.index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    with pytest.raises(BadImageError, match=reason):
        encode(WHOLE[:place] + size + WHOLE[place + 4 :], UNTOUCHED)


@pytest.mark.realdata
def test_real_originals_keep_their_bytes(ham10000_originals):
    for path in sorted(ham10000_originals.glob("*/*.jpg"))[:20]:
        data = path.read_bytes()
        assert encode(data, UNTOUCHED) == (data, None)
