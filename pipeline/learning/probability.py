"""From logits to the one number that is judged: the probability that a lesion is malignant.

Training, evaluation and export all come through here, so that a task is defined in one place.
Pure functions of arrays; no torch.
"""

import numpy as np
from scipy.special import softmax

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX, DX_IS_MALIGNANT, LABELS

CLASSES: dict[str, tuple[str, ...]] = {"binary": LABELS, "dx": DX}
"""The names of the outputs, in the order of the logits."""


def malignant_probability(
    logits: np.ndarray, task: str, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Return P(malignant), float64 [N].

    Args:
        logits: float [N, K], K = 2 for "binary" and 7 for "dx".
        task: "binary" (softmax of class 1) or "dx" (sum over the malignant diagnoses).
        temperature: the logits are divided by it first; above 1 it makes the model less sure.
        bias: then added to the log-odds of malignant; below 0 it makes all images less suspect.
    """
    probabilities = class_probabilities(logits, task, temperature, bias)
    if task == "binary":
        return probabilities[:, 1]
    malignant = np.asarray(DX_IS_MALIGNANT, dtype=bool)
    # a sum of float64 shares can pass 1.0 by one rounding step
    return np.minimum(probabilities[:, malignant].sum(axis=1), 1.0)


def class_probabilities(
    logits: np.ndarray, task: str, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Return the probability of each class, float64 [N, K]; arguments as above.

    The bias goes to the logits of the malignant classes, so that it shifts the log-odds of
    malignant and leaves the shares among malignant, and among benign, diagnoses as they are.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return softmax(scaled + bias * malignant_classes(task), axis=1)


def malignant_classes(task: str) -> np.ndarray:
    """Return 1.0 for each class of the task that is malignant, else 0.0; float64 [K]."""
    return np.asarray((0, 1) if task == "binary" else DX_IS_MALIGNANT, dtype=np.float64)


def task_targets(dx_index: np.ndarray, task: str) -> np.ndarray:
    """Return the class index of the task, int64 [N], from the dx index, int [N]."""
    dx_index = np.asarray(dx_index, dtype=np.int64)
    return np.asarray(DX_IS_MALIGNANT, dtype=np.int64)[dx_index] if task == "binary" else dx_index


def require_diagnoses(task: str, labels: str, shards: object) -> None:
    """Refuse to learn seven diagnoses from shards that know only benign and malignant.

    Args:
        task: what is to be learnt.
        labels: the manifest's ``labels``, "dx" or "binary".
        shards: where they lie, for the message.
    """
    if task == "dx" and labels != "dx":
        raise DataError(
            f"--task dx: the images of {shards} are labelled benign or malignant, without a "
            "diagnosis; use --task binary, or build from a table that has the column dx"
        )
