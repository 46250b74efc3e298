"""Train a skin-lesion classifier: the loop, top to bottom.

    shards --make_loader--> Batch --network--> logits --Loss--> gradients --> RUN/best, RUN/*.csv

    accelerate launch train.py                                   # this machine, its defaults
    accelerate launch --config_file accelerate_config.yaml train.py --run-dir runs/r34
    python train.py --weights none --image-size 96               # one process, no launcher

The same command again resumes. Exit codes: 0 done, 2 a mistake that you can mend, 143 after
SIGTERM and 130 after Ctrl-C (saved both times).
"""

from pipeline.cli import guard, parse
from pipeline.machine import leave_with_launcher
from pipeline.training.flags import TrainFlags

if __name__ == "__main__":  # flags first: --help and a typo answer before torch is imported
    leave_with_launcher()
    FLAGS = parse(TrainFlags)

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from accelerate import Accelerator

from pipeline.files import reach
from pipeline.learning.inference import predict_logits
from pipeline.learning.learning_rate import momentum_at, rate_factor
from pipeline.learning.optimizers import set_rate
from pipeline.learning.probability import require_diagnoses
from pipeline.loading.backend import begin
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.flags import source_weights
from pipeline.loading.loader import make_loader
from pipeline.loading.portable import decode_rgb
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import Split, open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.storage.object_store import cached
from pipeline.training import checkpoints
from pipeline.training.epoch_end import EpochEnd
from pipeline.training.finish import finish
from pipeline.training.pace import Diverged, Pace
from pipeline.training.processes import Interrupted, from_main, make_accelerator, set_threads
from pipeline.training.run import Run
from pipeline.training.setup import set_up
from pipeline.training.start import one_start


def main(flags: TrainFlags) -> None:
    """Train; RUN is this training's alone, and RUN/exit.json says how it ended."""
    accelerator = make_accelerator(flags.optimisation.mixed_precision)
    with one_start(flags.run.run_dir, accelerator):
        training(flags, accelerator)


def training(flags: TrainFlags, accelerator: Accelerator) -> None:
    """Set up, train, finish."""
    threads = set_threads(flags.data.threads, accelerator)

    # -- shards: one process of a machine goes first, so that it alone fetches and reads every byte
    with accelerator.local_main_process_first():
        shards = open_shards(cached(flags.data.shards, flags.data.cache))
        ensure_intact(shards, ["train", "val"])
    require_diagnoses(flags.model.task, shards.manifest.labels, flags.data.shards)
    train, val = (shards.split(name, fold=flags.data.fold) for name in ("train", "val"))

    # -- model, loss, optimizer, tracker, and the state of an earlier start of this command
    run, epoch_end = set_up(
        flags,
        accelerator,
        train=train.samples,
        val=val.samples,
        taxonomy=shards.taxonomy,
        manifest=shards.root / "manifest.json",
        manifest_sha256=shards.manifest_sha256,
        threads=threads,
        pictures=pictures_of(val),
    )

    train_loader, plain_train_loader, val_loader = loaders(
        run.flags, accelerator, train=train, val=val, threads=threads
    )

    # -- epochs
    begun = None
    run.watchdog.start()
    try:
        while not run.complete():
            train_epoch(run, train_loader, begun)
            begun = next_epoch(run, train_loader)
            validate(run, epoch_end, val_loader)
        finish(run, epoch_end, val_loader, plain_train_loader, train.samples)
        run.close("done")
    except Diverged as error:
        run.writer.close()
        checkpoints.discard(flags.run.run_dir, error.step)
        raise
    except Interrupted as leaving:
        run.save()
        saved = run.writer.settle()
        run.close("interrupted", exit_code=run.interruption.exit_code, saved=saved)
        leaving.saved = from_main(saved, accelerator)  # a launcher ends all when one has left
        raise SystemExit(run.interruption.exit_code) from None
    finally:
        run.writer.close()
        run.watchdog.stop()


def loaders(
    flags: TrainFlags, accelerator: Accelerator, *, train: Split, val: Split, threads: int
) -> tuple[Loader, Loader | None, Loader]:
    """Return what gives batches to train on, the same images unaugmented if asked for, and val's.

    They stay out of ``accelerator.prepare``, which would do nothing for them.
    """
    common = {
        "backend": flags.data.backend,
        "image_size": flags.data.image_size,
        "batch_size": flags.data.batch_size,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "device": accelerator.device,
        "seed": flags.run.seed,
        "threads": threads,
    }
    train_loader = make_loader(
        train,
        phase="train",
        augment=flags.regularisation.augment,
        balance=flags.imbalance.balance,
        balance_by=flags.model.task,
        source_weights=source_weights(flags.data.mix),
        mixup=flags.regularisation.mixup,
        cutmix=flags.regularisation.cutmix,
        **common,
    )
    plain = flags.imbalance.refit_head != "none"
    plain_train_loader = make_loader(train, phase="eval", **common) if plain else None
    return train_loader, plain_train_loader, make_loader(val, phase="eval", **common)


