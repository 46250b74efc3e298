"""The DALI pipeline of each phase: its operators, from the bytes of JPEGs to normalised images.

    jpeg -> decode (nvJPEG on a GPU) -> resize, warp -> pixel operators -> colour -> erase   (train)
    jpeg -> decode -> resize -> crop and normalise                                           (eval)

DALI only applies the parameters that ``augment.draw`` made, sample by sample.

    graph(source, phase="train", preset=TRAIN_PRESETS["basic"], image_size=224, ...).build()
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline, pipeline_def

from pipeline.loading.augment import PIXEL_OPERATORS
from pipeline.loading.order import Phase
from pipeline.loading.presets import MEAN, STD, TrainPreset

PREFETCH = {"gpu": 3, "cpu": 2}
"""Batches that DALI works on ahead of the consumer."""

HW_DECODER_LOAD = 0.9
"""Share of a batch that a GPU's JPEG engines decode, where it has some; always given, because
DALI's own default differs between versions. 0.9 leaves the CPU's cores alone (docs/loading.md)."""

BYTES_A_PIXEL = 4
"""That nvJPEG's buffers of each thread are made for; DALI's defaults are for JPEGs of 2 to 4
megapixels, 32 MiB a thread, and too small for larger ones."""

Operators = Literal["cpu", "gpu"]

Inputs = tuple[Any, ...]
"""What the pipeline takes for a batch: JPEGs first, then arrays with a row for each sample."""

operators_of: Any = fn  # its operators are made at import, so type checkers do not find them
_UINT8 = types.DALIDataType.UINT8
_LINEAR = types.DALIInterpType.INTERP_LINEAR


def graph(
    source: Callable[[], Inputs],
    *,
    phase: Phase,
    preset: TrainPreset,
    image_size: int,
    batch_size: int,
    threads: int,
    operators: Operators,
    device_id: int | None,
    largest: tuple[int, int],
) -> Pipeline:
    """Return the pipeline of a phase, not yet built.

    ``source`` gives the inputs of a batch, ``preset`` augments those of training, ``image_size`` is
    the side of the output and ``largest`` width and height of the largest JPEGs, pixels. Without a
    ``device_id`` a graph of GPU operators cannot be built.
    """
    decoder = partial(decode, operators=operators, largest=largest)
    how = {
        "batch_size": batch_size,
        "num_threads": threads,
        "device_id": device_id,
        "prefetch_queue_depth": PREFETCH[operators],
        "exec_dynamic": True,
    }
    if phase == "eval":
        return _eval_pipeline(source, decoder, image_size, **how)
    return _train_pipeline(source, decoder, image_size, preset, operators, **how)


def decode(
    jpeg: Any, operators: Operators, largest: tuple[int, int], load: float | None = None
) -> Any:
    """Return the operator that decodes ``jpeg`` to ``[H, W, 3] uint8`` RGB, not rotated by EXIF.

    On the GPU a share ``load`` of a batch goes to its JPEG engines, where it has some. ``largest``
    is the width and height that buffers are made for, pixels; larger JPEGs make them grow.
    """
    width, height = largest
    room = BYTES_A_PIXEL * width * height
    engine = {
        "device": "mixed",
        "hw_decoder_load": HW_DECODER_LOAD if load is None else load,
        "preallocate_width_hint": width,
        "preallocate_height_hint": height,
        "device_memory_padding": room,
        "host_memory_padding": room,
    }
    return fn.decoders.image(
        jpeg,
        **cast(Any, engine if operators == "gpu" else {"device": "cpu"}),
        output_type=types.DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )


@pipeline_def(enable_conditionals=True)
def _train_pipeline(
    source: Any, decoder: Any, image_size: int, preset: TrainPreset, operators: Operators
) -> Any:
    jpeg, shrinks, shrunk, matrix, colour, corner, size, operator, strength, kernel = (
        fn.external_source(source, num_outputs=10, batch=True, no_copy=True)
    )
    images: Any = decoder(jpeg)
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
    images = fn.coord_transform(images, MT=colour, dtype=types.DALIDataType.FLOAT)
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
def _eval_pipeline(source: Any, decoder: Any, image_size: int) -> Any:
    jpeg, width, height, left, top = fn.external_source(
        source, num_outputs=5, batch=True, no_copy=True
    )
    images: Any = fn.resize(
        decoder(jpeg),
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
