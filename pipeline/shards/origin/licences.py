"""Licence and attribution of each image: from the table, from flags, or known of HAM10000.

    source = with_licences(source, "clinic", flags)
    source.table["copyright_license"], source.table["attribution"]

The columns are those of isic-cli. They are kept only where a flag asks for them, so that shards
built without such a flag stay what they were.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.layouts.data_card import SYNTHETIC, card_of
from pipeline.ham10000.layouts.image_table import counts_of
from pipeline.ham10000.source import Source
from pipeline.shards.flags import BuildFlags

COLUMNS = ("copyright_license", "attribution")

HAM10000 = ("CC-BY-NC", "Tschandl, Rosendahl, Kittler: HAM10000, doi:10.7910/DVN/DBW86T")
"""Licence and attribution of the deposit, which its tables do not name."""

MADE_UP = ("CC0-1.0", "made up by python -m pipeline.ham10000 synthesize")
"""Licence and attribution of what this package draws: no patient, no photographer."""

NOT_STATED = "not stated"


def with_licences(source: Source, name: str, flags: BuildFlags) -> Source:
    """Return ``source`` with the columns ``COLUMNS`` where the flags ask for them, else without.

    ``name`` is that of the source, "" where there is only one. That no image has a licence of
    --license-in is a DataError.
    """
    table = source.table.drop(columns=[*COLUMNS], errors="ignore")
    asked = flags.license or flags.attribution or flags.license_in or flags.keep_licenses or name
    if not asked:
        return replace(source, table=table)
    known = HAM10000 if source.kind in ("ham10000", "isic2018") else ("", "")
    if card_of({"source": {"kind": source.kind}}, table["lesion_id"]).get(SYNTHETIC):
        known = MADE_UP
    for column, given, default in zip(
        COLUMNS, (flags.license, flags.attribution), known, strict=True
    ):
        stated = pd.Series(source.table.get(column, ""), table.index)
        table[column] = stated.mask(stated == "", _given(given, name, flags, default))
    source = replace(source, table=table)
    return _only(source, flags.license_in) if flags.license_in else source


def _given(values: Sequence[str], name: str, flags: BuildFlags, known: str) -> str:
    """Return what a flag says of the source ``name``: NAME=TEXT, then what is known, then TEXT."""
    names = [f"{each}=" for each in flags.sources() if each]
    plain = [value for value in values if not value.startswith(tuple(names))]
    own = [v.removeprefix(f"{name}=") for v in values if name and v.startswith(f"{name}=")]
    order = [*own, known, *plain] if name else [*plain, known]
    return next(filter(None, order), "")


def _only(source: Source, allowed: str) -> Source:
    """Return the images whose licence is one of ``allowed`` (comma-separated)."""
    wanted = {_plain(word) for word in allowed.split(",")}
    column = source.table["copyright_license"]
    fits = np.array([_plain(word) in wanted for word in column])
    found = column.where(column != "", NOT_STATED)
    if not fits.any():
        raise DataError(
            f"--license-in {allowed}: no image of {source.store.source} has such a licence; found "
            f"{counts_of(found)} (--license states that of images without one)"
        )
    if fits.all():
        return source
    out = source.table.loc[~fits, "image_id"]
    reasons = "licence, which --license-in chooses: " + found[~fits]
    note = f"{len(out):,} images are left out (licence: {counts_of(found[~fits])})"
    return replace(
        source,
        table=pd.DataFrame(source.table[fits]).reset_index(drop=True),
        notes=(*source.notes, note),
        left_out=(*source.left_out, *zip(out, reasons, strict=True)),
    )


def _plain(licence: str) -> str:
    """Return a licence in the form in which licences are compared: ``CC BY-NC`` is CC-BY-NC."""
    return "-".join(licence.upper().replace("_", " ").replace("-", " ").split())


def counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return images by source, licence and attribution, as far as the table has these columns."""
    names = {"source": "sources", "copyright_license": "licenses", "attribution": "attributions"}
    return {
        name: dict(sorted(Counter(value or NOT_STATED for value in table[column]).items()))
        for column, name in names.items()
        if column in table
    }
