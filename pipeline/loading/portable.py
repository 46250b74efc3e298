"""The portable backend: a pool of threads, simplejpeg, OpenCV and torchvision.

    plan.requests -> prepared batches -> their chunks, decoded and warped, in threads -> Batch

simplejpeg, OpenCV and torchvision release Python's lock while they work, so the threads of one
process use all cores: no worker processes, no copies between them, no shared memory to run out
of. Where the time of a 256-pixel JPEG goes (some 0.8 ms of processor time to 224 pixels, basic;
DALI's CPU operators with the same parameters took 2.9): decoding 0.39, the warp 0.30, colours and
normalisation 0.1. The JPEG is decoded to RGBX because OpenCV warps four channels faster than three,
and stays uint8 until one matrix multiplication does colour jitter and normalisation together. For
a GPU it stays uint8 in pinned memory, a quarter of the bytes to copy, and ``finish`` does the rest
there, on a stream of the loader's own: the consumer's waits for its end, not the host.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
import torch
from torchvision.transforms.v2 import functional as F

from pipeline.loading.augment import PIXEL_OPERATORS, Augmentation, apply_pixel_operator
from pipeline.loading.backend import BackendLoader, Prepared, ahead
from pipeline.loading.batch import Batch, Buffers
from pipeline.loading.presets import MEAN, STD, eval_geometry

BATCHES_AHEAD = 3
"""Batches under way or finished while the consumer works on one."""

CHUNK = 16
"""Samples that a thread decodes at a time."""

NORMALISE = np.concatenate(
    [np.diag(1 / (255 * np.array(STD))), -(np.array(MEAN) / STD)[:, None]], axis=1, dtype=np.float32
)
"""``[3, 4] float32``: RGB 0 to 255 to normalised RGB."""


@dataclass(frozen=True)
class Chunk:
    """The part of a batch that one thread makes."""

    prepared: Prepared
    """The batch."""

    images: torch.Tensor
    """``[B, S, S, 3]`` of the whole batch; the chunk is written into it. ``float32``, finished, or
    for a GPU ``uint8 0-255``, to be finished there."""

    colour: np.ndarray
    """``[B, 3, 4] float32`` of the whole batch, RGB 0 to 255 to normalised RGB."""

    erase: np.ndarray
    """``[B, 4] int32`` of the whole batch: left, top, right, bottom of the rectangle to erase."""

    start: int
    """Number of the chunk's first sample in the batch."""

    @property
    def part(self) -> range:
        """Numbers of its samples in the batch."""
        return range(self.start, min(self.start + CHUNK, len(self.images)))

    @property
    def is_last(self) -> bool:
        """Whether the batch is complete with it; chunks are finished in order."""
        return self.start + CHUNK >= len(self.images)


