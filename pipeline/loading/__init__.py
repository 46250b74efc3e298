"""How packed samples reach the accelerator: one Batch contract, two backends."""

from pipeline.loading.batch import Batch
from pipeline.loading.loose import loose_batches
from pipeline.loading.make import Loader, make_loader

__all__ = ["Batch", "Loader", "loose_batches", "make_loader"]
