"""Which images of a source are new to a base, and which group each belongs to.

    base, source, placed = admit(base, source, pairs)

A new image is left out where the base has its id, where its packed JPEG has the bytes of another
image, and where it belongs to a lesion or patient in val or test. Left-out images still join others
to a group: what shows the lesion of a copy of a test image stays out too, also when the set grows
again (``Base.held``).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.contrib.concurrent import thread_map

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.ham10000.source import Source
from pipeline.machine import cores
from pipeline.shards.format import read_index
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.origin.base import Base
from pipeline.shards.packing.encode import encode
from pipeline.shards.splits import find_groups
from pipeline.shards.tables import PATIENT, PATIENTS_NAME, hashed

HELD = ("val", "test")

NAMED = {"lesions": "lesion_id", "patients": PATIENT}
"""Column by the key of ``Base.held``."""


def admit(
    base: Base, source: Source, pairs: Iterable[tuple[str, str]]
) -> tuple[Base, Source, pd.DataFrame]:
    """Return the source without what is left out, and its table placed: all of it is train.

    The base that is returned knows what the left-out images say of val and test. A damaged shard of
    OLD, and that no image is new, are a DataError.
    """
    table = source.table.drop(columns="split", errors="ignore")
    old, new = base.samples, table["image_id"].to_list()
    known = set(old["image_id"])
    keys = [f" {name}" if name in known else name for name in new]  # no id begins with a space
    same = _same(base, source, new, keys)
    union = _union(base, table.assign(image_id=keys))
    joined = [(f" {name}", name) for name in new if name in known]
    group = find_groups(union, [*pairs, *joined, *same.items()], by=("lesion_id", "of", PATIENT))
    held = pd.DataFrame(union[union["part"].isin(HELD)])
    part_of = dict(zip(group[held.index], held["part"], strict=True))
    facts = _Facts(old.set_index("image_id")["split"].to_dict(), same, part_of, held)
    rows = union.iloc[-len(new) :].assign(component=group)
    reasons = [facts.reason(row) for row in rows.to_dict("records")]
    named: dict[str, str] = {}  # a group that holds one of OLD's has the name that it has there
    for component, of in zip(group[: len(old)], union["of"], strict=False):
        named[component] = min(of, named.get(component, of))
    placed = table.assign(
        group=[named.get(name, name) for name in rows["component"]], split="train", fold=-1
    )
    fits = [not reason for reason in reasons]
    if not any(fits):
        raise DataError(f"no image is new to --base {base.shards.root}: {_counted(reasons)}")
    left_out = [(name, why) for name, why in zip(new, reasons, strict=True) if why]
    kept = replace(
        source,
        kind="several",
        table=pd.DataFrame(table[fits]).reset_index(drop=True),
        notes=(*source.notes, *_notes(base, source, reasons)),
        left_out=(*source.left_out, *left_out),
    )
    base = replace(base, held=_held(base, union.iloc[: len(old)], rows, part_of))
    return base, kept, pd.DataFrame(placed[fits]).reset_index(drop=True)


def _same(base: Base, source: Source, ids: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Return for new images, by key, the image of OLD or the earlier new one of its bytes."""
    entries = base.shards.manifest.shards
    old: dict[str, str] = {}
    how = {"max_workers": cores(), "disable": None}
    root = base.shards.root
    for digests in thread_map(lambda entry: _digests(root, entry), entries, desc="base", **how):
        old |= digests
    first = {digest: name for name, digest in reversed(old.items())}

    def packed(image_id: str) -> str:
        try:
            return sha256(encode(source.store.read(image_id), base.flags.images)[0])
        except (BadImageError, DataError):  # packing says what is wrong with it
            return ""

    same: dict[str, str] = {}
    found = thread_map(packed, ids, desc="comparing", **how)
    for name, key, digest in zip(ids, keys, found, strict=True):
        twin = name if old.get(name) == digest else first.setdefault(digest, key)
        if digest and twin != key:
            same[key] = twin
    return same


