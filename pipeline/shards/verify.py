"""Prove a set of shards: undamaged, consistent, and without a lesion in two splits.

    python -m pipeline.shards verify shards/ham10000 [--quick]

Each check yields the problems it found as sentences, so that one run names all of them.
``--quick`` omits what needs every byte of every shard.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.folders import is_clutter
from pipeline.ham10000.known_duplicates import OFFICIAL_TEST_PAIRS, SAME_LESION_PAIRS
from pipeline.ham10000.taxonomy import described
from pipeline.shards.dataset import cheap_problems
from pipeline.shards.flags import VerifyFlags
from pipeline.shards.format import read_index, read_tar, write_tar
from pipeline.shards.manifest import SPLITS, TABLE_NAME, Manifest, ShardEntry, load_manifest
from pipeline.shards.origin.own_split import in_words
from pipeline.shards.packing.pack import tar_sample
from pipeline.shards.plan import metadata_rows, part_of
from pipeline.shards.splits import crossing, crossing_pairs
from pipeline.shards.storage.object_store import cached
from pipeline.shards.tables import read_samples


@dataclass(frozen=True)
class Verdict:
    """What ``verify`` found."""

    manifest_sha256: str
    samples: int
    shards: int
    problems: tuple[str, ...]
    """What is wrong; empty if the set can be trusted."""
    leaks: tuple[str, ...]
    """Lesion groups in two splits (folds); a problem unless the manifest says that they are."""
    facts: tuple[str, ...] = ()
    """What the manifest says of the test set and of what crosses the splits."""


def run(flags: VerifyFlags) -> None:
    """Print the verdict; a ``DataError`` lists all that is wrong."""
    verdict = verify(cached(flags.root, flags.cache), quick=flags.quick)
    if verdict.problems:
        listed = "\n".join(f"  - {problem}" for problem in verdict.problems)
        raise DataError(
            f"{flags.root} cannot be trusted:\n{listed}\nrestore it or build the shards again"
        )
    print(f"{flags.root}: {verdict.samples:,} samples in {verdict.shards} shards")
    print(f"manifest sha256 {verdict.manifest_sha256}")
    depth = "sizes and indexes agree (--quick)" if flags.quick else "every byte agrees"
    print(f"undamaged: {depth} with the manifest and the table")
    for fact in verdict.facts:
        print(fact)
    if not verdict.leaks:
        print("no lesion and no known pair of images of one lesion is in two splits")


def verify(root: Path, *, quick: bool = False, progress: bool = True) -> Verdict:
    """Return what is wrong with the shards in ``root``; without a manifest, raise a DataError."""
    manifest, digest = load_manifest(root)
    problems = [*cheap_problems(root, manifest), *_unlisted(root, manifest)]
    samples, leaks = 0, []
    try:
        table = read_samples(root / TABLE_NAME)
    except DataError as error:
        problems.append(str(error))
    else:
        samples, leaks = len(table), crossing(table["group"], part_of(table))
        problems += _table_problems(manifest, table)
        if manifest.split["by"] != "image":
            problems += _leak_problems(manifest, table)
        problems += _shard_problems(root, manifest, table, quick=quick, progress=progress)
    return Verdict(
        manifest_sha256=digest,
        samples=samples,
        shards=len(manifest.shards),
        problems=tuple(dict.fromkeys(problems)),
        leaks=tuple(leaks),
        facts=tuple(_facts(manifest, leaks)),
    )


def _facts(manifest: Manifest, leaks: Sequence[str]) -> Iterator[str]:
    """Yield what a reader of any figure on these shards should know."""
    if leaks and manifest.split["by"] == "image":
        yield f"LEAKS: {len(leaks):,} lesions are in two splits, as --split-by image does"
    crossed = manifest.split.get("crossing", {})
    if crossed.get("groups"):
        yield f"LEAKS, packed with --allow-crossing: in two splits are {in_words(crossed)}"
    if base := manifest.base:
        yield f"val and test are those of base {base['manifest_sha256'][:12]} ({base['name']})"
    if test := manifest.source.get("official_test"):
        yield (
            f"official test set: {test['images']:,} images in {test['groups']:,} groups of one "
            f"lesion; {test['left_out']:,} training images of its lesions are left out"
        )


def _unlisted(root: Path, manifest: Manifest) -> Iterator[str]:
    """Yield files that the manifest does not list; a reader with a glob would read them."""
    known = {path for entry in manifest.shards for path in (entry.path, entry.index_path)}
    for split in SPLITS:
        for path in sorted((root / split).glob("*")):
            if path.relative_to(root).as_posix() not in known and not is_clutter(path.name):
                yield f"{path} is not in the manifest"


def _leak_problems(manifest: Manifest, table: pd.DataFrame) -> Iterator[str]:
    """Yield how lesions cross between splits: by group, by lesion_id, by a known pair.

    Groups that the manifest names as crossing are no problem.
    """
    stated = manifest.split.get("crossing", {}).get("groups", ())
    table = pd.DataFrame(table[~table["group"].isin(list(stated))])
    part = part_of(table)
    known = [*SAME_LESION_PAIRS]
    known += OFFICIAL_TEST_PAIRS if "official_test" in manifest.source else ()
    found = {
        "groups": crossing(table["group"], part),
        "lesions": crossing(table["lesion_id"], part),
        "known pairs of one lesion": crossing_pairs(table["image_id"], part, known),
    }
    for what, crossed in found.items():
        if crossed:
            yield f"{len(crossed):,} {what} are in two splits, the first is {crossed[0]}"


def _table_problems(manifest: Manifest, table: pd.DataFrame) -> Iterator[str]:
    """Yield where the table contradicts itself or the manifest."""
    if len(set(table["image_id"])) != len(table):
        yield f"{TABLE_NAME} names an image twice"
    taxonomy = described(manifest.taxonomy)
    if not set(table["dx"]) <= set(taxonomy.classes):
        yield f"{TABLE_NAME} has a dx that is not one of {', '.join(taxonomy.classes)}"
    elif list(table["dx"].isin(taxonomy.malignant)) != list(table["label"]):
        yield f"{TABLE_NAME} has a label that contradicts its dx"
    for entry in manifest.shards:
        rows = table[table["shard"] == entry.path]
        found = Counter(rows["dx"])
        counts = {dx: found[dx] for dx in taxonomy.classes}
        if len(rows) != entry.samples or counts != entry.class_counts:
            yield f"{TABLE_NAME} and the manifest count the samples of {entry.path} differently"
        if set(rows["split"]) != {entry.split}:
            yield f"{TABLE_NAME} and the manifest give {entry.path} different splits"
    unknown = set(table["shard"]) - {entry.path for entry in manifest.shards}
    if unknown:
        yield f"{TABLE_NAME} names shards that the manifest does not: {min(unknown)}"


def _shard_problems(
    root: Path, manifest: Manifest, table: pd.DataFrame, *, quick: bool, progress: bool
) -> Iterator[str]:
    """Yield what is wrong with each shard that is there."""
    total = sum(entry.bytes for entry in manifest.shards)
    hidden = quick or not progress
    classes = described(manifest.taxonomy).classes
    rows_of = {str(path): rows for path, rows in table.groupby("shard", sort=False)}
    with tqdm(total=total, unit="B", unit_scale=True, desc="verifying", disable=hidden) as bar:
        for entry in manifest.shards:
            rows = pd.DataFrame(rows_of.get(entry.path, table[:0]))
            if (root / entry.path).is_file() and (root / entry.index_path).is_file():
                yield from _index_problems(root, entry, rows)
                if not quick:
                    yield from _byte_problems(root, entry, rows, classes)
            bar.update(entry.bytes)


def _index_problems(root: Path, entry: ShardEntry, rows: pd.DataFrame) -> Iterator[str]:
    """Yield how an index disagrees with the table or reaches beyond its tar."""
    path = root / entry.index_path
    try:
        index = read_index(path)
    except DataError as error:
        yield str(error)
        return
    if list(index.names) != list(rows["image_id"]):
        yield f"{path} and {TABLE_NAME} name other samples"
    if index.names and int((index.jpg_offset + index.jpg_size).max()) > entry.bytes:
        yield f"{path} points beyond the end of its tar"


def _byte_problems(
    root: Path, entry: ShardEntry, rows: pd.DataFrame, classes: Sequence[str]
) -> Iterator[str]:
    """Yield how a tar differs from the manifest, from its index and from the table."""
    path, index = root / entry.path, root / entry.index_path
    if sha256_of(path) != entry.sha256:
        yield f"{path} is damaged: its sha256 is not the manifest's"
    try:
        samples = read_tar(path)
    except DataError as error:
        yield str(error)
        return
    if write_tar(samples)[1] != index.read_bytes():
        yield f"{index} disagrees with its tar"
        return
    for sample, row in zip(samples, metadata_rows(rows), strict=False):
        if row["dx"] not in classes:  # reported by _table_problems
            continue
        expected = tar_sample(row, sample.jpg, classes)
        if sample.cls != expected.cls:
            yield f"{path}: the class of {row['image_id']} is not that of {TABLE_NAME}"
        if sample.json != expected.json:
            found = (sample.json or b"nothing").decode(errors="backslashreplace")[:300]
            yield f"{path}: {row['image_id']} is described as {found}, not as in {TABLE_NAME}"
