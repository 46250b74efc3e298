"""From logits to the probability that a lesion is malignant, and from diagnoses to targets.

    logits [N, K] --/ temperature, + bias on malignant classes--> softmax --> P(malignant) [N]

    outputs = Outputs("dx", HAM10000)
    malignant_probability(logits, outputs)

Training, evaluation and export all use these functions, so what a task means is defined here.
NumPy only; the same log-odds as a torch function is ``model.malignant_log_odds``.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import LABELS, Taxonomy
from pipeline.learning.flags import Task


@dataclass(frozen=True)
class Outputs:
    """What the logits stand for: the two labels, or the classes of a taxonomy."""

    task: Task
    taxonomy: Taxonomy
    """The classes of the data, for either task."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outputs, in the order of the logits."""
        return LABELS if self.task == "binary" else self.taxonomy.classes

    @property
    def malignant(self) -> np.ndarray:
        """Return which outputs are malignant, bool [K]."""
        return np.array((0, 1) if self.task == "binary" else self.taxonomy.is_malignant, dtype=bool)

    def targets(self, dx_index: np.ndarray) -> np.ndarray:
        """Return the output of each sample, int64 [N], from its index in the taxonomy, int [N]."""
        dx_index = np.asarray(dx_index, dtype=np.int64)
        return self.taxonomy.is_malignant[dx_index] if self.task == "binary" else dx_index


def class_probabilities(
    logits: np.ndarray, outputs: Outputs, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Return the probability of each class, float64 [N, K], from logits, float [N, K].

    These are divided by ``temperature``; above 1 probabilities move towards each other. Then
    ``bias`` is added to the logits of the malignant classes: it shifts the log-odds of malignant
    and keeps the ratios among malignant, and among benign, diagnoses.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return softmax(scaled + np.where(outputs.malignant, bias, 0.0), axis=1)


def malignant_probability(
    logits: np.ndarray, outputs: Outputs, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Return P(malignant), the sum over the malignant classes, float64 [N]; arguments as above."""
    probabilities = class_probabilities(logits, outputs, temperature, bias)
    # a sum of float64 shares can exceed 1.0 by one rounding step
    return np.minimum(probabilities[:, outputs.malignant].sum(axis=1), 1.0)


def adjusted_probabilities(
    probabilities: np.ndarray, prior: np.ndarray, strength: float
) -> np.ndarray:
    """Return ``probabilities`` [N, K] / ``prior`` [K] ** ``strength``, each row summing to 1.

    At strength 1 each class counts as if all were equally frequent, as balanced accuracy does.
    """
    with np.errstate(divide="ignore"):  # log(0) is -inf, whose share is 0
        return softmax(np.log(probabilities) - strength * np.log(prior), axis=1)


def malignant_log_odds(logits: np.ndarray, outputs: Outputs) -> np.ndarray:
    """Return log(P(malignant) / P(benign)), float64 [N], finite where the probability is not."""
    malignant = outputs.malignant
    return logsumexp(logits[:, malignant], axis=1) - logsumexp(logits[:, ~malignant], axis=1)


def require_diagnoses(task: Task, labels: str, shards: object) -> None:
    """Refuse to learn diagnoses from shards whose manifest's ``labels`` are "binary"."""
    if task == "dx" and labels != "dx":
        raise DataError(
            f"--task dx: the images of {shards} are labelled benign or malignant, without a "
            "diagnosis; use --task binary, or build from a table that has the column dx"
        )