def _digests(root: Path, entry: ShardEntry) -> dict[str, str]:
    """Return the sha256 of each JPEG in a shard by image id."""
    path = root / entry.path
    data, index = path.read_bytes(), read_index(root / entry.index_path)
    if sha256(data) != entry.sha256:
        raise DataError(f"{path} is damaged: its sha256 is not the manifest's; restore it")
    places = zip(index.names, index.jpg_offset, index.jpg_size, strict=True)
    return {name: sha256(data[at : at + size]) for name, at, size in places}


def _union(base: Base, table: pd.DataFrame) -> pd.DataFrame:
    """Return OLD's rows, those of what it holds besides, the new ones.

    Columns: image_id, lesion_id, part, ``of`` (OLD's group), ``PATIENT``.
    """
    old = base.samples[["image_id", "lesion_id"]].assign(
        part=base.samples["split"], of=base.samples["group"]
    )
    new = table[["image_id", "lesion_id"]].assign(part="", of="")
    patients = base.tables.get(PATIENTS_NAME, pd.DataFrame(columns=["image_id", PATIENT]))
    named = patients.set_index("image_id")[PATIENT].to_dict()
    old[PATIENT] = [named.get(name, "") for name in old["image_id"]]
    new["patient_id"] = table.get("patient_id", "")
    new[PATIENT] = hashed(new["patient_id"])
    held = [
        {"image_id": f"  {value}", "lesion_id": f"  {value}", "part": part, column: value}
        for what, column in NAMED.items()
        for value, part in base.held.get(what, {}).items()
    ]
    return pd.concat([old, pd.DataFrame(held), new], ignore_index=True).fillna("")


def _held(
    base: Base, old: pd.DataFrame, rows: pd.DataFrame, part_of: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return what ``Base.held`` is, with what new ``rows`` say that the rows of ``old`` do not."""
    found = {}
    for what, column in NAMED.items():
        known, values = {"", *old[column]}, zip(rows[column], rows["component"], strict=True)
        said = {v: part_of[group] for v, group in values if group in part_of and v not in known}
        found[what] = {**base.held.get(what, {}), **said}
    return found


def _notes(base: Base, source: Source, reasons: Sequence[str]) -> Iterator[str]:
    """Yield what a person should know of the new images."""
    if any(reasons):
        yield f"{sum(map(bool, reasons)):,} new images are left out: {_counted(reasons)}"
    if "split" in source.table:
        yield "the column split of the table is not used: with --base all new images are train"
    if "unknown" in base.describe(source):
        yield (
            "patients of the base are not known (it was built without their ids): a new image "
            "of a patient in val or test can be told by its lesion or its bytes only"
        )
    if "source" in source.table and not base.flags.ids_are_global:
        yield "lesions and patients are the base's where its ids have the same NAME: in front"
    if base.card() and not base.flags.data_card:
        yield "the data card is the base's; --data-card FILE gives one of the whole"


@dataclass(frozen=True)
class _Facts:
    """What tells why a new image is left out."""

    split_of: Mapping[str, str]
    same: Mapping[str, str]
    part_of: Mapping[str, str]
    held: pd.DataFrame

    def reason(self, row: Mapping[str, Any]) -> str:
        """Return why the image of a row is left out, "" where it is not."""
        key, name, group = row["image_id"], row["image_id"].strip(), row["component"]
        twin = self.same.get(key)
        if name != key:
            how = "with the same bytes" if twin == name else "with other bytes"
            return f"image id: the base has it in {self.split_of[name]}, {how}"
        if twin is not None:
            where = f"of the base's {self.split_of[twin]}" if twin in self.split_of else "(new)"
            return f"same bytes: as {twin.strip()} {where}"
        if group not in self.part_of:
            return ""
        for what, column in (("lesion", "lesion_id"), ("patient", PATIENT)):
            parts = self.held.loc[self.held[column] == row[column], "part"]
            if row[column] and len(parts):
                shown = row["lesion_id" if what == "lesion" else "patient_id"]
                return f"{what}: {shown} belongs to the base's {parts.iloc[0]}"
        return f"group: joined by other images to a lesion in the base's {self.part_of[group]}"


def _counted(reasons: Iterable[str]) -> str:
    """Return how many images are left out for each kind of reason."""
    counts = Counter(reason.partition(":")[0] for reason in reasons if reason)
    return ", ".join(f"{n:,} by {what}" for what, n in counts.items())
