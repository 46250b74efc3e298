"""Which files are images that are read, and what other files are, by their name or first bytes.

kind_of(data)                        # "a HEIC image: convert it to JPEG"
describe_unread(Counter({".heic": 50}), Path("photos"))
"""

from collections.abc import Mapping
from pathlib import Path

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".bmp", ".tif", ".tiff", ".webp"),
)
"""File name endings (lower case) that count as an image."""

CONVERT = "convert {} to JPEG or PNG"
UNPACK = "unpack {}"
H5PY = "`pip install h5py` to read {}"

UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".avif", ".jxl", ".gif", ".svg", ".psd"), CONVERT),
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx", ".ppm", ".pgm", ".tga", ".ico"), CONVERT),
    **dict.fromkeys((".dcm", ".dicom", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"), CONVERT),
    **dict.fromkeys((".orf", ".rw2", ".pef", ".srw", ".pdf", ".eps", ".raw"), CONVERT),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".xz", ".bz2"), UNPACK),
    **dict.fromkeys((".hdf5", ".h5"), H5PY),
}
"""What to do with files of these endings, which may be or hold images and are not read."""

LFS_POINTER = b"version https://git-lfs."
"""How the text begins that git leaves in place of a file which Git LFS keeps elsewhere."""

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "a HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    b"crx ": "a camera's raw image",
}
_BEGINNINGS = (
    (0, LFS_POINTER, "a Git LFS pointer and not the image: run `git lfs pull` where it lies"),
    (0, b"GIF8", f"a GIF image: {CONVERT.format('it')}"),
    (0, b"\0\0\0\x0cjP  ", f"a JPEG 2000 image: {CONVERT.format('it')}"),
    (0, b"\xff\x4f\xff\x51", f"a JPEG 2000 image: {CONVERT.format('it')}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL image: {CONVERT.format('it')}"),
    (0, b"\xff\x0a", f"a JPEG XL image: {CONVERT.format('it')}"),
    (128, b"DICM", f"a DICOM file: {CONVERT.format('it')}"),
    (0, b"8BPS", f"a Photoshop file: {CONVERT.format('it')}"),
    (0, b"%PDF", f"a PDF: {CONVERT.format('it')}"),
    (0, b"PK\x03\x04", f"a zip archive: {UNPACK.format('it')}"),
    *((0, sign, "a damaged TIFF image") for sign in (b"II*\0", b"MM\0*")),
    (0, b"\x89PNG", "a damaged PNG image"),
    (0, b"\x00\x05\x16\x07", "a companion file of macOS and not the image: delete it"),
)


def kind_of(data: bytes) -> str:
    """Return what a file that is not read is, and what to do, from its first bytes."""
    if data[4:8] == b"ftyp" and data[8:12] in _BRANDS:
        return f"{_BRANDS[data[8:12]]}: {CONVERT.format('it')}"
    for place, beginning, kind in _BEGINNINGS:
        if data[place : place + len(beginning)] == beginning:
            return kind
    if not any(data):
        return f"{len(data):,} bytes of zeros: copy it again"
    return f"it begins with {data[:16]!r}"


def describe_unread(unread: Mapping[str, int], where: Path | str) -> str:
    """Return a sentence on files, by ending, that were passed over and may be images."""
    counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(unread.items()))
    advice = " and ".join(sorted({UNREAD[ending].format("them") for ending in unread}))
    return f"{where} also holds files that are not read ({counts}): {advice}"
