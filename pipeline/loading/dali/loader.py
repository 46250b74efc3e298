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

import numpy as np
import simplejpeg
import torch
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.tensors import TensorCPU

from pipeline.loading.augment import sharpness_kernel
from pipeline.loading.backend import BackendLoader, ahead
from pipeline.loading.batch import Batch
from pipeline.loading.dali.graph import PREFETCH, Inputs, graph
from pipeline.loading.order import BatchRequest
from pipeline.loading.presets import eval_geometry
from pipeline.out_of_memory import out_of_memory

HINTED = 256
"""JPEGs, at most, whose headers give the decoder's buffers their size."""

READ_AHEAD = 2
"""Batches whose bytes and parameters are prepared ahead of DALI."""

READ_THREADS = 2
"""Threads that read them; they mostly wait for the storage."""


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
        prepared = self.prepare(request)
        sizes, drawn = prepared.sizes, prepared.drawn
        encoded = [TensorCPU(jpeg) for jpeg in prepared.jpegs]  # DALI is slower at other arrays
        if drawn is None:
            return (encoded, *_eval_inputs(sizes, self.image_size))
        corner, opposite = drawn.erase[:, :2], drawn.erase[:, 2:]
        shrunk = -(-sizes // drawn.shrink[:, None])
        return (
            encoded,
            drawn.shrink > 1,
            shrunk.astype(np.float32)[:, ::-1].copy(),
            drawn.matrix,
            drawn.colour,
            corner.astype(np.float32),
            (opposite - corner).astype(np.float32),
            drawn.operator,
            drawn.strength,
            sharpness_kernel(drawn.strength),
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
            gpu = self.device.type == "cuda"
            self._pipe = graph(
                lambda: next(self._inputs),
                phase=self.plan.phase,
                preset=self.preset,
                image_size=self.image_size,
                batch_size=self.plan.batch_size,
                threads=self.threads,
                operators="gpu" if gpu else "cpu",
                device_id=(self.device.index or 0) if gpu else None,
                largest=self._largest() if gpu else (0, 0),
            )
            with warnings.catch_warnings():  # a preset need not use every parameter
                warnings.filterwarnings("ignore", message="The external source node")
                self._pipe.build()
        return self._pipe

    def _largest(self) -> tuple[int, int]:
        """Return the greatest width and height, pixels, among the first JPEGs to be decoded."""
        rows = next(each.rows for each in self._requests if len(each.rows))[:HINTED].tolist()
        sizes = self.samples.sizes(rows, [self.samples.read(row) for row in rows])
        width, height = sizes.max(axis=0).tolist()
        return width, height

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

        DALI's own names no sample, and comes some batches ahead of the requested one.
        """
        short = out_of_memory(error)
        if short is not error:
            return short
        later = (each for each in self._requests if each.batch >= request.batch)
        for suspect in itertools.islice(later, max(PREFETCH.values()) + READ_AHEAD + 1):
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
