"""Lineage, both ways: from an answer, a release or any artifact back to the rows; from one row on to every artifact.

What can be asked for:  NAME, NAME@VERSION, DIGEST      an artifact
                        row:ID                           a record, by the id it keeps from source to batch
                        chatcmpl-…, resp_…, cmpl-…       an answer that was served, by its response id
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import NotFound
from luthier.store import Store

SHOWN_ROWS = 5
EXPORTED = "exported_from"
"""The role of the model whose weights an imported base is."""
_ANSWER = re.compile(r"chatcmpl-.*|(?:cmpl-|resp_)[0-9a-f]{24}", re.ASCII)
USED = {"train": "trained on it", "validation": "validated with it", "test": "measured on it"}


@dataclass(frozen=True)
class Lineage:
    """`nodes` nearest first; `edges` are (child, role, parent) digests; `rows` are records with their origin."""

    subject: str
    nodes: list[dict[str, Any]] = field(default_factory=list)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    row_count: int = 0
    answer: dict[str, Any] | None = None


def trace(store: Store, reference: str, *, all_rows: bool = False) -> Lineage:
    """Raises NotFound when nothing answers to the reference."""
    if reference.startswith("row:"):
        return _of_row(store, reference.removeprefix("row:"))
    answer = None
    if _ANSWER.fullmatch(reference):
        answer = next((e.data for e in store.ledger.read(kind="answer", subject=reference)), None)
        if answer is None:
            raise NotFound(
                f"no answer {reference!r} was served from this home.",
                remedy="The id is the `id` field of the response.",
            )
        artifact = store.catalog.get(str(answer["package_digest"]))
    else:
        artifact = store.catalog.get(reference)
    up, down = store.catalog.ancestors(artifact.digest), store.catalog.descendants(artifact.digest)
    nodes = graph(
        store,
        [*up, *down[1:]],
        {a.digest: "from" for a in up} | {a.digest: "to" for a in down[1:]} | {artifact.digest: "this"},
    )
    count, rows = _trained_on(store, up, all_rows)
    return Lineage(reference, *nodes, rows=rows, row_count=count, answer=dict(answer) if answer else None)


def _of_row(store: Store, record: str) -> Lineage:
    from luthier.data.lineage import find_row

    places: list[dict[str, Any]] = []
    nodes: dict[str, Artifact] = {}
    relation: dict[str, str] = {}
    for dataset in store.catalog.all("dataset"):
        found = find_row(store.folder(dataset), record)
        if found is None:
            continue
        places.append({"dataset": dataset.digest, **_place(found)})
        for artifact in store.catalog.ancestors(dataset.digest):
            nodes[artifact.digest], relation[artifact.digest] = artifact, "from"
        own = {one.digest for one in store.catalog.descendants(dataset.digest, but=EXPORTED)}
        for artifact in store.catalog.descendants(dataset.digest)[1:] if found["split"] else []:
            nodes[artifact.digest] = artifact
            relation[artifact.digest] = USED[found["split"]] if artifact.digest in own else "began from that"
            if artifact.kind == "model" and record in (fate := fates(store, artifact, record)):
                used = {
                    "model": artifact.digest,
                    "seen": fate[record]["seen"],
                    "skipped": fate[record]["skipped"],
                }
                places[-1].setdefault("models", []).append(used)
        relation[dataset.digest] = "holds it"
    if not places:
        raise NotFound(
            f"no dataset here holds a row {record!r}.",
            remedy="Row ids are in the dataset's files; `luthier lineage NAME` names some.",
        )
    return Lineage(
        f"row:{record}", *graph(store, list(nodes.values()), relation), rows=places, row_count=len(places)
    )


def _place(found: dict[str, Any]) -> dict[str, Any]:
    """Where a row stands, without anything that it says: `data explain` tells that, to who may read data."""
    removed = {"rule": found["removed"]["rule"]} if found["removed"] else None
    told: dict[str, Any] = {
        name: found[name] for name in ("id", "split", "origin", "source") if name in found
    }
    return {**told, "removed": removed}


def _trained_on(store: Store, up: list[Artifact], all_rows: bool) -> tuple[int, list[dict[str, Any]]]:
    """The training rows; of a tuned model those that its kept weights really went through."""
    from luthier.data.lineage import rows

    tuned = [a for a in up if a.kind == "model" and "dataset" in a.parents]
    seen = {record for model in tuned for record, fate in fates(store, model).items() if fate["seen"]}
    count = 0
    shown: list[dict[str, Any]] = []
    for dataset in (a for a in up if a.kind == "dataset"):
        for row in rows(store.folder(dataset), split="train"):
            if tuned and row["id"] not in seen:
                continue
            count += 1
            if all_rows or len(shown) < SHOWN_ROWS:
                shown.append({"dataset": dataset.digest, **row})
    return count, shown


def fates(store: Store, model: Artifact, *records: str) -> dict[str, dict[str, Any]]:
    """What became of each row (or of these alone) in training: how often it was seen, or why it was left out. What a model was merged of,
    or began from, counts as its own. Empty for a base that nothing was taught here."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, Any]] = {}
    for one in _grown_from(store, model):
        if not any(file.path == "rows.parquet" for file in one.files):
            continue
        table = pq.read_table(
            store.folder(one) / "rows.parquet",
            columns=["id", "seen", "skipped"],
            filters=[("id", "in", list(records))] if records else None,
        )
        for row in table.to_pylist():
            before = found.get(row["id"], {"seen": 0})
            seen = before["seen"] + row["seen"]
            found[row["id"]] = {**row, "seen": seen, "skipped": None if seen else row["skipped"]}
    return found


def _grown_from(store: Store, model: Artifact) -> list[Artifact]:
    """The model and those whose weights are in its own, each once, the oldest first."""
    found, waiting = {model.digest: model}, [model]
    while waiting:
        for role, digest in waiting.pop().parents.items():
            if (role in ("base", EXPORTED) or role.startswith("model.")) and digest not in found:
                found[digest] = store.catalog.get(digest)
                waiting.append(found[digest])
    return list(reversed(found.values()))


def graph(
    store: Store, artifacts: list[Artifact], relation: dict[str, str]
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Nodes with their names, and the edges between them."""
    named: dict[str, list[str]] = {}
    for version in store.catalog.history():
        named.setdefault(version.digest, []).append(str(version))
    nodes = [
        {
            "digest": a.digest,
            "kind": a.kind,
            "relation": relation.get(a.digest, "from"),
            "names": named.get(a.digest, []),
            "summary": dict(a.summary),
        }
        for a in artifacts
    ]
    inside = {a.digest for a in artifacts}
    edges = [
        (a.digest, role, parent) for a in artifacts for role, parent in a.parents.items() if parent in inside
    ]
    return nodes, edges
