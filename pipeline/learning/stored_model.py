"""A trained model as it is kept: weights, a card that says how to use them, what they have seen.

    FOLDER/model.safetensors     the weights (of the moving average, where there is one)
    FOLDER/model.json            the card: architecture, task, preprocessing, threshold, ...
    FOLDER/training_samples.csv  image_id, lesion_id, group, split of all train and val samples

``load_stored`` takes RUN, RUN/best or RUN/checkpoints/step-XXXXXXXX.
"""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.files import publish_folder, sha256_of
from pipeline.learning.model import build_model, mismatches

FORMAT_VERSION = 1
"""Version of model.json; a reader refuses others."""

WEIGHTS, CARD, SAMPLES = "model.safetensors", "model.json", "training_samples.csv"

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, RGB, on a scale of 0 to 1."""

SAMPLE_COLUMNS = ["image_id", "lesion_id", "group", "split"]


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to use the weights, and where they come from."""

    arch: str
    """torchvision's name of the architecture."""
    task: str
    """"binary" or "dx"."""
    classes: tuple[str, ...]
    """Names of the outputs, in the order of the logits."""
    image_size: int
    """Pixels; the shorter side is resized to it and the centre cropped."""
    dropout: float = 0.0
    """Share of features dropped before the last layer (in training)."""
    mean: tuple[float, float, float] = MEAN
    """Subtracted, per channel, RGB, scale 0 to 1."""
    std: tuple[float, float, float] = STD
    """Divided by, per channel, RGB, scale 0 to 1."""
    threshold: float = 0.5
    """Malignant where the calibrated probability is at or above it; fitted on validation."""
    temperature: float = 1.0
    """The logits are divided by it; fitted on validation."""
    bias: float = 0.0
    """Then added to the log-odds of malignant; fitted on validation."""
    tta: str = "none"
    """Test-time augmentation that threshold, temperature and bias were fitted with."""
    without_tta: dict[str, float] | None = None
    """Threshold, temperature and bias fitted without it; None where ``tta`` is "none" anyway."""
    target_sensitivity: float | None = None
    """Sensitivity that the threshold was chosen for; None: Youden's index."""
    manifest_sha256: str = ""
    """Of the manifest of the shards it was trained on."""
    git_revision: str = ""
    """Of the code, with "+" where files had changed; empty outside a repository."""
    seed: int = 0
    """Of the run."""
    epoch: int = 0
    """Epochs trained."""
    step: int = 0
    """Optimizer steps taken."""
    val_roc_auc: float | None = None
    """On the validation split, at that epoch; None before the first validation."""
    refit_head: str = "none"
    """How the last layer was fitted again after training."""
    weights_sha256: str = ""
    """Of model.safetensors, filled in when it is saved."""
    format_version: int = FORMAT_VERSION
    """Of this card."""

    def at(self, tta: str) -> "ModelCard":
        """Return the card with the threshold, temperature and bias that belong to ``tta``.

        Raises:
            DataError: none were fitted with it.
        """
        if tta == self.tta:
            return self
        if tta == "none" and self.without_tta is not None:
            return replace(self, tta="none", without_tta=None, **self.without_tta)
        fitted = self.tta if self.without_tta is None else f"none and {self.tta}"
        raise DataError(
            f"--tta {tta}: this model's threshold was fitted with {fitted}; use that, give a "
            "--threshold of your own, or train with --tta " + tta
        )


def stored_files(
    state_dict: dict[str, Tensor], card: ModelCard, training_samples: pd.DataFrame
) -> dict[str, bytes]:
    """Return the three files by name; the card comes out with the hash of the weights."""
    weights = save({k: v.detach().cpu().contiguous() for k, v in state_dict.items()})
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    table = training_samples[SAMPLE_COLUMNS].to_csv(index=False, lineterminator="\n")
    return {
        WEIGHTS: weights,
        CARD: (json.dumps(asdict(card), indent=2) + "\n").encode(),
        SAMPLES: table.encode(),
    }


def save_stored(
    folder: Path,
    state_dict: dict[str, Tensor],
    card: ModelCard,
    training_samples: pd.DataFrame,
) -> ModelCard:
    """Publish the three files as ``folder``, in one rename, and return the card as written."""
    publish_folder(folder, stored_files(state_dict, card, training_samples))
    return read_card(folder)


def load_stored(path: Path) -> tuple[nn.Module, ModelCard, pd.DataFrame]:
    """Return the model (on the CPU, eval mode), its card and the samples that it has seen.

    Raises:
        DataError: where there is none, or weights and card do not belong together.
    """
    folder = stored_folder(Path(path))
    card = read_card(folder)
    weights = folder / WEIGHTS
    found = sha256_of(weights)
    if found != card.weights_sha256:
        raise DataError(
            f"{weights}: damaged or exchanged: sha256 {found[:12]}..., but {CARD} says "
            f"{card.weights_sha256[:12]}...; use another checkpoint"
        )
    model = build_model(card.arch, len(card.classes), dropout=card.dropout)
    state = load_file(weights)
    report = mismatches(model.state_dict(), state)
    if report:
        raise DataError(
            f"{folder}: the weights are not of the architecture {card.arch} that {CARD} names: "
            + "; ".join(report)
        )
    model.load_state_dict(state)
    samples = pd.read_csv(folder / SAMPLES, dtype=str, keep_default_na=False)
    return model.eval(), card, samples


def stored_folder(path: Path) -> Path:
    """Return the folder of a stored model: ``path`` itself, or its ``best``."""
    for folder in (path, path / "best"):
        if (folder / CARD).is_file():
            missing = [n for n in (WEIGHTS, SAMPLES) if not (folder / n).is_file()]
            if missing:
                raise DataError(f"{folder}: incomplete: {' and '.join(missing)} missing")
            return folder
    raise DataError(
        f"{path}: no stored model there (expected {CARD}); "
        "give RUN/best or RUN/checkpoints/step-XXXXXXXX"
    )


def read_card(folder: Path) -> ModelCard:
    """Read model.json."""
    path = folder / CARD
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        version = values.get("format_version")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a model card ({error})") from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {version}, expected {FORMAT_VERSION}; "
            "use the code revision that wrote it"
        )
    known = {field.name for field in fields(ModelCard)}
    needed = {field.name for field in fields(ModelCard) if field.default is MISSING}
    if not needed <= set(values) <= known:
        odd = ", ".join(sorted((needed - set(values)) | (set(values) - known)))
        raise DataError(f"{path}: not the fields of a model card; missing or unknown: {odd}")
    lists: dict[str, Any] = {
        key: tuple(value) for key, value in values.items() if isinstance(value, list)
    }
    return ModelCard(**{**values, **lists})
