"""The official ISIC 2018 Task 3 test set, as it lies in the same Dataverse deposit.

``ISIC2018_Task3_Test_GroundTruth`` is one-hot (``image,MEL,NV,BCC,AKIEC,BKL,DF,VASC``) and says
nothing of lesions, age, sex or site, so each image is a lesion of its own.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.metadata import check_metadata, read_table, require_columns
from pipeline.ham10000.taxonomy import DX

GROUND_TRUTH_NAMES: tuple[str, ...] = tuple(
    f"ISIC2018_Task3_Test_GroundTruth{suffix}" for suffix in (".csv", ".tab", ".tsv", ".txt", "")
)
"""Names that the table goes by, in the order in which they are looked for."""

WITHOUT_IMAGE: tuple[str, ...] = ("ISIC_0035068",)
"""Rows of the table whose image is not in the deposit."""


def find_ground_truth(source: Path) -> Path | None:
    """Return the path of the table in ``source``, None where there is none."""
    return next((source / n for n in GROUND_TRUTH_NAMES if (source / n).is_file()), None)


def read_ground_truth(path: Path) -> pd.DataFrame:
    """Return the checked table, with the columns that ``read_metadata`` gives.

    Raises:
        DataError: a missing column, a row that does not name exactly one diagnosis.
    """
    raw = read_table(path)
    raw.columns = [name.lower() for name in raw.columns]
    require_columns(raw, ("image", *DX), path)
    try:
        chosen = raw[list(DX)].astype(float).to_numpy()
    except ValueError as error:
        raise DataError(f"{path}: a diagnosis column is neither 0 nor 1: {error}") from error
    wrong = np.flatnonzero(~(np.isin(chosen, (0, 1)).all(axis=1) & (chosen.sum(axis=1) == 1)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{path}, line {row + 2}: expected a 1 in exactly one of {', '.join(DX)}, found "
            f"{chosen[row].tolist()} for {raw['image'][row]}"
        )
    names = raw["image"].to_list()
    table = pd.DataFrame(
        {"image_id": names, "lesion_id": names, "dx": [DX[i] for i in chosen.argmax(axis=1)]}
    )
    unknown = dict.fromkeys(("dx_type", "age", "sex", "localization"), "")
    return check_metadata(table.assign(**unknown), path)
