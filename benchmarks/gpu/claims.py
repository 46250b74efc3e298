"""What is claimed of a GPU: the rows of the table, their verdicts, and the table as text.

    claims -> a part of the benchmark measures them -> Row -> JSON, README's table

Each row belongs to a part of ``python -m benchmarks.gpu``; README holds every row of ``CLAIMS``,
with "awaits hardware" where no machine has filled it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AWAITS = "awaits hardware"
"""The cell of a row that no machine has filled."""

Status = Literal[
    "PASS",
    "FAIL",
    "measured",
    "dry run",
    "needs CUDA",
    "no time left",
    "not available",
    "not verified",
]
FILLED = ("PASS", "FAIL", "measured")
"""What a machine has measured; of the others there is no figure."""


@dataclass(frozen=True)
class Claim:
    """One row."""

    part: str
    """The part that measures it."""
    name: str
    """Of the row."""
    unit: str
    """Of the value."""
    least: float | None = None
    """The claim is that the value reaches it."""
    most: float | None = None
    """The claim is that the value does not exceed it."""
    at_scale: bool = False
    """A claim that a dry run's tiny sizes say nothing about."""

    @property
    def words(self) -> str:
        """The claim; "" where the value is only reported."""
        if self.least is not None:
            return f"at least {self.least:,g}"
        return "" if self.most is None else f"at most {self.most:,g}"

    def verdict(self, value: float | str, *, dry: bool) -> Status:
        """Return whether a value keeps the claim."""
        limits = self.least, self.most
        if limits == (None, None) or isinstance(value, str) or (dry and self.at_scale):
            return "dry run" if dry else "measured"
        low = self.least is None or value >= self.least
        high = self.most is None or value <= self.most
        return "PASS" if low and high else "FAIL"


CLAIMS = (
    Claim("machine", "the GPU", "name, driver, JPEG engines"),
    Claim("tests", "tests that need a GPU", "share that passes", least=1),
    Claim(
        "decode", "mixed decoding alone, packed at 256 pixels", "images/s", 10_000, at_scale=True
    ),
    Claim("decode", "mixed decoding alone, 600 x 450 pixels", "images/s"),
    Claim("decode", "torchvision's nvJPEG alone, packed", "images/s"),
    Claim("decode", "DALI's dynamic mode alone, packed", "images/s"),
    Claim("loaders", "loader, dali, basic", "images/s"),
    Claim("loaders", "loader, dali, strong", "images/s"),
    Claim("loaders", "loader, dali, trivial", "images/s"),
    Claim("loaders", "loader, portable, basic", "images/s"),
    Claim("step", "step on one cached batch", "images/s"),
    Claim("step", "the same, fused optimizer", "images/s"),
    Claim("step", "the same, compiled", "images/s"),
    Claim("step", "the same, compiled, CUDA graphs", "images/s"),
    Claim("step", "loader over that step", "ratio", 2, at_scale=True),
    Claim("step", "step with loader over cached batch", "ratio", 0.95, at_scale=True),
    Claim("commands", "train.py killed and resumed: other images", "steps", most=0),
    Claim("commands", "train.py killed and resumed: last loss", "relative change", most=0.05),
    Claim("commands", "train.py: waiting for data in an epoch", "share", most=0.1, at_scale=True),
    Claim("commands", "train.py --mixed-precision fp16: last loss", "relative to bf16", most=0.1),
    Claim("judge", "eval.py: ROC-AUC in float32", "ROC-AUC"),
    Claim("judge", "bf16 against float32", "change of ROC-AUC", most=0.005, at_scale=True),
    Claim("judge", "TF32 against float32", "change of ROC-AUC", most=0.001),
    Claim("judge", "DALI against portable", "mean change of probability", most=0.01),
    Claim("recipe", "ResNet-34 from scratch, validation", "ROC-AUC"),
    Claim("machine", "DDP and shared batch norm on two GPUs", "tests that pass", least=1),
)
BY_NAME = {claim.name: claim for claim in CLAIMS}


@dataclass(frozen=True)
class Row:
    """What came of a claim."""

    name: str
    """Of the claim."""
    value: float | str | None
    """In the claim's unit; None where there is none."""
    status: Status
    """PASS or FAIL for a claim, measured for a figure, else why there is none."""
    note: str = ""
    """How, or why not."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the value was chosen or computed from."""

    def facts(self) -> dict[str, Any]:
        """Return what the JSON keeps."""
        claim = BY_NAME[self.name]
        head = {"part": claim.part, "name": self.name, "unit": claim.unit, "claim": claim.words}
        rest = {"value": self.value, "status": self.status, "note": self.note}
        return {**head, **rest, "figures": dict(self.figures)}


def shown(value: float | str | None) -> str:
    """Return a value as a cell."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def line(row: Row, *, width: int = 110) -> str:
    """Return a row of the table at the end of a run."""
    claim = BY_NAME[row.name]
    words = f"{row.status:<13}{row.name:<46}{shown(row.value):>10} {claim.unit}"
    words += f" ({claim.words})" if claim.words else ""
    return words + (f" - {row.note}" if row.note else "")[:width]


HEADER = "| on one GPU | unit | claim | measured |"


def readme_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return README's table; ``rows`` are those of a JSON, none where no machine has run it."""
    found = {row["name"]: row for row in rows if row["status"] in FILLED}
    lines = [HEADER, "| --- | --- | --- | --- |"]
    for claim in CLAIMS:
        row = found.get(claim.name)
        cell = AWAITS if row is None else shown(row["value"])
        cell += " (**FAIL**)" if row is not None and row["status"] == "FAIL" else ""
        lines.append(f"| {claim.name} | {claim.unit} | {claim.words} | {cell} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, table: str) -> str:
    """Return the text of README with its table of claims replaced."""
    pattern = re.compile(rf"^{re.escape(HEADER)}\n(?:\|.*\n)+", re.MULTILINE)
    new, times = pattern.subn(lambda match: table, readme)
    assert times == 1, f"README has {times} tables that begin {HEADER}"
    return new
