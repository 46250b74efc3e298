"""The flags of train.py: one frozen dataclass, checked when made, stored in RUN/config.json.

python train.py --help
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import DataError
from pipeline.learning.flags import Task, Tta

FREE_TO_CHANGE: frozenset[str] = frozenset(
    (
        *(
            "run_dir",
            "shards",
            "cache",
            "checkpoint_steps",
            "checkpoint_minutes",
            "keep_checkpoints",
        ),
        *("resume", "allow_changes", "log_steps", "threads", "early_stopping"),
        *("tracker", "wandb", "group", "job_type", "tags", "notes", "logged_images"),
        *("calibrate", "target_sensitivity", "tta", "refit_head"),
    )
)
"""Flags that a resumed run may change without a word: no step of training depends on them."""

SHAPED_BY_EPOCHS = ("cosine", "onecycle")
"""Schedules stretched over ``--epochs``: changing it changes every step."""


@dataclass(frozen=True)
class TrainConfig:
    """What a training is; nothing else decides what comes out of it, but the data and the code."""

    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine, each fetched once and proven."""
    fold: int | None = None
    """The fold to validate on, from 0, for shards built with --folds; the others are trained on."""
    run_dir: Path = Path("runs/default")
    """Folder of this run: history, checkpoints, best model. The same one again resumes."""
    arch: str = "resnet34"
    """A torchvision classification model by name, as resnet50, efficientnet_b0, convnext_tiny."""
    weights: str = "imagenet"
    """Where the weights start: imagenet, none (from scratch), or the path of a state dict
    (.safetensors, .pt, .pth) or of a stored model's folder."""
    task: Task = "binary"
    """What is learnt: binary (benign or malignant) or dx (the seven diagnoses; the malignant
    probability is then the sum over mel, bcc and akiec)."""
    image_size: int = 224
    """Pixels: height and width of what the network sees."""
    epochs: int = 30
    """Passes over the train split in total, those before a resume included."""
    batch_size: int = 64
    """Images per process and step; the global batch is this times the processes (times
    --accumulate)."""
    lr: float = 1e-4
    """Peak learning rate, used as given: it is not scaled with the number of processes."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """adam, adamw (decoupled weight decay), or sgd (Nesterov momentum 0.9)."""
    weight_decay: float | None = None
    """Pull of the weights to zero; norms and biases are left out. Default: 0.05 with adamw, 0
    with adam, 1e-4 with sgd."""
    schedule: Literal["plateau", "cosine", "onecycle", "constant"] = "plateau"
    """How the rate moves: plateau (cut when validation ROC-AUC stops rising), cosine (to zero),
    onecycle (up from lr/25, then down to nothing; momentum the other way), constant."""
    warmup_epochs: float | None = None
    """Epochs (fractions count) in which the rate climbs. Default: 30 % of all epochs with
    onecycle, 5 % with cosine, none with plateau and constant."""
    plateau_patience: int = 3
    """Epochs without a better validation ROC-AUC before plateau cuts the rate."""
    plateau_factor: float = 0.1
    """What plateau multiplies the rate with."""
    loss: Literal["cross-entropy", "focal", "logit-adjusted"] = "cross-entropy"
    """cross-entropy; focal (easy samples count less); logit-adjusted (class frequencies are added
    to the logits in training, which aims at balanced accuracy)."""
    class_weights: Literal["auto", "inverse", "effective", "none"] = "auto"
    """Weight of a sample's class in the loss: inverse (of the class's frequency), effective
    (inverse of the effective number of samples), none. auto: inverse with cross-entropy and
    --balance none, else none."""
    focal_gamma: float = 2.0
    """With --loss focal: how strongly easy samples are discounted; 0 is plain cross-entropy."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, 0 to below 1."""
    balance: Literal["none", "oversample", "undersample"] = "none"
    """Resampling until the --task's K classes are equally frequent. oversample: an epoch is K times
    the largest class, whose samples come once, those of the others repeatedly. undersample: K times
    the smallest; no sample comes twice, and others come in each epoch."""
    augment: Literal["none", "basic", "strong", "trivial"] = "basic"
    """Preset of random changes to training images."""
    mixup: float = 0.0
    """Mixup's alpha: images and labels of pairs are blended by a share from Beta(alpha, alpha).
    0: off; 0.2 is common."""
    cutmix: float = 0.0
    """CutMix's alpha: a rectangle of one image is pasted into another. 0: off; 1.0 is common."""
    dropout: float = 0.0
    """Share of features dropped before the last layer, besides the architecture's own, 0 to 1."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights, used to validate and kept as the model: the
    share of the old average at each step, as 0.999. 0: off."""
    accumulate: int = 1
    """Batches whose gradients are summed to one step; the last, partial window of an epoch is
    stepped too."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; longer ones are shortened to it. 0: off."""
    freeze_epochs: int = 0
    """Epochs at the start in which only the last layer learns."""
    early_stopping: int = 0
    """Epochs without a better validation ROC-AUC before training ends. 0: never."""
    seed: int = 0
    """Decides initial weights, order of samples, augmentation, dropout."""
    backend: Literal["auto", "dali", "portable"] = "auto"
    """Who decodes: dali (on a GPU, or with its CPU operators), portable (webdataset, simplejpeg,
    OpenCV, torchvision), auto (DALI on a GPU; the portable one on a CPU, where it is faster)."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: the launcher's precision where that is not "no", else bf16 where the device has it."""
    compile: bool = False
    """Compile the network (a minute or more at the start, faster steps on a GPU)."""
    threads: int = 0
    """CPU threads per process. 0: the cores this process may use, shared among local processes."""
    checkpoint_steps: int = 0
    """Steps between checkpoints, besides the one after each epoch. 0: by time alone."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints, besides the one after each epoch. 0: none by time."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints stay on disk (the best model is kept besides)."""
    resume: str = "auto"
    """auto (go on from the highest intact checkpoint in the run's folder), never (start anew; what
    was there is moved aside), or the path of a checkpoint."""
    allow_changes: bool = False
    """Resume though flags that alter the training have changed."""
    tta: Tta = "none"
    """Views averaged when the final threshold is fitted, and later by eval.py: none (1), flips
    (4), dihedral (8: flips and quarter turns)."""
    calibrate: bool = True
    """Fit a temperature and a bias on validation, so that probabilities mean what they say: class
    weights leave every image too suspect, which the bias takes back."""
    target_sensitivity: float | None = None
    """Choose the threshold that reaches this sensitivity on validation, as 0.92. Default: the one
    that maximises sensitivity + specificity (Youden)."""
    refit_head: Literal["none", "smote", "oversample", "undersample"] = "none"
    """Fit the last layer again after training, on features of the train split resampled so."""
    tracker: Literal["wandb", "tensorboard", "none"] = "wandb"
    """Where figures and pictures go besides the tables in the run's folder: Weights & Biases,
    TensorBoard, or nowhere."""
    wandb: Literal["auto", "online", "offline"] = "auto"
    """auto: as WANDB_MODE says, else online when logged in and the server answers, else offline
    (into the run's folder, for `wandb sync`). Nothing ever asks, and training waits for nothing."""
    group: str = ""
    """W&B group that this run and reports on it stand in. Default: the name of the run's folder."""
    job_type: str = "train"
    """W&B job type."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    notes: str = ""
    """W&B notes."""
    logged_images: int = 32
    """Validation images in the tracked table of predictions, and at most in the gallery of
    mistakes; logged after an epoch that is the best so far. 0: none."""
    log_steps: int = 10
    """Steps between points tracked (and on a GPU between looks at the loss, which force a sync)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each with its range."""
        positive = ("image_size", "epochs", "batch_size", "lr", "accumulate", "log_steps")
        for name in (*positive, "keep_checkpoints", "plateau_patience"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0")
        counts = ("freeze_epochs", "early_stopping", "checkpoint_steps", "threads", "seed")
        for name in (*counts, "logged_images"):
            self._require(name, getattr(self, name) >= 0, "0 or above")
        for name in ("mixup", "cutmix", "clip_norm", "focal_gamma", "checkpoint_minutes"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or above")
        for name in ("label_smoothing", "dropout", "ema_decay"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        self._require("plateau_factor", 0 < self.plateau_factor < 1, "between 0 and 1")
        if self.weight_decay is not None:
            self._require("weight_decay", self.weight_decay >= 0, "0 or above")
        if self.warmup_epochs is not None:
            fits = 0 <= self.warmup_epochs < self.epochs
            self._require("warmup_epochs", fits, f"from 0 to below --epochs {self.epochs}")
        if self.target_sensitivity is not None:
            self._require("target_sensitivity", 0 < self.target_sensitivity <= 1, "above 0 up to 1")
        if self.loss == "logit-adjusted" and self.balance != "none":
            raise DataError(
                f"--loss logit-adjusted with --balance {self.balance} corrects for the class "
                "frequencies twice; leave one of them out"
            )

    def _require(self, name: str, fits: bool, what: str) -> None:
        if not fits:
            flag = f"--{name.replace('_', '-')}"
            raise DataError(f"{flag} must be {what}, not {getattr(self, name)}")

    def flags(self) -> dict[str, Any]:
        """Return the flags as JSON can hold them."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @property
    def weighting(self) -> str:
        """The class weights that "auto" stands for."""
        if self.class_weights != "auto":
            return self.class_weights
        plain = self.loss == "cross-entropy" and self.balance == "none"
        return "inverse" if plain else "none"

    @property
    def decay(self) -> float:
        """The weight decay that None stands for."""
        if self.weight_decay is not None:
            return self.weight_decay
        return {"adam": 0.0, "adamw": 0.05, "sgd": 1e-4}[self.optimizer]

    @property
    def warmup(self) -> float:
        """Epochs of warm-up that None stands for."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs
        return {"onecycle": 0.3, "cosine": 0.05}.get(self.schedule, 0.0) * self.epochs


def changed_flags(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return a line for each flag that alters the training and differs between two runs' flags."""
    free = set(FREE_TO_CHANGE)
    if new["schedule"] not in SHAPED_BY_EPOCHS:
        free.add("epochs")
    names = [field.name for field in fields(TrainConfig) if field.name not in free]
    return [
        f"--{name.replace('_', '-')}: {old.get(name)} before, {new[name]} now"
        for name in names
        if old.get(name) != new[name]
    ]
