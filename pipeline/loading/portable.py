"""The portable backend: a pool of threads, simplejpeg, OpenCV and torchvision.

    plan.requests -> chunks of a batch, read, decoded and augmented in threads -> Batch

simplejpeg, OpenCV and torchvision release Python's lock while they work, so the threads of one
process use all cores: no worker processes, no copies between them, no shared memory to run out
of. Where the time of a 256-pixel JPEG goes (some 0.8 ms of processor time to 224 pixels, basic;
DALI's CPU operators with the same parameters took 2.9): decoding 0.39, the warp 0.30, colours and
normalisation 0.1. The JPEG is decoded to RGBX because OpenCV warps four channels faster than three,
and stays uint8 until one matrix multiplication does colour jitter and normalisation together.
"""

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
import torch
from torchvision.transforms.v2 import functional as F

from pipeline.loading.augment import PIXEL_OPERATORS, Augmentation, apply_pixel_operator
from pipeline.loading.backend import BackendLoader, ahead
from pipeline.loading.batch import Batch
from pipeline.loading.order import BatchRequest
from pipeline.loading.presets import MEAN, STD, eval_geometry

BATCHES_AHEAD = 3
"""Batches under way or finished while the consumer works on one."""

CHUNK = 16
"""Samples that a thread takes at a time. Drawing parameters is vectorised and holds Python's lock
for 0.15 ms however few they are for, so a batch is not cut smaller where there are more threads."""

NORMALISE = np.concatenate(
    [np.diag(1 / (255 * np.array(STD))), -(np.array(MEAN) / STD)[:, None]], axis=1
)
"""``[3, 4]``: RGB 0 to 255 to normalised RGB."""


@dataclass(frozen=True)
class Chunk:
    """The part of a batch that one thread makes."""

    request: BatchRequest
    """The batch."""

    images: torch.Tensor
    """``[B, H, W, 3] float32``, of the whole batch; the chunk is written into it."""

    start: int
    """Number of the chunk's first sample in the batch."""

    @property
    def rows(self) -> list[int]:
        """The chunk's samples."""
        return self.request.rows[self.start : self.start + CHUNK].tolist()

    @property
    def is_last(self) -> bool:
        """Whether the batch is complete with it; chunks are finished in order."""
        return self.start + CHUNK >= len(self.request.rows)


class PortableLoader(BackendLoader):
    """A loader that needs no GPU and no DALI."""

    def __post_init__(self) -> None:
        """Start the threads."""
        super().__post_init__()
        cv2.setNumThreads(0)  # OpenCV's own threads would compete with ours
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self._buffers = Buffers((self.plan.batch_size, self.image_size, self.image_size, 3))

    def epoch(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on."""
        requests = self.plan.requests(epoch, start, bounds)
        chunks = (chunk for request in requests for chunk in self._chunks(request))
        chunks_ahead = BATCHES_AHEAD * -(-self.plan.batch_size // CHUNK)
        depth = max(chunks_ahead, 2 * self.threads)
        with contextlib.closing(ahead(self.pool, self._fill, chunks, depth=depth)) as filled:
            for chunk in filled:
                if chunk.is_last:
                    images = chunk.images.permute(0, 3, 1, 2).to(self.device, non_blocking=True)
                    yield self.batch(chunk.request, images)

    def _chunks(self, request: BatchRequest) -> Iterator[Chunk]:
        images = self._empty_images(len(request.rows))
        for start in range(0, max(1, len(request.rows)), CHUNK):
            yield Chunk(request, images, start)

    def _empty_images(self, count: int) -> torch.Tensor:
        """Return ``[B, H, W, 3] float32`` to be filled, in memory that a GPU can copy from."""
        if self.device.type != "cuda":
            return self._buffers.take()[:count]
        shape = (count, self.image_size, self.image_size, 3)
        return torch.empty(shape, pin_memory=True)  # torch keeps and reuses pinned memory itself

    def _fill(self, chunk: Chunk) -> Chunk:
        """Read, decode and preprocess the samples of a chunk; runs in a thread."""
        rows, outputs = chunk.rows, chunk.images.numpy()[chunk.start :]
        jpegs = [self.samples.read(row) for row in rows]
        parameters = None
        if self.plan.phase == "train":
            drawn = self.draw(chunk.request, self.samples.sizes(rows, jpegs), chunk.start)
            parameters = WarpParameters.of(drawn)
        for index, (row, jpeg) in enumerate(zip(rows, jpegs, strict=True)):
            try:
                if parameters:
                    render_train(jpeg, parameters, index, outputs[index])
                else:
                    render_eval(decode_rgb(jpeg), outputs[index])
            except (ValueError, cv2.error) as error:
                raise self.samples.undecodable(row, error) from error
        return chunk


class Buffers:
    """Memory for batches, used again once nothing refers to it any more.

    A batch of 64 images of 224 pixels is 38 MB. In fresh memory the system clears and maps each of
    its 9,408 pages at the first write, which took 0.3 ms an image here, as long as the warp.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Give tensors of ``shape``, ``float32``."""
        self._shape = shape
        self._free: deque[np.ndarray] = deque(maxlen=BATCHES_AHEAD + 2)

    def take(self) -> torch.Tensor:
        """Return a tensor of any content; its memory is recycled once unreferenced.

        A tensor made from an array holds that array for as long as its storage lives: views,
        slices and what autograd saved included. So the memory is free when the array is deleted.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, dtype=np.float32)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)


