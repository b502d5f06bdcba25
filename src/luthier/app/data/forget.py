"""Forget: which records are meant, who used them, and the tombstones that keep them out from now on.

    forget      conditions ──▶ records, in every dataset of this home (and in a recipe's sources, with `recipe`)
                           ──▶ the datasets that hold them, the models whose kept weights saw them, how to make both anew
                           ──▶ with `really`: a tombstone for each record and source
    concerning  what the line asks before a dataset is made: which tombstones stand for bytes of its sources
    still_there what it does where a source turns out to hold such a record in other bytes: that is written down too

A record is its content: identical rows go together, in whatever file they stand, unless the condition names a group; then
they go as they stand in that group. A row that a rule made of another stands for that one, and goes with it. What was made before stays as
it is, and is named. No text is kept or shown.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from luthier.app.acting import Actor, system_user
from luthier.app.lineage import EXPORTED, fates
from luthier.core.artifact import Artifact
from luthier.core.errors import NotFound, SpecError
from luthier.core.event import Event
from luthier.data.canaries import natural
from luthier.data.forgotten import Forgotten, Hit, group_hash, stem
from luthier.data.private.pseudonyms import MASK
from luthier.store import Store
from luthier.store.answers import ANSWERS, Answers
from luthier.store.tombstones import Tombstone

from .find import SPLITS, Looking, Reader, batches, models_of, names_of, releases_of, runs_with, sources_of
from .where import Condition, expression, frame, read

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.app.recipe import Wish

FIELDS = ("id", "origin", "source", "group", "contains")
SHOWN = 20


@dataclass
class _Found:
    """Of one record in one source: its places, and the rows it is in one dataset."""

    origins: set[str] = field(default_factory=set)
    rows: list[tuple[str, str]] = field(default_factory=list)  # (side, id with its number)


Sighting = dict[tuple[str, str], _Found]
"""(record, source) -> what was found."""


def forget(
    store: Store,
    where: Sequence[str],
    reason: str | None,
    wish: Wish | None,
    environ: Mapping[str, str],
    really: bool,
    look: Looking,
    who: Actor,
    within_dataset: Artifact | None = None,
) -> dict[str, Any]:
    """{"records", "rows", "datasets", "models", "again", "done"}. The conditions are looked up in every dataset, or in one alone. Raises
    NotFound where nothing is meant, SpecError where a place means other rows in one version of its source than in another."""
    conditions = _conditions(where)
    groups = _called([one.value for one in conditions if one.field == "group"])
    within = group_hash(groups[0]) if groups and not MASK.search(groups[0]) else None
    datasets = store.catalog.all("dataset")
    looked = datasets if within_dataset is None else [within_dataset]
    meant: dict[str, set[str]] = {}
    for name in groups or [""]:
        named = [replace(one, value=name) if one.field == "group" else one for one in conditions]
        _meant(store, looked, named, meant, look)
    in_sources = _in_sources(store, wish, environ, conditions, look) if wish else {}
    for mark, sighting in in_sources.items():
        meant.setdefault(mark, set()).update(record for record, _ in sighting)
    if any(one.field == "origin" for one in conditions):
        _refuse_other_rows(meant)
    records = set().union(*meant.values())
    if not records:
        sources = "" if wish else "; --recipe RECIPE looks into its sources too"
        raise NotFound(
            f"no row meets {' and '.join(where)}.",
            remedy=f"`luthier data search DATASET WORDS` finds rows of a dataset{sources}.",
        )
    held = {one.digest: found for one in datasets if (found := _held(store, one, records, groups, look))}
    stones = _stones(store, datasets, held, in_sources, within, reason)
    told = {
        "records": sorted(records),
        "within_a_group": within is not None,
        "rows": sum(len(one.rows) for sighting in held.values() for one in sighting.values()),
        "datasets": [_dataset(store, one, held[one.digest]) for one in datasets if one.digest in held],
        "models": [
            m for one in datasets if one.digest in held for m in _models(store, one, held[one.digest])
        ],
        "again": _commands(store, [one for one in datasets if one.digest in held]),
        "new": len({stone.record for stone in stones}),
        "done": really,
    }
    if really:
        about = {"rows": told["rows"], "records": len(records), "datasets": len(held)}
        store.tombstones.add(stones, act=who.act("data.forgotten", "rows", about))
        made = {stem(row) for sighting in held.values() for one in sighting.values() for _, row in one.rows}
        _forget_answers(store, records | made)
        facts = {"rows": told["rows"], "records": len(records), "by": system_user(), "reason": reason}
        facts |= {"by_field": [one.field if one.field != "says" else "contains" for one in conditions]}
        store.ledger.append(
            Event("forgotten", "rows", facts | {"datasets": sorted(held), "new": told["new"]})
        )
    return told


def _forget_answers(store: Store, records: Iterable[str]) -> None:
    """What models have answered about these records: it may say what they said."""
    path = store.home / ANSWERS
    if path.exists():
        with Answers(path) as answers:
            answers.forget(records)


def _conditions(where: Sequence[str]) -> list[Condition]:
    """Only what names rows beyond doubt. `contains` looks into everything that is said."""
    if not where:
        raise SpecError(
            "nothing is named.", remedy="Give --where id=..., origin=..., group=... or contains=..."
        )
    found = []
    for text in where:
        one = read(text, FIELDS)
        if one.op != "=" or not one.value:
            raise SpecError(f"{text[:80]!r} does not name rows.", remedy=f"Write {one.field}=VALUE.")
        if one.field == "id":
            found.append(Condition("id", "=", stem(one.value.removeprefix("row:"))))
        else:
            found.append(Condition("says", "~", one.value) if one.field == "contains" else one)
    if all(one.field == "source" for one in found):
        raise SpecError(
            "a whole source is named.",
            remedy="Take it out of the recipe; source= tells one place from another: origin=... source=...",
        )
    return found


def _called(groups: Sequence[str]) -> list[str]:
    """A group by the name that is given, and by the one that `redact` without a key puts in its place. Under a name that
    stands for private data the sources don't know it: its records are forgotten wherever they stand."""
    from luthier.data.rules.redact import Redact, group_name

    return list(dict.fromkeys(name for one in groups for name in (one, group_name(one, Redact()))))


