"""The flags of train.py: frozen dataclasses by heading, checked when made, kept in RUN/config.json.

    python train.py --help

On the command line and in config.json the names are flat (``--lr``); in code they are grouped
(``flags.optimisation.lr``). Imports no torch.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pipeline.cli import require_range
from pipeline.errors import DataError
from pipeline.learning.flags import (
    Decide,
    LossName,
    Optimizer,
    RefitHead,
    Schedule,
    Task,
    Tta,
    Weighting,
    keyword_arguments,
)
from pipeline.loading.flags import Backend, source_weights
from pipeline.loading.order import Balance
from pipeline.loading.presets import Augment
from pipeline.tracking.flags import TrackerName

EXIT = "exit.json"
"""Name of the file under RUN that says how the last start ended."""


@dataclass(frozen=True)
class DataFlags:
    """Shards, and how batches are made of them."""

    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine; each is fetched once, verified."""
    fold: int | None = None
    """The fold to validate on, from 0, for shards built with --folds; the others are trained on."""
    mix: tuple[str, ...] = ()
    """Weight of each source of shards built from several, as ham=1 clinic=3: an epoch of as many
    images as the train split has is divided so. Default: each image once."""
    image_size: int = 224
    """Pixels: height and width of what the network sees."""
    batch_size: int = 64
    """Images per process and step; the global batch is this times the processes (times
    --accumulate)."""
    backend: Backend = "auto"
    """Who decodes: dali (on a GPU, or with its CPU operators), portable (simplejpeg, OpenCV,
    torchvision), auto (as the run began; at its begin: dali on a GPU, portable on a CPU)."""
    threads: int = 0
    """CPU threads per process. 0: the cores this process may use, shared among local processes."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require_range(self, "above 0", "image_size", "batch_size")
        require_range(self, "0 or above", "threads")
        source_weights(self.mix)


@dataclass(frozen=True)
class ModelFlags:
    """The network, and what it learns."""

    arch: str = "resnet34"
    """A classifier of torchvision by name, as resnet50, efficientnet_b0, convnext_tiny, or of timm,
    as timm:resnet50d (pip install timm)."""
    arch_args: tuple[str, ...] = ()
    """Keyword arguments of the architecture, as drop_path_rate=0.1 aa_layer=blurpool."""
    weights: str = "imagenet"
    """Where the weights start: imagenet, none (from scratch), or the path of a file that a trainer
    wrote (safetensors or torch), or of a stored model's folder."""
    task: Task = "binary"
    """binary (benign or malignant) or dx (the classes of the shards' taxonomy; the malignant
    probability is then the sum over the malignant ones)."""

    def __post_init__(self) -> None:
        """Refuse arguments that are not NAME=VALUE."""
        keyword_arguments(self.arch_args)


