"""One table of images, whoever wrote it, as the common table of this project.

    rows = read_images(Path("isic/metadata.csv"), HAM10000, image_types=("dermoscopic",))
    rows.table, rows.left_out, rows.names

HAM10000's own table, those of the ISIC challenges of 2018, 2019, 2020 and 2024, the ISIC Archive's
metadata.csv and own tables differ in the names of their columns and in how they name a diagnosis
(``labels``); all else is the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.errors import DataError, warn
from pipeline.ham10000.flags import ImageType
from pipeline.ham10000.layouts import labels
from pipeline.ham10000.metadata import MISSING, UNKNOWN, check_metadata
from pipeline.ham10000.names import key, without_extension
from pipeline.ham10000.tables import read_table, refuse_rows, require_columns
from pipeline.ham10000.taxonomy import Taxonomy

ARCHIVE_TYPES = {"tbp tile": "tbp", "rcm": "confocal", "overview": "clinical"}
"""Our word by the archive's for a kind of photograph, before the colon."""

ALIASES: dict[str, tuple[str, ...]] = {
    "image_id": (
        *("isic_id", "image_name", "image", "imageid", "file_name", "filename", "img_id"),
        *("ddi_file", "bcn_filename", "derm"),
    ),
    "lesion_id": ("lesionid",),
    "patient_id": ("patientid", "patient"),
    "dx_type": ("diagnosis_confirm_type",),
    "age": ("age_approx",),
    "sex": ("gender",),
    "localization": (
        *("anatom_site_general", "anatom_site_general_challenge", "localisation"),
        *("region", "location", "site"),
    ),
    "skin_tone": ("fitspatrick", "fitzpatrick", "fitzpatrick_skin_type", "skin_tone_class"),
    "image_type": (),
    "split": (),
    "copyright_license": ("license", "licence"),
    "attribution": (),
}
"""Our columns and their names elsewhere; the first that a table has counts."""

EXTRA = ("patient_id", "split", "skin_tone", "copyright_license", "attribution")
"""Columns that the result has where the table has them."""

KNOWN = {*ALIASES, *(other for others in ALIASES.values() for other in others), *labels.COLUMNS}

DX_TYPES = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}
"""HAM10000's word by the archive's for how a diagnosis was made."""


class Rows(NamedTuple):
    """What a table says of its images."""

    table: pd.DataFrame
    """As ``check_metadata`` gives it; ``EXTRA`` where the table has them, file_name where a key is
    not it."""
    labels: labels.Kind
    left_out: tuple[tuple[str, str], ...]
    """Image id and reason of the rows that are not to be packed."""
    names: dict[str, str] | None
    """File name or path by image id; None where an id is the file's name without extension."""
    notes: tuple[str, ...]
    """What the user should read."""