def _matching(
    batch: pa.RecordBatch, side: str, conditions: Sequence[Condition], only: str | None = None
) -> list[tuple[str, str | None, str | None]]:
    """(record, the row that it was made of, its source) of what meets the conditions; an id means the record, whichever number the row
    has. What was removed does not say its source: it is the `only` one, where there is one."""
    import polars as pl

    told = frame(batch, side).with_columns(
        pl.col("id").str.replace("-[0-9]+$", ""),
        pl.coalesce("source", pl.lit(only, pl.String)).alias("source"),
    )
    return told.filter(expression(conditions)).select("id", "made_from", "source").rows()


def _meant(
    store: Store,
    datasets: Sequence[Artifact],
    conditions: Sequence[Condition],
    meant: dict[str, set[str]],
    look: Looking,
) -> None:
    """Adds the records to those that are meant, by the fingerprint of their source; where that is not on record, by the dataset."""
    for n, dataset in enumerate(datasets):
        folder, marks = store.folder(dataset), sources_of(store, dataset)
        look.progress("look for rows", n, len(datasets))
        only = next(iter(marks)) if len(marks) == 1 else None
        made: dict[str, set[str]] = {}
        for side in (*SPLITS, "removed"):
            for batch in batches(folder, side):
                for record, parent, source in _matching(natural(batch), side, conditions, only):
                    mark = marks.get(source or "", dataset.digest)
                    (meant if parent is None else made).setdefault(mark, set()).add(parent or record)
        for mark, rows in made.items():
            meant.setdefault(mark, set()).update(_roots(folder, rows))


