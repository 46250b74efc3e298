"""The portable backend: webdataset's pipeline, a pool of threads, torchvision and OpenCV.

    schedule -> requests -> chunks of a batch, decoded and augmented in threads -> Batch

simplejpeg, OpenCV and torchvision let go of Python's lock while they work, so threads of one
process use all cores: no worker processes, no copies between them, no shared memory to run out
of. Where the time of a 256-pixel JPEG goes (some 0.8 ms of processor time to 224 pixels, basic;
DALI's CPU operators with the same parameters took 2.9): decoding 0.39, the warp 0.30, colours and
normalisation 0.1. The JPEG is decoded to RGBX because OpenCV warps four channels faster than three,
and stays uint8 until one matrix multiplication does colour jitter and normalisation together.
"""

import threading
import weakref
from collections import deque
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
from pipeline.loading.requests import Request, Schedule
from pipeline.loading.samples import Samples
from pipeline.out_of_memory import out_of_memory

BATCHES_AHEAD = 3
"""Batches under way or finished while the consumer works on one."""

CHUNK = 16
"""Samples that a thread takes at a time. Drawing parameters is vectorised and holds Python's lock
for 0.15 ms however few they are for, so a batch is not cut smaller where there are more threads."""

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
        self._buffers = Buffers((schedule.batch_size, image_size, image_size, 3))

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
        chunks = -(-self._schedule.batch_size // CHUNK)
        yield from _whole(
            ahead(
                self._pool,
                self._run_chunk,
                (chunk for request in requests for chunk in self._chunks(request)),
                depth=max(BATCHES_AHEAD * chunks, 2 * self._threads),
            )
        )

    def _chunks(self, request: Request) -> Iterator["_Chunk"]:
        work = _Work(request, self._empty_images(len(request.samples)))
        for start in range(0, max(1, len(request.samples)), CHUNK):
            last = start + CHUNK >= len(request.samples)
            yield _Chunk(work, start, min(start + CHUNK, len(request.samples)), last)

    def _empty_images(self, count: int) -> torch.Tensor:
        """Return ``[B, H, W, 3] float32`` to be filled, in memory that a GPU can copy from."""
        if self._device.type != "cuda":
            return self._buffers.take()[:count]
        shape = (count, self._image_size, self._image_size, 3)
        return torch.empty(shape, pin_memory=True)  # torch keeps and reuses pinned memory itself

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
        drawn = draw(
            self._preset,
            np.array([self._samples.size_of(number, jpeg) for number, jpeg in pairs]),
            image_size=self._image_size,
            seed=self._schedule.seed,
            epoch=request.epoch,
            start=position,
        )
        parameters = Parameters.of(drawn)
        return lambda index, jpeg, out: render_train(jpeg, parameters, index, out)

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


class Buffers:
    """Memory for batches, used again once nothing refers to it any more.

    A batch of 64 images of 224 pixels is 38 MB. Fresh from the system each of its 9,408 pages is
    cleared and mapped at the first write, which took 0.3 ms an image here, as long as the warp.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Give tensors of ``shape``, ``float32``."""
        self._shape = shape
        self._free: deque[np.ndarray] = deque(maxlen=BATCHES_AHEAD + 2)

    def take(self) -> torch.Tensor:
        """Return a tensor of any content, which is the taker's until its last reference is gone.

        A tensor made from an array holds that array for as long as its storage lives: views,
        slices and what autograd saved included. So the array's end is the end of all of them.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, dtype=np.float32)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)


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


def render_train(jpeg: bytes, parameters: "Parameters", index: int, out: np.ndarray) -> None:
    """Decode a JPEG and apply the parameters of sample ``index``.

    Args:
        jpeg: the bytes.
        parameters: of some samples.
        index: of this sample among them.
        out: ``[S, S, 3] float32``, receives the normalised image.
    """
    drawn, size = parameters.drawn, out.shape[:2]
    scratch = _scratch(out.shape[0])
    cv2.warpAffine(
        decode_shrunk(jpeg, int(drawn.shrink[index])),
        parameters.matrix[index],
        size,
        dst=scratch.warped,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    image = cv2.cvtColor(scratch.warped, cv2.COLOR_RGBA2RGB, dst=scratch.rgb)
    operator = drawn.operator[index]
    if operator:
        image = apply_pixel_operator(image, PIXEL_OPERATORS[operator], float(drawn.strength[index]))
    np.copyto(scratch.real, image)
    cv2.transform(scratch.real, parameters.colour[index], dst=out)
    left, top, right, bottom = drawn.erase[index]
    out[top:bottom, left:right] = 0


@dataclass(frozen=True)
class Parameters:
    """An augmentation of ``n`` samples as OpenCV takes it."""

    drawn: Augmentation
    matrix: np.ndarray  # [n, 2, 3] float64, a pixel's centre is at 0
    colour: np.ndarray  # [n, 3, 4] float32, the offset in the last column

    @classmethod
    def of(cls, drawn: Augmentation) -> "Parameters":
        """Convert ``drawn``."""
        matrix = drawn.matrix.astype(np.float64)
        matrix[:, :, 2] += matrix[:, :, :2].sum(axis=2) / 2 - 0.5
        return cls(drawn, matrix, np.concatenate([drawn.colour, drawn.offset[:, :, None]], axis=2))


class _Scratch(threading.local):
    """A thread's intermediate images, kept from sample to sample: warm in its cache."""

    size = 0

    def __call__(self, size: int) -> "_Scratch":
        """Return this thread's, for images of ``size`` pixels."""
        if size != self.size:
            self.size = size
            self.warped = np.empty((size, size, 4), np.uint8)
            self.rgb = np.empty((size, size, 3), np.uint8)
            self.real = np.empty((size, size, 3), np.float32)
        return self


_scratch = _Scratch()


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
