"""Search for better flags of train.py: many trials, the hopeless ones ended early.

    study --parameters--> train.py in STUDY/trials/NNN --history.csv--> study --> search.html

    python -m pipeline.search --shards shards/ham10000 --trials 20 -- --image-size 64
    python -m pipeline.search --only lr weight-decay --epochs 8 -- --arch resnet18
    python -m pipeline.search --storage postgresql://HOST/DB --study-name r34

What follows `--` is given to every trial as it is, and what is fixed there is not searched. A trial
is worth its best validation ROC-AUC; the test split is never looked at. Several processes (one a
GPU, with CUDA_VISIBLE_DEVICES) and several machines share a study when they are given the same
storage and name; --trials counts the trials of all. Killed, the same command goes on: what is done
stays done, the trial that ran resumes in its folder. Exit codes are those of train.py.
"""

import json
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution, distribution_to_json

from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.search import space as search_space
from pipeline.search import study as search_study
from pipeline.search.flags import OWN, Options, train_config
from pipeline.search.space import Space
from pipeline.search.worker import Search
from pipeline.training.processes import Interruption


def main() -> None:
    """Run trials until the study has enough, then say what came out."""
    options = parse(Options, about="Search for better flags of train.py.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = make_space(options)
    search = Search(options, space, open_study(options, space), Interruption())
    while not search.interruption.received and (trial := search.next_trial()):
        search.work_on(trial)
    search.finish()


def make_space(options: Options) -> Space:
    """Return what is searched; every choice has gone through train.py's own parser then."""
    config = train_config(options, [])
    space = search_space.read_space(options.space) if options.space else None
    space = space or search_space.default_space(config.optimisation.optimizer)
    space = search_space.choose_space(space, only=options.only, fixed=options.fixed)
    own = [name for name in space if f"--{name}" in OWN]
    if own:
        raise DataError(f"--space {options.space}: {own[0]} is a flag of the search's own")
    if len(options.epochs) == 2:
        space["epochs"] = IntDistribution(min(options.epochs), max(options.epochs))
    if not space:
        raise DataError("nothing is left to search: every parameter is fixed; name fewer flags")
    for number in range(max(len(choices(values)) for values in space.values())):
        corner = {name: choices(v)[number % len(choices(v))] for name, v in space.items()}
        train_config(options, search_space.flags(corner))
    return space


def choices(values: Any) -> tuple:
    """Return the choices of a distribution, or its two ends."""
    if isinstance(values, CategoricalDistribution):
        return values.choices
    return (values.low, values.high)


def open_study(options: Options, space: Space) -> optuna.Study:
    """Open the study, or make it; refuse one that was begun with other flags."""
    return search_study.open_study(
        options.out,
        storage=options.storage,
        name=options.study_name or options.out.absolute().name,
        pruner=search_study.make_pruner(
            options.pruner,
            min_epochs=options.min_epochs,
            max_epochs=max(options.epochs),
            reduction=options.reduction,
        ),
        setting={
            "every": list(options.every),
            "space": {name: json.loads(distribution_to_json(v)) for name, v in space.items()},
        },
    )


if __name__ == "__main__":
    guard(main)
