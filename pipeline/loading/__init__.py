"""How packed samples reach the accelerator: one Batch contract, two backends."""

from pipeline.loading.batch import Batch
from pipeline.loading.loader import Loader, make_loader
from pipeline.loading.loose import loose_batches

__all__ = ["Batch", "Loader", "loose_batches", "make_loader"]