@dataclass(frozen=True)
class OptimisationFlags:
    """Steps, learning rate, precision."""

    epochs: int = 30
    """Passes over the train split in total, those before a resume included."""
    lr: float = 1e-4
    """Peak learning rate, used as given: it is not scaled with the number of processes."""
    optimizer: Optimizer = "adam"
    """adam, adamw (decoupled weight decay), or sgd (Nesterov momentum 0.9)."""
    schedule: Schedule = "plateau"
    """How the learning rate moves: plateau (a tenth of it when validation ROC-AUC stops rising),
    cosine (to zero), onecycle (up from lr/25, then down to nothing; momentum the other way),
    constant."""
    warmup_epochs: float | None = None
    """Epochs (fractions count) in which the rate climbs. Default: 30 % of all epochs with
    onecycle, 5 % with cosine, none with plateau and constant."""
    plateau_patience: int = 3
    """Epochs without a better validation ROC-AUC before plateau cuts the rate."""
    early_stopping: int = 0
    """Epochs without a better validation ROC-AUC before training ends. 0: never."""
    accumulate: int = 1
    """Batches whose gradients are summed to one step; the last, partial window of an epoch is
    stepped too."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; longer ones are shortened to it. 0: off."""
    freeze_epochs: int = 0
    """Epochs at the start in which only the last layer learns."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: the launcher's precision where that is not "no", else bf16 where the device has it."""
    compile: bool = False
    """Compile the network (a minute or more at the start)."""
    cuda_graphs: bool = False
    """With --compile and one GPU: launch its kernels as two graphs a step, not one by one, for a
    GPU that waits for its host (small batches). Not yet run on hardware."""
    sync_batch_norm: bool = False
    """Batch norm over the batches of all GPUs: for small --batch-size (below some 16). Each such
    layer then waits for all GPUs in every forward and backward pass, and cuts a compiled graph."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require_range(self, "above 0", "epochs", "lr", "accumulate", "plateau_patience")
        require_range(self, "0 or above", "early_stopping", "clip_norm", "freeze_epochs")
        if not 0 <= self.warmup < self.epochs:
            allowed = f"--warmup-epochs must be from 0 to below --epochs {self.epochs}"
            raise DataError(f"{allowed}, not {self.warmup_epochs}")

    @property
    def warmup(self) -> float:
        """Epochs of warm-up that None stands for."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs
        return {"onecycle": 0.3, "cosine": 0.05}.get(self.schedule, 0.0) * self.epochs


@dataclass(frozen=True)
class ImbalanceFlags:
    """What is done about rare classes."""

    loss: LossName = "cross-entropy"
    """cross-entropy; focal (easy samples count less); logit-adjusted (class frequencies are added
    to the logits in training, which aims at balanced accuracy)."""
    class_weights: Literal["auto"] | Weighting = "auto"
    """Weight of a sample's class in the loss: inverse (of the class's frequency), effective
    (inverse of the effective number of samples), none. auto: inverse with cross-entropy and
    --balance none, else none."""
    focal_gamma: float = 2.0
    """With --loss focal: how strongly easy samples are discounted; 0 is plain cross-entropy."""
    balance: Balance = "none"
    """Resampling until the --task's K classes are equally frequent. oversample: an epoch is K times
    the largest class, whose samples come once, those of the others repeatedly. undersample: K times
    the smallest; no sample comes twice, and others come in each epoch."""
    refit_head: RefitHead = "none"
    """Fit the last layer again after training, on features of the train split resampled so."""

    def __post_init__(self) -> None:
        """Refuse what would correct for the class frequencies twice."""
        require_range(self, "0 or above", "focal_gamma")
        if self.loss == "logit-adjusted" and self.balance != "none":
            raise DataError(
                f"--loss logit-adjusted with --balance {self.balance} corrects for the class "
                "frequencies twice; leave one of them out"
            )

    @property
    def weighting(self) -> Weighting:
        """The class weights that "auto" stands for."""
        if self.class_weights != "auto":
            return self.class_weights
        plain = self.loss == "cross-entropy" and self.balance == "none"
        return "inverse" if plain else "none"


