"""The DALI backend: decode and preprocess on the GPU, or with DALI's CPU operators without one.

    schedule -> requests -> JPEG bytes and parameters, read ahead in threads
             -> fn.external_source -> decode (nvJPEG on a GPU) -> warp, colour, erase -> Batch

DALI only applies the parameters that ``augment.draw`` made, so that it has no state of its own and
gives the same augmentation as the portable backend. Batches reach torch without a copy (DLPack),
and without waiting for the GPU: DALI makes the consumer's stream wait instead of the host.
"""

import itertools
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import simplejpeg
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline, pipeline_def

from pipeline.loading.ahead import ahead
from pipeline.loading.augment import PIXEL_OPERATORS, draw
from pipeline.loading.batch import Batch, empty_batch
from pipeline.loading.pixel_operators import sharpness_kernel
from pipeline.loading.presets import MEAN, STD, TrainPreset, eval_geometry
from pipeline.loading.requests import Request, Schedule
from pipeline.loading.samples import Samples
from pipeline.out_of_memory import out_of_memory

PREFETCH = 2
"""Batches that DALI works on ahead of the consumer."""

READ_AHEAD = 2
"""Batches whose bytes and parameters are prepared ahead of DALI."""

READ_THREADS = 2
"""Threads that read them; the time goes into the storage, not into Python."""

Inputs = tuple[Any, ...]

operators_of: Any = fn  # its operators are made at import, unseen by type checkers
_UINT8 = types.DALIDataType.UINT8