def _roots(folder: Path, rows: set[str]) -> set[str]:
    """The records that rows of a dataset go back to: those that no rule made."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: set[str] = set()
    while rows:
        made: dict[str, str] = {}
        for batch in batches(folder, "train", ("id", "made_from")):
            wanted = pc.is_in(batch["id"], value_set=pa.array(sorted(rows)))
            mine = batch.filter(pc.and_(wanted, batch["made_from"].is_valid()))
            made |= dict(zip(mine["id"].to_pylist(), mine["made_from"].to_pylist(), strict=True))
        found |= {stem(row) for row in rows - made.keys()}
        rows = set(made.values())
    return found


def _refuse_other_rows(meant: Mapping[str, set[str]]) -> None:
    """A place, such as rows.jsonl:12, is another row in another file of that name, or once the file is replaced. The same bytes may be
    read as other records by another map, and are meant all the same."""
    known = [records for _, records in sorted(meant.items())]
    if any(not one & other for one, other in combinations(known, 2)):
        raise SpecError(
            f"that place is another row in each of {len(known)} files of that name, or in as many versions of one.",
            remedy="Say in which it is meant: --dataset DATASET, or add --where source=NAME; `luthier data explain PLACE` shows them.",
        )


def _in_sources(
    store: Store, wish: Wish, environ: Mapping[str, str], conditions: Sequence[Condition], look: Looking
) -> dict[str, Sighting]:
    """Fingerprint -> what a recipe's sources hold now: rows that rules have changed or taken out can be found there."""
    from luthier.data.connectors import fingerprints
    from luthier.data.preparation import records
    from luthier.data.prepare import PrepareSpec, source_names

    at = Reader(store.home, wish.folder, environ, look)
    data = wish.recipe.data
    names = source_names(data.sources)
    # after those of the sources come marks of what rules read
    marks = dict(zip(names, (mark for _, mark in fingerprints(data, wish.folder, at)), strict=False))
    found: dict[str, Sighting] = {}
    with TemporaryDirectory(dir=store.home / "work") as folder:
        for batch in records(PrepareSpec(task=wish.recipe.task, data=data), Path(folder) / "read", at):
            mine = {record for record, _, _ in _matching(batch, "train", conditions)}
            for row in batch.select(["id", "origin", "source"]).to_pylist():
                if row["id"] in mine:
                    sighting = found.setdefault(marks[row["source"]], {})
                    sighting.setdefault((row["id"], row["source"]), _Found()).origins.add(row["origin"])
    return found


