"""The metadata table: one checked row an image, from the files as Dataverse gives them.

The table comes comma- or tab-separated, with seven columns or eight (``dataset``), with ages
missing and with ``unknown`` for sex and site. What comes out is always the same: the columns of
``COLUMNS`` plus ``label`` (1 = malignant), sorted by image id, every value checked.

    from pipeline.ham10000.metadata import read_metadata
    table = read_metadata(Path("data/ham10000"))
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.images import require_folder
from pipeline.ham10000.taxonomy import DX, DX_IS_MALIGNANT, SEXES

COLUMNS: tuple[str, ...] = (
    "image_id",
    "lesion_id",
    "dx",
    "dx_type",
    "age",
    "sex",
    "localization",
)
"""The columns of a checked table, ``label`` aside."""

METADATA_NAMES: tuple[str, ...] = tuple(
    f"HAM10000_metadata{suffix}" for suffix in (".csv", ".tab", ".tsv", ".txt", "")
)
"""Names that the metadata file goes by, in the order in which they are looked for."""

UNKNOWN = "unknown"
MAX_AGE = 120
MISSING = ("", "na", "nan", "n/a", "none", "null", UNKNOWN)
SEX_SYNONYMS = {"f": "female", "m": "male"} | dict.fromkeys(MISSING, UNKNOWN)

AGE_EDGES = (0, 30, 40, 50, 60, 70)
"""Years at which an age band begins; the last band is open."""

AGE_BANDS = ("0-29", "30-39", "40-49", "50-59", "60-69", "70+", UNKNOWN)
"""Names of the age bands."""


def read_metadata(source: Path) -> pd.DataFrame:
    """Return the checked metadata of the HAM10000 files in ``source``.

    Columns: image_id, lesion_id, dx, dx_type, age (float64, NaN where missing), sex,
    localization, label (int64, 1 = malignant); sorted by image_id, RangeIndex.

    Raises:
        DataError: no such folder, no metadata file, a missing column, an unknown dx, a
            duplicate image_id, an age or sex that cannot be.
    """
    path = find_metadata(require_folder(source))
    if path is None:
        raise DataError(
            f"no metadata in {source}: expected one of {', '.join(METADATA_NAMES)}, found "
            f"{_listing(source)}; point --source at the folder that holds the Dataverse files"
        )
    return check_metadata(read_table(path), path)


def find_metadata(source: Path) -> Path | None:
    """Return the path of the HAM10000 metadata file in ``source``, None where there is none."""
    return next((source / n for n in METADATA_NAMES if (source / n).is_file()), None)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of strings, its delimiter (comma, tab or semicolon) taken from line one."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        delimiter = max(",\t;", key=header.count)
        table = pd.read_csv(
            path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
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
            "age": parse_age(raw["age"], path),
            "sex": sex,
            "localization": raw["localization"].replace("", UNKNOWN),
            "label": np.array([DX_IS_MALIGNANT[DX.index(name)] for name in dx], dtype=np.int64),
        }
    )
    return checked.sort_values("image_id", ignore_index=True)


def require_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raise a ``DataError`` that names the columns which ``table`` lacks."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: expected "
            f"{', '.join(columns)}, found {', '.join(map(str, table.columns))}"
        )


def parse_age(column: pd.Series, path: Path) -> pd.Series:
    """Return ages in years as float64, NaN where missing; refuse what is no age."""
    missing = column.str.lower().isin(MISSING)
    ages = pd.Series(pd.to_numeric(column.where(~missing), errors="coerce"), dtype=np.float64)
    wrong = ~missing & ~ages.between(0, MAX_AGE)
    _refuse(wrong, column, "age", f"years from 0 to {MAX_AGE}, or nothing", path)
    return ages


def age_band(years: np.ndarray) -> np.ndarray:
    """Return the ``AGE_BANDS`` name of each age; ``years`` is [N] float, NaN where missing."""
    index = np.digitize(years, AGE_EDGES[1:])
    return np.array(AGE_BANDS)[np.where(np.isnan(years), len(AGE_EDGES), index)]


def _refuse(wrong: pd.Series, values: pd.Series, column: str, expected: str, path: Path) -> None:
    """Raise a ``DataError`` for the first row of ``wrong``, naming its line in the file."""
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong.to_numpy())[0])
    found = values.iloc[row]
    others = int(wrong.sum()) - 1
    raise DataError(
        f"{path}, line {row + 2}: {column} is {found!r}, expected {expected}"
        + (f" ({others} more such rows)" if others else "")
    )


def _listing(folder: Path, limit: int = 8) -> str:
    """Return the first names in ``folder``, for a message."""
    names = sorted(p.name for p in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) if names else "nothing"
