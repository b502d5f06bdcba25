"""From a record id back to the line it came from, in the files of one dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .shards import Side

SPLITS = ("train", "validation", "test")


def find_row(dataset_folder: Path, record_id: str) -> dict[str, Any] | None:
    """What became of one row, or None if the dataset never saw it.

    A row in use:     {"id", "split", "removed": None, "origin", "source", "group", "label", "weight", "messages", "text",
                      "rejected", "rating"}
    A row set aside:  {"id", "split": None, "removed": {"rule", "reason"}, "origin", "preview"}
    """
    for split in SPLITS:
        for row in Side(dataset_folder / f"{split}.parquet").lines_of([record_id]):
            return {"id": row.pop("id"), "split": split, "removed": None, **row}
    for row in Side(dataset_folder / "removed.parquet").lines_of([record_id]):
        why = {"rule": row["rule"], "reason": row["reason"]}
        return {
            "id": row["id"],
            "split": None,
            "removed": why,
            "origin": row["origin"],
            "preview": row["preview"],
        }
    return None


def rows(dataset_folder: Path, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Every row in use, of one split or all: {"id", "split", "origin", "source"}, sorted by id within a split."""
    for name in SPLITS if split is None else (split,):
        for batch in Side(dataset_folder / f"{name}.parquet").batches(["id", "origin", "source"]):
            for row in batch.to_pylist():
                yield {"id": row["id"], "split": name, "origin": row["origin"], "source": row["source"]}