# -- one image


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


@dataclass(frozen=True)
class WarpParameters:
    """The augmentation of ``n`` samples in OpenCV's conventions."""

    drawn: Augmentation
    matrix: np.ndarray  # [n, 2, 3] float64, a pixel's centre is at 0
    colour: np.ndarray  # [n, 3, 4] float32, the offset in the last column

    @classmethod
    def of(cls, drawn: Augmentation) -> "WarpParameters":
        """Convert ``drawn``."""
        matrix = drawn.matrix.astype(np.float64)
        matrix[:, :, 2] += matrix[:, :, :2].sum(axis=2) / 2 - 0.5
        return cls(drawn, matrix, np.concatenate([drawn.colour, drawn.offset[:, :, None]], axis=2))


class _Scratch(threading.local):
    """A thread's intermediate images, reused from sample to sample: they stay in its cache."""

    size = 0

    def of(self, size: int) -> "_Scratch":
        """Return this thread's, for images of ``size`` pixels."""
        if size != self.size:
            self.size = size
            self.warped = np.empty((size, size, 4), np.uint8)
            self.rgb = np.empty((size, size, 3), np.uint8)
            self.real = np.empty((size, size, 3), np.float32)
        return self


_scratch = _Scratch()


def render_train(jpeg: bytes, parameters: WarpParameters, index: int, out: np.ndarray) -> None:
    """Decode a JPEG and augment it.

    Args:
        jpeg: the bytes.
        parameters: of some samples.
        index: of this sample among them.
        out: ``[S, S, 3] float32``, receives the normalised image.
    """
    drawn, scratch = parameters.drawn, _scratch.of(out.shape[0])
    cv2.warpAffine(
        decode_shrunk(jpeg, int(drawn.shrink[index])),
        parameters.matrix[index],
        out.shape[:2],
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


def render_eval(image: np.ndarray, out: np.ndarray) -> None:
    """Resize the shorter side (antialiased, bilinear), crop the centre, normalise.

    Args:
        image: ``[H, W, 3] uint8 0-255``.
        out: ``[S, S, 3] float32``, receives the normalised image.
    """
    size = out.shape[0]
    width, height, left, top = eval_geometry(image.shape[1], image.shape[0], size)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    resized = F.resize(planes, [height, width], antialias=True).permute(1, 2, 0).numpy()
    square = resized[top : top + size, left : left + size]
    cv2.transform(square.astype(np.float32), NORMALISE, dst=out)
