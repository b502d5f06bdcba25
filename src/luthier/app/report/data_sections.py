"""Figures of a dataset (app/data/profile) -> what each section of its page shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import data_charts, wording
from .facts import Json
from .sections import both

MOST_LABELS = 40
SIDES = {"train": "training", "validation": "validation", "test": "the test"}


def headline(found: Json) -> str:
    """The first sentence.

    >>> headline({"rows": {"train": 1, "validation": 0, "test": 2}, "removed": 4})
    '3 rows to learn from and to measure with; 4 were left out.'
    """
    n = sum(found["rows"].values())
    return f"{n:,} rows to learn from and to measure with; {found['removed']:,} were left out."


def figures(found: Json) -> list[dict[str, str]]:
    rows, duplicates = found["rows"], found["duplicates"]
    tokens = found["lengths"]["tokens"]
    train = tokens["sides"].get("train")
    told = [
        _figure(f"{rows['train']:,}", "training rows", f"{rows['validation']:,} validation, {rows['test']:,} test"),
        _figure(f"{found['removed']:,}", "left out", "by rules, with a reason each"),
        _figure(f"{duplicates['exact']:,}", "equal rows left", f"{duplicates['folded']:,} but for case and blanks"),
        _figure(f"{duplicates['several_answers']['inputs']:,}", "inputs with several answers",
                f"in {duplicates['several_answers']['rows']:,} rows"),
    ]  # fmt: skip
    if train:
        told.insert(
            1,
            _figure(
                f"{train['median']:,}",
                f"{tokens['unit']} in the middle row",
                f"95 % have at most {train['p95']:,}",
            ),
        )
    return told


def _figure(value: str, name: str, beside: str) -> dict[str, str]:
    return {"value": value, "name": name, "beside": beside}


def lengths(found: Json) -> list[dict[str, Any]]:
    """One drawing for each kind of length, with its figures."""
    told = []
    for name in ("tokens", "characters", "turns"):
        one = found["lengths"][name]
        if not one["sides"]:
            continue
        label = f"{one['unit'].capitalize()} per row: " + "; ".join(
            f"{side} median {figures['median']:,}, at most {figures['max']:,}"
            for side, figures in one["sides"].items()
        )
        edges, counts = one["edges"], one["counts"]
        longest = {figures["max"] for figures in one["sides"].values()}
        if len(edges) <= 2 and len(longest) == 1:
            told.append({"name": one["unit"], "same": f"{longest.pop():,} in every row", "sides": []})
            continue

        def draw(width: int, label: str = label, edges: Any = edges, counts: Any = counts) -> str:
            return data_charts.histogram(label, edges, counts, width)

        told.append(
            {
                "name": one["unit"],
                "same": "",
                "beside": _counted(one),
                "drawing": both(draw),
                "sides": _sides(one["sides"]),
            }
        )
    return told


def _counted(one: Json) -> str:
    """How the figures came about, where that is not plain."""
    said = [f"counted by the tokenizer of {one['by']}"] if one.get("by") else []
    if one.get("sampled"):
        said.append(f"on a sample of {one['sampled']:,} rows")
    if one.get("skipped"):
        said.append(f"{one['skipped']:,} rows that its template refuses are left out")
    if one.get("why"):
        said.append(one["why"])
    return ", ".join(said)


def _sides(sides: Mapping[str, Json]) -> list[dict[str, str]]:
    return [
        {
            "side": side,
            **{name: wording.number(told[name]) for name in ("rows", "mean", "median", "p95", "max")},
        }
        for side, told in sides.items()
    ]


def labels(found: Json) -> dict[str, Any] | None:
    """None for a task without labels."""
    counts: Mapping[str, Mapping[str, int]] | None = found["labels"]
    if not counts:
        return None
    ordered = dict(sorted(counts.items(), key=lambda one: (-sum(one[1].values()), one[0])))
    shown = dict(list(ordered.items())[:MOST_LABELS])
    label = "Rows of each label: " + "; ".join(f"{name} {sum(n.values()):,}" for name, n in shown.items())
    return {
        "n": len(counts),
        "more": len(counts) - len(shown),
        "drawing": both(lambda width: data_charts.balance(label, shown, width)),
        "balance": found["balance"],
    }


def private(found: Json) -> dict[str, Any]:
    """What rules have masked by kind, and what a look at the rows as they are now still finds."""
    masked: dict[str, int] = {}
    for one in found["rules"]:
        if one["rule"] == "redact":
            for kind, n in one["counts"].items():
                masked[kind] = masked.get(kind, 0) + n
    now = found["private"]
    kinds = dict.fromkeys([*masked, *now["kinds"]])
    return {
        "looked": now["rows"],
        "with": now["with"],
        "ruled": bool(masked) or any(one["rule"] == "redact" for one in found["rules"]),
        "kinds": [
            (kind.replace("_", " "), f"{masked.get(kind, 0):,}", f"{now['kinds'].get(kind, 0):,}")
            for kind in kinds
        ],
    }


def families(found: Json) -> dict[str, Any] | None:
    """None where no rule looked for near duplicates."""
    if not any(one["rule"] == "near_duplicates" for one in found["rules"]):
        return None
    told = found["families"]
    return {
        **told,
        "largest": [
            {**one, "like": [{**row, "share": f"{row['share']:.2f}"} for row in one["like"]]}
            for one in told["largest"]
        ],
    }


def origins(found: Json) -> list[dict[str, Any]]:
    """Rows of each source, with what they are told where that differs."""
    several = len(found["tasks"]) > 1
    return [
        {
            "name": one["name"],
            "told": wording.clip(one.get("instruction") or "", 160) if several else "",
            "counts": [f"{one['counts'].get(side, 0):,}" for side in SIDES],
        }
        for one in found["sources"]
    ]


def about(found: Json) -> list[tuple[str, str]]:
    told = found["about"] or {}
    pairs = [(name, told[name]) for name in ("owner", "licence", "purpose", "retention") if told.get(name)]
    return pairs + ([("tags", ", ".join(told["tags"]))] if told.get("tags") else [])