def our_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return our name for each column that we read, by its name in the table."""
    found = {}
    for ours, others in ALIASES.items():
        name = next((name for name in (ours, *others) if name in columns), None)
        if name:
            found[name] = ours
    return found


def read_images(
    path: Path,
    taxonomy: Taxonomy,
    *,
    image_types: Sequence[ImageType] = (),
    beside: Sequence[Path] = (),
    required: Sequence[str] = (),
) -> Rows:
    """Return the checked rows of the table at ``path``, which has image ids and labels.

    Kept are photographs of ``image_types`` where the table names them; by default dermoscopic ones,
    or all where none is. Tables ``beside`` it give further columns by image id, or diagnoses by
    lesion id; columns (our names) that are ``required`` must be there. One that is missing, an
    impossible value, and that no image is left are a DataError.
    """
    raw, notes = _read(path, taxonomy), []
    require_columns(raw, required, path)
    for other in beside:
        raw, added = _join(raw, other, taxonomy)
        notes += added
    return rows_of(raw, path, taxonomy, image_types=image_types, required=required, notes=notes)


def rows_of(
    raw: pd.DataFrame,
    path: Path,
    taxonomy: Taxonomy,
    *,
    image_types: Sequence[ImageType] = (),
    required: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Rows:
    """Return what ``read_images`` does for a table of strings under our names."""
    if raw.empty:
        raise DataError(f"{path} has a header and no rows")
    names = pd.Series(raw["image_id"])
    refuse_rows(names == "", names, "image_id", "a value", path)
    ids = names.map(key)
    read = labels.read_labels(raw, path, taxonomy)
    reasons, counts = _reasons(raw, read.none, image_types, path, taxonomy)
    notes, packed = [*notes, *counts], reasons == ""
    if not packed.any():
        raise DataError(f"{path}: no image is left to pack: {'; '.join(notes)}")
    table = raw.reindex(columns=[*ALIASES], fill_value="").assign(image_id=ids, dx=read.dx)
    for name in ("lesion_id", "patient_id"):  # two images of "unknown" have nothing in common
        if name not in required:
            unknown = table[name].str.lower().isin(MISSING)
            table[name] = table[name].mask(unknown, ids if name == "lesion_id" else "")
    table["dx_type"] = table["dx_type"].replace(DX_TYPES)
    tone = table["skin_tone"].str.removesuffix(".0")
    table["skin_tone"] = tone.mask(tone.str.lower().isin(MISSING), UNKNOWN)
    table["file_name"] = names
    renamed = bool((ids != names.map(without_extension)).to_numpy().any())
    known = [name for name in EXTRA if name in raw and set(table[name]) != {UNKNOWN}]
    extra = known + ["file_name"] * renamed
    checked = check_metadata(pd.DataFrame(table[packed]), path, taxonomy, extra=extra)
    if not {"lesion_id", "patient_id"} & set(raw.columns):
        notes.append(
            f"{path.name} names neither lesions nor patients: each image counts as a lesion of its "
            f"own, and images of one lesion can be in two splits"
        )
    left_out = tuple(zip(ids[~packed], reasons[~packed], strict=True))
    files = dict(zip(ids, names, strict=True)) if renamed else None
    return Rows(checked, read.kind, left_out, files, tuple(notes))


def _reasons(
    raw: pd.DataFrame,
    none: list[str],
    types: Sequence[ImageType],
    path: Path,
    taxonomy: Taxonomy,
) -> tuple[pd.Series, list[str]]:
    """Return why each image is left out ("" where it is packed), and the counts in words."""
    word = pd.Series(none, index=raw.index, dtype=str)
    why = {f"diagnosis is none of {taxonomy.title}": word}
    if "image_type" in raw:
        kinds = pd.Series(raw["image_type"])
        family = kinds.str.lower().str.partition(":")[0].str.strip().replace(ARCHIVE_TYPES)
        chosen = types or (("dermoscopic",) if (family == "dermoscopic").any() else ("all",))
        packed = family.isin([*chosen, ""]) | ("all" in chosen)
        why = {"image type, which --image-type chooses": kinds.mask(packed, "")} | why
    elif types and "all" not in types:
        raise DataError(f"--image-type: {path} has no column image_type; leave the flag out")
    reasons, notes = pd.Series("", index=raw.index, dtype=str), []
    for reason, words in why.items():
        new = (words != "") & (reasons == "")
        reasons = reasons.mask(new, reason + ": " + words)
        if new.any():
            notes.append(f"{new.sum():,} images are left out ({reason}: {counts_of(words[new])})")
    return reasons, notes


def counts_of(values: Iterable[str], most: int = 12) -> str:
    """Return the values with their counts, most frequent first, for a message."""
    counts = Counter(values).most_common()
    more = [f"{len(counts) - most} more"] if len(counts) > most else []
    return ", ".join([f"{value} {count:,}" for value, count in counts[:most]] + more)


def _read(path: Path, taxonomy: Taxonomy) -> pd.DataFrame:
    """Return the known columns of a table under our names, equal rows once."""
    raw = read_table(path, wanted=lambda name: name in KNOWN or taxonomy.find(name) is not None)
    single = raw.rename(columns=our_columns(list(raw.columns))).drop_duplicates()
    if len(single) < len(raw):
        warn(f"{path}: {len(raw) - len(single):,} rows stand there twice; each is read once")
    return single


def _join(raw: pd.DataFrame, path: Path, taxonomy: Taxonomy) -> tuple[pd.DataFrame, list[str]]:
    """Return ``raw`` with the columns that only the table at ``path`` has, and what they are."""
    other = _read(path, taxonomy)
    by = "image_id" if "image_id" in other else "lesion_id"  # MILK10k's diagnoses are by lesion
    wanted = ALIASES if by == "image_id" else other.columns
    new = [name for name in wanted if name in other and name not in raw]
    rows = other.loc[other[by].isin(list(raw[by])), [by, *new]]
    rows = pd.DataFrame(rows.drop_duplicates())
    if not new or rows.empty:
        return raw, []
    ids = pd.Series(rows[by])
    refuse_rows(ids.duplicated(), ids, by, "each id once", path)
    joined = raw.merge(rows, on=by, how="left").fillna("").set_axis(raw.index)
    return joined, [f"{path.name} adds {', '.join(new)}"]
