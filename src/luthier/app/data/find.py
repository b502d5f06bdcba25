"""Which dataset is meant, and its rows in bounded memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.app.context import Watch
from luthier.app.lineage import EXPORTED
from luthier.core.artifact import Artifact
from luthier.core.errors import Interrupted, NotFound
from luthier.core.event import Event
from luthier.core.spec import resolve
from luthier.data.shards import ROWS_AT_ONCE, Side
from luthier.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation", "test")
PATIENCE_S = 2.0


class Looking:
    """Progress for whoever looks on, once it takes long enough to be worth a word, and their wish to stop."""

    def __init__(self, watch: Watch | None = None, stop: threading.Event | None = None) -> None:
        self._watch, self._stop, self._began = watch, stop, time.monotonic()

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        """Raises Interrupted when the user asked to stop."""
        if self._stop is not None and self._stop.is_set():
            raise Interrupted("stopped; nothing was changed.", remedy="Run the same command again.")
        if self._watch is not None and time.monotonic() - self._began > PATIENCE_S:
            self._watch.progress(what, done, total, facts)


@dataclass
class Reader:
    """core.stage.Context for who only reads sources: nothing is recorded."""

    home: Path
    root: Path
    environ: Mapping[str, str]
    look: Looking
    run: str = "reading"
    hourly: None = None

    def emit(self, kind: str, **data: Any) -> Event:
        return Event(kind, self.run, data)

    def progress(self, what: str, done: float, total: float | None, **facts: Any) -> None:
        self.look.progress(what, done, total)

    def check(self) -> None:
        pass  # `progress` looks whether to stop

    def folder(self, artifact: Artifact) -> Path:
        raise AssertionError("sources have no files of ours")

    def secret(self, text: str) -> str:
        return resolve(text, self.environ)


def dataset_of(store: Store, reference: str) -> Artifact:
    """The dataset that a name, name@version, run or digest means: itself, or what it was made from. Raises NotFound."""
    if reference.startswith("run-"):
        return _of_run(store, reference)
    artifact = store.catalog.get(reference)
    if artifact.kind == "dataset":
        return artifact
    found = next((one for one in store.catalog.ancestors(artifact.digest) if one.kind == "dataset"), None)
    if found is None:
        raise NotFound(
            f"{reference!r} is a {artifact.kind}, and no dataset was used to make it.",
            remedy="`luthier list dataset` shows the datasets.",
        )
    return found


def _of_run(store: Store, run: str) -> Artifact:
    for event in store.ledger.read(kind=["stage.finished", "stage.known"], subject=run):
        if event.data.get("step") == "dataset":
            return store.catalog.get(str(event.data["digest"]))
    raise NotFound(
        f"no dataset was made or used in a run {run!r}.", remedy="`luthier list run` shows the runs."
    )


def names_of(store: Store, dataset: Artifact) -> list[str]:
    """Releases whose newest dataset this is, by name@version: not those that only began from weights which it taught."""
    found = []
    for artifact in store.catalog.descendants(dataset.digest, but=EXPORTED):
        if artifact.kind == "release":
            found += [str(version) for version in store.catalog.names_of(artifact.digest)]
    return found


def side(folder: Path, name: str) -> Side:
    """A split, or what was removed, or the trail; none of them has files where the dataset has none."""
    return Side(folder / f"{name}.parquet")


def paths(folder: Path, name: str) -> list[Path]:
    return side(folder, name).paths


def batches(
    folder: Path, name: str, columns: Sequence[str] | None = None, *, at_once: int = ROWS_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """Rows of a split in order. Columns that its files do not have are left out."""
    yield from side(folder, name).batches(columns, at_once)


def row_count(folder: Path, name: str) -> int:
    return side(folder, name).rows


def lines_of(folder: Path, name: str, records: Sequence[str]) -> list[dict[str, Any]]:
    """Lines whose id is one of these; files are sorted by id, so little is read."""
    return side(folder, name).lines_of(records)


def models_of(store: Store, dataset: Artifact) -> list[Artifact]:
    """Models that were trained on it."""
    return [one for one in store.catalog.descendants(dataset.digest) if one.kind == "model"]


def releases_of(store: Store, model: Artifact) -> list[str]:
    """By name@version, but not those that only began from its weights."""
    return [
        str(version)
        for one in store.catalog.descendants(model.digest, but=EXPORTED)
        for version in store.catalog.names_of(one.digest)
    ]


def sources_of(store: Store, dataset: Artifact) -> dict[str, str]:
    """What records of each source are called, and the fingerprint of what it was then."""
    facts = json.loads((store.folder(dataset) / "dataset.json").read_text(encoding="utf-8"))
    return {
        one["name"]: str(store.catalog.get(dataset.parents[f"source.{n}"]).spec["fingerprint"])
        for n, one in enumerate(facts["sources"])
    }


def runs_with(store: Store, dataset: Artifact) -> list[str]:
    """The runs that made or used it, oldest first."""
    told = store.ledger.read(kind=["stage.finished", "stage.known"])
    return list(dict.fromkeys(event.subject for event in told if event.data.get("digest") == dataset.digest))
