"""croissant.json beside the manifest: the set for search engines and loaders, as Croissant 1.0.

    store.publish(CROISSANT_NAME, croissant(manifest, columns))

Two record sets: the rows of samples.csv, and the images in the tars, joined by image_id. The
manifest does not list the file; it follows from manifest and table.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.shards.manifest import TABLE_NAME, Manifest

CROISSANT_NAME = "croissant.json"

CONTEXT = {
    name: f"cr:{name}"
    for name in (
        *("@language", "@vocab", "citeAs", "column", "conformsTo", "cr", "data", "dataType"),
        *("equivalentProperty", "samplingRate", "dct", "examples", "extract", "field"),
        *("fileObject", "fileProperty", "fileSet", "format", "includes", "isLiveDataset"),
        *("jsonPath", "key", "md5", "parentField", "path", "rai", "recordSet", "references"),
        *("regex", "repeated", "replace", "sc", "separator", "source", "subField", "transform"),
    )
} | {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The names of the format, as its specification gives them."""

TYPES = {"label": "sc:Integer", "fold": "sc:Integer", "age": "sc:Float"}
"""Of the columns that are no text."""


def croissant(manifest: Manifest, columns: Sequence[str]) -> bytes:
    """Return the bytes of croissant.json for a set whose samples.csv has these columns."""
    files = {entry.path: ("application/x-tar", entry.sha256) for entry in manifest.shards}
    files[TABLE_NAME] = ("text/csv", manifest.files[TABLE_NAME])
    licences = sorted(manifest.source.get("licenses", {}))
    names = sorted(manifest.source.get("attributions", {}))
    who = [{"@type": "sc:Organization", "name": name} for name in names]
    content: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": f"Photographs of skin lesions packed in WebDataset shards: "
        f"{', '.join(f'{split} {n}' for split, n in manifest.counts.items() if n)}.",
        "version": "1.0.0",
        **({"license": licences} if licences else {}),
        **({"creator": who} if who else {}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": path,
                "contentUrl": path,
                "encodingFormat": kind,
                "sha256": digest,
            }
            for path, (kind, digest) in sorted(files.items())
        ],
    }
    images = {"@id": "images", "containedIn": [{"@id": entry.path} for entry in manifest.shards]}
    content["distribution"].append(
        {"@type": "cr:FileSet", **images, "encodingFormat": "image/jpeg", "includes": "*.jpg"}
    )
    content["recordSet"] = [_table(columns), _images()]
    return (json.dumps(content, indent=1) + "\n").encode()


def _table(columns: Sequence[str]) -> dict[str, Any]:
    """Return the record set of samples.csv."""
    table = {"fileObject": {"@id": TABLE_NAME}}
    kinds = {name: TYPES.get(name, "sc:Text") for name in columns}
    return _records(
        "samples",
        {
            name: {"dataType": kind, "source": table | {"extract": {"column": name}}}
            for name, kind in kinds.items()
        },
    )


def _images() -> dict[str, Any]:
    """Return the record set of the JPEGs in the tars."""
    tars = {"fileSet": {"@id": "images"}}
    without_ending = {"transform": {"regex": r"^(.*?)(?:\.jpg)?$"}}
    name = {
        "dataType": "sc:Text",
        "source": tars | {"extract": {"fileProperty": "filename"}} | without_ending,
        "references": {"field": {"@id": "samples/image_id"}},
    }
    source = tars | {"extract": {"fileProperty": "content"}}
    image = {"dataType": "sc:ImageObject", "source": source}
    return _records("jpegs", {"image_id": name, "image": image})


def _records(record: str, fields: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a record set of these fields, by name; its rows are told apart by image_id."""
    field = [{"@type": "cr:Field", "@id": f"{record}/{n}", **facts} for n, facts in fields.items()]
    key = {"@id": f"{record}/image_id"}
    return {"@type": "cr:RecordSet", "@id": record, "key": key, "field": field}
