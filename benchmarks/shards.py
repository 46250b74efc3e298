"""How fast packing is, side by side with floors and peers, and whether its cost grows linearly.

    python -m benchmarks.shards --originals DIR [--images 4000] [--json PATH]
    python -m benchmarks.shards --scale 10000,100000,400000 [--json PATH]

The images of DIR are repeated under new names (hard links or copies) until there are enough, so
that start-up does not count, and read once before, so that the page cache is warm. Every
contestant writes to the same disk with the same number of processes:

- ``floor``: read, decode once (simplejpeg, whole picture) and hash each image; nothing written.
- ``floor_256``: decode at the nearest scale, resize, encode, with the codec settings of ``build``.
- ``build``, ``build_256``: ``pipeline.shards``, start-up, table, indexes and manifest included.
- ``start``: the same command for 20 images. The floors have no start-up, so a column shows what
  is left of it without.
- ``shardwriter_256``: webdataset's ShardWriter, images decoded, resized and encoded by Pillow.
- ``tar``: ``tar cf``, which checks nothing.

img2dataset is not among the requirements; ``--img2dataset PYTHON`` names an interpreter of an
environment of its own that has it. On a busy machine read the CPU seconds, with ``--workers 1``.
"""

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image
from webdataset.writer import ShardWriter

from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.machine import cores

QUALITY = 95
SIDE = 256
Timings = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Options:
    """Flags of the benchmark."""

    originals: Path | None = None
    """Folder with images at their original size, in HAM10000's layout."""
    images: int = 4000
    """Images to pack; the originals are repeated."""
    workers: int = 0
    """Processes of every contestant; 0 is one a core."""
    repeats: int = 3
    """Rounds; the median is shown."""
    scale: str = ""
    """Numbers of small made-up samples, comma-separated: time and memory for each."""
    img2dataset: Path | None = None
    """Python interpreter of an environment that has img2dataset."""
    json: Path | None = None
    """File for the figures."""


def main() -> None:
    """Run the benchmark and print its tables."""
    options = parse(Options, about=(__doc__ or "").splitlines()[0])
    figures: dict[str, object] = {"workers": options.workers or cores(), "images": options.images}
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as folder:
        if options.originals is not None:
            figures["packing"] = packing(options, Path(folder))
        if options.scale:
            sizes = [int(size) for size in options.scale.split(",")]
            figures["scale"] = [scaling(size, Path(folder)) for size in sizes]
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def packing(options: Options, folder: Path) -> Timings:
    """Time every contestant, round by round, and print the table."""
    assert options.originals is not None
    workers = options.workers or cores()
    source = folder / "source"
    files = repeat_images(options.originals, source, options.images)
    for path in files:
        path.read_bytes()  # warms the page cache
    contestants = contestants_for(options, source, files, folder, workers)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, run in contestants.items():
            with fresh(folder / "out"):
                began, spent = time.perf_counter(), cpu_seconds()
                run()
                seconds[name].append((time.perf_counter() - began, cpu_seconds() - spent))
    table = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    floors = {"build": "floor", "build_256": "floor_256"}
    print(f"{len(files):,} images, {workers} processes, median of {options.repeats}")
    print(f"{'':<18}{'seconds':>9}{'images/s':>10}{'of floor':>10}{'no start':>10}{'CPU s':>9}")
    start = table["start"][0]
    for name, (wall, cpu) in table.items():
        floor = table[floors[name]][0] if name in floors else None
        shares = f"{floor / wall:>10.2f}{floor / (wall - start):>10.2f}" if floor else " " * 20
        rate = f"{len(files) / wall:>10.0f}" if name != "start" else " " * 10
        print(f"{name:<18}{wall:>9.2f}{rate}{shares}{cpu:>9.2f}")
    return {
        name: {"seconds": wall, "cpu_seconds": cpu, "images_per_s": len(files) / wall}
        for name, (wall, cpu) in table.items()
    }


def cpu_seconds() -> float:
    """Return the CPU time of all finished child processes.

    Complete with ``--workers 1`` only: the processes of a fork server are nobody's children.
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def contestants_for(
    options: Options, source: Path, files: Sequence[Path], folder: Path, workers: int
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    out = folder / "out"
    parts = [files[number::workers] for number in range(workers)]

    def pool(work: Callable[..., object]) -> Callable[[], object]:
        def run() -> None:
            with ProcessPoolExecutor(workers) as processes:
                list(processes.map(work, parts, [out / str(n) for n in range(workers)]))

        return run

    few = folder / "few"
    link_images(files[:20], few, 20)
    words = ["--out", str(out / "shards"), "--workers", str(workers)]
    build = [sys.executable, "-m", "pipeline.shards", "build", *words, "--source"]
    found: dict[str, Callable[[], object]] = {
        "floor": pool(floor),
        "start": lambda: quiet([*build, str(few)]),
        "build": lambda: quiet([*build, str(source)]),
        "tar": lambda: quiet(
            ["tar", "--hard-dereference", "-cf", str(out / "all.tar"), "-C", str(source), "."]
        ),
        "floor_256": pool(floor_256),
        "build_256": lambda: quiet([*build, str(source), "--image-size", str(SIDE)]),
        "shardwriter_256": pool(shardwriter),
    }
    if options.img2dataset is not None:
        urls = folder / "urls.txt"
        urls.write_text("".join(f"file://{path}\n" for path in files))
        words = [str(options.img2dataset), "-c", IMG2DATASET, str(urls), str(out / "i2d")]
        found["img2dataset_256"] = lambda: quiet([*words, str(workers), str(SIDE)])
    return found


IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    urls, out, workers, side = sys.argv[1:]
    download(url_list=urls, output_folder=out, processes_count=int(workers), thread_count=4,
             image_size=int(side), resize_mode="keep_ratio", resize_only_if_bigger=True,
             output_format="webdataset", number_sample_per_shard=250, encode_quality=95,
             enable_wandb=False, disallowed_header_directives=[])
"""


