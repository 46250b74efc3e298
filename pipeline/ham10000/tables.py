"""Tables as people have them: strings by column, whatever wrote the file.

    table = read_table(Path("data/ham10000/HAM10000_metadata.csv"))
    table["image_id"], table.index          # strings; the index is the line in the file

Commas, tabs, semicolons or bars separate; Excel's ``sep=;`` line is understood; the text is UTF-8,
UTF-16 or Windows-1252. ``Image ID`` is ``image_id``. Delimiters at the end of a line add no column;
the row numbers of R and empty rows are dropped.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError

TABLE_ENDINGS = (".csv", ".tab", ".tsv", ".txt", "")
"""File name extensions of a table, in the order in which they are tried."""

AS_UTF8 = "save it as CSV UTF-8 (Excel: Save As, 'CSV UTF-8')"


def find_table(source: Path, stem: str) -> Path | None:
    """Return the path of the table ``stem`` in ``source`` or in a folder of that name there."""
    folders = (source, source / stem)
    paths = (folder / f"{stem}{ending}" for folder in folders for ending in TABLE_ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def column_name(name: str) -> str:
    """Return a column's name in the form in which names are compared."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def read_table(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> pd.DataFrame:
    """Read the columns that ``wanted`` accepts (all by default) as strings, "" where missing.

    A file that is no table, and a row with more values than the header, are a DataError.
    """
    rows = read_rows(path)
    header = next(rows)[1]
    names = [name if wanted(name) else "" for name in map(column_name, header)]
    places = {name: names.index(name) for name in dict.fromkeys(names) if name}
    shift, width, seen = 0, len(header), {}  # seen: equal strings are kept once
    lines, values = [], []
    for line, row in rows:
        if any(row[width + shift :]):
            if lines or len(row) != width + 1 or row[0] != "1":
                raise DataError(
                    f"{path}, line {line}: it has {len(row)} values and the header has {width} "
                    f"columns; a value that contains the delimiter must stand in quotes"
                )
            shift = 1  # R wrote row numbers, which the header does not name
        whole = row + [""] * (width + shift - len(row))
        kept = [whole[place + shift].strip() for place in places.values()]
        if any(kept):
            lines.append(line)
            values.append([seen.setdefault(value, value) for value in kept])
    return pd.DataFrame(values, columns=list(places), index=lines, dtype=str)


def read_rows(path: Path, most: int = -1) -> Iterator[tuple[int, list[str]]]:
    """Yield the header as it stands there and each row after it, with the line in which it ends.

    At most ``most`` bytes are read; a file that is no table is a DataError.
    """
    try:
        with path.open("rb") as file:
            text = io.StringIO(_decoded(file.read(most), path), newline="")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    line, before, delimiter = "", -1, ""
    while not line.strip():
        line, before = text.readline(), before + 1
        if not line:
            raise DataError(f"{path} is not a comma- or tab-separated table: it is empty")
        if declared := re.fullmatch(r'"?sep=(.)"?\s*', line, re.IGNORECASE):
            line, delimiter = "", declared[1]
    text.seek(text.tell() - len(line))
    reader = csv.reader(text, delimiter=delimiter or max(",\t;|", key=line.count), strict=True)
    try:
        for row in reader:
            yield before + reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {before + reader.line_num}: it is not a comma- or tab-separated table: "
            f"{error}"
        ) from error


def _decoded(data: bytes, path: Path) -> str:
    """Return the text of a table."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    what = "a workbook" if data.startswith(b"PK\x03\x04") else "no text"
    if b"\0" in data or what == "a workbook":
        raise DataError(f"{path} is {what}, not a comma- or tab-separated table: {AS_UTF8}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def require_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raise a ``DataError`` that names the columns which ``table`` lacks."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column {' and '.join(missing)}: expected {', '.join(columns)}, "
            f"found {', '.join(map(str, table.columns))}"
        )


def refuse_rows(
    wrong: pd.Series, values: pd.Series, column: str, expected: str, path: Path
) -> None:
    """Raise a ``DataError`` for the first row of ``wrong``, naming its line in the file."""
    if wrong.any():
        row = wrong.idxmax()
        others = f" ({wrong.sum() - 1} more such rows)" if wrong.sum() > 1 else ""
        raise DataError(
            f"{path}, line {row}: {column} is {values[row]!r}, expected {expected}{others}"
        )
