"""Losses as per-sample values and weights, which the caller sums.

The loss of a step is the weighted mean over everything in the step: all ranks, and all batches of
an accumulation window. So ``Loss`` returns ``weight * loss`` and ``weight`` per sample, and
train.py divides the sum of the first by the global sum of the second.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.learning.flags import LossName, Weighting

EFFECTIVE_BETA = 0.999
"""Of the effective number of samples, (1 - beta^n) / (1 - beta) (Cui et al. 2019)."""


def class_weights(counts: np.ndarray, scheme: Weighting) -> np.ndarray:
    """Return float64 [K], with mean 1 over a split of ``counts`` [K] samples of each class.

    "inverse" is n / (K * count), "effective" the inverse of the effective number of samples.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if scheme == "none":
        return np.ones_like(counts)
    present = np.maximum(counts, 1.0)
    if scheme == "effective":
        present = (1.0 - EFFECTIVE_BETA**present) / (1.0 - EFFECTIVE_BETA)
    raw = 1.0 / present
    return raw * counts.sum() / (raw * counts).sum()


class Loss:
    """A per-sample loss with class weights."""

    def __init__(
        self,
        name: LossName,
        counts: np.ndarray,
        *,
        weighting: Weighting,
        focal_gamma: float,
        label_smoothing: float,
        device: torch.device,
    ) -> None:
        """Prepare a loss for classes of ``counts`` [K] samples, and for logits on ``device``.

        ``label_smoothing`` is the share of the target spread over all classes. "focal" is Lin et
        al. 2017, "logit-adjusted" Menon et al. 2021.
        """
        share = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
        self.name, self.gamma, self.smoothing = name, focal_gamma, label_smoothing
        weights = class_weights(counts, weighting)
        self.class_weight = torch.tensor(weights, dtype=torch.float32, device=device)
        self.log_prior = torch.tensor(np.log(share), dtype=torch.float32, device=device)

    def weight(
        self, target: Tensor, target_b: Tensor | None = None, lam: Tensor | None = None
    ) -> Tensor:
        """Return the weight of each sample, float32 [B]; needs no forward pass."""
        first = self.class_weight[target]
        if target_b is None or lam is None:
            return first
        return lam * first + (1 - lam) * self.class_weight[target_b]

    def weighted(
        self,
        logits: Tensor,
        target: Tensor,
        target_b: Tensor | None = None,
        lam: Tensor | None = None,
    ) -> Tensor:
        """Return weight * loss of each sample, float32 [B].

        ``logits`` are [B, K], ``target`` int64 [B]. In a batch blended by mixup or cutmix
        ``target_b`` is the second class and ``lam`` the share of the first.
        """
        first = self.class_weight[target] * self._per_sample(logits, target)
        if target_b is None or lam is None:
            return first
        second = self.class_weight[target_b] * self._per_sample(logits, target_b)
        return lam * first + (1 - lam) * second

    def _per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = logits.float()
        if self.name == "logit-adjusted":
            logits = logits + self.log_prior
        entropy = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.smoothing)
        if self.name != "focal":
            return entropy
        true_probability = logits.softmax(1).gather(1, target[:, None])[:, 0]
        return (1 - true_probability).pow(self.gamma) * entropy
