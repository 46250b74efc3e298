"""Images in one folder a class, without a table: ``train/benign/1.jpg``, ``nevus/a.png``.

    rows = read_folders(ImageStore(Path("photos")), HAM10000)

The nearest folder above an image that names a class is its class: a code or full name of a
diagnosis, or benign and malignant (0 and 1). Folders such as train and test do not become splits.
The same file twice (some sets hold a copy of themselves) is taken once.
"""

from pathlib import PurePosixPath

import pandas as pd

from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.ham10000.images import ImageStore
from pipeline.ham10000.layouts.image_table import Rows, counts_of, rows_of
from pipeline.ham10000.layouts.labels import LABEL_OF
from pipeline.ham10000.taxonomy import Taxonomy


def read_folders(store: ImageStore, taxonomy: Taxonomy) -> Rows | None:
    """Return the images of a source, labelled by their folders; None where none names a class.

    DataError: some folders name a class and others do not, both kinds of class are named, or one
    image is in two classes.
    """
    source = store.source
    images = [image for images in store.locations.values() for image in images]
    paths = [PurePosixPath(image.name) for image in images]
    classes = [_class_of(path, taxonomy) for path in paths]
    named = set(classes) - {""}
    if not named:
        return None
    column = "label" if all(name.lower() in LABEL_OF for name in named) else "dx"
    fits = {name: _fits(name, column, taxonomy) for name in {*classes}}
    lost = [str(p.parent) for p, c in zip(paths, classes, strict=True) if not fits[c]]
    if lost:
        raise DataError(
            f"{source}: the folders {', '.join(sorted(named))} name classes, but {len(lost):,} "
            f"images lie in folders that name none, or no diagnosis as the others do: "
            f"{counts_of(lost)}; rename or remove those folders"
        )
    table = pd.DataFrame({"image_id": map(str, paths), column: classes})
    table["name"] = [path.name for path in paths]
    table["file"] = [store.containers[image.container] / image.member for image in images]
    alike = table.assign(size=[image.size for image in images]).duplicated(
        ["name", "size"], keep=False
    )
    table["content"] = [
        sha256_of(file) if same and file.is_file() else str(file)
        for file, same in zip(table["file"], alike, strict=True)
    ]
    kept = pd.DataFrame(table.drop_duplicates([column, "content"]))
    twice = kept.loc[kept["content"].duplicated(keep=False), "image_id"]
    if len(twice):
        raise DataError(f"{source}: one image is in folders of two classes: {', '.join(twice[:6])}")
    single = ~kept["name"].duplicated(keep=False)
    kept["image_id"] = kept["name"].where(single, kept["image_id"])
    notes = [f"folders name the classes ({counts_of(kept[column].tolist())}), and make no splits"]
    if len(kept) < len(table):
        notes.append(f"{len(table) - len(kept):,} files are copies of others, which are taken once")
    return rows_of(kept.loc[:, ["image_id", column]], source, taxonomy, notes=notes)


def _class_of(path: PurePosixPath, taxonomy: Taxonomy) -> str:
    """Return the name of the nearest folder above ``path`` that names a class, "" for none."""
    parts = reversed(path.parent.parts)
    return next((name for name in parts if _fits(name, "", taxonomy)), "")


def _fits(name: str, column: str, taxonomy: Taxonomy) -> bool:
    """Say whether a folder's name is a label or a diagnosis, as ``column`` asks ("": either)."""
    label = column != "dx" and name.lower() in LABEL_OF
    return label or (column != "label" and taxonomy.find(name) is not None)
