"""Images given as files: a table of probabilities and decisions, and a sheet.

python eval.py predict --checkpoint runs/r34/best --out OUT IMAGE_OR_FOLDER...
"""

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from pipeline.errors import DataError, warn
from pipeline.evaluation.flags import PredictFlags
from pipeline.evaluation.image_files import SKIP, find_images, rendered, write_predictions
from pipeline.evaluation.prediction_log import PredictionLog
from pipeline.folders import printable
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.judging.scoring import preprocess
from pipeline.learning.inference import average_logits
from pipeline.learning.stored_model import ModelCard, load_stored
from pipeline.training.processes import make_accelerator, one_writer, set_threads


def predict(flags: PredictFlags) -> None:
    """Predict; OUT is this launch's alone."""
    accelerator = make_accelerator("no")
    with one_writer(flags.out, "--out", accelerator):
        predicting(flags, accelerator)


def predicting(flags: PredictFlags, accelerator: Accelerator) -> None:
    """Predict images given as files, preprocessed as the eval loader does; resumes after a kill."""
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    workers = set_threads(flags.workers, accelerator)
    skip = flags.on_bad_image == "skip"
    paths, notes = find_images(flags.images, skip=skip)
    model, card, _ = load_stored(flags.checkpoint, allow_edited=flags.allow_edited)
    model.to(device)

    # -- what is left to do, the same on every rank; batches do not depend on the number of ranks
    facts = (card.weights_sha256, card.tta)
    log = PredictionLog(flags.out, paths, batch_size=flags.batch_size, facts=facts)
    if accelerator.is_main_process:
        log.prepare()
        for note in notes:
            warn(note)
    accelerator.wait_for_everyone()
    missing = log.missing()
    accelerator.wait_for_everyone()  # all ranks have read the log before one appends to it
    mine = missing[rank::ranks]

    # -- read in threads; on a CPU not beside the model, which waits for each of its own threads
    batches = rendered(
        map(log.batch, mine),
        lambda image: preprocess([image], card)[0].numpy(),
        workers=workers,
        ahead=0 if device.type == "cpu" else 2,
    )
    bar = tqdm(zip(mine, batches, strict=True), "predicting", len(mine), disable=None, leave=False)
    with log.appending(rank) as append:
        for number, images in bar:
            rejected = {i: str(e) for i, e in enumerate(images) if isinstance(e, BadImageError)}
            if rejected and not skip:
                place, reason = next(iter(rejected.items()))
                where = printable(log.batch(number)[place])
                raise DataError(f"bad image {where}: {reason}; repair or remove it, or {SKIP}")
            good = [image for image in images if not isinstance(image, BadImageError)]
            logits = np.zeros((0, len(card.classes)), np.float32)
            if good:
                tensor = torch.from_numpy(np.stack(good)).to(device)
                logits = average_logits(model, tensor, accelerator=accelerator, tta=card.tta)
                logits = logits.cpu().numpy()
            append(number, logits, rejected)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish_predict(flags, card, log)


def finish_predict(flags: PredictFlags, card: ModelCard, log: PredictionLog) -> None:
    """Write the files of ``predict`` and print what is in them."""
    logits, reasons = log.results(len(card.classes))
    threshold = card.threshold if flags.threshold is None else flags.threshold
    table = card.scores(logits, threshold)
    paths = [path for row, path in enumerate(log.paths) if row not in reasons]
    rejected = {log.paths[row]: reason for row, reason in reasons.items()}
    write_predictions(flags.out, paths, table, rejected, threshold=threshold, most=flags.sheet)
    log.remove()
    malignant = int(table["predicted"].to_numpy().sum())
    print(f"{len(table):,} images, {malignant:,} malignant at {threshold:.3f}: {flags.out}")
    for path, reason in [*rejected.items()][:3]:
        print(f"left out: {printable(path)}: {reason}")
    if rejected:
        print(f"{len(rejected):,} images are left out: {flags.out / 'rejected.csv'}")
    print("Not a medical device; no diagnosis may rest on it.")
