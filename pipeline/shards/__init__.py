"""How the dataset is packed: splits, tar shards, the manifest, the proof that they are intact."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import ``as_webdataset`` when it is first used."""
    if name != "as_webdataset":
        raise AttributeError(f"module 'pipeline.shards' has no attribute {name!r}")
    from pipeline.shards.reader import as_webdataset

    return as_webdataset
