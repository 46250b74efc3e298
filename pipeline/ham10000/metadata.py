"""The metadata table: one checked row per image, whatever layout it comes from.

The table has the columns ``COLUMNS`` and ``label`` (1 = malignant), is sorted by image id, and
every value in it is checked; ``layouts.image_table`` reads the files.

    table = check_metadata(strings, Path("data/ham10000/HAM10000_metadata.csv"), HAM10000)
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.ham10000.tables import refuse_rows, require_columns
from pipeline.ham10000.taxonomy import SEXES, Taxonomy

COLUMNS = ("image_id", "lesion_id", "dx", "dx_type", "age", "sex", "localization")
"""The columns of a checked table, without ``label``."""

UNKNOWN = "unknown"
MAX_AGE = 120
MISSING = (
    *("", "-", "--", "?", ".", "na", "nan", "n/a", "#n/a", "<na>", "none", "null", "nil", "unk"),
    *("not available", "not known", "not specified", "unspecified"),
    *("missing", "undefined", UNKNOWN),
)
"""How tables write that a value is not known, in lower case."""

SEX_SYNONYMS = {
    **dict.fromkeys(("f", "w", "woman", "weiblich"), "female"),
    **dict.fromkeys(("m", "man", "männlich"), "male"),
    **dict.fromkeys((*MISSING, "u", "other", "diverse", "divers"), UNKNOWN),
}

AGE_BANDS = ("0-29", "30-39", "40-49", "50-59", "60-69", "70+", UNKNOWN)
"""Names of the age bands, years; the last is for a missing age."""


def check_metadata(
    table: pd.DataFrame, path: Path, taxonomy: Taxonomy, *, extra: Sequence[str] = ()
) -> pd.DataFrame:
    """Return ``table`` checked and typed, sorted by image_id, with a RangeIndex.

    Columns: image_id, lesion_id, dx, dx_type, age (float64, NaN where missing), sex, localization,
    label (int64, 1 = malignant), then those of ``extra`` as they are. ``table`` holds strings, dx
    in codes of the taxonomy; its index is the line in the file at ``path``. DataError: a missing
    column, an unknown dx, an image_id twice, an impossible age or sex.
    """
    require_columns(table, COLUMNS, path)
    raw = {name: pd.Series(table[name]) for name in COLUMNS}
    for name in ("image_id", "lesion_id"):
        refuse_rows(raw[name] == "", raw[name], name, "a value", path)
    again = raw["image_id"].duplicated()
    refuse_rows(again, raw["image_id"], "image_id", "each id once", path)
    dx = raw["dx"].str.lower()
    classes = taxonomy.classes
    refuse_rows(~dx.isin(classes), raw["dx"], "dx", f"one of {', '.join(classes)}", path)
    sex = raw["sex"].str.lower().replace(SEX_SYNONYMS)
    refuse_rows(~sex.isin(SEXES), raw["sex"], "sex", f"one of {', '.join(SEXES)}", path)
    checked = pd.DataFrame(
        {
            "image_id": raw["image_id"],
            "lesion_id": raw["lesion_id"],
            "dx": dx,
            "dx_type": _known(raw["dx_type"]),
            "age": _ages(raw["age"], path),
            "sex": sex,
            "localization": _known(raw["localization"]),
            "label": dx.isin(taxonomy.malignant).astype(np.int64),
            **{name: table[name] for name in extra},
        }
    )
    return checked.sort_values("image_id", ignore_index=True)


def _known(column: pd.Series) -> pd.Series:
    """Return a column of words in which all that means a missing one is ``unknown``."""
    return column.mask(column.str.lower().isin(MISSING), UNKNOWN)


def _ages(column: pd.Series, path: Path) -> pd.Series:
    """Return ages in years as float64, NaN where missing; "85+" is 85; refuse anything else."""
    missing = column.str.lower().isin(MISSING)
    numbers = column.str.replace(r"\s*\+$", "", regex=True).str.replace(",", ".")
    ages = pd.Series(pd.to_numeric(numbers.where(~missing), errors="coerce"), dtype=np.float64)
    wrong = ~missing & ~ages.between(0, MAX_AGE)
    refuse_rows(wrong, column, "age", f"years from 0 to {MAX_AGE}, or nothing", path)
    return ages


def age_band(years: np.ndarray) -> np.ndarray:
    """Return the ``AGE_BANDS`` name of each age; ``years`` is [N] float, NaN where missing."""
    index = np.digitize(years, (30, 40, 50, 60, 70))
    return np.array(AGE_BANDS)[np.where(np.isnan(years), -1, index)]
