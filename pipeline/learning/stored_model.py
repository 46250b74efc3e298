"""A stored model: weights, the card that says how to use them, and the samples it was trained on.

    FOLDER/model.safetensors     the weights (of the moving average, where there is one)
    FOLDER/model.json            the card: architecture, task, preprocessing, threshold, ...
    FOLDER/training_samples.csv  image_id, lesion_id, group, split of all train and val samples
    FOLDER/validation_predictions.csv  of RUN/best once the training is done

``load_stored`` takes RUN, RUN/best or RUN/checkpoints/step-XXXXXXXX, and a RUN copied without its
link.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.errors import DataError, warn
from pipeline.files import sha256, sha256_of, sha256_of_values
from pipeline.ham10000.taxonomy import HAM10000, Taxonomy, described
from pipeline.learning.decision import Decision, scores
from pipeline.learning.flags import Decide, RefitHead, Task, Tta
from pipeline.learning.foreign_weights import WEIGHTS, folders_of, load_whole
from pipeline.learning.model import Ensemble, build_model
from pipeline.learning.probability import Outputs
from pipeline.loading.presets import MEAN, STD

FORMAT_VERSION = 1
"""Version of model.json; a reader refuses others."""
CARD, SAMPLES = "model.json", "training_samples.csv"
VALIDATION = "validation_predictions.csv"
"""What the model predicts for its validation split; only a finished training's model has it."""

SOMETIMES: dict[str, Any] = {
    **{"arch_args": {}, "taxonomy": HAM10000.describe(), "decide": "argmax"},
    **{"class_prior": (), "prior_strength": None, "members": ()},
}
"""Values of the card that are not in the file where they are these."""


