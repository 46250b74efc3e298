"""Several sources as one: an image that two of them hold is taken once, ids belong to their source.

    source = merge({"ham": open_source(a), "clinic": open_source(b)})
    source.table["source"], source.pairs

Two images are the same where their files have the same bytes, or where both have the same id of the
ISIC Archive (ISIC 2019 holds HAM10000 under its ids). The source named first gives the row. What
the other one says of its lesion and patient still joins images: ``Source.pairs``.
"""

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.ham10000.images import ImageStore
from pipeline.ham10000.names import key
from pipeline.ham10000.source import Source

ISIC_ID = re.compile(r"(ISIC_\d{7})(_downsampled)?")
"""Ids that are the archive's wherever they occur; ISIC 2019 marks those of shrunk images."""

SHOWN = 10
"""Conflicts in a message; left_out.csv has all of them."""


def merge(
    sources: Mapping[str, Source], *, ids_are_global: bool = False, test_source: str | None = None
) -> Source:
    """Return one source with the images of all.

    The column ``source`` has the name. Lesion and patient ids become ``NAME:ID``, an image id that
    means another image in an earlier source gets its source's name; the rows of ``test_source`` are
    the test split, and count where another source holds the same image. ``sources`` are by name, in
    the order of precedence; with ``ids_are_global`` equal ids mean the same in all of them.
    """
    if test_source is not None and test_source not in sources:
        raise DataError(f"--test-source {test_source}: the sources are {', '.join(sources)}")
    names = sorted(sources, key=lambda name: name != test_source)
    opened = [sources[name] for name in names]
    table = pd.concat(
        [
            _scoped(source, name, "" if ids_are_global else f"{name}:").assign(
                official_test=source.table["official_test"] | (name == test_source)
            )
            for name, source in zip(names, opened, strict=True)
        ],
        ignore_index=True,
    )
    texts = table.columns.difference(["age", "label", "official_test"])
    table[texts] = table[texts].fillna("")
    first = _first_of_same(table, opened, names, ids_are_global)
    kept = first == np.arange(len(table))
    ids = _packed_ids(table, kept, first)
    together = tuple(c for c in ("lesion_id", "patient_id") if any(c in s.together for s in opened))
    dropped, conflicts = _dropped(table, first, ids, sources)
    left_out = [(i, f"{name}: {why}") for name, s in sources.items() for i, why in s.left_out]
    pairs = _pairs(table, first, ids, together)
    renamed = ids != table["image_id"].to_numpy(dtype=object)
    if renamed[kept].any() or "file_name" in table:
        table["file_name"] = table.get("file_name", table["image_id"])
        table["file_name"] = table["file_name"].mask(table["file_name"] == "", table["image_id"])
    store = _joined(table, kept, ids, dict(zip(names, opened, strict=True)))
    packed = pd.DataFrame(table.assign(image_id=ids)[kept])
    return Source(
        "several",
        packed.sort_values("image_id", ignore_index=True),
        store,
        labels="binary" if any(s.labels == "binary" for s in opened) else "dx",
        taxonomy=opened[0].taxonomy,
        together=together,
        notes=_notes(sources, len(dropped), conflicts),
        left_out=(*left_out, *dropped),
        missing=tuple(name for s in opened for name in s.missing),
        pairs=pairs,
    )


def _notes(
    sources: Mapping[str, Source], dropped: int, conflicts: Sequence[str]
) -> tuple[str, ...]:
    """Return what each source notes, and what is the same in two of them."""
    notes = [f"{name}: {note}" for name, source in sources.items() for note in source.notes]
    if dropped:
        notes.append(f"{dropped:,} images are in an earlier source too and are taken once")
    if conflicts:
        more = f"; {len(conflicts) - SHOWN:,} more" if len(conflicts) > SHOWN else ""
        notes.append(
            f"CONFLICT: {len(conflicts):,} images have one label in one source and another in the "
            f"next; that of the source named first is packed: {'; '.join(conflicts[:SHOWN])}{more}"
        )
    return tuple(notes)


def _scoped(source: Source, name: str, prefix: str) -> pd.DataFrame:
    """Return a source's table with its name, and ``prefix`` before ids of lesions and patients."""
    table = source.table.assign(source=name)
    for column in table.columns.intersection(["lesion_id", "patient_id"]):
        table[column] = (prefix + table[column]).where(table[column] != "", "")
    return table


