"""What a search varies: parameters with their ranges, and the flags of train.py that they mean.

    space = make_space(SearchFlags(only=("lr", "arch"), fixed=("--image-size", "64")))
    words = words_of({"lr": 3e-4, "augment": "strong"})  # --lr 0.0003 --augment strong

A parameter is a flag of train.py without its dashes, or "remedy", which stands for several.
"""

import tomllib
from collections.abc import Mapping
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
from pipeline.search.flags import RESERVED, SearchFlags

Space = dict[str, BaseDistribution]
"""Distributions by parameter."""

REMEDY = "remedy"
"""The parameter that chooses the remedy for class imbalance."""

REMEDIES: dict[str, tuple[str, ...]] = {
    "none": ("--class-weights", "none"),
    "weighted loss": ("--class-weights", "inverse"),
    "focal loss": ("--loss", "focal"),
    "logit adjustment": ("--loss", "logit-adjusted"),
    "oversampling": ("--balance", "oversample"),
    "undersampling": ("--balance", "undersample"),
}

REMEDY_FLAGS = ("--class-weights", "--loss", "--balance")
"""The flags that a remedy sets; one of them fixed takes the remedy out of the search."""

RATES = {"adam": (3e-5, 3e-3), "adamw": (3e-5, 3e-3), "sgd": (1e-3, 3e-1)}
DECAYS = {"adam": (1e-7, 1e-3), "adamw": (1e-3, 3e-1), "sgd": (1e-6, 1e-2)}
"""Ranges by optimiser: adamw's decay is decoupled from the gradient, so its scale is another."""


def make_space(flags: SearchFlags) -> Space:
    """Return what is searched; train.py's parser has accepted each choice and each end of a range.

    DataError: an unknown parameter, a reserved one, or none.
    """
    optimizer = flags.train_flags().optimisation.optimizer
    space = read_space(flags.space) if flags.space else default_space(optimizer)
    if unknown := [name for name in flags.only if name not in space]:
        raise DataError(
            f"--only {unknown[0]}: there is no such parameter; there are {', '.join(space)}"
        )
    for name in list(space):
        sets = REMEDY_FLAGS if name == REMEDY else (f"--{name}",)
        if (flags.only and name not in flags.only) or flags.fixes(*sets):
            del space[name]
    if reserved := [name for name in space if f"--{name}" in RESERVED]:
        raise DataError(f"--space {flags.space}: {reserved[0]} is set by the search itself")
    if len(flags.epochs) == 2:
        space["epochs"] = IntDistribution(min(flags.epochs), max(flags.epochs))
    if not space:
        raise DataError("nothing is left to search: every parameter is fixed; fix fewer flags")
    choices = {name: choices_of(values) for name, values in space.items()}
    for number in range(max(map(len, choices.values()))):
        corner = {name: values[number % len(values)] for name, values in choices.items()}
        flags.train_flags(*words_of(corner))
    return space


def choices_of(values: BaseDistribution) -> tuple[Any, ...]:
    """Return the choices of a distribution, or its two ends."""
    if isinstance(values, CategoricalDistribution):
        return values.choices
    assert isinstance(values, (FloatDistribution, IntDistribution))
    return values.low, values.high


def default_space(optimizer: str) -> Space:
    """Return the parameters that are searched without ``--space``, except the epochs."""
    return {
        "lr": FloatDistribution(*RATES[optimizer], log=True),
        "weight-decay": FloatDistribution(*DECAYS[optimizer], log=True),
        "batch-size": CategoricalDistribution((16, 32, 64, 128)),
        "augment": CategoricalDistribution(("none", "basic", "strong", "trivial")),
        REMEDY: CategoricalDistribution(tuple(REMEDIES)),
        "arch": CategoricalDistribution(("resnet18", "resnet34", "resnet50", "efficientnet_b0")),
    }


def read_space(path: Path) -> Space:
    """Read a space from TOML: ``name = [values]``, or ``name = {low = .., high = .., log = ..}``.

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


def words_of(parameters: Mapping[str, Any]) -> list[str]:
    """Return a trial's parameters as words of train.py's command line."""
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
    """Return a trial's value of a parameter: the one stored with it, else a new one."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(name, values.low, values.high, step=values.step, log=values.log)
    assert isinstance(values, FloatDistribution)
    return trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
