"""What every loader yields: one batch of images, labels and image ids, whatever read them.

The image tensor is channels-last in memory and lies on the device; the ids stay on the host.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """One batch of samples; the same from each backend."""

    images: torch.Tensor
    """``[B, 3, H, W] float32``, normalised, channels-last, on the device."""

    labels: torch.Tensor
    """``[B] int64`` on the device: the index of the diagnosis in ``taxonomy.DX``."""

    image_ids: tuple[str, ...]
    """``B`` image ids, on the host."""

    labels_b: torch.Tensor | None = None
    """``[B] int64``, the labels mixed in by mixup or cutmix; None when nothing was mixed."""

    lam: torch.Tensor | None = None
    """``[B] float32``, share of ``labels`` against ``labels_b``; None when nothing was mixed."""

    def __len__(self) -> int:
        """Return the number of samples, which is 0 for a surplus batch of an evaluation."""
        return len(self.image_ids)


def empty_batch(image_size: int, device: torch.device) -> Batch:
    """Return a batch without samples: what a rank gets that has one batch fewer than the others."""
    images = torch.empty((0, 3, image_size, image_size), device=device)
    return Batch(images, torch.empty(0, dtype=torch.int64, device=device), ())
