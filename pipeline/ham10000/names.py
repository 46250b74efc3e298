"""File names as tables and folders give them, and the keys that stand for them in shards.

    key("Läsion 3 (2).jpg")                         # "Lasion-3-2-" and 8 digits of a digest
    locate({"a-1f2e3d4c": "P1/a.jpg"}, ["data/P1/a.jpg", "data/P2/a.jpg"])   # [0]

A name that can be a key stays as it is, without the ending of an image file. The key of another
depends on that name alone, so that it is the same in a larger set.
"""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from pipeline.ham10000.decoding.formats import EXTENSIONS

IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
"""What an image id may be: no dot (it ends the key), no space (it ends a word of the index), no
slash, short enough for a ustar header."""


def without_extension(name: str) -> str:
    """Return ``name`` without the ending of an image file, with forward slashes, in Unicode NFC."""
    name = _path(name)
    return name.rpartition(".")[0] if name.lower().endswith(EXTENSIONS) else name


def key(name: str) -> str:
    """Return the image id for a file name: unchanged where possible, else ASCII and a digest."""
    stem = without_extension(name)
    if IMAGE_ID.fullmatch(stem):
        return stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")[:71]
    digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest


def locate(names: Mapping[str, str], files: Sequence[str]) -> dict[str, list[int]]:
    """Return the indexes into ``files`` of the files that each name can mean; none: no entry.

    A name means the file of that path, else files whose path ends in it. Folders with which every
    name begins may be missing: a table can give paths of another computer. The ending of a name
    counts only where it decides. ``names`` are by key, ``files`` paths below the source.
    """
    found: dict[str, list[int]] = {}
    for index, path in enumerate(files):
        for end in _ends(unicodedata.normalize("NFC", path)):
            found.setdefault(end, []).append(index)
            found.setdefault(without_extension(end), []).append(index)
    whole = {image_id: _path(name) for image_id, name in names.items()}
    levels = zip(*(path.split("/")[:-1] for path in whole.values()), strict=False)
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    located: dict[str, list[int]] = {}
    for image_id, path in whole.items():
        tails = itertools.islice(_ends(path), shared + 1)
        ends = (end for tail in tails for end in (tail, without_extension(tail)))
        end = next((end for end in ends if end in found), None)
        if end is not None:
            exact = [i for i in found[end] if end in (files[i], without_extension(files[i]))]
            located[image_id] = exact or found[end]
    return located


def _path(name: str) -> str:
    """Return a name with forward slashes, in Unicode NFC (macOS stores file names in NFD)."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


def _ends(path: str) -> Iterator[str]:
    """Yield ``path`` and what is left of it after each slash."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path
