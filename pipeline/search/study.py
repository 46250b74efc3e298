"""The study on its storage: opened or made, and the same for everybody who works on it.

study = open_study(Path("runs/search"), storage="", name="search", pruner=..., setting={...})
"""

import json
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

from pipeline.errors import DataError
from pipeline.search.lease import locked

SETTING, MANIFEST = "setting", "manifest_sha256"
"""Attributes of a study: what its trials have in common; the digest of their shards."""


def open_study(
    out: Path, *, storage: str, name: str, pruner: BasePruner, setting: dict[str, Any]
) -> optuna.Study:
    """Return the study, made where there is none.

    Args:
        out: STUDY.
        storage: address of the storage; empty for SQLite in STUDY.
        name: in the storage.
        pruner: what ends trials early.
        setting: flags and ranges, compared with those that the study was begun with.

    Raises:
        DataError: where the storage cannot be opened, or the study was begun otherwise.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written ({error})") from error
    with locked(out / ".lock"):  # SQLite's tables are to be made by one process
        try:
            study = optuna.create_study(
                storage=open_storage(storage or f"sqlite:///{(out / 'study.db').absolute()}"),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
        except Exception as error:  # whatever a database's driver raises, or that there is none
            raise DataError(
                f"--storage {storage or out / 'study.db'}: cannot be opened "
                f"({type(error).__name__}: {error})"
            ) from error
        check_setting(study, setting, where=storage or str(out))
    return study


def open_storage(url: str) -> BaseStorage:
    """Return a database, Redis, or, where there is no "://", a journal file."""
    if url.startswith("redis"):
        return JournalStorage(JournalRedisBackend(url))
    if "://" not in url:
        return JournalStorage(JournalFileBackend(url))
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return RDBStorage(url, engine_kwargs=waiting)


def check_setting(study: optuna.Study, setting: dict[str, Any], *, where: str) -> None:
    """Keep the setting with the study, or refuse one that differs from what is kept."""
    kept = study.user_attrs.get(SETTING)
    if kept is None:
        study.set_user_attr(SETTING, setting)
    elif kept != setting:
        changed = [name for name in setting if kept.get(name) != setting[name]]
        was = "; ".join(f"{name}: {kept.get(name)}" for name in changed)
        raise DataError(
            f"the study {study.study_name!r} in {where} was begun with other flags or ranges "
            f"({was}); give the same to go on, or another --out (and --study-name)"
        )


def check_manifest(study: optuna.Study, folder: Path) -> None:
    """Keep the digest of the shards that RUN was trained on, or refuse one that differs."""
    here = json.loads((folder / "config.json").read_text())["manifest_sha256"]
    known = study.user_attrs.get(MANIFEST)
    if known is None:
        study.set_user_attr(MANIFEST, here)
    elif known != here:
        raise DataError(
            f"{folder}: trained on other shards (manifest {here[:12]}...) than the trials before "
            f"it ({known[:12]}...), so they cannot be compared; give those shards, or another --out"
        )


def make_pruner(kind: str, *, min_epochs: int, max_epochs: int, reduction: int) -> BasePruner:
    """Return successive halving (Li et al. 2020), Hyperband (Li et al. 2018), or nothing.

    Args:
        kind: "asha", "hyperband" or "none".
        min_epochs: before the first comparison.
        max_epochs: of the longest trial.
        reduction: one in so many goes on.
    """
    match kind:
        case "asha":
            return SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=reduction)
        case "hyperband":
            return HyperbandPruner(min_epochs, max_epochs, reduction)
        case _:
            return NopPruner()
