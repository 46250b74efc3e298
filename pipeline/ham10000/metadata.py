"""The metadata table: one checked row per image, from the files as Dataverse gives them.

The file is comma- or tab-separated, has seven columns or eight (``dataset``), lacks some ages and
says ``unknown`` for some sexes and sites. The returned table always has the columns ``COLUMNS``
and ``label`` (1 = malignant), is sorted by image id, and every value in it is checked.

    from pipeline.ham10000.metadata import read_metadata
    table = read_metadata(Path("data/ham10000"))
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.images import require_folder
from pipeline.ham10000.taxonomy import DX, MALIGNANT, SEXES

COLUMNS = ("image_id", "lesion_id", "dx", "dx_type", "age", "sex", "localization")
"""The columns of a checked table, without ``label``."""

TABLE_ENDINGS = (".csv", ".tab", ".tsv", ".txt", "")
"""File name extensions of a table, in the order in which they are tried."""

UNKNOWN = "unknown"
MAX_AGE = 120
MISSING = ("", "na", "nan", "n/a", "none", "null", UNKNOWN)
SEX_SYNONYMS = {"f": "female", "m": "male"} | dict.fromkeys(MISSING, UNKNOWN)

AGE_BANDS = ("0-29", "30-39", "40-49", "50-59", "60-69", "70+", UNKNOWN)
"""Names of the age bands, years; the last is for a missing age."""


def read_metadata(source: Path) -> pd.DataFrame:
    """Return the checked metadata of the HAM10000 files in ``source``.

    Columns: image_id, lesion_id, dx, dx_type, age (float64, NaN where missing), sex,
    localization, label (int64, 1 = malignant); sorted by image_id, RangeIndex.

    Raises:
        DataError: no such folder, no metadata file, a missing column, an unknown dx, a
            duplicate image_id, an impossible age or sex.
    """
    path = find_table(require_folder(source), "HAM10000_metadata")
    if path is None:
        raise DataError(
            f"no metadata in {source}: expected HAM10000_metadata.csv (or .tab, .tsv, .txt), found "
            f"{_listing(source)}; point --source at the folder that holds the Dataverse files"
        )
    return check_metadata(read_table(path), path)


def find_table(source: Path, stem: str) -> Path | None:
    """Return the path of the table ``stem`` in ``source``, with any of ``TABLE_ENDINGS``."""
    paths = (source / f"{stem}{ending}" for ending in TABLE_ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of strings; line one decides whether comma, tab or semicolon separates."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        sep = max(",\t;", key=header.count)
        table = pd.read_csv(path, sep=sep, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is not a comma- or tab-separated table: {error}") from error
    return pd.DataFrame(
        {str(name).strip(): column.fillna("").str.strip() for name, column in table.items()}
    )


def check_metadata(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return ``table`` (strings) checked and typed, as ``read_metadata`` describes it."""
    require_columns(table, COLUMNS, path)
    if table.empty:
        raise DataError(f"{path} has a header and no rows")
    raw = {name: pd.Series(table[name]) for name in COLUMNS}
    for name in ("image_id", "lesion_id"):
        _refuse(raw[name] == "", raw[name], name, "a value", path)
    _refuse(raw["image_id"].duplicated(), raw["image_id"], "image_id", "each id once", path)
    dx = raw["dx"].str.lower()
    _refuse(~dx.isin(DX), raw["dx"], "dx", f"one of {', '.join(DX)}", path)
    sex = raw["sex"].str.lower().replace(SEX_SYNONYMS)
    _refuse(~sex.isin(SEXES), raw["sex"], "sex", f"one of {', '.join(SEXES)}", path)
    checked = pd.DataFrame(
        {
            "image_id": raw["image_id"],
            "lesion_id": raw["lesion_id"],
            "dx": dx,
            "dx_type": raw["dx_type"].replace("", UNKNOWN),
            "age": _ages(raw["age"], path),
            "sex": sex,
            "localization": raw["localization"].replace("", UNKNOWN),
            "label": dx.isin(MALIGNANT).astype(np.int64),
        }
    )
    return checked.sort_values("image_id", ignore_index=True)


def require_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raise a ``DataError`` that names the columns which ``table`` lacks."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column {' and '.join(missing)}: expected {', '.join(columns)}, "
            f"found {', '.join(map(str, table.columns))}"
        )


def _ages(column: pd.Series, path: Path) -> pd.Series:
    """Return ages in years as float64, NaN where missing; refuse anything else."""
    missing = column.str.lower().isin(MISSING)
    ages = pd.Series(pd.to_numeric(column.where(~missing), errors="coerce"), dtype=np.float64)
    wrong = ~missing & ~ages.between(0, MAX_AGE)
    _refuse(wrong, column, "age", f"years from 0 to {MAX_AGE}, or nothing", path)
    return ages


def age_band(years: np.ndarray) -> np.ndarray:
    """Return the ``AGE_BANDS`` name of each age; ``years`` is [N] float, NaN where missing."""
    index = np.digitize(years, (30, 40, 50, 60, 70))
    return np.array(AGE_BANDS)[np.where(np.isnan(years), -1, index)]


def _refuse(wrong: pd.Series, values: pd.Series, column: str, expected: str, path: Path) -> None:
    """Raise a ``DataError`` for the first row of ``wrong``, naming its line in the file."""
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong.to_numpy())[0])
    others = f" ({wrong.sum() - 1} more such rows)" if wrong.sum() > 1 else ""
    raise DataError(
        f"{path}, line {row + 2}: {column} is {values.iloc[row]!r}, expected {expected}{others}"
    )


def _listing(folder: Path, limit: int = 8) -> str:
    """Return the first names in ``folder``, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    more = [f"{len(names) - limit} more"] if len(names) > limit else []
    return ", ".join(names[:limit] + more) or "nothing"
