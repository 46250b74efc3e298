"""What people say of a dataset, for the report: whose it is, how it was verified, what it lacks.

    card = read_card(Path("clinic.toml"))      # {"licence": "CC BY 4.0", "synthetic": False, ...}

A field that is not answered reads "not stated" in the report: nothing is assumed of data that
nobody described. HAM10000 and the made-up data of this package have cards here.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

FIELDS = {
    "name": "Name",
    "source": "Source",
    "licence": "Licence",
    "citation": "Citation",
    "population": "People",
    "selection": "Selection",
    "devices": "Devices",
    "verification": "Reference standard",
    "skin_tones": "Skin tones",
    "artefacts": "Image artefacts",
}
"""What a card answers, and its heading in the report."""

SYNTHETIC = "synthetic"
"""The field that is true of made-up images."""

SHIPPED = Path(__file__).parent.with_name("data_cards")
"""Folder of the cards of HAM10000 and of the made-up data."""

PUBLISHED_LESION = re.compile(r"HAM_000\d{4}")
"""HAM10000 numbers its lesions below 10,000; ``synthesize`` draws from eight million."""


def read_card(path: Path) -> dict[str, Any]:
    """Return the card in a TOML file; a DataError says which field is wrong."""
    try:
        card = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--data-card {path}: {error.strerror or error}") from error
    except ValueError as error:  # no TOML, or not UTF-8
        raise DataError(f"--data-card {path} is no TOML file: {error}") from error
    for name, value in card.items():
        if name not in FIELDS and name != SYNTHETIC:
            near = difflib.get_close_matches(name, FIELDS, 1)
            meant = f" (meant is {near[0]}?)" if near else ""
            fields = ", ".join((*FIELDS, SYNTHETIC))
            raise DataError(f"--data-card {path}: unknown field {name!r}{meant}; known: {fields}")
        kind = bool if name == SYNTHETIC else str
        if not isinstance(value, kind):
            expected = "true or false" if kind is bool else "a text in quotes"
            raise DataError(f"--data-card {path}: {name} is {value!r}; expected {expected}")
    return card


def card_of(manifest: Mapping[str, Any], lesion_ids: Iterable[str]) -> dict[str, Any]:
    """Return the card of shards: the manifest's, or what this package knows of their lesions."""
    if card := manifest.get("data_card"):
        return card
    if manifest["source"].get("kind") != "ham10000":
        return {}
    published = all(map(PUBLISHED_LESION.fullmatch, lesion_ids))
    return read_card(SHIPPED / ("ham10000.toml" if published else "made-up.toml"))
