"""Croissant 1.0 metadata of an exported dataset: what the files are, and what their columns mean, for any loader that
reads it. Written by hand as JSON-LD; the test holds it against mlcroissant.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html. A record set for each side, since a side is a file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
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

MEANING = {
    "id": ("sc:Text", "The row's stable id: a hash of its content before any rule."),
    "text": ("sc:Text", "Plain text to learn as it stands; empty for a conversation."),
    "label": ("sc:Text", "The label, of a classification."),
    "group": ("sc:Text", "Rows of one group are never on two sides."),
    "source": ("sc:Text", "What the row's source is called."),
    "origin": ("sc:Text", "The file and line that the row came from."),
    "weight": ("sc:Float", "How much the row counts in training."),
    "rejected": ("sc:Text", "A worse answer, of a pair."),
    "rating": ("sc:Float", "A judgement of the answer, 1 for good and 0 for bad."),
}


def croissant(
    name: str,
    version: str,
    created_s: float,
    files: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    about: Mapping[str, Any],
    task: Mapping[str, Any],
) -> dict[str, Any]:
    """`files` are {"path", "sha256", "size_bytes", "side", "rows"}; `columns` those of the Parquet files."""
    told: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": about.get("purpose")
        or f"Rows prepared to train a language model (task: {task['kind']}).",
        "version": version,
        "datePublished": time.strftime("%Y-%m-%d", time.gmtime(created_s)),
        "license": about.get("licence") or "not recorded",
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": one["path"],
                "name": one["path"],
                "contentUrl": one["path"],
                "contentSize": f"{one['size_bytes']} B",
                "encodingFormat": "application/x-parquet",
                "sha256": one["sha256"],
            }
            for one in files
        ],
        "recordSet": [_records(one, columns) for one in files],
    }
    if owner := about.get("owner"):
        told["creator"] = {"@type": "sc:Organization", "name": owner}
    if tags := about.get("tags"):
        told["keywords"] = list(tags)
    return told


def _records(file: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """One side. Where a side has several files each is a record set of its own."""
    name = file["path"].removesuffix(".parquet").replace("/", "-")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{file['rows']:,} rows of the side {file['side']}.",
        "key": {"@id": f"{name}/id"},
        "field": [
            _field(name, file["path"], column)
            for column in columns
            if column in MEANING or column == "messages"
        ],
    }


def _field(records: str, file: str, column: str) -> dict[str, Any]:
    where = {"fileObject": {"@id": file}, "extract": {"column": column}}
    head = {"@type": "cr:Field", "@id": f"{records}/{column}", "name": f"{records}/{column}"}
    if column != "messages":
        kind, meaning = MEANING[column]
        return {**head, "description": meaning, "dataType": kind, "source": where}
    parts = {"role": "Who speaks: system, user or assistant.", "content": "What is said."}
    return {
        **head,
        "description": "The conversation, turn by turn; empty for plain text.",
        "repeated": True,
        "subField": [
            {
                "@type": "cr:Field", "@id": f"{records}/messages/{part}", "name": f"{records}/messages/{part}",
                "description": meaning, "dataType": "sc:Text",
                "source": {**where, "transform": {"jsonPath": part}},
            }
            for part, meaning in parts.items()
        ],
    }  # fmt: skip