def floor(files: Sequence[Path], _: Path) -> None:
    """Read, decode once, hash."""
    for path in files:
        data = path.read_bytes()
        simplejpeg.decode_jpeg(data, strict=True)
        hashlib.sha256(data).digest()


def floor_256(files: Sequence[Path], _: Path) -> None:
    """Decode at the nearest scale, resize, encode: what ``build --image-size 256`` must do."""
    for path in files:
        data = path.read_bytes()
        height, width, *_rest = simplejpeg.decode_jpeg_header(data)
        shrink = SIDE / min(int(width), int(height))
        target = round(int(width) * shrink), round(int(height) * shrink)
        pixels = simplejpeg.decode_jpeg(data, min_height=target[1], min_width=target[0])
        image = Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR)
        simplejpeg.encode_jpeg(np.asarray(image), quality=QUALITY, colorsubsampling="420")


def shardwriter(files: Sequence[Path], out: Path) -> None:
    """Pack with webdataset's ShardWriter and Pillow, as its documentation shows."""
    out.mkdir(parents=True)
    with ShardWriter(f"{out}/%06d.tar", maxcount=250, verbose=0) as sink:
        for path in files:
            image = Image.open(path).convert("RGB")
            shrink = SIDE / min(image.size)
            target = round(image.width * shrink), round(image.height * shrink)
            packed = io.BytesIO()
            image.resize(target).save(packed, "JPEG", quality=QUALITY)
            sink.write({"__key__": path.stem, "jpg": packed.getvalue(), "cls": b"0", "json": b"{}"})


def scaling(samples: int, folder: Path) -> dict[str, float]:
    """Pack, verify and open ``samples`` small images; return seconds and memory."""
    source = folder / f"small-{samples}"
    small = folder / "small.jpg"
    Image.effect_noise((32, 24), 40).convert("RGB").save(small, quality=80)
    link_images([small], source, samples)
    out = str(folder / "scale-out")
    words = ["build", "--source", str(source), "--out", out]
    start = time.perf_counter()
    quiet([sys.executable, "-m", "benchmarks.shards_memory", str(folder / "peak.json"), *words])
    seconds = time.perf_counter() - start
    figures = {"samples": samples, "build_s": seconds}
    figures |= json.loads((folder / "peak.json").read_text())
    start = time.perf_counter()
    quiet([sys.executable, "-m", "pipeline.shards", "verify", out])
    figures["verify_s"] = time.perf_counter() - start
    figures |= json.loads(quiet([sys.executable, "-m", "benchmarks.shards_opened", out]))
    shutil.rmtree(out)
    shutil.rmtree(source)
    print(
        f"{samples:>9,} samples: build {seconds:.1f} s ({1e3 * seconds / samples:.3f} ms a sample, "
        f"peak {figures['builder'] / 2**20:.0f} MiB, a worker's {figures['workers'] / 2**20:.0f}), "
        f"verify {figures['verify_s']:.1f} s, open {figures['open_s']:.2f} s, first batch after "
        f"{figures['first_batch_s']:.2f} s, a rank's table {figures['bytes_an_image']:.0f} bytes "
        "an image"
    )
    return figures


def repeat_images(originals: Path, source: Path, images: int) -> list[Path]:
    """Repeat the images below ``originals`` under new names; return their paths."""
    paths = sorted(originals.rglob("*.jpg"))
    if not paths:
        raise DataError(f"no .jpg below {originals}")
    return link_images(paths, source, images)


def link_images(paths: Sequence[Path], source: Path, images: int) -> list[Path]:
    """Write a source folder of ``images`` images, the files of ``paths`` in turn."""
    part = source / "HAM10000_images_part_1"
    part.mkdir(parents=True)
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    made: list[Path] = []
    for number in range(images):
        target = part / f"ISIC_{number:07d}.jpg"
        if number < len(paths):
            shutil.copyfile(paths[number], target)
        else:
            link_or_copy(made[number % len(paths)], target)
        made.append(target)
        dx = ("nv", "mel", "bkl")[number % 3]
        lines.append(f"HAM_{number:07d},{target.stem},{dx},histo,50,male,back")
    (source / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")
    return made


def link_or_copy(path: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``path``, a copy where links run out."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


@contextmanager
def fresh(folder: Path) -> Iterator[None]:
    """Give an empty folder and remove it afterwards."""
    folder.mkdir()
    yield
    shutil.rmtree(folder)


def quiet(words: Sequence[str]) -> str:
    """Run a command and return what it printed; show what it said only if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{' '.join(words[:6])} ... failed: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    guard(main)
