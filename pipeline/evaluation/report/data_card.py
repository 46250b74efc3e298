"""The data and model card of a report: what was judged, on what, and what it must not be used for.

Headings follow Model Cards (Mitchell et al., 2019); what TRIPOD+AI (Collins et al., 2024) and
CLEAR Derm (Daneshjou et al., 2022) ask for beyond them is filled in where it applies.

    sections = model_card(subject, metrics)
"""

from dataclasses import dataclass

from pipeline.ham10000.taxonomy import DX_NAMES, MALIGNANT

Section = tuple[str, list[tuple[str, str]]]
"""A heading and its (term, text) pairs."""

HEADLINES: tuple[tuple[str, str], ...] = (
    ("roc_auc", "ROC-AUC"),
    ("pr_auc", "PR-AUC (average precision)"),
    ("sensitivity", "Sensitivity"),
    ("specificity", "Specificity"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("accuracy", "Accuracy"),
    ("brier", "Brier score"),
    ("ece", "Calibration error (ECE)"),
)
"""The figures of the first screen."""

FURTHER: tuple[tuple[str, str], ...] = (
    ("partial_auc_tpr80", "Partial AUC above 80 % sensitivity (0 to 0.2)"),
    ("sensitivity_at_specificity_90", "Sensitivity at 90 % specificity"),
    ("sensitivity_at_specificity_95", "Sensitivity at 95 % specificity"),
    ("specificity_at_sensitivity_90", "Specificity at 90 % sensitivity"),
    ("specificity_at_sensitivity_95", "Specificity at 95 % sensitivity"),
    ("precision", "Precision, malignant"),
    ("npv", "Negative predictive value"),
    ("f1", "F1, malignant"),
    ("f1_benign", "F1, benign"),
    ("mcc", "Matthews correlation"),
    ("nll", "Negative log-likelihood"),
    *((f"recall_{dx}", f"Found of {DX_NAMES[dx]} ({dx})") for dx in sorted(MALIGNANT)),
)
"""The rest of the table."""


@dataclass(frozen=True)
class Subject:
    """What was judged and how, as the report tells it."""

    checkpoint: str
    """Path of the checkpoint as given."""
    card: dict
    """Its model.json."""
    shards: str
    """Folder of the shards as given."""
    split: str
    """Which split."""
    manifest: dict
    """The manifest's source, split, encode, labels and counts."""
    manifest_sha256: str
    """Of these shards."""
    leak: dict[str, int]
    """Images, lesions and groups shared with the checkpoint's training samples."""
    seen: int
    """Images in the checkpoint's training_samples.csv."""
    threshold_given: bool
    """Whether --threshold took the place of the checkpoint's."""
    tta: str
    """Test-time augmentation in use."""
    precision: str
    """Precision of inference."""
    backend: str
    """What read and decoded, and on which device."""
    command: str
    """The command as typed."""
    revision: str
    """Git revision of the evaluating code."""
    versions: dict[str, str]
    """Versions of the libraries that decide the figures."""

    @property
    def leaked(self) -> bool:
        """Whether anything is shared."""
        return any(self.leak.values())

    @property
    def same_shards(self) -> bool:
        """Whether the checkpoint was trained on these very shards."""
        return self.card["manifest_sha256"] == self.manifest_sha256

    def provenance(self) -> dict:
        """What metrics.json says about where its figures come from."""
        return {
            "checkpoint": self.checkpoint,
            "weights_sha256": self.card["weights_sha256"],
            "shards": self.shards,
            "split": self.split,
            "manifest_sha256": self.manifest_sha256,
            "threshold_source": "--threshold" if self.threshold_given else "checkpoint",
            "checkpoint_threshold": self.card["threshold"],
            "tta": self.tta,
            "precision": self.precision,
            "leak": {"found": self.leaked, **self.leak},
            "git_revision": self.revision,
        }


def baselines(metrics: dict) -> dict[str, tuple[str, str]]:
    """What somebody who always says the commoner class reaches: {name: (figure, in words)}."""
    share = metrics["malignant"] / metrics["n"]
    always = "benign" if share <= 0.5 else "malignant"
    return {
        "roc_auc": ("0.500", "chance"),
        "pr_auc": (f"{share:.3f}", "share malignant"),
        "sensitivity": ("0.000" if always == "benign" else "1.000", f"always “{always}”"),
        "specificity": ("1.000" if always == "benign" else "0.000", f"always “{always}”"),
        "balanced_accuracy": ("0.500", f"always “{always}”"),
        "accuracy": (f"{metrics['majority_accuracy']:.3f}", f"always “{always}”"),
        "brier": (f"{share * (1 - share):.3f}", "share malignant for all"),
        "ece": ("0.000", "perfect"),
    }


def model_card(subject: Subject, metrics: dict) -> list[Section]:
    """The sections of the card."""
    return [
        _model(subject),
        _intended(),
        _data(subject, metrics),
        _leak_proof(subject),
        _method(subject, metrics),
        _limits(metrics),
        _reproduce(subject),
    ]


def _model(subject: Subject) -> Section:
    card = subject.card
    target = card["target_sensitivity"]
    threshold = f"{card['threshold']:.4f}, fitted on validation for " + (
        f"a sensitivity of {target:.2f}" if target is not None else "the best Youden index"
    )
    val = card["val_roc_auc"]
    outputs = {"binary": "benign or malignant", "dx": "seven diagnoses; malignant is the sum of "
               + ", ".join(MALIGNANT)}[card["task"]]  # fmt: skip
    return "Model", [
        ("Architecture", f"{card['arch']} (torchvision), dropout {card['dropout']}"),
        ("Output", outputs),
        ("Input", f"one dermatoscopic image, shorter side resized to {card['image_size']} px, "
                  "centre square; no metadata goes in"),
        ("Checkpoint", f"{subject.checkpoint}, epoch {card['epoch']}, step {card['step']}, "
                       f"seed {card['seed']}"),
        ("Weights, sha256", card["weights_sha256"]),
        ("Code that trained it", card["git_revision"] or "not recorded"),
        ("Validation ROC-AUC", f"{val:.4f}" if val is not None else "not recorded"),
        ("Threshold", threshold),
        ("Calibration", f"temperature {card['temperature']:.4f}, bias {card['bias']:+.4f} on the "
                        "log-odds of malignant, fitted on validation"),
        ("Licence", "code Apache-2.0; the data is CC BY-NC 4.0, so is use of weights made from it"),
    ]  # fmt: skip


def _intended() -> Section:
    return "Intended use", [
        ("For", "research and teaching: comparing methods on a public dataset"),
        ("Not for", "This is not a medical device. No diagnosis, triage or treatment may rest on "
                    "it; it has not been validated on patients, nor cleared by any authority."),
        ("Users", "people who can read the limits below; not patients"),
        ("Human oversight", "none is assumed or tested here; no reader study was made"),
    ]  # fmt: skip


def _data(subject: Subject, metrics: dict) -> Section:
    manifest, split = subject.manifest, subject.manifest["split"]
    source = manifest["source"].get("kind", "unknown")
    fractions = (f"validation {split['val_fraction']}, test {split['test_fraction']} of all images"
                 f", seed {split['seed']}")  # fmt: skip
    how = {"lesion": "by group of lesions: images of one lesion, and of lesions known to be the "
                     "same one, stay together",
           "image": "by image: images of one lesion may lie in several splits, which flatters "
                    "the figures"}.get(split["by"], str(split["by"]))  # fmt: skip
    size = manifest["encode"].get("image_size")
    total = sum(manifest["counts"][name] for name in ("train", "val", "test"))
    pairs = [
        ("Source", f"{source} layout, {total:,} images. HAM10000: Medical University of "
                   "Vienna and a practice in Queensland, over 20 years, with several cameras"),
        ("Judged on", f"split {subject.split}: {metrics['n']:,} images of "
                      f"{metrics['per_lesion']['n']:,} lesions, {metrics['malignant']:,} malignant "
                      f"({metrics['malignant'] / metrics['n']:.1%})"),
        ("Split policy", f"{how}; {fractions}"),
        ("Reference standard", "histopathology, follow-up, expert consensus or confocal "
                               "microscopy, by column dx_type; only histopathology is certain"),
        ("Outcome", "malignant: " + ", ".join(f"{DX_NAMES[dx]} ({dx})" for dx in MALIGNANT)
                    + "; akiec is counted in as a precursor"),
        ("Image size", "original" if size is None else f"shorter side {size} px in the shards"),
        ("Image artefacts", "hair, rulers, ink, gel bubbles and vignettes are neither removed nor "
                            "marked"),
        ("Skin tone", "not recorded; mostly light skin. Nothing can be said about dark skin"),
        ("Missing data", "unknown age, sex or site is a level of its own; no image is left out"),
        ("Manifest, sha256", subject.manifest_sha256),
    ]  # fmt: skip
    if manifest["labels"] == "binary":
        pairs.insert(3, ("Labels", "only benign or malignant is known; nv and mel stand for them"))
    return "Data", pairs


def _leak_proof(subject: Subject) -> Section:
    shared = ", ".join(f"{n} {name}" for name, n in subject.leak.items())
    verdict = f"LEAK: shared with training or validation are {shared}" if subject.leaked else (
        f"none of the {subject.seen:,} images that the checkpoint was trained or chosen on, none "
        f"of their lesions and no group of lesions is in the judged split (shared: {shared})"
    )  # fmt: skip
    same = "yes" if subject.same_shards else (
        f"no: it was trained on shards with manifest {subject.card['manifest_sha256'][:16]}..."
    )  # fmt: skip
    return "Proof against leaks", [("Overlap", verdict), ("Same shards as in training", same)]


def _method(subject: Subject, metrics: dict) -> Section:
    boot = metrics["bootstrap"]
    origin = "given with --threshold" if subject.threshold_given else "from the checkpoint"
    return "Method of evaluation", [
        ("Threshold in use", f"{metrics['threshold']:.4f}, {origin}"),
        ("Intervals", f"95 %, percentile bootstrap, {boot['resamples']:,} resamples of groups of "
                      f"lesions (not images), seed {boot['seed']}"),
        ("Sample size", "all of the split; not chosen by a power calculation"),
        ("Test-time augmentation", subject.tta),
        ("Inference", f"{subject.precision}, {subject.backend}"),
        ("Calibration error", "15 bins of equal width of the probability of malignant"),
        ("Class imbalance", "figures are at the split's own share of malignant images; precision "
                            "and predictive values do not carry over to another share"),
        ("Fairness", "figures by sex, age, site and way of diagnosis are below; groups of fewer "
                     "than 20 images get none"),
    ]  # fmt: skip


def _limits(metrics: dict) -> Section:
    return "Limits", [
        ("Transport", "one dataset, split at random: a new hospital, camera or population was not "
                      "tested, and figures there are likely to be lower"),
        ("Spectrum", "lesions that were worth a photograph or an excision; rare diagnoses, mucosa, "
                     "and healthy skin are not among them. The model answers for any image"),
        ("Verification", "malignant lesions are nearly all proved by histopathology, many benign "
                         "ones by follow-up or consensus: dx_type itself tells the outcome"),
        ("Harm", f"at this threshold {metrics['confusion_matrix'][1][0]:,} malignant images were "
                 f"called benign and {metrics['confusion_matrix'][0][1]:,} benign ones malignant"),
        ("Explanations", "Grad-CAM maps show what moved the score; they are no proof of sound "
                         "reasons"),
    ]  # fmt: skip


def _reproduce(subject: Subject) -> Section:
    versions = ", ".join(f"{name} {version}" for name, version in subject.versions.items())
    return "To make it again", [
        ("Command", subject.command),
        ("Code that judged", subject.revision or "not in a git repository"),
        ("Versions", versions),
        ("Beside this file", "metrics.json (every figure), predictions.csv (every image)"),
    ]
