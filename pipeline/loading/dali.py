"""The DALI backend: decode and preprocess on the GPU, or with DALI's CPU operators without one.

    plan.requests -> JPEG bytes and parameters, read ahead in threads -> fn.external_source
                  -> decode (nvJPEG on a GPU) -> warp, colour, erase -> Batch

DALI only applies the parameters that ``augment.draw`` made, so it has no random state to save and
gives the same augmentation as the portable backend. Batches reach torch without a copy (DLPack)
and without a GPU sync: DALI makes the consumer's stream wait instead of the host.
"""

import itertools
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import simplejpeg
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline, pipeline_def

from pipeline.loading.augment import PIXEL_OPERATORS, sharpness_kernel
from pipeline.loading.backend import BackendLoader, ahead
from pipeline.loading.batch import Batch
from pipeline.loading.order import BatchRequest
from pipeline.loading.presets import MEAN, STD, TrainPreset, eval_geometry
from pipeline.out_of_memory import out_of_memory

PREFETCH = 2
"""Batches that DALI works on ahead of the consumer."""

READ_AHEAD = 2
"""Batches whose bytes and parameters are prepared ahead of DALI."""

READ_THREADS = 2
"""Threads that read them; they mostly wait for the storage."""

Inputs = tuple[Any, ...]
"""What the pipeline takes for a batch: JPEGs first, then arrays with a row for each sample."""

operators_of: Any = fn  # its operators are made at import, so type checkers do not find them
_UINT8 = types.DALIDataType.UINT8
_LINEAR = types.DALIInterpType.INTERP_LINEAR


class DaliLoader(BackendLoader):
    """A loader whose pixels are made by DALI; ``device`` is CUDA or the CPU."""

    def __post_init__(self) -> None:
        """Start the threads that read; the pipeline is built at the first batch."""
        super().__post_init__()
        self.pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._inputs: Iterator[Inputs] = iter(())
        self._requests: list[BatchRequest] = []
        self._pipe: Pipeline | None = None

    def epoch(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on; one epoch at a time."""
        self._empty_pipeline()
        self._requests = list(self.plan.requests(epoch, start, bounds))
        inputs = self.inputs(request for request in self._requests if len(request.rows))
        self._inputs = inputs
        try:
            for request in self._requests:
                yield self.batch(request, self._images(request))
        finally:  # also where the consumer leaves early, which may be at the interpreter's end
            inputs.close()

    def close(self) -> None:
        """Take the pipeline down, stop the threads and close the shards."""
        self._pipe = None
        super().close()

    def inputs(self, requests: Iterable[BatchRequest]) -> Generator[Inputs, None, None]:
        """Yield what the pipeline takes for each batch, prepared ahead in threads."""
        return ahead(self.pool, self._prepare, requests, depth=READ_AHEAD)

    def _prepare(self, request: BatchRequest) -> Inputs:
        rows = request.rows.tolist()
        jpegs = [self.samples.read(row) for row in rows]
        sizes = self.samples.sizes(rows, jpegs)
        encoded = [np.frombuffer(jpeg, dtype=np.uint8) for jpeg in jpegs]
        if self.plan.phase == "eval":
            return (encoded, *_eval_inputs(sizes, self.image_size))
        drawn = self.draw(request, sizes)
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

    def _images(self, request: BatchRequest) -> torch.Tensor:
        """Return the next batch of the pipeline, ``[B, 3, S, S] float32``, channels-last."""
        if len(request.rows) == 0:
            return torch.empty((0, 3, self.image_size, self.image_size), device=self.device)
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            (images,) = self._pipeline().run(stream)
        except RuntimeError as error:
            self._pipe = None  # a DALI pipeline is unusable after an error
            raise self._explain(error, request) from error
        return torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    def _pipeline(self) -> Pipeline:
        if self._pipe is None:
            build = _eval_pipeline if self.plan.phase == "eval" else _train_pipeline
            gpu = self.device.type == "cuda"
            self._pipe = build(
                lambda: next(self._inputs),
                image_size=self.image_size,
                preset=self.preset,
                operators="gpu" if gpu else "cpu",
                batch_size=self.plan.batch_size,
                num_threads=self.threads,
                device_id=(self.device.index or 0) if gpu else None,
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

    def _explain(self, error: RuntimeError, request: BatchRequest) -> Exception:
        """Return an error that names the sample, or that says what to do if memory ran out.

        DALI's own names no sample, and comes up to ``PREFETCH`` batches ahead of the requested one.
        """
        short = out_of_memory(error)
        if short is not error:
            return short
        later = (each for each in self._requests if each.batch >= request.batch)
        for suspect in itertools.islice(later, PREFETCH + READ_AHEAD + 1):
            for row in suspect.rows:
                try:
                    simplejpeg.decode_jpeg(self.samples.read(row))
                except ValueError as reason:
                    return self.samples.undecodable(row, reason)
        ids = ", ".join(map(self.samples.image_id, request.rows))
        where = f"batch {request.batch} of epoch {request.epoch} or one of the next batches"
        return RuntimeError(f"DALI failed in {where} ({ids}): {error}")


def _eval_inputs(sizes: np.ndarray, image_size: int) -> Inputs:
    """Return width and height after the resize, then the crop's corner, as DALI wants it.

    ``sizes`` is ``[n, 2]`` pixels; DALI takes a corner as a share, 0 to 1, of what the crop leaves.
    """
    where = np.array([eval_geometry(int(w), int(h), image_size) for w, h in sizes])
    resized, corner = where[:, :2], where[:, 2:]
    share = corner / np.maximum(resized - image_size, 1)
    return tuple(np.concatenate([resized, share], axis=1).astype(np.float32).T.copy())


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
        images = fn.resize(images, size=shrunk, interp_type=_LINEAR, antialias=True)
    images = fn.warp_affine(
        images,
        matrix=matrix,
        size=(image_size, image_size),
        inverse_map=True,
        interp_type=_LINEAR,
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
    """Apply each sample's operator, as ``apply_pixel_operator`` does; AutoGraph's ``if``."""
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
        interp_type=_LINEAR,
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
