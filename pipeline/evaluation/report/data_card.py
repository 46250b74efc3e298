"""The facts of the report's data and model card; ``templates/data_card.html.j2`` words them.

Headings follow Model Cards (Mitchell et al., 2019), completed by what TRIPOD+AI (Collins et al.,
2024) and CLEAR Derm (Daneshjou et al., 2022) ask for where it applies.

    metrics["provenance"] = DataCard(flags, model=asdict(model_card), ...).provenance()
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.flags import JudgeFlags
from pipeline.machine import git_revision, versions


@dataclass(frozen=True)
class DataCard:
    """What was judged, on what, and how."""

    flags: JudgeFlags
    """As given."""
    model: dict[str, Any]
    """The checkpoint's model.json."""
    manifest: dict[str, Any]
    """The shards' manifest.json."""
    manifest_sha256: str
    leak: dict[str, int]
    """Images, lesions and groups shared with the checkpoint's training samples."""
    num_training: int
    """Images that the checkpoint was trained or chosen on."""
    tta: str
    """Test-time augmentation in use."""
    backend: str
    """Loader backend and device."""
    command: str
    """As typed."""
    revision: str = field(default_factory=git_revision)
    """Git revision of the evaluating code; "" outside git."""
    versions: dict[str, str] = field(default_factory=versions)
    """Versions of the libraries that decide the figures."""

    @property
    def split(self) -> str:
        """Name of the split, with its fold."""
        data = self.flags.data
        return data.split if data.fold is None else f"{data.split} (fold {data.fold})"

    @property
    def precision(self) -> str:
        """Precision of inference."""
        given = self.flags.speed.mixed_precision
        return "float32" if given == "no" else given

    @property
    def threshold_given(self) -> bool:
        """Whether --threshold replaces the checkpoint's."""
        return self.flags.method.threshold is not None

    @property
    def leaked(self) -> bool:
        """Whether anything is shared."""
        return any(self.leak.values())

    @property
    def same_shards(self) -> bool:
        """Whether the checkpoint was trained on these very shards."""
        return self.model["manifest_sha256"] == self.manifest_sha256

    def provenance(self) -> dict[str, Any]:
        """Return the entry ``provenance`` of metrics.json."""
        return {
            "checkpoint": str(self.flags.data.checkpoint),
            "weights_sha256": self.model["weights_sha256"],
            "shards": str(self.flags.data.shards),
            "split": self.split,
            "manifest_sha256": self.manifest_sha256,
            "threshold_source": "--threshold" if self.threshold_given else "checkpoint",
            "checkpoint_threshold": self.model["threshold"],
            "tta": self.tta,
            "precision": self.precision,
            "leak": {"found": self.leaked, **self.leak},
            "git_revision": self.revision,
        }
