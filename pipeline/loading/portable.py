"""The portable backend: webdataset's pipeline, a pool of threads, torchvision and OpenCV.

    schedule -> requests -> chunks of a batch, decoded and augmented in threads -> Batch

simplejpeg, OpenCV and torchvision let go of Python's lock while they work, so threads of one
process use all cores: no worker processes, no copies between them, no shared memory to run out
of. On a CPU this cost some 2.7 times less than DALI's CPU operators with the same parameters: the
JPEG is decoded to RGBX because OpenCV warps four channels twice as fast as three, and stays uint8
until one matrix multiplication does colour jitter and normalisation together.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
import torch
from torchvision.transforms.v2 import functional as F
from webdataset.pipeline import DataPipeline

from pipeline.loading.ahead import ahead
from pipeline.loading.augment import PIXEL_OPERATORS, Augmentation, draw
from pipeline.loading.batch import Batch, empty_batch
from pipeline.loading.pixel_operators import apply_pixel_operator
from pipeline.loading.presets import MEAN, STD, TrainPreset, eval_geometry
from pipeline.loading.samples import Samples, out_of_memory
from pipeline.loading.schedule import Request, Schedule

BATCHES_AHEAD = 3
"""Batches under way or finished while the consumer works on one."""

CHUNK = 16
"""Samples that a thread takes at a time, at most: enough to draw parameters vectorised."""

NORMALISE = np.concatenate(
    [np.diag(1 / (255 * np.array(STD))), -(np.array(MEAN) / STD)[:, None]], axis=1
)
"""``[3, 4]``: RGB 0 to 255 to normalised RGB."""


class PortableLoader:
    """A loader that needs no GPU and no DALI."""

    def __init__(
        self,
        samples: Samples,
        schedule: Schedule,
        *,
        preset: TrainPreset,
        image_size: int,
        device: torch.device,
        threads: int,
    ) -> None:
        """Keep what decides the batches and start the threads.

        Args:
            samples: the split.
            schedule: which of its samples make which batch.
            preset: the augmentation of the train phase.
            image_size: side of the output, pixels.
            device: where the batches go.
            threads: that decode, per process.
        """
        cv2.setNumThreads(0)  # our threads are the parallelism; OpenCV's own would fight them
        self.batches_per_epoch = schedule.batches_per_epoch
        self.samples_per_epoch = schedule.samples_per_epoch
        self._samples, self._schedule, self._preset = samples, schedule, preset
        self._image_size, self._device, self._threads = image_size, device, max(1, threads)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on."""
        return iter(
            DataPipeline(
                lambda: self._schedule.requests(epoch, start),
                self._decode,
                self._to_batches,
            )
        )

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self._pool.shutdown(cancel_futures=True)
        self._samples.close()

    def _decode(self, requests: Iterable[Request]) -> Iterator["_Work"]:
        """Cut each batch into chunks for the threads and yield it when all of them are done."""
        size = max(1, min(CHUNK, -(-self._schedule.batch_size // self._threads)))
        chunks = -(-self._schedule.batch_size // size)
        yield from _whole(
            ahead(
                self._pool,
                self._run_chunk,
                (chunk for request in requests for chunk in self._chunks(request, size)),
                depth=BATCHES_AHEAD * chunks,
            )
        )

    def _chunks(self, request: Request, size: int) -> Iterator["_Chunk"]:
        work = _Work(request, self._empty_images(len(request.samples)))
        for start in range(0, max(1, len(request.samples)), size):
            last = start + size >= len(request.samples)
            yield _Chunk(work, start, min(start + size, len(request.samples)), last)

    def _empty_images(self, count: int) -> torch.Tensor:
        """Return ``[B, H, W, 3] float32`` to be filled, in memory that a GPU can copy from."""
        shape = (count, self._image_size, self._image_size, 3)
        return torch.empty(shape, pin_memory=self._device.type == "cuda")

    def _run_chunk(self, chunk: "_Chunk") -> "_Chunk":
        """Read, decode and preprocess the samples of a chunk; runs in a thread."""
        request = chunk.work.request
        numbers = [int(each) for each in request.samples[chunk.start : chunk.stop]]
        if not numbers:
            return chunk
        jpegs = [self._samples.read(number) for number in numbers]
        outputs = chunk.work.images[chunk.start : chunk.stop].numpy()
        render = self._renderer(numbers, jpegs, request, request.position + chunk.start)
        for index, (number, jpeg) in enumerate(zip(numbers, jpegs, strict=True)):
            try:
                render(index, jpeg, outputs[index])
            except (ValueError, cv2.error) as error:
                raise self._samples.undecodable(number, error) from error
        return chunk

    def _renderer(
        self, numbers: list[int], jpegs: list[bytes], request: Request, position: int
    ) -> Callable[[int, bytes, np.ndarray], None]:
        """Return what turns JPEG ``index`` of a chunk into pixels of the output."""
        if self._schedule.phase == "eval":
            return lambda _, jpeg, out: render_eval(decode_rgb(jpeg), out)
        pairs = zip(numbers, jpegs, strict=True)
        augmentation = draw(
            self._preset,
            np.array([self._samples.size_of(number, jpeg) for number, jpeg in pairs]),
            image_size=self._image_size,
            seed=self._schedule.seed,
            epoch=request.epoch,
            start=position,
        )
        return lambda index, jpeg, out: render_train(jpeg, augmentation, index, out)

    def _to_batches(self, finished: Iterable["_Work"]) -> Iterator[Batch]:
        for work in finished:
            numbers = work.request.samples
            if len(numbers) == 0:
                yield empty_batch(self._image_size, self._device)
                continue
            images = work.images.permute(0, 3, 1, 2)
            labels = torch.from_numpy(self._samples.labels[numbers])
            try:
                images = images.to(self._device, non_blocking=True)
            except torch.OutOfMemoryError as error:
                raise out_of_memory(error) from error
            yield Batch(
                images=images,
                labels=labels.to(self._device, non_blocking=True),
                image_ids=tuple(self._samples.image_ids[number] for number in numbers),
            )


@dataclass(frozen=True)
class _Work:
    """A batch in the making."""

    request: Request
    images: torch.Tensor  # [B, H, W, 3] float32


@dataclass(frozen=True)
class _Chunk:
    """A part of a batch that one thread makes."""

    work: _Work
    start: int
    stop: int
    last: bool  # of its batch


def _whole(chunks: Iterable[_Chunk]) -> Iterator[_Work]:
    """Yield each batch when its last chunk has come; chunks come in order."""
    for chunk in chunks:
        if chunk.last:
            yield chunk.work


def decode_rgb(jpeg: bytes) -> np.ndarray:
    """Return ``[H, W, 3] uint8 0-255``; ValueError where it is no whole JPEG."""
    return simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def decode_shrunk(jpeg: bytes, shrink: int) -> np.ndarray:
    """Return ``[H / shrink, W / shrink, 4] uint8 0-255``, reduced while decoding: RGB and a filler.

    ``shrink`` is 1, 2, 4 or 8: the sizes that a JPEG's 8 x 8 blocks can be decoded at, which costs
    less than decoding at full size and is an average over the pixels left out.
    """
    if shrink == 1:
        return simplejpeg.decode_jpeg(jpeg, colorspace="RGBA")
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    return simplejpeg.decode_jpeg(
        jpeg,
        colorspace="RGBA",
        min_height=-(-int(height) // shrink),
        min_width=-(-int(width) // shrink),
        min_factor=1,
    )


def render_train(jpeg: bytes, augmentation: Augmentation, index: int, out: np.ndarray) -> None:
    """Decode a JPEG and apply the parameters of sample ``index`` of ``augmentation``.

    Args:
        jpeg: the bytes.
        augmentation: the parameters of some samples.
        index: of this sample among them.
        out: ``[S, S, 3] float32``, receives the normalised image.
    """
    source = decode_shrunk(jpeg, int(augmentation.shrink[index]))
    matrix = augmentation.matrix[index].astype(np.float64)
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV: a pixel's centre is at 0
    warped = cv2.warpAffine(
        source,
        matrix,
        out.shape[:2],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    image = apply_pixel_operator(
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB),
        PIXEL_OPERATORS[augmentation.operator[index]],
        float(augmentation.strength[index]),
    )
    colour = np.concatenate(
        [augmentation.colour[index], augmentation.offset[index][:, None]], axis=1
    )
    cv2.transform(image.astype(np.float32), colour, dst=out)
    left, top, right, bottom = augmentation.erase[index]
    out[top:bottom, left:right] = 0


def render_eval(image: np.ndarray, out: np.ndarray) -> None:
    """Resize the shorter side (antialiased, bilinear), crop the centre, normalise.

    Args:
        image: ``[H, W, 3] uint8 0-255``.
        out: ``[S, S, 3] float32``, receives the normalised image.
    """
    size = out.shape[0]
    where = eval_geometry(image.shape[1], image.shape[0], size)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    resized = F.resize(planes, [where.height, where.width], antialias=True).permute(1, 2, 0)
    square = resized.numpy()[where.top : where.top + size, where.left : where.left + size]
    cv2.transform(square.astype(np.float32), NORMALISE, dst=out)