@dataclass(frozen=True)
class ModelCard:
    """What is needed to use the weights, and their origin."""

    arch: str
    """Name of the architecture, of torchvision or ``timm:NAME``."""
    task: Task
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
    tta: Tta = "none"
    """Test-time augmentation that threshold, temperature and bias were fitted with."""
    without_tta: dict[str, float] | None = None
    """Threshold, temperature and bias fitted without it; None where ``tta`` is "none" anyway."""
    target_sensitivity: float | None = None
    """Sensitivity that the threshold was chosen for; None: Youden's index."""
    decide: Decide = "argmax"
    """Which diagnosis a model of several decides."""
    class_prior: tuple[float, ...] = ()
    """Share of each class among the training samples; () where there is no decision by it."""
    prior_strength: float | None = None
    """Power of ``class_prior`` that probabilities are divided by; fitted on validation."""
    manifest_sha256: str = ""
    """Of the manifest of the shards it was trained on."""
    git_revision: str = ""
    """Of the code, with "+" where files had changed; empty outside a repository."""
    seed: int = 0
    epoch: int = 0
    """Epochs trained."""
    step: int = 0
    """Optimizer steps taken."""
    val_roc_auc: float | None = None
    """On the validation split, at that epoch; None before the first validation."""
    refit_head: RefitHead = "none"
    """How the last layer was fitted again after training."""
    weights_sha256: str = ""
    """Of model.safetensors, filled in when it is saved."""
    samples_sha256: str = ""
    """Of training_samples.csv, likewise; the leak check rests on that table."""
    card_sha256: str = ""
    """Of all other values here, likewise."""
    arch_args: dict[str, Any] = field(default_factory=dict)
    taxonomy: Taxonomy = HAM10000
    """The classes of the data it was trained on."""
    members: tuple[dict[str, Any], ...] = ()
    """Cards of the networks of an ensemble, whose mean calibrated probability is its answer."""
    format_version: int = FORMAT_VERSION

    @property
    def outputs(self) -> Outputs:
        """Return what the logits stand for."""
        return Outputs(self.task, self.taxonomy)

    def network(self) -> nn.Module:
        """Return the network with random weights, on the CPU, in training mode."""
        if self.members:
            common: dict[str, Any] = {"taxonomy": self.taxonomy}
            cards = [ModelCard(**each | common) for each in self.members]
            calibration = [(card.temperature, card.bias) for card in cards]
            return Ensemble([card.network() for card in cards], calibration, self.outputs)
        return build_model(
            self.arch, len(self.classes), dropout=self.dropout, arch_args=self.arch_args
        )

    def scores(
        self,
        logits: np.ndarray,
        threshold: float | None = None,
        classes: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Return ``decision.scores`` of logits [N, K]; by default at the card's threshold."""
        own = self.threshold if threshold is None else threshold
        decision = Decision(own, self.temperature, self.bias, self.prior_strength)
        prior, decide = np.array(self.class_prior), self.decide
        return scores(logits, self.outputs, decision, prior=prior, decide=decide, classes=classes)

    def at(self, tta: Tta) -> "ModelCard":
        """Return the card with the decision that was fitted with ``tta``, or raise a DataError."""
        if tta == self.tta:
            return self
        if tta == "none" and self.without_tta is not None:
            return replace(self, tta="none", without_tta=None, **self.without_tta)
        fitted = self.tta if self.without_tta is None else f"none and {self.tta}"
        raise DataError(
            f"--tta {tta}: this model's threshold was fitted with {fitted}; use that, give a "
            f"--threshold of your own, or train with --tta {tta}"
        )


def samples_csv(*splits: pd.DataFrame) -> bytes:
    """Return training_samples.csv of the splits that a model is trained and chosen on."""
    columns = ["image_id", "lesion_id", "group", "split"]
    table = pd.concat([split[columns] for split in splits])
    return table.to_csv(index=False, lineterminator="\n").encode()


def stored_files(
    state_dict: dict[str, Tensor], card: ModelCard, samples: bytes
) -> dict[str, bytes]:
    """Return the content of the three files by name; the card gets the hashes of all three.

    ``samples`` is what ``samples_csv`` gives.
    """
    weights = save({k: v.detach().cpu().contiguous() for k, v in state_dict.items()})
    card = replace(card, weights_sha256=sha256(weights), samples_sha256=sha256(samples))
    values = card_values(card)
    values["card_sha256"] = card_digest(values)
    text = json.dumps(values, indent=2) + "\n"
    return {WEIGHTS: weights, CARD: text.encode(), SAMPLES: samples}


def card_values(card: ModelCard) -> dict[str, Any]:
    """Return a card as the values of model.json."""
    values = asdict(card) | {"taxonomy": card.taxonomy.describe()}
    return {k: v for k, v in values.items() if v != SOMETIMES.get(k, ...)}


def card_digest(values: dict[str, Any]) -> str:
    """Return the digest of a card's values but for itself."""
    return sha256_of_values({k: v for k, v in values.items() if k != "card_sha256"})


def edits(path: Path) -> list[str]:
    """Return the files of a stored model that are not as they were written, the weights apart.

    A model of an earlier version has no digests, and no edits can be seen.
    """
    folder = stored_folder(Path(path))
    card, values = read_card(folder), json.loads((folder / CARD).read_text())
    if not card.card_sha256 and not card.samples_sha256:
        return []
    digests = {
        CARD: (card.card_sha256, card_digest(values)),
        SAMPLES: (card.samples_sha256, sha256_of(folder / SAMPLES)),
    }
    return [name for name, (written, found) in digests.items() if written != found]


def damage(folder: Path) -> list[str]:
    """Return the files of a stored model, all of which are there, that are not as written."""
    try:
        changed, card = edits(folder), read_card(folder)
    except DataError:
        return [CARD]
    return changed + [WEIGHTS] * (sha256_of(folder / WEIGHTS) != card.weights_sha256)


def load_stored(
    path: Path, *, allow_edited: bool = False
) -> tuple[nn.Module, ModelCard, pd.DataFrame]:
    """Return the model (on the CPU, eval mode), its card and its train and validation samples.

    ``path`` is RUN, RUN/best or RUN/checkpoints/step-XXXXXXXX; ``allow_edited`` goes on although
    ``edits`` finds some. No stored model, a damaged one, and parts that do not fit are a DataError.
    """
    folder = stored_folder(Path(path))
    card = read_card(folder)
    if changed := edits(folder):
        told = f"{folder}: {' and '.join(changed)} damaged or edited: not as its digest says"
        if not allow_edited:
            raise DataError(f"{told}; use another checkpoint, or --allow-edited to go on with it")
        warn(told)
    if not card.card_sha256 and not card.samples_sha256:
        warn(f"{folder}: written by an earlier version, without digests of {CARD} and {SAMPLES}")
    if (card.mean, card.std) != (MEAN, STD):
        raise DataError(
            f"{folder / CARD}: mean {card.mean}, std {card.std}, but images are normalised with "
            f"mean {MEAN}, std {STD}; use the code revision that trained it, or train again"
        )
    weights = folder / WEIGHTS
    found = sha256_of(weights)
    if found != card.weights_sha256:
        raise DataError(
            f"{weights}: damaged or replaced: sha256 {found[:12]}..., but {CARD} says "
            f"{card.weights_sha256[:12]}...; use another checkpoint"
        )
    model = card.network()
    load_whole(model, load_file(weights), source=weights, arch=card.arch)
    try:
        samples = pd.read_csv(folder / SAMPLES, dtype=str, keep_default_na=False)
        _ = samples[["image_id", "lesion_id", "group", "split"]]
    except (ValueError, KeyError) as error:
        raise DataError(f"{folder / SAMPLES}: damaged ({error}); use another checkpoint") from error
    return model.eval(), card, samples


def stored_folder(path: Path) -> Path:
    """Return the folder of the stored model that ``path`` (RUN, RUN/best, a checkpoint) names."""
    path = path.parent if path.name in (CARD, WEIGHTS) else path
    folder = next((each for each in folders_of(path) if (each / CARD).is_file()), None)
    if folder is None:
        link = path if path.is_symlink() else path / "best"
        hint = (
            f"{link} is a link to {link.readlink()}, which is not there: copy the model with it "
            "(cp -rL, rsync -L), or give the folder itself"
            if link.is_symlink()
            else "give RUN/best, RUN/best-step-XXXXXXXX or RUN/checkpoints/step-XXXXXXXX"
        )
        raise DataError(f"{path}: no stored model there (expected {CARD}); {hint}")
    missing = [name for name in (WEIGHTS, SAMPLES) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: incomplete: {' and '.join(missing)} missing; use another checkpoint"
        )
    return folder


def read_card(folder: Path) -> ModelCard:
    """Read model.json."""
    path = folder / CARD
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        version = values.get("format_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not a model card ({error})") from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {version}, expected {FORMAT_VERSION}; "
            "use the code revision that wrote it"
        )
    lists: dict[str, Any] = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    values["taxonomy"] = described(values.get("taxonomy"))
    try:
        return ModelCard(**values | lists)
    except TypeError as error:
        raise DataError(f"{path}: missing or unknown fields ({error})") from error
