"""Losses as pure functions: a loss and a weight for each sample, summed up by the caller.

The loss of a step is the weighted mean over everything that the step sees: all ranks, and all
batches of an accumulation window. So a loss here gives ``(weight * loss, weight)`` per sample
and train.py divides the sum of the first by the global sum of the second.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EFFECTIVE_BETA = 0.999
"""Of the effective number of samples, (1 - beta^n) / (1 - beta) (Cui et al. 2019)."""


def class_weights(counts: np.ndarray, scheme: str) -> np.ndarray:
    """Return float64 [K], with mean 1 over the samples that the counts describe.

    Args:
        counts: int [K], samples of each class in the train split.
        scheme: "inverse" (n / (K * count)), "effective" (number of samples), or "none".
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
    """A per-sample loss with its class weights; constants live on the device."""

    def __init__(
        self,
        kind: str,
        counts: np.ndarray,
        *,
        weighting: str,
        focal_gamma: float,
        label_smoothing: float,
        device: torch.device,
    ) -> None:
        """Prepare a loss.

        Args:
            kind: "cross-entropy", "focal" or "logit-adjusted".
            counts: int [K], samples of each class in the train split.
            weighting: a scheme of ``class_weights``.
            focal_gamma: exponent of the focal loss.
            label_smoothing: share of the target spread over all classes.
            device: where the logits will be.
        """
        share = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
        self.kind, self.gamma, self.smoothing = kind, focal_gamma, label_smoothing
        scheme = class_weights(counts, weighting)
        self.class_weight = torch.tensor(scheme, dtype=torch.float32, device=device)
        self.log_prior = torch.tensor(np.log(share), dtype=torch.float32, device=device)

    def weight(self, target: Tensor, target_b: Tensor | None, lam: Tensor | None) -> Tensor:
        """Return the weight of each sample, float32 [B]; known before the forward pass."""
        first = self.class_weight[target]
        if target_b is None or lam is None:
            return first
        return lam * first + (1 - lam) * self.class_weight[target_b]

    def weighted(
        self, logits: Tensor, target: Tensor, target_b: Tensor | None, lam: Tensor | None
    ) -> Tensor:
        """Return weight * loss of each sample, float32 [B].

        Args:
            logits: float [B, K].
            target: int64 [B], the class.
            target_b: int64 [B], the class blended in by mixup or cutmix, or None.
            lam: float [B], the share of ``target`` in the blend, or None.
        """
        first = self.class_weight[target] * self._per_sample(logits, target)
        if target_b is None or lam is None:
            return first
        second = self.class_weight[target_b] * self._per_sample(logits, target_b)
        return lam * first + (1 - lam) * second

    def _per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = logits.float()
        if self.kind == "logit-adjusted":
            logits = logits + self.log_prior
        entropy = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.smoothing)
        if self.kind != "focal":
            return entropy
        right = logits.softmax(1).gather(1, target[:, None])[:, 0]
        return (1 - right).pow(self.gamma) * entropy
