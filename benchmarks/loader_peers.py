"""Contestants of ``benchmarks.loader`` that live in environments of their own.

    PYTHON -m benchmarks.loader_peers ffcv    # reads tasks; benchmarks.loader starts it

Each packs the same JPEG files into its own format first, untimed. An environment for FFCV 1.0.2:
Debian's libopencv-dev, libturbojpeg0-dev and pkg-config, then ``pip install torch 'numpy<2.3'
'pillow<12' 'opencv-python-headless<5' setuptools wheel`` and ``pip install ffcv==1.0.2
--no-build-isolation``. One for the others: ``pip install torch torchvision litdata
mosaicml-streaming spdl opencv-python-headless simplejpeg``.
"""

# pyright: reportMissingImports=false

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.loader_contest import (
    CROP_AREA,
    CROP_ASPECT,
    JITTER,
    MEAN,
    STD,
    SkippedError,
    Task,
    serve,
)


def jpeg_files(task: Task) -> list[Path]:
    """Return the JPEGs to be packed, in a fixed random order."""
    paths = sorted(Path(task.files).rglob("*.jpg"))
    random.Random(0).shuffle(paths)
    return paths


def packed(task: Task, peer: str, pack: Callable[[Path, list[Path]], None]) -> Path:
    """Return a peer's own copy of the images, packed at the first call."""
    target = Path(task.scratch) / f"{peer}-{task.source}"
    if not target.exists():
        half = target.with_name(f"{target.name}.part")
        if half.is_dir():
            shutil.rmtree(half)
        pack(half, jpeg_files(task))
        half.rename(target)
    return target


_FFCV_LOADERS: dict[tuple[str, str, bool], Any] = {}


def ffcv(task: Task, *, colour: bool = True) -> Iterator[Any]:
    """FFCV with its own operators, which know no rotation and no hue."""
    if task.recipe != "crop":
        raise SkippedError("has no rotation")
    key = (task.recipe, task.source, colour)
    if key not in _FFCV_LOADERS:  # a loader compiles its operators for half a minute
        _FFCV_LOADERS[key] = _ffcv_loader(task, packed(task, "ffcv", _pack_ffcv), colour)
    while True:
        yield from (images for images, _ in _FFCV_LOADERS[key])


def _pack_ffcv(target: Path, paths: list[Path]) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Images:
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.open(paths[index]).convert("RGB"), 0

    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(target), fields, num_workers=2).from_indexed_dataset(Images())


def _ffcv_loader(task: Task, path: Path, colour: bool) -> Any:
    import ffcv.transforms as T
    import numpy as np
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    size = (task.image_size, task.image_size)
    jitter = [T.RandomBrightness, T.RandomContrast, T.RandomSaturation]
    scale = {"mean": 255 * np.array(MEAN), "std": 255 * np.array(STD), "type": np.float32}
    images = [
        RandomResizedCropRGBImageDecoder(size, scale=CROP_AREA, ratio=CROP_ASPECT),
        T.RandomHorizontalFlip(),
        *([each(JITTER, 1.0) for each in jitter] if colour else []),
        T.NormalizeImage(**scale),
        T.ToTensor(),
        T.ToTorchImage(channels_last=True, convert_back_int16=False),
    ]
    return Loader(
        str(path),
        batch_size=task.batch_size,
        num_workers=task.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": images, "label": [IntDecoder(), T.ToTensor()]},
    )


def spdl(task: Task) -> Iterator[Any]:
    """SPDL's pipeline of threads around simplejpeg and OpenCV."""
    from spdl.pipeline import PipelineBuilder

    from benchmarks.loader_opencv import Sample, stack

    sample, paths = Sample(task), jpeg_files(task)

    def shuffled() -> Iterator[Path]:
        while True:
            yield from random.sample(paths, len(paths))

    pipeline = (
        PipelineBuilder()
        .add_source(shuffled())
        .pipe(lambda path: (sample(path.read_bytes()), 0), concurrency=task.workers)
        .aggregate(task.batch_size)
        .pipe(stack)
        .add_sink(3)
        .build(num_threads=task.workers + 1)
    )
    with pipeline.auto_stop():
        yield from (batch[0] for batch in pipeline)


def litdata(task: Task) -> Iterator[Any]:
    """LitData's chunks and loader around simplejpeg and OpenCV."""
    from litdata import StreamingDataLoader, StreamingDataset

    from benchmarks.loader_opencv import Sample, stack_images

    folder = packed(task, "litdata", _pack_litdata)
    loader = StreamingDataLoader(
        StreamingDataset(str(folder), shuffle=True, drop_last=True, transform=Sample(task)),
        batch_size=task.batch_size,
        num_workers=task.workers,
        collate_fn=stack_images,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from loader


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _pack_litdata(target: Path, paths: list[Path]) -> None:
    from litdata import optimize

    words = [str(path) for path in paths]
    optimize(_read, words, str(target), chunk_bytes="64MB", num_workers=1, verbose=False)


def streaming(task: Task) -> Iterator[Any]:
    """MosaicML Streaming's shards, torch's DataLoader, simplejpeg and OpenCV."""
    import streaming as mosaic
    from torch.utils.data import DataLoader

    from benchmarks.loader_opencv import Sample, stack

    folder = packed(task, "streaming", _pack_streaming)
    mosaic.base.util.clean_stale_shared_memory()
    sample = Sample(task)

    class Images(mosaic.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            return sample(super().__getitem__(index)["jpg"]), 0

    loader = DataLoader(
        Images(local=str(folder), shuffle=True, batch_size=task.batch_size),
        batch_size=task.batch_size,
        num_workers=task.workers,
        collate_fn=stack,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from (batch[0] for batch in loader)


def _pack_streaming(target: Path, paths: list[Path]) -> None:
    from streaming import MDSWriter

    with MDSWriter(columns={"jpg": "bytes"}, out=str(target)) as out:
        for path in paths:
            out.write({"jpg": path.read_bytes()})


CONTESTANTS: dict[str, Callable[[Task], Iterator[Any]]] = {
    "ffcv": ffcv,
    "ffcv-no-colour": lambda task: ffcv(task, colour=False),
    "spdl": spdl,
    "litdata": litdata,
    "streaming": streaming,
}

if __name__ == "__main__":
    serve(CONTESTANTS[sys.argv[1]])
