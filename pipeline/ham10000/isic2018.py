"""The official ISIC 2018 Task 3 test set, part of the same Dataverse deposit.

``ISIC2018_Task3_Test_GroundTruth`` is one-hot (``image,MEL,NV,BCC,AKIEC,BKL,DF,VASC``) and has no
lesion, age, sex or site, so each image counts as a lesion of its own.

    table = read_ground_truth(Path("data/ham10000/ISIC2018_Task3_Test_GroundTruth.csv"))
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.metadata import check_metadata, read_table, require_columns
from pipeline.ham10000.taxonomy import DX

GROUND_TRUTH = "ISIC2018_Task3_Test_GroundTruth"
"""Name of the table, without its extension."""

WITHOUT_IMAGE = ("ISIC_0035068",)
"""Rows of the table whose image is not in the deposit."""


def read_ground_truth(path: Path) -> pd.DataFrame:
    """Return the checked table, with the columns of ``read_metadata``.

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
    table = pd.DataFrame({"image_id": raw["image"], "lesion_id": raw["image"]})
    table["dx"] = [DX[index] for index in chosen.argmax(axis=1)]
    table[["dx_type", "age", "sex", "localization"]] = ""
    return check_metadata(table, path)
