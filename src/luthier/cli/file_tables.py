"""How what is said of files is shown: what is in one, layouts, conversions, contracts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .command import one_line, put

if TYPE_CHECKING:
    from luthier.postprocessing.sums import Verdict

SHOWN = 5
LABELS = 20


def print_layouts(found: Mapping[str, Any]) -> None:
    put(f"{found['file']}: {found['format']}, columns {', '.join(found['columns'])}")
    for n, one in enumerate(found["layouts"]):
        put()
        put(f"{'it is' if n == 0 else 'or'} {one['layout']}, {one['confidence']:.0%} sure: {one['reason']}")
        put(f"  map: {json.dumps(one['map'], ensure_ascii=False)}")
        put(f"  fits {one['fits']:,} of the first {found['rows']:,} rows")
        if one["first_fault"]:
            put(f"  {one['first_fault']}")
    if not found["sure"]:
        put()
        put("More than one is likely: write the one that is meant as map: in the recipe.")


def print_converted(found: Mapping[str, Any]) -> None:
    put(f"wrote {found['rows']:,} rows to {found['file']}: {found['from']} to {found['to']}")
    gone = found["set_aside"]
    for one in gone[:SHOWN]:
        put(f"  set aside: {one['origin']}: {one['reason']}")
    if len(gone) > SHOWN:
        put(f"  and {len(gone) - SHOWN:,} more")


def print_checked(found: Mapping[str, Any]) -> None:
    put(f"{found['file']}: {found['broken']:,} of {found['rows']:,} rows break the contract")
    for one in found["first"][:SHOWN]:
        put(f"  {one['origin']}: {one['reason']}")
    if found["broken"] > SHOWN:
        put(f"  and {found['broken'] - SHOWN:,} more")
    for why in found["refused"]:
        put(f"refused: {why}")
    if not found["refused"]:
        put("it would be taken")


def print_verdict(found: Verdict) -> None:
    """What `luthier verify` found; the names are whoever's who filled the folder."""
    for what in ("missing", "changed", "surplus"):
        for name in getattr(found, what):
            put(f"{what:8} {one_line(name, 400)}")
    put(
        f"{found.files} files are as they were written"
        + ("" if found.sound else "; this folder is not the package that was exported")
    )


def print_source(found: Mapping[str, Any]) -> None:
    """What `luthier data inspect FILE` shows of a source that no recipe has read."""
    from luthier.app.report.source_page import headline

    from .tables import columns

    put(f"{one_line(found['file'])}\n  {headline(found)}")
    for n, one in enumerate(found["layouts"]):
        put(
            f"{'it is' if n == 0 else 'or'} {one['layout']}, {one['confidence']:.0%} sure: {one_line(one['reason'], 200)}"
        )
        put(f"  map: {one_line(json.dumps(one['map'], ensure_ascii=False), 200)}")
    if found["why"]:
        put(one_line(found["why"], 300))
    put(f"columns of the first {found['head_rows']:,} rows")
    lines = [("", "values", "empty", "distinct", "longest")]
    for one in found["columns"]:
        kinds = ", ".join(one["types"]) or "nothing"
        longest = "" if one["longest"] is None else f"{one['longest']:,}"
        lines.append((one_line(one["name"], 40), kinds, f"{one['empty']:,}", f"{one['distinct']:,}", longest))
    put(columns(lines, "  "))
    private = found["private"]
    put(f"private data in {private['with']:,} of {private['rows']:,} rows")
    for name, kinds in private["columns"].items():
        put(f"  {one_line(name, 40)}: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()))
    if found["records"]:
        _print_records(found["records"])
    put("first rows, private data masked")
    for row in found["rows"]:
        for n, (name, text) in enumerate(row.items()):
            put(f"  {'-' if n == 0 else ' '} {one_line(name, 40)}: {one_line(text, 100)}")
    if found.get("report"):
        put(f"page: {found['report']}")


def _print_records(told: Mapping[str, Any]) -> None:
    from .tables import columns

    put(
        f"as records: {'all' if told['all'] else 'the first'} {told['rows']:,} rows, {told['set_aside']:,} set aside"
    )
    for one in told["faults"]:
        put(f"  {one_line(one['origin'], 60)}: {one_line(one['reason'], 120)}")
    put(f"  task {told['task']['value']}: {one_line(told['task']['reason'], 160)}")
    put(f"  {one_line(told['group_by']['reason'], 160)}")
    lines = [("lengths", "mean", "median", "95 %", "longest")]
    for name in ("tokens", "characters", "turns"):
        one = told["lengths"][name]
        if of := one["sides"].get("rows"):
            lines.append(
                (one["unit"], f"{of['mean']:,.1f}", f"{of['median']:,}", f"{of['p95']:,}", f"{of['max']:,}")
            )
    put(columns(lines, "  "))
    tokens = told["lengths"]["tokens"]
    if tokens["why"] or tokens["sampled"]:
        put(f"  {tokens['why'] or 'tokens counted on ' + format(tokens['sampled'], ',') + ' rows'}")
    if labels := told["labels"]:
        put(f"labels in {one_line(labels['column'], 40)}")
        shown = list(labels["counts"].items())[:LABELS]
        put(columns([(one_line(label, 40), f"{n:,}") for label, n in shown], "  "))
        if len(labels["counts"]) > LABELS:
            put(f"  … and {len(labels['counts']) - LABELS} more labels")
    twice = told["duplicates"]
    put(
        f"what occurs twice: {twice['exact']:,} equal rows, {twice['folded']:,} but for case and blanks, about {twice['near']:,} nearly so"
    )
    several = twice["several_answers"]
    put(
        f"  {twice['repeated_inputs']:,} repeated inputs; {several['inputs']:,} inputs have several answers, in {several['rows']:,} rows"
    )
