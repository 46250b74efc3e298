"""Our shards as a webdataset pipeline, for training loops of your own.

    train = as_webdataset("shards/ham10000", "train", shuffle=1000)
    for images, labels in train.map_dict(image=augment).to_tuple("image", "label").batched(32): ...

Shards are divided among ranks (RANK and WORLD_SIZE, or torch.distributed) and within a rank among
the workers of a DataLoader, so every sample comes once in an epoch. Ranks may get different numbers
of samples; DistributedDataParallel needs equal numbers: see webdataset's ``with_epoch``.
"""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simplejpeg

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards

if TYPE_CHECKING:
    from webdataset.compat import WebDataset


def as_webdataset(
    root: str | Path,
    split: str,
    *,
    fold: int | None = None,
    shuffle: int = 0,
    seed: int = 0,
    decode: bool = True,
) -> "WebDataset":
    """Return the samples of a split as a ``webdataset.WebDataset``.

    A sample is a dict: ``image`` ([H, W, 3] uint8 RGB), ``label`` (index of the diagnosis in
    the manifest's taxonomy; int64 when batched), ``image_id`` and ``metadata``
    (``metadata.COLUMNS`` by name; a missing age is None). Without ``decode``, ``image`` is the
    bytes of the JPEG. With shards built for cross-validation, ``fold`` is the one that is val.

    ``shuffle`` is samples in the shuffle buffer; shards are shuffled too. 0: packing order. Each
    pass over the same object has another order (in a DataLoader with ``persistent_workers=True``).
    DataError: the shards cannot be used, or, when reached, a JPEG cannot be decoded.
    """
    from webdataset import filters  # it imports torch, which takes seconds
    from webdataset.compat import WebDataset
    from webdataset.shardlists import split_by_node

    tars = [str(path.absolute()) for path in open_shards(Path(root)).split(split, fold).tars]
    samples = WebDataset(
        tars,
        nodesplitter=split_by_node,
        shardshuffle=len(tars) if shuffle else False,
        detshuffle=True,
        seed=seed,
        empty_check=False,  # there may be fewer shards than workers
    )
    if shuffle:
        samples.append(filters.detshuffle(shuffle, seed=seed))
    samples.append(filters.map(functools.partial(_sample, decode=decode)))
    return samples


def _sample(members: dict[str, Any], *, decode: bool) -> dict[str, Any]:
    """Return a sample from the members of a tar."""
    image = members["jpg"]
    if decode:
        try:
            image = simplejpeg.decode_jpeg(image, "RGB")
        except ValueError as error:
            raise DataError(
                f"cannot decode {members['__key__']} in {members['__url__']}: {error}; run "
                f"`python -m pipeline.shards verify` on the folder"
            ) from error
    return {
        "image": image,
        "label": int(members["cls"]),
        "image_id": members["__key__"],
        "metadata": json.loads(members["json"]),
    }
