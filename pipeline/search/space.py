"""What a search varies: parameters with their ranges, and the flags of train.py that they mean.

    space = choose_space(default_space("adam"), only=("lr", "arch"), fixed=("--image-size", "64"))
    words = flags({"lr": 3e-4, "augment": "strong"})  # --lr 0.0003 --augment strong

A parameter is a flag of train.py without its dashes, or "remedy", which stands for several.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from pipeline.errors import DataError

Space = dict[str, BaseDistribution]
"""Parameters by name, each with where its values come from."""

REMEDY = "remedy"
"""The parameter that decides what is done about imbalance."""

REMEDIES: dict[str, tuple[str, ...]] = {
    "none": ("--class-weights", "none"),
    "weighted loss": ("--class-weights", "inverse"),
    "focal loss": ("--loss", "focal"),
    "logit adjustment": ("--loss", "logit-adjusted"),
    "oversampling": ("--balance", "oversample"),
    "undersampling": ("--balance", "undersample"),
}
"""The flags of each remedy."""

REMEDY_FLAGS = ("--class-weights", "--loss", "--balance")
"""Given as fixed flags, they take the remedy out of the search."""

RATES = {"adam": (3e-5, 3e-3), "adamw": (3e-5, 3e-3), "sgd": (1e-3, 3e-1)}
DECAYS = {"adam": (1e-7, 1e-3), "adamw": (1e-3, 3e-1), "sgd": (1e-6, 1e-2)}
"""Ranges by optimiser: adamw's decay is decoupled from the gradient, so its scale is another."""

SIZES = (16, 32, 64, 128)
AUGMENTS = ("none", "basic", "strong", "trivial")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "efficientnet_b0")


def default_space(optimizer: str) -> Space:
    """Return everything that is searched where nothing else is said, but for the epochs."""
    return {
        "lr": FloatDistribution(*RATES[optimizer], log=True),
        "weight-decay": FloatDistribution(*DECAYS[optimizer], log=True),
        "batch-size": CategoricalDistribution(SIZES),
        "augment": CategoricalDistribution(AUGMENTS),
        REMEDY: CategoricalDistribution(tuple(REMEDIES)),
        "arch": CategoricalDistribution(ARCHITECTURES),
    }


def read_space(path: Path) -> Space:
    """Read a space from TOML: ``name = [values]``, or ``name = {low = .., high = .., log = ..}``.

    Raises:
        DataError: where the file cannot be read or an entry is neither.
    """
    try:
        entries = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"--space {path}: {error}") from error
    return {name: distribution(entry, f"--space {path}: {name}") for name, entry in entries.items()}


def distribution(entry: Any, where: str) -> BaseDistribution:
    """Return the distribution that an entry of a space file describes."""
    try:
        if isinstance(entry, list):
            return CategoricalDistribution(entry)
        whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        return (IntDistribution if whole else FloatDistribution)(**entry)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{where} is {entry!r}, but it must be a list of values or a table of low, high and "
            f"perhaps log = true ({error})"
        ) from error


def choose_space(space: Space, *, only: Sequence[str], fixed: Sequence[str]) -> Space:
    """Return the part of ``space`` that is named in ``only`` (all if empty) and not fixed."""
    unknown = [name for name in only if name not in space]
    if unknown:
        raise DataError(
            f"--only {unknown[0]}: there is no such parameter; there are {', '.join(space)}"
        )
    given = {word.partition("=")[0].replace("_", "-") for word in fixed if word.startswith("--")}
    return {
        name: values
        for name, values in space.items()
        if (not only or name in only) and not given.intersection(flags_of(name))
    }


def flags_of(name: str) -> tuple[str, ...]:
    """Return the flags of train.py that a parameter decides."""
    return REMEDY_FLAGS if name == REMEDY else (f"--{name}",)


def flags(parameters: Mapping[str, Any]) -> list[str]:
    """Return the words of train.py's command line that a trial's parameters mean."""
    words: list[str] = []
    for name, value in parameters.items():
        if name == REMEDY:
            words += REMEDIES[value]
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", f"{value:.4g}" if isinstance(value, float) else str(value)]
    return words


def suggest(trial: Trial, name: str, values: BaseDistribution) -> Any:
    """Return the trial's value of a parameter; the one that it has, if it has one."""
    match values:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, values.choices)
        case IntDistribution():
            return trial.suggest_int(
                name, values.low, values.high, step=values.step, log=values.log
            )
        case FloatDistribution():
            return trial.suggest_float(
                name, values.low, values.high, step=values.step, log=values.log
            )
    raise AssertionError(values)
