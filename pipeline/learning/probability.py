"""From logits to the probability that a lesion is malignant, and from diagnoses to targets.

    logits [N, K] --/ temperature, + bias on malignant classes--> softmax --> P(malignant) [N]

Training, evaluation and export all use these functions, so what a task means is defined here.
NumPy only; the same log-odds as a torch function is ``model.malignant_log_odds``.
"""

import numpy as np
from scipy.special import logsumexp, softmax

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX, DX_IS_MALIGNANT, LABELS
from pipeline.learning.flags import Task

CLASSES: dict[Task, tuple[str, ...]] = {"binary": LABELS, "dx": DX}
"""The names of the outputs, in the order of the logits."""


def malignant_classes(task: Task) -> np.ndarray:
    """Return which classes of the task are malignant, bool [K]."""
    return np.asarray((0, 1) if task == "binary" else DX_IS_MALIGNANT, dtype=bool)


def class_probabilities(
    logits: np.ndarray, task: Task, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Return the probability of each class, float64 [N, K].

    Args:
        logits: float [N, K], K = 2 for "binary" and 7 for "dx".
        task: what the logits stand for.
        temperature: the logits are divided by it; above 1 probabilities move towards each other.
        bias: then added to the logits of the malignant classes. It shifts the log-odds of
            malignant and keeps the ratios among malignant, and among benign, diagnoses.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return softmax(scaled + np.where(malignant_classes(task), bias, 0.0), axis=1)


def malignant_probability(
    logits: np.ndarray, task: Task, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Return P(malignant), the sum over the malignant classes, float64 [N]; arguments as above."""
    probabilities = class_probabilities(logits, task, temperature, bias)
    # a sum of float64 shares can exceed 1.0 by one rounding step
    return np.minimum(probabilities[:, malignant_classes(task)].sum(axis=1), 1.0)


def malignant_log_odds(logits: np.ndarray, task: Task) -> np.ndarray:
    """Return log(P(malignant) / P(benign)), float64 [N], finite where the probability is not."""
    malignant = malignant_classes(task)
    return logsumexp(logits[:, malignant], axis=1) - logsumexp(logits[:, ~malignant], axis=1)


def task_targets(dx_index: np.ndarray, task: Task) -> np.ndarray:
    """Return the class index of the task, int64 [N], from the dx index, int [N]."""
    dx_index = np.asarray(dx_index, dtype=np.int64)
    return malignant_classes("dx").astype(np.int64)[dx_index] if task == "binary" else dx_index


def require_diagnoses(task: Task, labels: str, shards: object) -> None:
    """Refuse to learn diagnoses from shards whose manifest's ``labels`` are "binary"."""
    if task == "dx" and labels != "dx":
        raise DataError(
            f"--task dx: the images of {shards} are labelled benign or malignant, without a "
            "diagnosis; use --task binary, or build from a table that has the column dx"
        )
