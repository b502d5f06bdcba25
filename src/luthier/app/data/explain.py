"""What happened to one row, from its line to the weights that saw it. A reading of what the preparation left:

    removed.parquet   rows that are not in use, with the rule and its reason
    trail.parquet     every change of a row, with its reason; datasets of earlier versions have none, and that is said
    rules.json        what each step was asked, and before and after for the few rows that are its examples
    the ledger        how the source was read
    rows.parquet      of each model: how often the kept weights saw the row, or why they did not

Before and after are kept only for the rows that are a rule's examples. Where the sources are at hand (`reader`) and are still
what they were, the row is read again and the rules that it went through are run on it alone, which shows them for any row: what a rule
says of a row does not depend on the rows beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from luthier.app.lineage import fates
from luthier.core.artifact import Artifact
from luthier.core.errors import NotFound
from luthier.data.forgotten import stem
from luthier.store import Store

from .find import (
    SPLITS,
    Reader,
    batches,
    lines_of,
    models_of,
    names_of,
    paths,
    releases_of,
    runs_with,
    sources_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.plan import Step
    from luthier.data.prepare import PrepareSpec

RECORD_ID = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")


def explain(store: Store, row: str, dataset: Artifact | None, reader: Reader | None = None) -> dict[str, Any]:
    """{"row", "found": [one for each dataset and row that answers], "forgotten"}. Raises NotFound."""
    wanted = row.removeprefix("row:")
    named = RECORD_ID.fullmatch(wanted) is not None
    found = []
    for one in [dataset] if dataset else store.catalog.all("dataset"):
        lines = _by_id(store, one, wanted) if named else _by_origin(store, one, wanted)
        found += [_told(store, one, line, reader) for line in lines]
    records = {stem(one["id"]) for one in found} | ({stem(wanted)} if named else set())
    tombstones = [
        {"record": t.record, "source": t.source, "by": t.by, "when_s": t.time_s, "reason": t.reason}
        for t in store.tombstones.read()
        if t.record in records or wanted in t.origins
    ]
    if not found and not tombstones:
        where = f"the dataset {dataset.digest[:12]}" if dataset else "any dataset here"
        hint = (
            "`luthier data search DATASET WORDS` finds ids"
            if named
            else "A place is written as it is in the dataset: FILE:LINE"
        )
        raise NotFound(f"no row {wanted!r} was read for {where}.", remedy=f"{hint}.")
    return {"row": wanted, "found": found, "forgotten": tombstones}


def _by_id(store: Store, dataset: Artifact, record: str) -> list[dict[str, Any]]:
    folder = store.folder(dataset)
    lines = [{**line, "side": side} for side in SPLITS for line in lines_of(folder, side, [record])]
    return lines + [{**line, "side": "removed"} for line in lines_of(folder, "removed", [record])]


def _by_origin(store: Store, dataset: Artifact, origin: str) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    folder = store.folder(dataset)
    lines = []
    for side in (*SPLITS, "removed"):
        for batch in batches(folder, side):
            mine = batch.filter(pc.fill_null(pc.equal(batch["origin"], origin), False))
            lines += [{**line, "side": side} for line in mine.to_pylist()]
    return lines


def _told(store: Store, dataset: Artifact, line: Mapping[str, Any], reader: Reader | None) -> dict[str, Any]:
    folder = store.folder(dataset)
    rules = json.loads((folder / "rules.json").read_text(encoding="utf-8"))
    removed = {"rule": line["rule"], "reason": line["reason"]} if line["side"] == "removed" else None
    plan = _plan(dataset, reader)
    steps, again = _steps(store, dataset, line, rules, plan, reader)
    told = {
        "dataset": dataset.digest,
        "names": names_of(store, dataset),
        "id": line["id"],
        "origin": line["origin"],
        "source": line.get("source"),
        "side": line["side"],
        "removed": removed,
        "mapped": _mapped(store, dataset, line.get("source")),
        "steps": steps,
        "read_again": again,
        "recorded": bool(paths(folder, "trail")),
        "models": [] if removed else _models(store, dataset, line["id"]),
    }
    if removed:
        return {**told, "preview": line["preview"]}
    content = ("messages", "text", "rejected", "label", "group", "weight", "rating")
    told |= {name: line.get(name) for name in ("made_from", "made_by")}
    told["made_of_it"] = _made_of(folder, line["id"]) if line["side"] == "train" else []
    return {**told, "content": {name: line[name] for name in content if line.get(name) is not None}}


def _made_of(folder: Path, record: str) -> list[dict[str, Any]]:
    """Rows of train that rules made of this one."""
    import pyarrow.compute as pc

    found: list[dict[str, Any]] = []
    for batch in batches(folder, "train", ("id", "made_from", "made_by")):
        if "made_from" in batch.schema.names:
            mine = batch.filter(pc.fill_null(pc.equal(batch["made_from"], record), False))
            found += [{"id": row["id"], "made_by": row["made_by"]} for row in mine.to_pylist()]
    return found


def _mapped(store: Store, dataset: Artifact, source: str | None) -> dict[str, Any] | None:
    """How the source was read: as the recipe says, or as it was recognised when the dataset was made."""
    written, names = dataset.spec["data"]["sources"], list(sources_of(store, dataset))
    if source is None:  # what was removed does not say its source; with one there is no doubt
        source = names[0] if len(names) == 1 else None
    if source not in names:
        return None
    given = written[names.index(source)].get("map") or {}
    columns = {part: column for part, column in given.items() if column is not None and part != "on_bad_row"}
    if set(columns) - {"id", "group", "rating"}:
        return {"source": source, "layout": "map", "map": columns, "reason": "the recipe says so"}
    for run in runs_with(store, dataset):
        for event in store.ledger.read(kind="layout", subject=run):
            if event.data["source"] == source:
                found = {k: v for k, v in event.data["map"].items() if v is not None and k != "on_bad_row"}
                return {
                    "source": source, "layout": event.data["layout"], "map": {**found, **columns},
                    "reason": event.data["reason"],
                }  # fmt: skip
    return {"source": source, "layout": "recognised", "map": columns, "reason": "how is not on record"}


@dataclass(frozen=True)
class _Plan:
    """Of a dataset: the steps that are carried out on a row alone, in order. Up to step `shared` identical rows have one id; those after
    step `divided` are for train alone."""

    spec: PrepareSpec
    alone: tuple[Step, ...]
    shared: int
    divided: int


def _plan(dataset: Artifact, reader: Reader | None) -> _Plan | str:
    """Why there is none, of a dataset whose settings are refused today: of an earlier version, or of a plug-in that is not here."""
    from pydantic import ValidationError

    from luthier.data import split
    from luthier.data.plan import plan_of
    from luthier.data.preparation import reached
    from luthier.data.prepare import PrepareSpec

    try:
        spec = PrepareSpec.model_validate({name: dataset.spec[name] for name in ("task", "data")})
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    found = partial(reached, at=reader) if reader is not None else str
    groups = plan_of(spec.rules, split.Sides(spec.data.split, False, spec.task), reached=found)
    shared = divided = 0
    for n, group in enumerate(groups):
        if any(one.numbers is not None for one in groups[n:]):  # numbered after this group's own row rules
            shared = max([shared, *(step.number for step in group.rows)])
        if any(one.sides is not None for one in groups[n:]):
            divided = max([divided, *(step.number for step in group.steps)])
    return _Plan(spec, tuple(step for group in groups for step in group.rows), shared, divided)


def _last(line: Mapping[str, Any], rules: list[dict[str, Any]], plan: _Plan | str) -> int:
    """The last step that the row came to."""
    if line["side"] == "removed" and line["rule"] != "split":
        return max((n for n, one in enumerate(rules) if one["rule"] == line["rule"]), default=0)
    return len(rules) if line["side"] == "train" or isinstance(plan, str) else plan.divided


def _steps(
    store: Store,
    dataset: Artifact,
    line: Mapping[str, Any],
    rules: list[dict[str, Any]],
    plan: _Plan | str,
    reader: Reader | None,
) -> tuple[list[dict[str, Any]], str | None]:
    """What was done to it, in order, with before and after where the row is one of the step's examples; and whether it was read again
    (explain).

    Identical rows share one id until they are numbered, so what was done before that stands under the id without number."""
    record, last = str(line["id"]), _last(line, rules, plan)
    told: dict[tuple[int, str, str], dict[str, Any]] = {}

    def its(name: str, number: int) -> bool:
        mine = (
            [record, stem(record)]
            if isinstance(plan, str)
            else [record if number > plan.shared else stem(record)]
        )
        return number <= last and name in mine

    for one in lines_of(store.folder(dataset), "trail", list(dict.fromkeys([record, stem(record)]))):
        if its(one["id"], one["step"]):
            told[one["step"], one["what"], one["why"]] = _step(one["step"], one["what"], one["why"], rules)
    for number, rule in enumerate(rules):
        for example in rule["examples"]:
            if example["after"] is None or not its(example["id"], number):
                continue
            key = (number, "changed", example["reason"])
            step = told.setdefault(key, _step(number, "changed", example["reason"], rules))
            step |= {"before": example["before"], "after": example["after"]}
    again, changes = _again(store, dataset, line, plan, last, reader)
    for number, what, why, before, after in changes:
        step = told.setdefault((number, what, why), _step(number, what, why, rules))
        step |= {"before": before, "after": after}
    return [told[key] for key in sorted(told)], again


def _again(
    store: Store,
    dataset: Artifact,
    line: Mapping[str, Any],
    plan: _Plan | str,
    last: int,
    reader: Reader | None,
) -> tuple[str | None, list[tuple[int, str, str, str, str]]]:
    """(why the row was not read again, "yes" if it was, None where nobody asked; (step, what, why, before, after) of every change)."""
    if isinstance(plan, str):
        return (
            f"no: its settings are refused here and now, so steps of rows that say the same may be among these: {plan}",
            [],
        )
    if reader is None:
        return None, []
    if line.get("made_from") is not None:
        return "no: a rule made this row of another, which can be asked for", []
    import pyarrow.compute as pc

    from luthier.data.connectors import fingerprints
    from luthier.data.preparation import records

    known = sources_of(store, dataset)
    marks = [mark for _, mark in islice(fingerprints(plan.spec.data, reader.root, reader), len(known))]
    if marks != list(known.values()):
        return "no: the sources are not what they were when the dataset was made", []
    with TemporaryDirectory(dir=store.home / "work") as folder:
        found = records(plan.spec, Path(folder) / "read", reader)
        here = [one for batch in found if len(one := batch.filter(pc.equal(batch["origin"], line["origin"])))]
    rows = [one.slice(n, 1) for one in here for n in range(len(one))]
    if line.get("source") is not None:
        rows = [one for one in rows if one["source"][0].as_py() == line["source"]]
    if len(rows) > 1:
        rows = [one for one in rows if one["id"][0].as_py() == stem(str(line["id"]))]
    if not rows:
        return "no: there is no such row in the sources", []
    return "yes", list(_changes(plan, rows[0], last))


def _changes(plan: _Plan, batch: pa.RecordBatch, last: int) -> Iterator[tuple[int, str, str, str, str]]:
    from luthier.data.engines.group import run_group
    from luthier.data.opened import Opened
    from luthier.data.plan import Group
    from luthier.data.report import HIDDEN, changed

    for step in (one for one in plan.alone if one.number <= last):
        done = run_group(Group((step,)), batch)
        if not len(done.batch):
            return
        for change in [one for lines in done.removed for one in lines.to_pylist()]:
            old, new = (Opened(one).of_row(0) for one in (batch, done.batch))
            one = changed(change["id"], old, new, change["reason"])
            before, after = (HIDDEN, HIDDEN) if step.hidden else (one.before, one.after)
            yield change["step"], change["what"], change["reason"], before, after
        batch = done.batch


def _step(number: int, what: str, why: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    rule = rules[number] if number < len(rules) else {"rule": f"step {number}", "spec": {}}
    return {"step": number, "rule": rule["rule"], "settings": rule["spec"], "what": what, "why": why}


def _models(store: Store, dataset: Artifact, record: str) -> list[dict[str, Any]]:
    found = []
    for model in models_of(store, dataset):
        fate = fates(store, model, record).get(record)
        if fate is None:
            continue
        releases = releases_of(store, model)
        found.append(
            {"model": model.digest, "releases": releases, "seen": fate["seen"], "skipped": fate["skipped"]}
        )
    return found