def _held(
    store: Store, dataset: Artifact, records: set[str], groups: Sequence[str], look: Looking
) -> Sighting:
    """Where these records are in a dataset. Of what was removed the group is not on record, so with a group it is left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    folder = store.folder(dataset)
    names = list(sources_of(store, dataset))
    found: Sighting = {}
    owners, column = {record: record for record in records}, "id"
    while owners:  # the records themselves, then what was made of them, then what was made of that
        wanted, made = pa.array(sorted(owners), pa.string()), dict[str, str]()
        for side in SPLITS if groups else (*SPLITS, "removed"):
            for batch in batches(folder, side, ("id", "origin", "source", "group", "made_from")):
                look.progress("who used them", 0, None)
                if column not in batch.schema.names:
                    continue
                mask = pc.is_in(pc.replace_substring_regex(batch[column], "-[0-9]+$", ""), value_set=wanted)
                if groups:
                    mask = pc.and_(mask, pc.is_in(batch["group"], value_set=pa.array(groups, pa.string())))
                for row in batch.filter(mask).to_pylist():
                    source = row.get("source") or (names[0] if len(names) == 1 else "")
                    record = made[stem(row["id"])] = owners[stem(row[column])]
                    one = found.setdefault((record, source), _Found())
                    one.origins.add(row["origin"])
                    one.rows.append((side, row["id"]))
        owners, column = made, "made_from"
    return found


def _stones(
    store: Store,
    datasets: Iterable[Artifact],
    held: Mapping[str, Sighting],
    in_sources: Mapping[str, Sighting],
    within: str | None,
    reason: str | None,
) -> list[Tombstone]:
    """A line for each record and source, without those that stand there already."""
    places: dict[tuple[str, str, str], set[str]] = {}
    for dataset in datasets:
        marks = sources_of(store, dataset) if dataset.digest in held else {}
        for (record, source), one in held.get(dataset.digest, {}).items():
            # A removed row of several sources does not say which it is from: it stands for all of them, by its id alone.
            for name in [source] if source else marks:
                origins = places.setdefault((record, name, marks[name]), set())
                origins |= one.origins if source else set()
    for mark, sighting in in_sources.items():
        for (record, source), one in sighting.items():
            places.setdefault((record, source, mark), set()).update(one.origins)
    there: dict[tuple[str, str], set[str]] = {}
    for stone in store.tombstones.read():
        if stone.within in (None, within):
            there.setdefault((stone.record, stone.fingerprint), set()).update(stone.origins)
    now, who = time.time(), system_user()
    return [
        Tombstone(record, within, source, mark, tuple(sorted(origins)), reason, who, now)
        for (record, source, mark), origins in sorted(places.items())
        if not ((record, mark) in there and origins <= there[record, mark])
    ]


def _dataset(store: Store, dataset: Artifact, found: Sighting) -> dict[str, Any]:
    sides: dict[str, int] = {}
    for one in found.values():
        for side, _ in one.rows:
            sides[side] = sides.get(side, 0) + 1
    places = sorted(origin for one in found.values() for origin in one.origins)
    return {
        "digest": dataset.digest, "names": names_of(store, dataset), "rows": sides,
        "origins": places[:SHOWN], "more_origins": max(0, len(places) - SHOWN),
    }  # fmt: skip


def _models(store: Store, dataset: Artifact, found: Sighting) -> Iterator[dict[str, Any]]:
    """Models that were made with the dataset; `saw` counts rows that went into the kept weights."""
    rows = [record for one in found.values() for side, record in one.rows if side != "removed"]
    own = {one.digest for one in store.catalog.descendants(dataset.digest, but=EXPORTED)}
    for model in models_of(store, dataset):
        known = fates(store, model, *rows) if rows else {}
        yield {
            "digest": model.digest, "dataset": dataset.digest, "releases": releases_of(store, model),
            "saw": sum(1 for record in rows if known.get(record, {}).get("seen")),
            "measured": sum(1 for one in found.values() for side, _ in one.rows if side in ("validation", "test") and model.digest in own),
        }  # fmt: skip


def _commands(store: Store, datasets: Iterable[Artifact]) -> list[str]:
    """How the datasets and what was trained on them are made again: the commands that made them, oldest first."""
    from luthier.app.retraining import is_start

    found: dict[str, None] = {}
    for dataset in reversed(list(datasets)):
        for run in runs_with(store, dataset):
            begun = next(iter(store.ledger.read(kind="run.started", subject=run)), None)
            if begun is not None:
                kept = [text for text in begun.data["overrides"] if not is_start(store.home, text)]
                sets = [word for text in kept for word in ("--set", text)]
                found[shlex.join(["luthier", "run", str(begun.data["source"]), *sets])] = None
    return list(found)


# -- what the line asks ---------------------------------------------------------------------------------------------------


def concerning(store: Store, marks: Mapping[str, str]) -> Forgotten:
    """What must not be read of these sources; `marks` are their fingerprints by name."""
    records: dict[str, set[str] | None] = {}
    places: dict[str, set[str]] = {}
    for stone in store.tombstones.read(fingerprints=marks.values()):
        _add(records, stone)
        for name, mark in marks.items():
            if mark == stone.fingerprint:
                places.setdefault(name, set()).update(stone.origins)
    return Forgotten(records, places)


def watched(store: Store) -> dict[str, list[str] | None]:
    """Everything that was ever forgotten."""
    records: dict[str, set[str] | None] = {}
    for stone in store.tombstones.read():
        _add(records, stone)
    return {name: None if groups is None else sorted(groups) for name, groups in records.items()}


def _add(records: dict[str, set[str] | None], stone: Tombstone) -> None:
    groups = records.setdefault(stone.record, set())
    if stone.within is None:
        records[stone.record] = None
    elif groups is not None:
        groups.add(stone.within)


def still_there(store: Store, hits: Sequence[Hit], marks: Mapping[str, str]) -> int:
    """Other bytes hold records that were forgotten: each tombstone is set for them too. How many were new."""
    known = {(one.record, one.within): one for one in store.tombstones.read()}
    there = {
        (one.record, one.within, one.fingerprint)
        for one in store.tombstones.read(fingerprints=marks.values())
    }
    places: dict[tuple[str, str | None, str], set[str]] = {}
    for hit in hits:
        places.setdefault((hit.record, hit.within, hit.source), set()).add(hit.origin)
    new, now = [], time.time()
    for (record, within, source), origins in sorted(places.items(), key=str):
        first, mark = known[record, within], marks[source]
        if (record, within, mark) not in there:
            new.append(
                Tombstone(record, within, source, mark, tuple(sorted(origins)), first.reason, first.by, now)
            )
    return store.tombstones.add(new)


# -- what is on record ----------------------------------------------------------------------------------------------------


def forgotten_records(store: Store) -> list[dict[str, Any]]:
    """One for each record (and group), in the order they were first forgotten."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for stone in store.tombstones.read():
        one = found.setdefault(
            (stone.record, stone.within),
            {
                "record": stone.record, "within_a_group": stone.within is not None, "by": stone.by,
                "when_s": stone.time_s, "reason": stone.reason, "sources": [], "origins": [],
            },
        )  # fmt: skip
        one["sources"] += [stone.source] if stone.source not in one["sources"] else []
        one["origins"] += [origin for origin in stone.origins if origin not in one["origins"]]
    return list(found.values())
