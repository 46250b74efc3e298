"""A split's decided probabilities in the form of an ISIC challenge, for its scorer.

python eval.py submit --checkpoint runs/r34/best --shards shards/ham10000 --out submission.csv

They are those from which a report's figures by diagnosis come: of the same images,
``isic-challenge-scoring classification`` finds what metrics.json has under ``official``.
"""

from collections.abc import Sequence

import pandas as pd

from pipeline.errors import DataError
from pipeline.evaluation.flags import SubmitFlags
from pipeline.evaluation.predictions import as_csv
from pipeline.files import require_writable, write_output
from pipeline.judging.scoring import logits_of, open_both
from pipeline.training.processes import make_accelerator, set_threads

FORMS = {
    "ISIC 2018 Task 3": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    "ISIC 2019": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"),
}
"""Columns after ``image``, in order. Nothing is ever predicted to be of an unknown kind."""


def submit(flags: SubmitFlags) -> None:
    """Predict a split on every rank, then write the file on the first."""
    accelerator = make_accelerator(flags.speed.mixed_precision)
    if accelerator.is_main_process:
        require_writable(flags.data.out, "--out", file=True)
    threads = set_threads(flags.speed.threads, accelerator)
    opened = open_both(flags.data, accelerator)
    card = opened.card
    name, columns = form_of(card.classes)
    found = logits_of(
        *(opened.model, opened.split, flags.speed, accelerator),
        image_size=card.image_size,
        threads=threads,
        tta=card.tta,
    )
    if not accelerator.is_main_process:
        return
    scores = card.scores(found.logits)
    prefix = "adjusted" if card.decide == "prior" else "prob"
    table = pd.DataFrame({"image": list(found.image_ids)})
    for column in columns:
        table[column] = scores.get(f"{prefix}_{column.lower()}", 0.0)
    write_output(flags.data.out, as_csv(table))
    print(f"{len(table):,} images in the form of {name}: {flags.data.out}")


def form_of(classes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return name and columns of the challenge whose diagnoses are a model's ``classes``."""
    given = {name.upper() for name in classes}
    for name, columns in FORMS.items():
        if given == set(columns) - {"UNK"}:
            return name, columns
    wanted = "; ".join(f"{name}: {', '.join(columns).lower()}" for name, columns in FORMS.items())
    raise DataError(
        f"submit: the checkpoint's classes are {', '.join(classes)}, expected those of a challenge "
        f"({wanted}); train with --task dx"
    )
