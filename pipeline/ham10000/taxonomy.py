"""The classes of a dataset: their order, full names, which are malignant, and what maps to each.

    taxonomy = load("ham10000")                # shipped: ham10000, isic2019, pad-ufes-20, milk10k
    taxonomy = load("mine.toml")               # one's own
    taxonomy.find("Melanoma in situ")          # "mel"; "" for a word that is none of the classes

The order is part of the shard format: a sample's ``.cls`` is an index into ``classes``. The binary
label (1 = malignant) is derived from the class and never stored in a shard. A set or model without
a taxonomy of its own has HAM10000's.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError

FOLDER = Path(__file__).with_name("taxonomies")
SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
"""Names of the taxonomies that come with this package."""

LABELS: tuple[str, str] = ("benign", "malignant")
"""Names of the binary labels 0 and 1."""

SEXES: tuple[str, ...] = ("female", "male", "unknown")
"""The values of the metadata column ``sex``."""

CODE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
RESERVED = (*LABELS, "uncalibrated")
"""No codes: predictions.csv has columns of these names."""


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a dataset."""

    classes: tuple[str, ...]
    """Codes in the order of their index, in lower case."""
    malignant: tuple[str, ...]
    """Those whose binary label is 1."""
    names: dict[str, str]
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names, codes and paths ``a:b`` that map to a class; a path holds for those below it."""
    none: tuple[str, ...] = ()
    """Names and codes of what is none of the classes: such images are left out."""
    title: str = "the classes"
    """How messages call all of them."""

    def find(self, word: str) -> str | None:
        """Return the class that a code, name or path (its deepest part) means, in any case.

        "" is none of the classes, None a word that is not known.
        """
        levels = _plain(word).split(":")
        for length in range(len(levels), 0, -1):
            for name in (":".join(levels[:length]), levels[length - 1]):
                if name in self._class_of:
                    return self._class_of[name]
        return "" if len(levels) > 1 else None

    def index(self, dx: Iterable[str]) -> np.ndarray:
        """Return the index of each class, int64 [N]."""
        place = {name: number for number, name in enumerate(self.classes)}
        return np.array([place[name] for name in dx], dtype=np.int64)

    @property
    def is_malignant(self) -> np.ndarray:
        """Binary label by index, int64 [K]."""
        return np.array([name in self.malignant for name in self.classes], dtype=np.int64)

    def stand_in(self, label: int) -> str:
        """Return the class packed for a binary label where no diagnosis is known."""
        known = [name for name in self.classes if (name in self.malignant) == bool(label)]
        usual = ("nv", "mel")[label]
        return usual if usual in known else known[0]

    def shared(self, other: "Taxonomy") -> dict[str, str]:
        """Return the class of ``other`` for each class here that has one.

        The first of code, full name and aliases that ``other`` knows decides.
        """
        found = {}
        for dx in self.classes:
            words = (dx, self.names[dx], *self.aliases.get(dx, ()))
            known = (hit for word in words if (hit := other.find(word)) is not None)
            if hit := next(known, ""):
                found[dx] = hit
        return found

    def describe(self) -> dict[str, Any]:
        """Return what manifest.json says; of HAM10000's only the codes."""
        codes: dict[str, Any] = {"dx": list(self.classes), "malignant": list(self.malignant)}
        if self == HAM10000:
            return codes
        aliases = {dx: list(words) for dx, words in self.aliases.items()}
        own = {"names": self.names, "aliases": aliases, "none": list(self.none)}
        return codes | own | {"title": self.title}

    @cached_property
    def _class_of(self) -> dict[str, str]:
        """Class by code, name or alias, in the form in which they are compared; "" for none."""
        words = {_plain(word): "" for word in self.none}
        for dx in self.classes:
            every = (dx, self.names[dx], *self.aliases.get(dx, ()))
            words |= {_plain(word): dx for word in every}
        return words


def described(values: Mapping[str, Any] | None) -> Taxonomy:
    """Return the taxonomy of what ``describe`` returned; None is HAM10000's."""
    if values is None or values == HAM10000.describe():
        return HAM10000
    renamed = {"classes" if key == "dx" else key: value for key, value in values.items()}
    return taxonomy_of(renamed, "the stored taxonomy")


