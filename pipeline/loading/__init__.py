"""How packed samples reach the accelerator: an exact order, augmentation, and two backends.

``loader.make_loader`` returns a ``batch.Loader``, which yields ``batch.Batch``.
"""
