"""From HAM10000 to a trained and judged skin-lesion classifier.

Data flows one way: ``ham10000`` -> ``shards`` -> ``loading`` -> ``train.py`` and ``eval.py``;
``learning``, ``training``, ``tracking`` and ``evaluation`` serve the two scripts. The names below
are those that a program of one's own needs; each is imported when it is first asked for.

    from pipeline import as_webdataset, make_loader, open_shards
"""

import importlib
from typing import Any

HOMES = {
    "open_shards": "pipeline.shards.dataset",
    "as_webdataset": "pipeline.shards.reader",
    "Batch": "pipeline.loading.batch",
    "make_loader": "pipeline.loading.loader",
    "build_model": "pipeline.learning.model",
    "load_stored": "pipeline.learning.stored_model",
    "predict_logits": "pipeline.learning.inference",
}
"""Where each re-exported name lives."""

__all__ = list(HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a name's home when the name is first used."""
    if name not in HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