class PortableLoader(BackendLoader):
    """A loader that needs no GPU and no DALI."""

    def __post_init__(self) -> None:
        """Start the threads."""
        super().__post_init__()
        cv2.setNumThreads(0)  # OpenCV's own threads would compete with ours
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        chunks = -(-self.plan.batch_size // CHUNK)
        self._batches = max(BATCHES_AHEAD, -(-2 * self.threads // chunks))
        self._depth = self._batches * chunks
        shape = (self.plan.batch_size, self.image_size, self.image_size, 3)
        self._buffers = Buffers(shape, keep=self._batches + 2)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def epoch(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on."""
        requests = self.plan.requests(epoch, start, bounds)
        prepared = ahead(self.pool, self.prepare, requests, depth=self._batches)
        chunks = (chunk for each in prepared for chunk in self._chunks(each))
        filled = ahead(self.pool, self._fill, chunks, depth=self._depth)
        with contextlib.closing(prepared), contextlib.closing(filled):
            for chunk in filled:
                if chunk.is_last:
                    yield self.batch(chunk.prepared.request, self._finished(chunk))

    def _chunks(self, prepared: Prepared) -> Iterator[Chunk]:
        count, drawn = len(prepared.jpegs), prepared.drawn
        images = self._empty_images(count)
        colour = np.tile(NORMALISE, (count, 1, 1)) if drawn is None else drawn.colour
        erase = np.zeros((count, 4), np.int32) if drawn is None else drawn.erase
        for start in range(0, max(1, count), CHUNK):
            yield Chunk(prepared, images, colour, erase, start)

    def _empty_images(self, count: int) -> torch.Tensor:
        """Return ``[B, S, S, 3]`` to be filled, in memory that the device can copy from."""
        if self._stream is None:
            return self._buffers.take()[:count]
        shape = (count, self.image_size, self.image_size, 3)  # torch reuses pinned memory itself,
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)  # once copies from it ended

    def _fill(self, chunk: Chunk) -> Chunk:
        """Decode and warp the samples of a chunk, or finish them too; runs in a thread."""
        outputs, jpegs, drawn = chunk.images.numpy(), chunk.prepared.jpegs, chunk.prepared.drawn
        matrix = np.empty(0) if drawn is None else opencv_matrix(drawn)
        for index in chunk.part:
            try:
                if drawn is None:
                    square = resize(decode_rgb(jpegs[index]), self.image_size)
                else:
                    square = warp(jpegs[index], drawn, matrix, index, self.image_size)
            except (ValueError, cv2.error) as error:
                row = int(chunk.prepared.request.rows[index])
                raise self.samples.undecodable(row, error) from error
            if self._stream is None:
                finish_one(square, chunk.colour[index], chunk.erase[index], outputs[index])
            else:
                outputs[index] = square
        return chunk

    def _finished(self, chunk: Chunk) -> torch.Tensor:
        """Return a complete batch, ``[B, 3, S, S] float32``, channels-last, on the device."""
        if self._stream is None:
            return self.send(chunk.images.permute(0, 3, 1, 2))
        consumer = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            images = finish(*map(self.send, (chunk.images, chunk.colour, chunk.erase)))
        consumer.wait_stream(self._stream)
        images.record_stream(consumer)  # its memory is not used again before the consumer's work
        return images


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


def opencv_matrix(drawn: Augmentation) -> np.ndarray:
    """Return ``drawn.matrix`` for OpenCV, ``[n, 2, 3] float64``: a pixel's centre is at 0."""
    matrix = drawn.matrix.astype(np.float64)
    matrix[:, :, 2] += matrix[:, :, :2].sum(axis=2) / 2 - 0.5
    return matrix


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


def warp(jpeg: bytes, drawn: Augmentation, matrix: np.ndarray, index: int, size: int) -> np.ndarray:
    """Decode the JPEG of sample ``index`` of ``drawn`` and augment it, but for its colours.

    ``matrix`` is ``opencv_matrix(drawn)``. The result is ``[S, S, 3] uint8 0-255``, S being
    ``size``; the thread's next call overwrites it.
    """
    scratch = _scratch.of(size)
    cv2.warpAffine(
        decode_shrunk(jpeg, int(drawn.shrink[index])),
        matrix[index],
        (size, size),
        dst=scratch.warped,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    image = cv2.cvtColor(scratch.warped, cv2.COLOR_RGBA2RGB, dst=scratch.rgb)
    operator = drawn.operator[index]
    if operator:
        image = apply_pixel_operator(image, PIXEL_OPERATORS[operator], float(drawn.strength[index]))
    return image


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side (antialiased, bilinear) and crop the centre.

    ``image`` is ``[H, W, 3] uint8 0-255``, the result ``[S, S, 3]`` of the same, S being ``size``.
    """
    width, height, left, top = eval_geometry(image.shape[1], image.shape[0], size)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    resized = F.resize(planes, [height, width], antialias=True).permute(1, 2, 0).numpy()
    return resized[top : top + size, left : left + size]


def finish_one(square: np.ndarray, colour: np.ndarray, erase: np.ndarray, out: np.ndarray) -> None:
    """Apply ``colour`` [3, 4] to ``square`` [S, S, 3] uint8, erase a rectangle; see ``finish``."""
    scratch = _scratch.of(len(out))
    np.copyto(scratch.real, square)
    cv2.transform(scratch.real, colour, dst=out)
    left, top, right, bottom = erase
    out[top:bottom, left:right] = 0


def finish(pixels: torch.Tensor, colour: torch.Tensor, erase: torch.Tensor) -> torch.Tensor:
    """Return normalised images, ``[B, 3, S, S] float32``, channels-last: ``finish_one`` on a GPU.

    Element by element, because a GPU may round the factors of a matrix product to TF32.

    Args:
        pixels: ``[B, S, S, 3] uint8 0-255``.
        colour: ``[B, 3, 4] float32``, RGB 0 to 255 to normalised RGB, the offset last.
        erase: ``[B, 4] int32``: left, top, right, bottom of the rectangle that is set to 0.
    """
    red, green, blue, offset = colour[:, None, None].unbind(4)  # [B, 1, 1, 3] each
    real = pixels.float()
    images = torch.addcmul(offset, real[..., 2:], blue)
    images.addcmul_(real[..., 1:2], green).addcmul_(real[..., :1], red)
    left, top, right, bottom = erase[:, :, None].unbind(1)  # [B, 1] each
    place = torch.arange(pixels.shape[1], device=pixels.device)
    rows, columns = (place >= top) & (place < bottom), (place >= left) & (place < right)
    images.masked_fill_((rows[:, :, None] & columns[:, None])[..., None], 0)
    return images.permute(0, 3, 1, 2)


def render_eval(image: np.ndarray, out: np.ndarray) -> None:
    """Preprocess ``image`` [H, W, 3] uint8 as the eval phase does, to ``out`` [S, S, 3] float32."""
    finish_one(resize(image, len(out)), NORMALISE, np.zeros(4, np.int32), out)
