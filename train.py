"""Train a skin-lesion classifier: the loop, top to bottom.

    shards --make_loader--> Batch --network--> logits --Loss--> gradients --> RUN/best, RUN/*.csv

    accelerate launch train.py                                   # this machine, its defaults
    accelerate launch --config_file accelerate_config.yaml train.py --run-dir runs/r34
    python train.py --weights none --image-size 96               # one process, no launcher

The same command again goes on where it was. Exit codes: 0 done, 2 a mistake that you can mend,
143 after SIGTERM and 130 after Ctrl-C (saved both times).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from pipeline.cli import guard, parse
from pipeline.learning.inference import predict_logits
from pipeline.learning.learning_rate import momentum_at, rate_factor
from pipeline.learning.optimizers import set_rate
from pipeline.learning.probability import require_diagnoses
from pipeline.loading.batch import Batch
from pipeline.loading.loader import Loader, make_loader
from pipeline.loading.portable import decode_rgb
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import Split, ensure_intact, open_shards
from pipeline.shards.storage.object_store import cached
from pipeline.training.finish import finish
from pipeline.training.flags import TrainConfig
from pipeline.training.pace import Pace, Watch
from pipeline.training.processes import Interrupted, make_accelerator, set_threads
from pipeline.training.run import Run
from pipeline.training.setup import prepare


def main() -> None:
    """Set up, train, finish."""
    config = parse(TrainConfig, about="Train a classifier on packed shards.")
    accelerator = make_accelerator(config.mixed_precision)
    threads = set_threads(config.threads, accelerator)

    # -- data: one process of a machine looks first, so that it fetches and reads every byte alone
    with accelerator.local_main_process_first():
        shards = open_shards(cached(config.shards, config.cache))
        ensure_intact(shards.root, ["train", "val"])
    require_diagnoses(config.task, shards.manifest.labels, config.shards)
    train_split, val_split = (shards.split(name, fold=config.fold) for name in ("train", "val"))

    # -- model, loss, optimizer, tracker, and where an earlier run of this command got to
    run = prepare(
        config,
        accelerator,
        train=train_split.samples,
        val=val_split.samples,
        manifest=shards.root / "manifest.json",
        manifest_sha256=shards.manifest_sha256,
        threads=threads,
        pictures=pictures_of(val_split),
    )

    # -- loaders: they stay out of accelerator.prepare, which would do nothing for them
    common = {
        "backend": config.backend,
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "device": accelerator.device,
        "seed": config.seed,
        "threads": threads,
    }
    train_loader = make_loader(
        train_split,
        phase="train",
        augment=config.augment,
        balance=config.balance,
        balance_by=config.task,
        mixup=config.mixup,
        cutmix=config.cutmix,
        **common,
    )
    val_loader = make_loader(val_split, phase="eval", **common)
    plain_train_loader = None
    if config.refit_head != "none":
        plain_train_loader = make_loader(train_split, phase="eval", **common)

    # -- the epochs
    try:
        while not run.complete():
            train_epoch(run, train_loader)
            validate(run, val_loader)
        finish(run, val_loader, plain_train_loader)
        run.close("done")
    except Interrupted:
        run.save()
        run.close("interrupted", exit_code=run.interruption.exit_code)
        raise SystemExit(run.interruption.exit_code) from None


def train_epoch(run: Run, loader: Loader) -> None:
    """Train from where the progress stands to the end of its epoch."""
    config, state, progress = run.config, run.state, run.state.progress
    if progress.batch == 0:
        state.begin_epoch(config.seed)
    state.network.train()
    run.frozen.enter(progress.epoch)
    run.pace, watch = Pace(), Watch()
    left = loader.batches_per_epoch - progress.batch
    batches = loader.epoch(progress.epoch, start=progress.batch) if left else ()

    with run.bar(left) as bar:
        for window in windows(run.pace.waiting(batches), config.accumulate):
            # -- the rate is a function of how far we are: there is nothing of it to restore
            reached = progress.epoch + progress.batch / loader.batches_per_epoch
            shape = {"epochs": config.epochs, "warmup": config.warmup}
            lr = config.lr * rate_factor(config.schedule, reached, **shape)
            lr *= progress.plateau.factor
            set_rate(state.optimizer, lr, momentum_at(config.schedule, reached, **shape))

            # -- gradients, then one step
            watch.add(progress.step, lr, backward(run, window), window)
            run.frozen.drop_gradients(progress.epoch)
            if config.clip_norm:
                run.accelerator.clip_grad_norm_(state.model.parameters(), config.clip_norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
            progress.step += 1
            progress.batch += len(window)
            progress.samples += run.images_in(window)
            if state.average:
                state.average.update(progress.step)

            # -- look up: a GPU sync, hence not at every step there
            bar.update(run.images_in(window))
            if progress.step % run.look_every == 0:
                run.log_step(bar, watch.look(), lr)
                run.save_if_due()
    watch.look()  # a loss that is not finite must not reach a checkpoint


def backward(run: Run, window: list[Batch]) -> torch.Tensor:
    """Add up the gradients of a window of batches; return the window's mean loss on this rank.

    The loss is the weighted mean over the window on all ranks: sum(w * loss) / sum(w), with one
    sum(w) for all. A mean of the ranks' means would count a sample by the company it is in.
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
        run.count(logits.detach(), target[0])
    run.state.sums[:2] += torch.stack([loss_sum, weight])
    return loss_sum / weight


def windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Group batches into windows of ``size``; the last one may be shorter and counts as well."""
    iterator = iter(batches)
    while window := list(islice(iterator, size)):
        yield window


def validate(run: Run, loader: Loader) -> None:
    """Judge the network on the validation split and close the epoch with what came out."""
    run.state.agree_on_statistics()
    predictions = predict_logits(
        run.state.judged,
        run.until_interrupted(loader.epoch(0)),
        accelerator=run.accelerator,
        progress="validating",
        total=loader.batches_per_epoch,
    )
    run.close_epoch(run.in_order(predictions))


def pictures_of(split: Split) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """Return how to get images of a split by id, [H, W, 3] uint8 0-255, for the tracker."""
    samples = Samples(split)
    place = {image_id: number for number, image_id in enumerate(samples.image_ids)}
    return lambda ids: [decode_rgb(samples.read(place[image_id])) for image_id in ids]


if __name__ == "__main__":
    guard(main)