def _first_of_same(
    table: pd.DataFrame, sources: Sequence[Source], names: Sequence[str], ids_are_global: bool
) -> np.ndarray:
    """Return for each row the first row that shows the same image, ``[n] int64``."""
    first = np.arange(len(table))
    stores = {name: source.store for name, source in zip(names, sources, strict=True)}
    rows = list(zip(table["source"], table["image_id"], strict=True))
    same: dict[str, int] = {}
    for row, (_, image_id) in enumerate(rows):
        archive = ISIC_ID.fullmatch(image_id)
        if archive or ids_are_global:
            first[row] = same.setdefault(archive[1] if archive else image_id, row)
    by_size: dict[int, list[int]] = {}
    for row, (name, image_id) in enumerate(rows):
        by_size.setdefault(stores[name].locations[image_id][0].size, []).append(row)
    for alike in by_size.values():
        if len({rows[row][0] for row in alike}) > 1 and len(set(first[alike])) > 1:
            content: dict[str, int] = {}
            for row in alike:
                with suppress(DataError):  # packing says what is wrong with it
                    digest = sha256(stores[rows[row][0]].read(rows[row][1]))
                    other = content.setdefault(digest, row)
                    if rows[other][0] != rows[row][0]:  # copies within one source stay
                        low, high = sorted((int(first[other]), int(first[row])))
                        first[first == high] = low
    return first


def _packed_ids(table: pd.DataFrame, kept: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the id under which each row's image is packed, ``[n] object``."""
    ids, taken = table["image_id"].to_numpy(dtype=object).copy(), set()
    for row in np.flatnonzero(kept):
        if ids[row] in taken:
            ids[row] = key(f"{table['source'][row]}/{ids[row]}")
        taken.add(ids[row])
    return ids[first]


def _dropped(
    table: pd.DataFrame, first: np.ndarray, ids: np.ndarray, sources: Mapping[str, Source]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the rows that another source stands for, with the reason, and the conflicts of labels.

    A row that its source leaves out for its diagnosis is in conflict with one that packs it.
    """
    names, dx, label = (table[column].tolist() for column in ("source", "dx", "label"))
    dropped, conflicts = [], []
    for row in np.flatnonzero(first != np.arange(len(table))):
        one, other = int(first[row]), int(row)
        reason = f"{names[other]}: the same image as {ids[one]} of {names[one]}, taken once"
        known = all(sources[names[each]].labels == "dx" for each in (one, other))
        if (dx[one] != dx[other]) if known else (label[one] != label[other]):
            said = f"{dx[one]} in {names[one]}, {dx[other]} in {names[other]}"
            conflicts.append(f"{ids[one]} is {said}")
            reason += f"; CONFLICT: {said}"
        dropped.append((str(table["image_id"][other]), reason))
    packed = {ids[row]: row for row in np.flatnonzero(first == np.arange(len(table)))}
    for name, source in sources.items():
        for image_id, why in source.left_out:
            row = packed.get(image_id)
            if row is not None and names[row] != name and ISIC_ID.fullmatch(image_id):
                conflicts.append(
                    f"{image_id} is {dx[row]} in {names[row]}, left out of {name}: {why}"
                )
    return dropped, conflicts


def _pairs(
    table: pd.DataFrame, first: np.ndarray, ids: np.ndarray, together: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return what the rows that are not taken say of which images belong together."""
    elsewhere = first != np.arange(len(table))
    pairs = []
    for column in together:
        for value, rows in table.groupby(column).indices.items():
            if value and elsewhere[rows].any():
                pairs += itertools.pairwise(dict.fromkeys(ids[rows]))
    return tuple(sorted({(str(a), str(b)) for a, b in pairs}))


def _joined(
    table: pd.DataFrame, kept: np.ndarray, ids: np.ndarray, sources: Mapping[str, Source]
) -> ImageStore:
    """Return a store of the images that are kept, under the ids by which they are packed."""
    whole = copy.copy(next(iter(sources.values())).store)
    whole.containers, whole.locations = (), {}
    for name, source in sources.items():
        shift = len(whole.containers)
        whole.containers += source.store.containers
        names = table["image_id"].tolist()
        for row in np.flatnonzero(kept & (table["source"] == name).to_numpy()):
            found = source.store.locations[names[row]]
            whole.locations[ids[row]] = tuple(
                place._replace(container=place.container + shift) for place in found
            )
    return whole
