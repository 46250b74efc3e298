"""croissant.json beside the manifest: the set for search engines and loaders, as Croissant 1.0.

    store.publish(CROISSANT_NAME, croissant(manifest, columns))

Two record sets: the rows of samples.csv, and the images in the tars, joined by image_id. The
manifest does not list the file; it follows from manifest and table.
"""

import json
from collections.abc import Sequence
from typing import Any

from pipeline.shards.manifest import TABLE_NAME, Manifest

CROISSANT_NAME = "croissant.json"

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate",
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
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
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"samples/{name}",
            "dataType": TYPES.get(name, "sc:Text"),
            "source": {"fileObject": {"@id": TABLE_NAME}, "extract": {"column": name}},
        }
        for name in columns
    ]
    key = {"@id": "samples/image_id"}
    return {"@type": "cr:RecordSet", "@id": "samples", "key": key, "field": fields}


def _images() -> dict[str, Any]:
    """Return the record set of the JPEGs in the tars."""
    name = {
        "@type": "cr:Field",
        "@id": "jpegs/image_id",
        "dataType": "sc:Text",
        "source": {
            "fileSet": {"@id": "images"},
            "extract": {"fileProperty": "filename"},
            "transform": {"regex": r"^(.*?)(?:\.jpg)?$"},
        },
        "references": {"field": {"@id": "samples/image_id"}},
    }
    content = {
        "@type": "cr:Field",
        "@id": "jpegs/image",
        "dataType": "sc:ImageObject",
        "source": {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "content"}},
    }
    key = {"@id": "jpegs/image_id"}
    return {"@type": "cr:RecordSet", "@id": "jpegs", "key": key, "field": [name, content]}