def load(choice: str) -> Taxonomy:
    """Return a shipped taxonomy by name, or that of a TOML file; a DataError says what is wrong."""
    path = FOLDER / f"{choice}.toml" if choice in SHIPPED else Path(choice)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"--taxonomy {choice}: {error.strerror or error}; expected a TOML file, or one of "
            f"{', '.join(SHIPPED)}"
        ) from error
    except ValueError as error:  # no TOML, or not UTF-8
        raise DataError(f"{path} is no TOML file: {error}") from error
    return taxonomy_of(values, str(path))


def taxonomy_of(values: Mapping[str, Any], where: str) -> Taxonomy:
    """Return the taxonomy of a TOML file's values (keys: docs/data.md), or raise a DataError."""
    known = ("classes", "malignant", "names", "aliases", "none", "title")
    unknown = [key for key in values if key not in known]
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(known)}")
    classes, malignant = (_codes(values, key, where) for key in ("classes", "malignant"))
    names = {dx.lower(): name for dx, name in _table(values, "names", where).items()}
    aliases = {dx.lower(): words for dx, words in _table(values, "aliases", where).items()}
    for key, named in (("malignant", malignant), ("names", names), ("aliases", aliases)):
        strange = [dx for dx in named if dx not in classes]
        if strange:
            raise DataError(
                f"{where}: {key} names {strange[0]!r}, which is none of the classes "
                f"{', '.join(classes)}"
            )
    _require_both(classes, malignant, where)
    every = {dx: _words(aliases.get(dx, []), f"aliases of {dx}", where) for dx in classes}
    taxonomy = Taxonomy(
        classes=classes,
        malignant=malignant,
        names={dx: _words([names.get(dx, dx)], f"names of {dx}", where)[0] for dx in classes},
        aliases={dx: words for dx, words in every.items() if words},
        none=_words(values.get("none", []), "none", where),
        title=_words([values.get("title", f"the {len(classes)} classes")], "title", where)[0],
    )
    _refuse_two_meanings(taxonomy, where)
    return taxonomy


def _plain(word: str) -> str:
    """Return a word in the form in which words are compared."""
    return " ".join(word.lower().replace("_", " ").split())


def _words(found: Any, what: str, where: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(word, str) and word for word in found):
        raise DataError(f'{where}: {what} is {found!r}; expected texts, as ["a", "b"]')
    return tuple(found)


def _table(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = values.get(key, {})
    if not isinstance(found, dict):
        raise DataError(f"{where}: {key} is {found!r}; expected a table [{key}] by class")
    return found


def _codes(values: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    codes = tuple(code.lower() for code in _words(values.get(key, []), key, where))
    wrong = [code for code in codes if not CODE.fullmatch(code) or code in RESERVED]
    if wrong:
        raise DataError(
            f"{where}: {key} has {wrong[0]!r}; expected up to 32 letters, digits, '-' and '_', "
            f"and none of {', '.join(RESERVED)}"
        )
    again = [code for place, code in enumerate(codes) if code in codes[:place]]
    if again:
        raise DataError(f"{where}: {key} has {again[0]!r} twice; expected each class once")
    return codes


def _require_both(classes: tuple[str, ...], malignant: tuple[str, ...], where: str) -> None:
    """Refuse fewer than two classes, and classes that are all benign or all malignant."""
    if len(classes) < 2:
        raise DataError(f"{where}: {len(classes)} classes; expected at least 2")
    if not 0 < len(malignant) < len(classes):
        raise DataError(
            f"{where}: {len(malignant)} of {len(classes)} classes are malignant; expected at least "
            f"one malignant and one benign class"
        )


def _refuse_two_meanings(taxonomy: Taxonomy, where: str) -> None:
    meaning: dict[str, str] = {_plain(word): "none" for word in taxonomy.none}
    for dx in taxonomy.classes:
        for word in (dx, taxonomy.names[dx], *taxonomy.aliases.get(dx, ())):
            other = meaning.setdefault(_plain(word), dx)
            if other != dx:
                raise DataError(f"{where}: {word!r} maps to {other} and to {dx}; expected one")


HAM10000 = load("ham10000")
"""The seven classes of HAM10000.

Tschandl, Rosendahl, Kittler, "The HAM10000 dataset", Scientific Data 5:180161 (2018).
"""
