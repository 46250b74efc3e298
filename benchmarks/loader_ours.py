"""Contestants of ``benchmarks.loader`` in this project's environment, and the floors.

python -m benchmarks.loader_ours portable    # reads tasks; benchmarks.loader starts it
"""

import itertools
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from benchmarks.loader_contest import (
    CROP_AREA,
    CROP_ASPECT,
    HUE,
    JITTER,
    MEAN,
    ROTATION,
    STD,
    Task,
    serve,
)
from benchmarks.loader_opencv import Sample, stack
from pipeline.loading.backend import ahead
from pipeline.loading.flags import Backend
from pipeline.loading.loader import loader_of
from pipeline.loading.order import EpochPlan
from pipeline.loading.presets import TRAIN_PRESETS, TrainPreset
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards

PRESETS: dict[str, TrainPreset] = {
    "full": TRAIN_PRESETS["basic"],
    "crop": TrainPreset(
        area=CROP_AREA,
        aspect=CROP_ASPECT,
        horizontal_flip=0.5,
        brightness=JITTER,
        contrast=JITTER,
        saturation=JITTER,
        hue=HUE,
    ),
}
"""The recipes in this project's terms."""


def own_loader(backend: Backend, task: Task) -> Iterator[torch.Tensor]:
    """Batches of a backend of this project."""
    samples = Samples(open_shards(Path(task.shards)).split("train"))
    loader = loader_of(
        samples,
        EpochPlan(phase="train", shard_of=samples.shard_of, batch_size=task.batch_size),
        backend=backend,
        preset=PRESETS[task.recipe],
        image_size=task.image_size,
        device=torch.device("cpu"),
        threads=task.workers,
    )
    try:
        for epoch in itertools.count():
            yield from (batch.images for batch in loader.epoch(epoch))
    finally:
        loader.close()


def pillow_transform(task: Task) -> Callable[[Any], torch.Tensor]:
    """Return torchvision's transforms of a Pillow image, as its references compose them."""
    from torchvision import transforms as T

    size = task.image_size
    geometry = {
        "full": [T.Resize(size), T.CenterCrop(size), T.RandomRotation(ROTATION)],
        "crop": [T.RandomResizedCrop(size, scale=CROP_AREA, ratio=CROP_ASPECT)],
    }
    jitter = T.ColorJitter(JITTER, JITTER, JITTER, HUE / 360)
    last = [T.RandomHorizontalFlip(), jitter, T.ToTensor(), T.Normalize(MEAN, STD)]
    return T.Compose([*geometry[task.recipe], *last])


def imagefolder(task: Task) -> Iterator[torch.Tensor]:
    """The way of old: files in folders, Pillow in worker processes, collated into planes."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    loader = DataLoader(
        ImageFolder(task.files, pillow_transform(task)),
        batch_size=task.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=task.workers,
        persistent_workers=True,
    )
    while True:
        yield from (images for images, _ in loader)


def webdataset_pillow(task: Task) -> Iterator[torch.Tensor]:
    """Webdataset's reader, its Pillow decoder, the same transforms."""
    transform = pillow_transform(task)
    return _webdataset(task, lambda data: data.decode("pil"), transform, None)


def webdataset_opencv(task: Task) -> Iterator[torch.Tensor]:
    """Webdataset's reader, simplejpeg, this project's OpenCV operators."""
    return _webdataset(task, lambda data: data, Sample(task), stack)


def _webdataset(
    task: Task, decode: Callable[[Any], Any], transform: Callable[[Any], Any], collate: Any
) -> Iterator[torch.Tensor]:
    from webdataset.compat import WebDataset, WebLoader

    tars = sorted(str(path) for path in (Path(task.shards) / "train").glob("*.tar"))
    data = WebDataset(tars, shardshuffle=100, empty_check=False).shuffle(1000)
    data = decode(data).to_tuple("jpg", "cls").map_tuple(transform, lambda label: 0)
    options = {} if collate is None else {"collation_fn": collate}
    data = data.batched(task.batch_size, partial=False, **options)
    workers = min(task.workers, len(tars))
    loader = WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=True)
    while True:
        yield from (batch[0] for batch in loader)


