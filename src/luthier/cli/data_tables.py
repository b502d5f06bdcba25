"""What `luthier data ...` prints: short, aligned, hostile text made visible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from luthier.core.artifact import short

from .command import one_line
from .moments import moment
from .tables import columns

SIDES = ("train", "validation", "test")


def print_exported(found: Mapping[str, Any]) -> None:
    rows = ", ".join(f"{found['rows'][side]:,} {side}" for side in SIDES)
    if "table" in found:
        click.echo(f"wrote {rows} rows to the table {found['table']}")
        return
    click.echo(f"wrote {len(found['files'])} files to {one_line(found['to'])}: {rows} rows")
    if "tasks" in found:
        from .harness import print_exported_tasks

        print_exported_tasks(found)
    if guarded := found.get("guarded_cells"):
        click.echo(
            f"{guarded:,} cells begin as formulas do and have an apostrophe before them; Parquet and jsonl leave them as they are"
        )


def print_advice(found: Mapping[str, Any]) -> None:
    _title("advice for dataset", found)
    for one in found["advice"]:
        click.echo(f"{'→' if one['helps'] else ' '} {one['about']}: {one_line(one['says'], 600)}")
        for section, rules in one["recipe"].items():
            for line in _recipe_lines(section, rules):
                click.echo(f"      {line}")
    if not any(one["helps"] for one in found["advice"]):
        click.echo("nothing here asks for more; what a model makes of it, only a run can say")


def _recipe_lines(section: str, rules: Sequence[Any]) -> list[str]:
    """As YAML for `data.rules`. JSON is YAML, and quotes whatever a label may hold."""
    return [f"{section}: [{', '.join(json.dumps(rule, ensure_ascii=False) for rule in rules)}]"]


def print_prepared(found: Mapping[str, Any]) -> None:
    digest = found["dataset"][:12]
    click.echo(f"dataset {digest}: {'made' if found['made'] else 'was there already'}")
    rows = ", ".join(f"{found[side]:,} {side}" for side in SIDES)
    _facts(
        [
            ("rows", f"{rows}; {found['removed']:,} removed"),
            *((name, " → ".join(told)) for name, told in found["rules"].items()),
        ]
    )
    click.echo(f"next:   luthier data inspect {digest}")


def _families(told: Mapping[str, Any]) -> str:
    return f"{_n(told['rows'], 'row')} went, in {told['n']:,} famil{'y' if told['n'] == 1 else 'ies'}"


def print_profile(found: Mapping[str, Any]) -> None:
    rows = found["rows"]
    _title("dataset", found)
    _facts(
        [
            ("rows", ", ".join(f"{rows[side]:,} {side}" for side in SIDES) + f"; {found['removed']:,} removed"),
            *([("canaries", f"{found['canaries']:,} of the training rows")] if found.get("canaries") else []),
            *([("forgotten", f"{found['forgotten']:,} rows of the sources")] if found["forgotten"] else []),
            ("kinds", ", ".join(f"{n:,} {kind}" for kind, n in found["kinds"].items())),
            *([("weights", "{min:.4g} to {max:.4g}, {mean:.4g} on average".format(**found["weights"]))] if found["weights"] else []),
        ]
    )  # fmt: skip
    if found["about"]:
        print_about(found["about"])
    click.echo("sources")
    click.echo(
        columns(
            [
                (one_line(s["name"]), *(f"{s['counts'].get(side, 0):,}" for side in SIDES))
                for s in found["sources"]
            ],
            "  ",
        )
    )
    if len(found["tasks"]) > 1:
        click.echo("tasks")
        click.echo(
            columns(
                [
                    (
                        one_line(t["instruction"] or "(none)", 60),
                        *(f"{t['counts'].get(side, 0):,}" for side in SIDES),
                    )
                    for t in found["tasks"]
                ],
                "  ",
            )
        )
    click.echo("lengths")
    lines = [("", "side", "mean", "median", "95 %", "longest")]
    for name in ("tokens", "characters", "turns"):
        one = found["lengths"][name]
        for side, told in one["sides"].items():
            lines.append(
                (
                    one["unit"],
                    side,
                    f"{told['mean']:,.1f}",
                    f"{told['median']:,}",
                    f"{told['p95']:,}",
                    f"{told['max']:,}",
                )
            )
    click.echo(columns(lines, "  "))
    tokens = found["lengths"]["tokens"]
    if tokens.get("by"):
        sample = f" on {tokens['sampled']:,} rows" if tokens["sampled"] else ""
        click.echo(f"  tokens as {one_line(str(tokens['by']), 60)} counts them{sample}")
    elif tokens.get("why"):
        click.echo(f"  {tokens['why']}")
    if found["labels"]:
        click.echo("labels")
        ordered = sorted(found["labels"].items(), key=lambda one: -sum(one[1].values()))
        click.echo(
            columns(
                [
                    (one_line(label, 40), *(f"{n.get(side, 0):,}" for side in SIDES))
                    for label, n in ordered[:20]
                ],
                "  ",
            )
        )
        if len(ordered) > 20:
            click.echo(f"  … and {len(ordered) - 20} more labels")
    private = found["private"]
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in private["kinds"].items()) or "none found"
    click.echo(f"private data\n  {kinds}, in {private['with']:,} of {private['rows']:,} rows looked at")
    twice, several = found["duplicates"], found["duplicates"]["several_answers"]
    click.echo("what occurs twice")
    _facts(
        [
            ("equal rows", f"{twice['exact']:,}; {twice['folded']:,} but for case and blanks"),
            ("repeated inputs", f"{twice['repeated_inputs']:,}"),
            *([("near duplicates", _families(found["families"]))] if found["families"]["n"] else []),
            ("several answers", f"{_n(several['inputs'], 'input')} in {_n(several['rows'], 'row')}"),
        ]
    )
    for one in several["examples"][:3]:
        answers = " | ".join(one_line(a["answer"], 30) for a in one["answers"][:3])
        click.echo(f"    {one_line(one['input'], 60)} → {answers}")
    click.echo("rules")
    click.echo(
        columns(
            [
                ("", "in", "changed", "removed", "out"),
                *(
                    (
                        r["rule"],
                        f"{r['rows_in']:,}",
                        f"{r['changed']:,}",
                        f"{r['removed']:,}",
                        f"{r['rows_out']:,}",
                    )
                    for r in found["rules"]
                ),
            ],
            "  ",
        )
    )
    if found.get("report"):
        click.echo(f"page: {found['report']}")


def print_about(about: Mapping[str, Any]) -> None:
    click.echo("about")
    told = [
        (name, one_line(", ".join(value) if isinstance(value, list) else value, 100))
        for name, value in about.items()
        if value
    ]
    click.echo(columns(told, "  "))


def print_diff(found: Mapping[str, Any]) -> None:
    for letter in ("a", "b"):
        one = found[letter]
        counts = ", ".join(f"{one[side] or 0:,} {side}" for side in SIDES)
        click.echo(f"{letter}: {short(one['digest'])}  {', '.join(one['names'])}  {counts}")
    if found["same"]:
        click.echo("the same dataset")
        return
    click.echo(f"{found['rows_in_both']:,} rows are in both")
    for letter in ("a", "b"):
        one = found[f"only_{letter}"]
        other = "b" if letter == "a" else "a"
        click.echo(f"only in {letter}: {_n(one['rows'], 'row')}" + _by(one["by_side"]))
        click.echo(
            columns(
                [(f"{n:,}", one_line(why, 90)) for why, n in one["reasons"].items()],
                f"  why not in {other}: ",
            )
        ) if one["reasons"] else None
        for row in one["examples"]:
            click.echo(f"    {row['id']}  {row['origin']}  {one_line(row['says'], 60)}")
    changed = found["changed"]
    click.echo(f"in both, but not the same: {_n(changed['rows'], 'row')}" + _by(changed["by"]))
    for move, n in changed["moves"].items():
        click.echo(f"  {n:,} moved {move}")
    for row in changed["examples"]:
        click.echo(f"    {row['id']}  {', '.join(row['what'])}")
        for name in ("side", "label", "weight", "rating", "group"):
            if name in row:
                click.echo(
                    f"      {name}: {one_line(str(row[name][0]), 40)} → {one_line(str(row[name][1]), 40)}"
                )
        if "before" in row:
            old, new = _apart(row["before"], row["after"])
            click.echo(f"      a: {_marked(old)}\n      b: {_marked(new)}")
    if found["asked"]:
        click.echo("asked for")
        click.echo(
            columns(
                [
                    (one["key"], one_line(str(one["a"]), 40), "→", one_line(str(one["b"]), 40))
                    for one in found["asked"]
                ],
                "  ",
            )
        )


def _by(counts: Mapping[str, int]) -> str:
    return " (" + ", ".join(f"{n:,} {name}" for name, n in counts.items()) + ")" if counts else ""


def print_explained(found: Mapping[str, Any]) -> None:
    for stone in found["forgotten"]:
        why = f": {one_line(stone['reason'], 80)}" if stone["reason"] else ""
        click.echo(
            f"forgotten on {moment(stone['when_s'], 'minutes')} by {one_line(stone['by'], 40)} (source {one_line(stone['source'], 40)}){why}"
        )
    for one in found["found"]:
        _title("row", {"dataset": one["dataset"], "names": one["names"]}, one["id"])
        _facts(
            [
                (
                    "from",
                    one_line(one["origin"], 80)
                    + (f", source {one_line(one['source'], 40)}" if one["source"] else ""),
                )
            ]
        )
        if one["mapped"]:
            m = one["mapped"]
            told = ", ".join(f"{part}: {_column(column)}" for part, column in m["map"].items())
            _facts([("read as", f"{m['layout']}, {one_line(told, 120)} ({one_line(m['reason'], 80)})")])
        if not one["recorded"]:
            _facts(
                [
                    (
                        "changes",
                        "not on record: this dataset was made before they were; only examples are known",
                    )
                ]
            )
        if one["read_again"] not in (None, "yes"):
            _facts([("read again", one["read_again"])])
        for step in one["steps"]:
            _facts([(f"{step['step']}. {step['rule']}", f"{step['what']}: {one_line(step['why'], 100)}")])
            if "before" in step:
                click.echo(
                    f"       before: {_marked(step['before'])}\n       after:  {_marked(step['after'])}"
                )
        if one["removed"]:
            _facts([("removed by", f"{one['removed']['rule']}: {one_line(one['removed']['reason'], 100)}")])
            _facts([("it began", one_line(one["preview"], 90))])
            continue
        _facts([("side", one["side"])])
        if one["made_from"]:
            _facts([("made of", f"{one['made_from']} by {one['made_by']}")])
        if one["made_of_it"]:
            told = ", ".join(f"{made['id']} ({made['made_by']})" for made in one["made_of_it"])
            _facts([("made of it", one_line(told, 200))])
        for turn in one["content"].get("messages") or ():
            click.echo(f"    {turn['role']}: {one_line(turn['content'], 200)}")
        for name in ("text", "rejected", "label", "group", "rating"):
            if name in one["content"]:
                click.echo(f"    {name}: {one_line(str(one['content'][name]), 200)}")
        if one["content"].get("weight", 1.0) != 1.0:
            click.echo(f"    weight: {one['content']['weight']:.4g}")
        for model in one["models"]:
            _facts([("model", f"{short(model['model'])} {_fate(model)}  {', '.join(model['releases'])}")])


def _fate(model: Mapping[str, Any]) -> str:
    if model["skipped"]:
        return f"left it out ({model['skipped']})"
    if model["seen"]:
        return f"saw it {model['seen']} time{'s' if model['seen'] > 1 else ''} in its kept weights"
    return "did not train on it"


def _column(column: Any) -> str:
    return column if isinstance(column, str) else " + ".join(map(str, column))


def print_matches(found: Mapping[str, Any]) -> None:
    click.echo(_n(found["matches"], "row") + _by({side: n for side, n in found["by_side"].items() if n}))
    for row in found["rows"]:
        label = f"  [{one_line(row['label'], 30)}]" if row.get("label") else ""
        why = f"  {row['rule']}: {one_line(row['reason'], 60)}" if row.get("rule") else ""
        click.echo(f"  {row['id']}  {row['side']}  {one_line(row.get('origin', ''), 60)}{label}{why}")
        click.echo(f"      {one_line(row['snippet'], 200)}")
    if found["matches"] > len(found["rows"]):
        click.echo(f"  … and {found['matches'] - len(found['rows']):,} more (--limit shows more)")


def print_forget(found: Mapping[str, Any], brief: bool = False) -> None:
    records, rows = len(found["records"]), found["rows"]
    verb = "forgotten" if found["done"] else "to forget"
    group = " in that group" if found["within_a_group"] else ""
    click.echo(
        f"{verb}: {_n(records, 'record')}{group}, {_n(rows, 'row')} in {_n(len(found['datasets']), 'dataset')}"
    )
    if brief:
        return
    for one in found["datasets"]:
        click.echo(f"dataset {short(one['digest'])}  {', '.join(one['names'])}" + _by(one["rows"]))
        more = f" … and {one['more_origins']:,} more" if one["more_origins"] else ""
        click.echo(f"    {one_line(', '.join(one['origins']), 160)}{more}")
    for one in found["models"]:
        told = (
            f"its kept weights saw {one['saw']:,} of them"
            if one["saw"]
            else "its kept weights saw none of them"
        )
        told += f", {one['measured']:,} were held out to measure it" if one["measured"] else ""
        click.echo(f"model   {short(one['digest'])}  {', '.join(one['releases'])}  {told}")
    if found["done"]:
        click.echo(
            "From now on they are left out when a dataset is made of sources that hold them. What was made before still holds them."
        )
    if found["again"]:
        click.echo("to make the datasets and models again without them, where the recipe is:")
        for command in found["again"]:
            click.echo(f"  {command}")


def print_forgotten(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        click.echo("nothing was forgotten")
        return
    click.echo(
        columns(
            [
                (
                    one["record"] + (" (in a group)" if one["within_a_group"] else ""),
                    moment(one["when_s"], "minutes"),
                    one_line(one["by"], 40),
                    one_line(", ".join(one["sources"]), 60),
                    one_line(one["reason"] or "", 80),
                )
                for one in rows
            ]
        )
    )


def _title(kind: str, found: Mapping[str, Any], name: str | None = None) -> None:
    where = f"{short(found['dataset'])}" + (f" ({', '.join(found['names'])})" if found["names"] else "")
    click.echo(f"{kind} {where}" if name is None else f"{kind} {name} in dataset {where}")


def _facts(pairs: Sequence[tuple[str, str]]) -> None:
    click.echo(columns([(name.ljust(15), value) for name, value in pairs], "  "))


def _n(n: int, what: str) -> str:
    """
    >>> _n(1, "row"), _n(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _apart(old: str, new: str) -> tuple[str, str]:
    """Both from a little before where they part, so that a line shows it.

    >>> _apart("a" * 99 + "x", "a" * 99 + "y")[0] == "…" + "a" * 30 + "x"
    True
    """
    at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    if at <= 40:
        return old, new
    return "…" + old[at - 30 :], "…" + new[at - 30 :]


def _marked(text: str) -> str:
    """One line that keeps the blanks: they may be all that differs."""
    from luthier.app.report.wording import shorten, visible

    return shorten(visible(text.replace("\n", "⏎").replace("\t", "⇥")), 110)