def next_epoch(run: Run, loader: Loader) -> Iterator[Batch] | None:
    """Begin to load the next epoch, if there is one: its first batches are ready in time."""
    following = run.state.progress.epoch + 1
    return begin(loader.epoch(following)) if following < run.flags.optimisation.epochs else None


def train_epoch(run: Run, loader: Loader, begun: Iterator[Batch] | None) -> None:
    """Train from the present position to the end of its epoch, on ``begun`` where it is."""
    flags, state, progress = run.flags.optimisation, run.state, run.state.progress
    bounds, length = run.bounds(loader)
    if progress.position == 0:
        progress.began_with = run.global_batch
        state.begin_epoch(run.flags.run.seed)
    state.network.train()
    run.frozen.enter(progress.epoch)
    run.pace = Pace(run.accelerator.device)
    first = progress.batch
    batches = begun or (loader.epoch(progress.epoch, first, bounds) if bounds[1:] else ())

    with run.progress_bar(bounds) as bar:
        for window in windows(run.pace.waiting(batches), flags.accumulate):
            # -- learning rate: a function of the position, so a resume has nothing to restore
            position = progress.epoch + progress.position / length
            shape = {"epochs": flags.epochs, "warmup": flags.warmup}
            lr = flags.lr * rate_factor(flags.schedule, position, **shape) * progress.plateau.factor
            set_rate(state.optimizer, lr, momentum_at(flags.schedule, position, **shape))

            # -- gradients, then one step
            loss = backward(run, window)
            run.losses.add(progress.step, lr, loss, window)
            reach("step", progress.step + 1)
            run.watchdog.beat()
            run.frozen.drop_gradients(progress.epoch)
            if flags.clip_norm:
                run.accelerator.clip_grad_norm_(state.model.parameters(), flags.clip_norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
            progress.step += 1
            progress.batch += len(window)
            images = progress.advance(to=bounds[progress.batch - first])
            if state.average:
                state.average.update(state.model, progress.step)

            # -- a GPU's losses are read one look later, so that no look waits for it
            bar.update(images)
            if progress.step % run.read_every == 0:
                run.log_step(bar, lr)
                run.save_if_due()
    run.losses.drain()  # a loss that is not finite must not reach a checkpoint
    run.pace.end = time.perf_counter()


def backward(run: Run, window: list[Batch]) -> torch.Tensor:
    """Add up the gradients of a window of batches; return the window's mean loss on this rank.

    The loss is the weighted mean over the window on all ranks: sum(w * loss) / sum(w), with one
    sum(w) for all. A mean of the ranks' means would weight samples by their rank's class mix.
    """
    accelerator, network, criterion = run.accelerator, run.state.network, run.criterion
    targets = [run.targets(batch) for batch in window]
    weight = torch.stack([criterion.weight(*target).sum() for target in targets]).sum()
    total = accelerator.reduce(weight.clone())  # one number over the wire, no sync
    loss_sum = torch.zeros_like(weight)
    for number, (batch, target) in enumerate(zip(window, targets, strict=True), start=1):
        # DDP exchanges gradients in the last backward pass of the window only
        last = number == len(window)
        with contextlib.nullcontext() if last else accelerator.no_sync(network):
            logits = network(batch.images)
            weighted = criterion.weighted(logits, *target).sum()
            # DDP takes the mean over ranks; times their number makes it the sum
            accelerator.backward(weighted * (accelerator.num_processes / total))
        loss_sum += weighted.detach()
        run.state.count(logits.detach(), target[0])
    run.state.sums[:2] += torch.stack([loss_sum, weight])
    return loss_sum / weight


def windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Group batches into windows of ``size``; the last one may be shorter and counts as well."""
    iterator = iter(batches)
    while window := list(islice(iterator, size)):
        yield window


def validate(run: Run, epoch_end: EpochEnd, loader: Loader) -> None:
    """Predict the validation split and close the epoch with the result."""
    run.state.broadcast_statistics()
    predictions = predict_logits(
        run.state.judged,
        run.until_interrupted(loader.epoch(0)),
        accelerator=run.accelerator,
        progress="validating",
        total=loader.batches_per_epoch,
    )
    epoch_end.close(predictions)


def pictures_of(split: Split) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """Return how to get images of a split by id, [H, W, 3] uint8 0-255, for the tracker."""
    samples = Samples(split)
    return lambda ids: [decode_rgb(samples.read(row)) for row in samples.rows(ids)]


if __name__ == "__main__":
    guard(lambda: main(FLAGS))
