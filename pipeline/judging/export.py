"""ONNX of a checkpoint, checked on real images.

python eval.py export --checkpoint runs/r34/best --onnx model.onnx
"""

import numpy as np

from pipeline.evaluation.flags import ExportFlags
from pipeline.files import require_writable
from pipeline.judging.scoring import preprocess
from pipeline.learning.export import export_onnx
from pipeline.learning.stored_model import load_stored
from pipeline.loading.portable import decode_rgb
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards


def export(flags: ExportFlags) -> None:
    """Write ONNX and compare it with PyTorch on real images."""
    require_writable(flags.onnx, "--onnx", file=True)
    model, card, _ = load_stored(flags.checkpoint, allow_edited=flags.allow_edited)
    samples = Samples(open_shards(flags.shards).split(flags.split))
    rows = np.linspace(0, len(samples) - 1, min(flags.images, len(samples))).astype(int)
    images = preprocess((decode_rgb(samples.read(int(row))) for row in rows), card)
    worst = export_onnx(flags.onnx, model, card, images)
    if card.task == "dx" and card.decide == "prior":
        print(
            f"the diagnosis is decided by probabilities / prior ** {card.prior_strength:.2f}; the "
            "file's card has class_prior and prior_strength"
        )
    print(
        f"{flags.onnx}: {flags.onnx.stat().st_size / 1e6:.1f} MB; on {len(images)} images of "
        f"{flags.shards} onnxruntime differs from PyTorch by at most {worst['logits']:.1e} in the "
        f"logits and {worst['prob_malignant']:.1e} in the probability"
    )
