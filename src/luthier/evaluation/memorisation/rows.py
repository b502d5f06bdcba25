"""Which rows are looked at: training rows that the kept weights really went through, and as many held-out rows beside them.

Chosen by a hash of (seed, id), so a row's place in a file does not matter. Canaries are no rows here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.canaries import SOURCE as CANARIES

from ..questions import Asked, asked, question
from .spec import MemorisationSpec

HELD = ("test", "validation")


@dataclass(frozen=True)
class Rows:
    """What both models are asked. `left_out`: rows that do not fit the context."""

    members: tuple[Asked, ...]
    strangers: tuple[Asked, ...]
    left_out: int = 0

    @property
    def all(self) -> tuple[Asked, ...]:
        return (*self.members, *self.strangers)


def choose(folders: Mapping[str, Path], spec: MemorisationSpec, template: Any) -> Rows:
    """Training and held-out rows, as tokens with the answer supervised."""
    dataset = folders["dataset"]
    seen = _seen(folders["model"])
    train = _chosen(dataset, ("train",), spec.rows, spec.seed, seen)
    held = _chosen(dataset, HELD, spec.rows, spec.seed, None)
    found = [_asked(template, records) for records in (train, held)]
    fits = [tuple(one for one in some if isinstance(one, Asked)) for some in found]
    return Rows(fits[0], fits[1], sum(map(len, found)) - sum(map(len, fits)))


def _chosen(
    dataset: Path, sides: Sequence[str], n: int, seed: int, among: frozenset[str] | None
) -> list[dict[str, Any]]:
    from luthier.data.shards import Side

    places: list[tuple[bytes, str, str]] = []
    for name in sides:
        side = Side(dataset / f"{name}.parquet")
        columns = [one for one in ("id", "source", "rating") if one in side.columns]
        for row in side.table(columns).to_pylist() if side.there else ():
            rating = row.get("rating")
            if row["source"] == CANARIES or (rating is not None and rating <= 0):
                continue
            if among is None or row["id"] in among:
                places.append((_draw(seed, row["id"]), name, row["id"]))
    kept = sorted(places)[:n]
    return [
        record
        for name in sides
        for record in Side(dataset / f"{name}.parquet").lines_of(
            [one for _, side, one in kept if side == name]
        )
    ]


def _seen(model: Path) -> frozenset[str] | None:
    """The rows that the kept weights went through; None where that is not on record, and all of train are taken."""
    path = model / "rows.parquet"
    if not path.is_file():
        return None
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["id"], filters=[("seen", ">", 0), ("split", "=", "train")])
    return frozenset(table["id"].to_pylist())


def _draw(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"memorisation:{seed}:{name}".encode(), digest_size=16).digest()


def _asked(template: Any, records: Sequence[Mapping[str, Any]]) -> list[Any]:
    ordered = sorted(records, key=lambda record: record["id"])
    return list(asked(template, [question(record) for record in ordered], [], 0))