def jpeg_decoding(task: Task) -> Iterator[int]:
    """Floor: every JPEG of the shards decoded from memory on all cores, the pixels dropped."""
    jpegs = read_jpegs(task)
    chunks = [jpegs[at : at + 16] for at in range(0, len(jpegs), 16)]

    def decode(chunk: list[bytes]) -> int:
        for jpeg in chunk:
            simplejpeg.decode_jpeg(jpeg)
        return len(chunk)

    with ThreadPoolExecutor(task.workers) as pool:
        yield from ahead(pool, decode, itertools.cycle(chunks), depth=2 * task.workers)


def read_jpegs(task: Task) -> list[bytes]:
    """Return the JPEGs of the shards."""
    found = []
    for path in sorted((Path(task.shards) / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]  # type: ignore[union-attr]
    return found


def memory_copy(task: Task) -> Iterator[int]:
    """Floor: finished batches copied once, by one thread, into memory that is there already."""
    shape = (task.batch_size, task.image_size, task.image_size, 3)
    finished = [np.ones(shape, np.float32) for _ in range(4)]
    target = np.zeros(shape, np.float32)
    for batch in itertools.cycle(finished):
        np.copyto(target, batch)
        yield len(target)


def dali_reader(task: Task) -> Iterator[int]:
    """DALI's own webdataset reader and CPU decoder, the pixels dropped."""
    from nvidia.dali import fn

    tars = sorted((Path(task.shards) / "train").glob("*.tar"))

    def jpegs() -> Any:
        return fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=["jpg"],
            random_shuffle=True,
            initial_fill=1000,
        )

    return _dali_decode(task, jpegs)


def dali_callback(task: Task) -> Iterator[int]:
    """This project's callback (order, reading ahead, parameters) and DALI's CPU decoder."""
    from nvidia.dali import fn

    inputs = _dali_inputs(task)
    return _dali_decode(
        task, lambda: fn.external_source(lambda: next(inputs)[0], batch=True, no_copy=True)
    )


def host_alone(task: Task) -> Iterator[int]:
    """The callback with nothing behind it: images read, headers parsed, parameters drawn."""
    yield from (len(jpegs) for jpegs, *_ in _dali_inputs(task))


def _dali_inputs(task: Task) -> Iterator[tuple[Any, ...]]:
    from pipeline.loading.dali.loader import DaliLoader

    samples = Samples(open_shards(Path(task.shards)).split("train"))
    plan = EpochPlan(phase="train", shard_of=samples.shard_of, batch_size=task.batch_size)
    loader = DaliLoader(
        samples,
        plan,
        preset=PRESETS["full"],
        image_size=task.image_size,
        device=torch.device("cpu"),
        threads=task.workers,
    )
    return loader.inputs(each for epoch in itertools.count() for each in plan.requests(epoch))


def _dali_decode(task: Task, jpegs: Callable[[], Any]) -> Iterator[int]:
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    pipe = Pipeline(
        batch_size=task.batch_size, num_threads=task.workers, device_id=None, exec_dynamic=True
    )
    with pipe:
        pipe.set_outputs(fn.decoders.image(jpegs(), device="cpu", adjust_orientation=False))
    pipe.build()
    while True:
        (images,) = pipe.run()  # type: ignore[misc]
        yield len(images)


CONTESTANTS: dict[str, Callable[[Task], Iterator[Any]]] = {
    "portable": lambda task: own_loader("portable", task),
    "dali": lambda task: own_loader("dali", task),
    "imagefolder": imagefolder,
    "webdataset-pillow": webdataset_pillow,
    "webdataset-opencv": webdataset_opencv,
    "jpeg-decoding": jpeg_decoding,
    "memory-copy": memory_copy,
    "dali-reader": dali_reader,
    "dali-callback": dali_callback,
    "host-alone": host_alone,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    clock = time.process_time if sys.argv[1] == "host-alone" else time.perf_counter
    serve(CONTESTANTS[sys.argv[1]], clock)
