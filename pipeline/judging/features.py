"""The features before a network's last layer, of all images of a set of shards.

python eval.py features --checkpoint runs/r34/best --shards shards/ham10000 --out r34.npz
python eval.py features --arch timm:vit_small_patch16_224 --shards shards/ham10000 --out vit.npz

FILE.npz has image_id [N], vectors [N, F] float32, and as seen_image_id, seen_lesion_id, seen_group
what a checkpoint was trained on, so that ``baseline`` refuses to judge on it.
"""

import io

import numpy as np
import pandas as pd
import torch

from pipeline.errors import DataError
from pipeline.evaluation.flags import FeaturesFlags
from pipeline.evaluation.leak import LEVELS
from pipeline.files import require_writable, write_output
from pipeline.judging.scoring import logits_of
from pipeline.learning.model import build_model
from pipeline.learning.refit import without_head
from pipeline.learning.stored_model import load_stored
from pipeline.shards.dataset import ShardSet, Split, open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.manifest import SPLITS
from pipeline.shards.storage.object_store import cached
from pipeline.training.processes import make_accelerator, set_threads


def run(flags: FeaturesFlags) -> None:
    """Run the network without its last layer over every split, then write the file."""
    accelerator = make_accelerator(flags.speed.mixed_precision)
    if accelerator.is_main_process:
        require_writable(flags.out, "--out", file=True)
    threads = set_threads(flags.speed.threads, accelerator)
    seen, size = pd.DataFrame(columns=list(LEVELS), dtype=str), flags.image_size
    if flags.arch:
        model = build_model(flags.arch, 2, weights=flags.weights).eval()
    else:
        model, card, seen = load_stored(flags.checkpoint)
        if card.members:
            raise DataError(f"{flags.checkpoint} is an ensemble: give one of its members")
        size = card.image_size
    model = without_head(model).to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with accelerator.local_main_process_first():
        shards = open_shards(cached(flags.shards, flags.cache))
        ensure_intact(shards, [*SPLITS], progress=accelerator.is_main_process)
    ids, vectors = [], []
    for split in all_splits(shards):
        found = logits_of(
            *(model, split, flags.speed, accelerator), image_size=size, threads=threads, tta="none"
        )
        ids += found.image_ids
        vectors.append(found.logits)
    if not accelerator.is_main_process:
        return
    content = {"image_id": np.array(ids), "vectors": np.concatenate(vectors)}
    content |= {f"seen_{name}": seen[name].to_numpy(dtype=str) for name in LEVELS}
    buffer = io.BytesIO()
    np.savez(buffer, **content)  # type: ignore[arg-type]
    write_output(flags.out, buffer.getvalue())
    print(f"{len(ids):,} images, {content['vectors'].shape[1]:,} features each: {flags.out}")


def all_splits(shards: ShardSet) -> list[Split]:
    """Return splits that hold every sample once."""
    folds, counts = shards.manifest.split["folds"], shards.manifest.counts
    names = [name for name in SPLITS if counts[name] or (folds and name == "val")]
    return [shards.split(name, 0 if folds else None) for name in names]