@dataclass(frozen=True)
class RegularisationFlags:
    """What keeps the network from learning samples by heart."""

    augment: Augment = "basic"
    """Preset of random changes to training images: none, basic (rotation, flip, colour), strong
    (random crop, full rotation, both flips, stronger colour, erasing), trivial (TrivialAugment)."""
    mixup: float = 0.0
    """Mixup's alpha: images and labels of pairs are blended by a share from Beta(alpha, alpha).
    0: off; 0.2 is common."""
    cutmix: float = 0.0
    """CutMix's alpha: a rectangle of one image is pasted into another. 0: off; 1.0 is common."""
    weight_decay: float | None = None
    """Pull of the weights to zero; norms and biases are left out. Default: 0.05 with adamw, 0
    with adam, 1e-4 with sgd."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, 0 to below 1."""
    dropout: float = 0.0
    """Share of features dropped before the last layer, besides the architecture's own, 0 to 1."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights, used to validate and kept as the model: the
    share of the old average at each step, as 0.999. 0: off."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require_range(self, "0 or above", "mixup", "cutmix", "weight_decay")
        require_range(self, "from 0 to below 1", "label_smoothing", "dropout", "ema_decay")

    def decay(self, optimizer: Optimizer) -> float:
        """Return the weight decay that None stands for."""
        if self.weight_decay is not None:
            return self.weight_decay
        return {"adam": 0.0, "adamw": 0.05, "sgd": 1e-4}[optimizer]


@dataclass(frozen=True)
class DecisionFlags:
    """How logits become a yes or no; fitted on validation, never on test."""

    calibrate: bool = True
    """Fit a temperature and a bias: class weights make every image look more suspect than it is,
    and the bias takes that back."""
    target_sensitivity: float | None = None
    """Choose the threshold that reaches this sensitivity, as 0.92. Default: the one that maximises
    sensitivity + specificity (Youden)."""
    decide: Decide = "argmax"
    """With --task dx, which diagnosis is decided: argmax (the most probable), or prior (for
    balanced accuracy: probabilities are divided by a power of the classes' shares of the train
    split, fitted on validation). The malignant probability and its threshold stay."""
    tta: Tta = "none"
    """Views averaged when the final threshold is fitted, and later by eval.py: none (1), flips
    (4), dihedral (8: flips and quarter turns)."""

    def __post_init__(self) -> None:
        """Refuse a sensitivity that cannot be."""
        require_range(self, "above 0 up to 1", "target_sensitivity")


@dataclass(frozen=True)
class RunFlags:
    """The run's folder, its checkpoints, and how it resumes."""

    run_dir: Path = Path("runs/default")
    """Folder of this run: history, checkpoints, best model. The same one again resumes."""
    seed: int = 0
    """Seed of initial weights, order of samples, augmentation, dropout."""
    resume: str = "auto"
    """auto (from the highest intact checkpoint in the run's folder), never (start anew; what was
    there is moved aside), or the path of a checkpoint."""
    allow_changes: bool = False
    """Resume although flags that alter the training have changed."""
    checkpoint_steps: int = 0
    """Steps between checkpoints, besides the one after each epoch. 0: by time alone."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints, besides the one after each epoch. 0: none by time."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints stay on disk (the best model is kept besides)."""
    watchdog_minutes: float = 30.0
    """Minutes without a step after which a training that hangs is ended; the same command goes on.
    0: never."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require_range(self, "above 0", "keep_checkpoints")
        require_range(self, "0 or above", "seed", "checkpoint_steps", "checkpoint_minutes")
        require_range(self, "0 or above", "watchdog_minutes")


@dataclass(frozen=True)
class TrackingFlags:
    """Where figures go besides the tables in the run's folder."""

    tracker: TrackerName = "wandb"
    """Weights & Biases (online when logged in and the server answers, else offline; WANDB_MODE
    decides otherwise), TensorBoard, or none. Training never waits for it."""
    group: str = ""
    """W&B group of this run and of reports on it. Default: the name of the run's folder."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    notes: str = ""
    """W&B notes."""


@dataclass(frozen=True)
class TrainFlags:
    """Train a classifier on packed shards. The same command again resumes."""

    data: DataFlags = field(default_factory=DataFlags)
    model: ModelFlags = field(default_factory=ModelFlags)
    optimisation: OptimisationFlags = field(default_factory=OptimisationFlags)
    imbalance: ImbalanceFlags = field(default_factory=ImbalanceFlags)
    regularisation: RegularisationFlags = field(default_factory=RegularisationFlags)
    decision: DecisionFlags = field(default_factory=DecisionFlags)
    run: RunFlags = field(default_factory=RunFlags)
    tracking: TrackingFlags = field(default_factory=TrackingFlags)

    def flat(self) -> dict[str, Any]:
        """Return all flags by their flat names, as JSON can hold them."""
        groups = [getattr(self, group.name) for group in fields(self)]
        values = {f.name: getattr(group, f.name) for group in groups for f in fields(group)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
