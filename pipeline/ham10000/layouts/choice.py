"""Which table of a folder describes its images, and which others add columns to it.

    choice = choose_table(Path("isic2019"), HAM10000)
    choice.table, choice.beside          # the ground truth; [the metadata]

A table is chosen by its columns, not by its name: it needs an image id and a diagnosis or label.
Others with an image id add what it lacks (patient_id, lesion_id, age ...). Tables in folders of the
source are looked at where none in the source itself will do. Unreadable ones are passed over.
"""

import difflib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.ham10000.layouts.image_table import our_columns
from pipeline.ham10000.layouts.labels import has_labels
from pipeline.ham10000.metadata import COLUMNS
from pipeline.ham10000.tables import AS_UTF8, TABLE_ENDINGS, column_name, find_table, read_rows
from pipeline.ham10000.taxonomy import Taxonomy

WORKBOOKS = (".xlsx", ".xls", ".ods", ".numbers")
"""Endings of tables that are to be saved as CSV first."""


@dataclass
class Choice:
    """The tables of a folder."""

    taxonomy: Taxonomy
    """The classes that columns and diagnoses are looked for in."""
    table: Path | None = None
    """The one that describes the images, None where there is none."""
    kind: str = "images"
    """What it comes from; see ``Source.kind``."""
    required: tuple[str, ...] = ()
    beside: list[Path] = field(default_factory=list)
    """Tables with an image id and no diagnosis."""
    by_lesion: list[Path] = field(default_factory=list)
    """Tables with diagnoses of lesions and no image id."""
    others: list[str] = field(default_factory=list)
    """What the tables that cannot be used lack, a sentence each."""

    def why_none(self, source: Path) -> str:
        """Return why ``source`` has nothing to pack, what was found and what is needed."""
        names = sorted(path.name for path in source.iterdir())
        more = f", {len(names) - 8} more" if len(names) > 8 else ""
        found = "; ".join(self.others[:4]) or f"found {', '.join(names[:8]) or 'nothing'}{more}"
        codes = ", ".join(self.taxonomy.classes)
        return (
            f"no metadata in {source}: {found}. Expected HAM10000_metadata.csv (or .tab, .tsv, "
            f".txt) as Dataverse gives it, a table of an ISIC challenge or of the ISIC Archive, "
            f"images in one folder a class, or an own table with image_id and dx ({codes}) "
            f"or label (0 = benign, 1 = malignant)"
        )


def choose_table(source: Path, taxonomy: Taxonomy, *, without: Path | None = None) -> Choice:
    """Return which table of ``source``, but ``without``, describes images; several: a DataError."""
    ham = find_table(source, "HAM10000_metadata")
    if ham:
        return Choice(taxonomy, ham, "ham10000", COLUMNS)
    choice = Choice(taxonomy)
    for folders in ([source], sorted(path for path in source.iterdir() if path.is_dir())):
        paths = [path for folder in folders for path in _tables(folder) if path != without]
        kinds = {path: kind for path in paths if (kind := _kind(path, choice))}
        usable = [path for path in kinds if "submission" not in path.name.lower()]
        usable = [path for path in usable if "train" in path.name.lower()] or usable
        if len(usable) > 1:
            raise DataError(
                f"{source} has several tables with image ids and diagnoses: "
                f"{', '.join(path.name for path in usable)}; leave one (build makes the splits)"
            )
        if usable and not choice.table:
            choice.table, choice.kind = usable[0], kinds[usable[0]]
    if not choice.table and len(choice.by_lesion) == 1 and choice.beside:
        choice.table, *others = choice.beside
        choice.beside = [*choice.by_lesion, *others]
    return choice


def _tables(folder: Path) -> Iterator[Path]:
    """Yield the tables in a folder; one that cannot be listed is named with its images."""
    endings = (*TABLE_ENDINGS[:-1], *WORKBOOKS)
    with suppress(OSError), os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries):
            if name.lower().endswith(endings) and not name.startswith((".", "~$")):
                yield folder / name


def _kind(path: Path, choice: Choice) -> str:
    """Return the kind of a table that describes images; note in ``choice`` what others are."""
    try:
        if path.suffix.lower() in WORKBOOKS:
            raise DataError(f"{path.name} is a workbook: {AS_UTF8}")
        header = next(read_rows(path, 1 << 16))[1]
    except DataError as error:
        choice.others.append(str(error))
        return ""
    columns = list(map(column_name, header))
    ids = [name for name, ours in our_columns(columns).items() if ours == "image_id"]
    labelled = has_labels(columns, choice.taxonomy)
    if not (ids and labelled):
        if ids:
            choice.beside.append(path)
        elif labelled and "lesion_id" in our_columns(columns).values():
            choice.by_lesion.append(path)
        if ids or len(columns) > 1:
            choice.others.append(_lack(path, header, bool(ids), labelled))
        return ""
    if path.name.startswith("ISIC2018_Task3_Training"):
        return "ham10000"  # the same images, as the challenge gave them out
    if {"mel", "ak"} <= set(columns):
        return "isic2019"
    if ids[0] == "image_name" and "target" in columns:
        return "isic2020"
    return "images" if ids[0] != "isic_id" else "isic2024" if "target" in columns else "isic"


def _lack(path: Path, header: list[str], has_id: bool, labelled: bool) -> str:
    """Return what a table has and lacks, with the names nearest to what it lacks."""
    needs = [] if has_id else [f"no column image_id{_nearest(header, 'image_id')}"]
    if not labelled:
        near = _nearest(header, "dx", "diagnosis", "label")
        needs.append(f"neither a column dx nor a column label{near}")
    shown = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
    return f"{path.name} has the columns {shown}: {' and '.join(needs)}"


def _nearest(header: list[str], *wanted: str) -> str:
    by_name = {column_name(name): name for name in header}
    near = [difflib.get_close_matches(name, by_name, 1, 0.5) for name in wanted]
    found = next((by_name[names[0]] for names in near if names), None)
    return f" (the nearest is {found})" if found else ""