class DaliLoader:
    """A loader whose pixels are made by DALI."""

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
        """Keep what decides the batches and build the pipeline.

        Args:
            samples: the split.
            schedule: which of its samples make which batch.
            preset: the augmentation of the train phase.
            image_size: side of the output, pixels.
            device: where the batches go; CUDA, or the CPU.
            threads: DALI's, per process.
        """
        self.batches_per_epoch = schedule.batches_per_epoch
        self.samples_per_epoch = schedule.samples_per_epoch
        self._samples, self._schedule, self._preset = samples, schedule, preset
        self._image_size, self._device, self._threads = image_size, device, max(1, threads)
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._inputs: Iterator[Inputs] = iter(())
        self._pipe: Pipeline | None = None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on; one epoch at a time."""
        self._empty_pipeline()
        requests = list(self._schedule.requests(epoch, start))
        filled = [request for request in requests if len(request.samples)]
        inputs = ahead(self._pool, self._prepare, filled, depth=READ_AHEAD)
        self._inputs = inputs
        try:
            for request in requests:
                if len(request.samples):
                    yield self._batch(request, self._images(request))
                else:
                    yield empty_batch(self._image_size, self._device)
        finally:  # also where the consumer leaves early, which may be at the interpreter's end
            inputs.close()

    def close(self) -> None:
        """Take the pipeline down and close the shards."""
        self._pipe = None
        self._pool.shutdown(cancel_futures=True)
        self._samples.close()

    def _prepare(self, request: Request) -> Inputs:
        """Return the arrays that the pipeline's external source gives for a batch."""
        numbers = [int(each) for each in request.samples]
        jpegs = [self._samples.read(number) for number in numbers]
        pairs = zip(numbers, jpegs, strict=True)
        sizes = np.array([self._samples.size_of(number, jpeg) for number, jpeg in pairs])
        encoded = [np.frombuffer(jpeg, dtype=np.uint8) for jpeg in jpegs]
        if self._schedule.phase == "eval":
            return (encoded, *_eval_inputs(sizes, self._image_size))
        drawn = draw(
            self._preset,
            sizes,
            image_size=self._image_size,
            seed=self._schedule.seed,
            epoch=request.epoch,
            start=request.position,
        )
        corner, opposite = drawn.erase[:, :2], drawn.erase[:, 2:]
        shrunk = -(-sizes // drawn.shrink[:, None])
        return (
            encoded,
            drawn.shrink > 1,
            shrunk.astype(np.float32)[:, ::-1].copy(),
            drawn.matrix,
            drawn.colour,
            drawn.offset,
            corner.astype(np.float32),
            (opposite - corner).astype(np.float32),
            drawn.operator,
            drawn.strength,
            np.array([sharpness_kernel(factor) for factor in drawn.strength], dtype=np.float32),
        )

    def _images(self, request: Request) -> torch.Tensor:
        """Return the next batch of the pipeline, ``[B, 3, S, S] float32``, channels-last."""
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        try:
            (images,) = self._pipeline().run(stream)
        except RuntimeError as error:
            self._pipe = None  # DALI does not work on after an error
            raise self._explain(error, request) from error
        return torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    def _batch(self, request: Request, images: torch.Tensor) -> Batch:
        labels = torch.from_numpy(self._samples.labels[request.samples])
        return Batch(
            images=images,
            labels=labels.to(self._device, non_blocking=True),
            image_ids=tuple(self._samples.image_ids[number] for number in request.samples),
        )

    def _pipeline(self) -> Pipeline:
        if self._pipe is None:
            build = _eval_pipeline if self._schedule.phase == "eval" else _train_pipeline
            gpu = self._device.type == "cuda"
            self._pipe = build(
                lambda: next(self._inputs),
                image_size=self._image_size,
                preset=self._preset,
                operators="gpu" if gpu else "cpu",
                batch_size=self._schedule.batch_size,
                num_threads=self._threads,
                device_id=(self._device.index or 0) if gpu else None,
                prefetch_queue_depth=PREFETCH,
                exec_dynamic=True,
            )
            with warnings.catch_warnings():  # a preset need not use every parameter
                warnings.filterwarnings("ignore", message="The external source node")
                self._pipe.build()
        return self._pipe

    def _empty_pipeline(self) -> None:
        """Take out what is left of an earlier epoch, so that another one can begin."""
        self._inputs = iter(())
        if self._pipe is None:
            return
        try:
            while True:
                self._pipe.run()
        except StopIteration:
            self._pipe.reset()
        except RuntimeError:
            self._pipe = None

    def _explain(self, error: RuntimeError, request: Request) -> Exception:
        """Return an error that names the sample, or says what to do where memory ran out.

        DALI fails a batch as a whole, and up to ``PREFETCH`` batches ahead of the one asked for.
        """
        short = out_of_memory(error)
        if short is not error:
            return short
        first = request.batch
        for later in itertools.islice(
            self._schedule.requests(request.epoch, first), PREFETCH + READ_AHEAD + 1
        ):
            for number in map(int, later.samples):
                try:
                    simplejpeg.decode_jpeg(self._samples.read(number))
                except ValueError as reason:
                    return self._samples.undecodable(number, reason)
        ids = ", ".join(self._samples.image_ids[number] for number in request.samples)
        error.add_note(f"while making batch {first} of epoch {request.epoch} or a later one: {ids}")
        return error


def _eval_inputs(sizes: np.ndarray, image_size: int) -> Inputs:
    """Return width and height after the resize, and where the crop lies in what is left over."""
    where = [eval_geometry(int(width), int(height), image_size) for width, height in sizes]
    spare = [(max(each.width - image_size, 1), max(each.height - image_size, 1)) for each in where]
    columns = (
        [each.width for each in where],
        [each.height for each in where],
        [each.left / free for each, (free, _) in zip(where, spare, strict=True)],
        [each.top / free for each, (_, free) in zip(where, spare, strict=True)],
    )
    return tuple(np.array(column, dtype=np.float32) for column in columns)


def _decode(jpeg: Any, operators: str) -> Any:
    return fn.decoders.image(
        jpeg,
        device="mixed" if operators == "gpu" else "cpu",
        output_type=types.DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )


@pipeline_def(enable_conditionals=True)
def _train_pipeline(source: Any, image_size: int, preset: TrainPreset, operators: str) -> Any:
    jpeg, shrinks, shrunk, matrix, colour, offset, corner, size, operator, strength, kernel = (
        fn.external_source(source, num_outputs=11, batch=True, no_copy=True)
    )
    images: Any = _decode(jpeg, operators)
    if cast(Any, shrinks):  # AutoGraph: by sample
        images = fn.resize(
            images, size=shrunk, interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=True
        )
    images = fn.warp_affine(
        images,
        matrix=matrix,
        size=(image_size, image_size),
        inverse_map=True,
        interp_type=types.DALIInterpType.INTERP_LINEAR,
    )
    if preset.trivial:
        if operators == "gpu":
            strength, kernel = strength.gpu(), kernel.gpu()
        images = _pixel_operators(images, operator, strength, kernel)
    images = fn.coord_transform(images, M=colour, T=offset, dtype=types.DALIDataType.FLOAT)
    if preset.erase:
        images = fn.erase(images, anchor=corner, shape=size, axis_names="WH", fill_value=0.0)
    return images


def _pixel_operators(images: Any, operator: Any, strength: Any, kernel: Any) -> Any:
    """Apply the operator that each sample drew, as ``pixel_operators`` does; AutoGraph's ``if``."""
    if operator == PIXEL_OPERATORS.index("sharpness"):
        images = operators_of.filter(images, kernel)
    elif operator == PIXEL_OPERATORS.index("posterize"):
        images = images & fn.cast(strength, dtype=_UINT8)
    elif operator == PIXEL_OPERATORS.index("solarize"):
        kept = images < strength
        images = kept * images + (kept ^ True) * (types.Constant(255, dtype=_UINT8) - images)
    elif operator == PIXEL_OPERATORS.index("autocontrast"):
        images = _autocontrast(images)
    elif operator == PIXEL_OPERATORS.index("equalize"):
        images = operators_of.equalize(images)
    return images


def _autocontrast(images: Any) -> Any:
    """Stretch each channel to 0 to 255; one with a single value stays as it is."""
    low: Any = fn.reductions.min(images, axis_names="HW", keep_dims=True)
    spread = fn.reductions.max(images, axis_names="HW", keep_dims=True) - low
    varies = spread > 0
    divisor = spread * varies + types.Constant(255, dtype=_UINT8) * (varies ^ True)
    return fn.cast_like((images - low * varies) * (255 / divisor), images)


@pipeline_def
def _eval_pipeline(source: Any, image_size: int, preset: TrainPreset, operators: str) -> Any:
    jpeg, width, height, left, top = fn.external_source(
        source, num_outputs=5, batch=True, no_copy=True
    )
    images: Any = fn.resize(
        _decode(jpeg, operators),
        resize_x=width,
        resize_y=height,
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )
    return fn.crop_mirror_normalize(
        images,
        crop=(image_size, image_size),
        crop_pos_x=left,
        crop_pos_y=top,
        mean=[255 * each for each in MEAN],
        std=[255 * each for each in STD],
        dtype=types.DALIDataType.FLOAT,
        output_layout="HWC",
    )
