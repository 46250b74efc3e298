"""The facts of the report's data and model card; ``templates/data_card.html.j2`` words them.

Headings follow Model Cards (Mitchell et al., 2019), completed by what TRIPOD+AI (Collins et al.,
2024) and CLEAR Derm (Daneshjou et al., 2022) ask for where it applies.

    metrics["provenance"] = DataCard(flags, model=asdict(model_card), ...).provenance()
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.evaluation.flags import JudgeFlags
from pipeline.ham10000.layouts.data_card import FIELDS
from pipeline.ham10000.taxonomy import Taxonomy, described
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
    edited: list[str]
    """Files of the checkpoint that are not as the training wrote them."""
    num_training: int
    """Images that the checkpoint was trained or chosen on."""
    tta: str
    backend: str
    """Loader's backend and device, as "dali on cuda"."""
    command: str
    data: dict[str, Any] = field(default_factory=dict)
    """What is stated of the data; see ``pipeline.ham10000.layouts.data_card``."""
    classes: dict[str, str] = field(default_factory=dict)
    """The shards' class for each of the model's that has one; {} for a binary model."""
    revision: str = field(default_factory=git_revision)
    """Git revision of the evaluating code; "" outside git."""
    versions: dict[str, str] = field(default_factory=versions)
    """Versions of the libraries that decide the figures."""

    @property
    def unstated(self) -> list[str]:
        """What the data's card does not say, as headings."""
        return [name for key, name in FIELDS.items() if not self.data.get(key)]

    def crossing(self) -> dict[str, int]:
        """Return how many lesions, patients and pairs cross the shards' splits, where any do."""
        crossed = self.manifest["split"].get("crossing", {})
        return {what: len(names) for what, names in crossed.items() if names and what != "groups"}

    @property
    def bases(self) -> list[str]:
        """Return the sha256 of the set that the shards grew from, of that one's base, and so on."""
        found, base = [], self.manifest.get("base")
        while base:
            found.append(base["manifest_sha256"])
            base = base["base"]
        return found

    @property
    def base_in_words(self) -> str:
        """Return whose val and test these are, where the shards grew from a base."""
        names = ", which grew from ".join(digest[:12] for digest in self.bases)
        return f"{self.flags.data.split} split is that of base {names}"

    @property
    def own_test(self) -> bool:
        """Say whether the shards' val and test are those of the set that the model learnt from."""
        return self.model["manifest_sha256"] in (self.manifest_sha256, *self.bases)

    @property
    def taxonomy(self) -> Taxonomy:
        """Return the classes of the shards; a stand-in for a label is not called a diagnosis."""
        taxonomy = described(self.manifest.get("taxonomy"))
        if self.manifest["labels"] != "binary":
            return taxonomy
        unknown = {taxonomy.stand_in(label): "diagnosis not known" for label in (0, 1)}
        return replace(taxonomy, names=taxonomy.names | unknown)

    @property
    def other_classes(self) -> bool:
        """Say whether the model answers in other classes than the shards have."""
        return self.model["task"] == "dx" and {*self.classes} != {*self.taxonomy.classes}

    def provenance(self) -> dict[str, Any]:
        """Return the entry ``provenance`` of metrics.json."""
        data, given = self.flags.data, self.flags.method.threshold is not None
        precision = self.flags.speed.mixed_precision
        return {
            "checkpoint": str(data.checkpoint),
            "weights_sha256": self.model["weights_sha256"],
            "shards": str(data.shards),
            "split": data.split if data.fold is None else f"{data.split} (fold {data.fold})",
            "manifest_sha256": self.manifest_sha256,
            "threshold_source": "--threshold" if given else "checkpoint",
            "checkpoint_threshold": self.model["threshold"],
            "tta": self.tta,
            "precision": "float32" if precision == "no" else precision,
            "leak": {"found": any(self.leak.values()), **self.leak},
            "backend": self.backend,
            "edited": self.edited,
            "data_card": self.data,
            "crossing": self.crossing(),
            "git_revision": self.revision,
            **({"base": self.base_in_words} if self.bases and data.split != "train" else {}),
            **({"classes": self.classes} if self.other_classes else {}),
        }
