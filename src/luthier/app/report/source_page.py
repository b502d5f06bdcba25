"""The page of a source that no recipe has read yet: figures in (app/data/raw.py), the text of one HTML file out, with the guards
of every page here (page.py)."""

from __future__ import annotations

import json
from typing import Any

from . import data_charts, data_sections, wording
from .data_page import STYLE
from .facts import Json
from .page import environment, policy, text_of
from .sections import both


def render(found: Json) -> str:
    """The page as text, to be saved as UTF-8. The same figures give the same bytes."""
    style, records = text_of("page.css") + STYLE, found["records"]
    return (
        environment()
        .get_template("source_page.html.j2")
        .render(
            found=found,
            style=style,
            policy=policy(style),
            headline=headline(found),
            figures=_figures(found),
            columns=[_column(one, found["head_rows"]) for one in found["columns"]],
            private=_private(found),
            layouts=[
                {**one, "map": json.dumps(one["map"], ensure_ascii=False), "sure": f"{one['confidence']:.0%}"}
                for one in found["layouts"]
            ],
            records=records,
            lengths=data_sections.lengths(records) if records else [],
            labels=_labels(records["labels"]) if records else None,
        )
    )


def headline(found: Json) -> str:
    """The first sentence.

    >>> headline({"format": "csv", "estimate": {"rows": 1200, "exact": False, "files": 1, "size_bytes": 4096}, "columns": [1, 2]})
    'About 1,200 rows of 2 columns, csv, in 1 file of 4.1 kB.'
    """
    told, files = found["estimate"], found["estimate"]["files"]
    rows = "Rows" if told["rows"] is None else f"{'' if told['exact'] else 'About '}{told['rows']:,} rows"
    size = (
        f" in {files:,} file{'' if files == 1 else 's'} of {wording.size(told['size_bytes'])}"
        if files
        else ""
    )
    return f"{rows} of {len(found['columns'])} columns, {found['format']}" + (f",{size}." if size else ".")


def _figures(found: Json) -> list[dict[str, str]]:
    private = found["private"]
    figures = [("rows with private data", f"{private['with']:,}", f"of the first {private['rows']:,}")]
    if records := found["records"]:
        tokens = records["lengths"]["tokens"]
        if told := tokens["sides"].get("rows"):
            figures.append((f"{tokens['unit']} in the middle row", f"{told['median']:,}", f"95 % have at most {told['p95']:,}"))  # fmt: skip
        twice = records["duplicates"]
        figures += [
            (
                "rows that repeat another",
                f"{twice['exact']:,}",
                f"{twice['folded']:,} but for case and blanks",
            ),
            ("rows nearly like another", f"{twice['near']:,}", "an estimate"),
            ("rows that cannot be read so", f"{records['set_aside']:,}", ""),
        ]
    return [{"name": name, "value": value, "beside": beside} for name, value, beside in figures]


def _column(one: Json, rows: int) -> dict[str, str]:
    return {
        "name": one["name"],
        "types": ", ".join(one["types"]) or "nothing",
        "empty": f"{one['empty']:,}" if one["empty"] else "–",
        "share": wording.percent(one["empty"] / rows) if one["empty"] else "–",
        "distinct": f"{one['distinct']:,}",
        "longest": "–" if one["longest"] is None else f"{one['longest']:,}",
    }


def _private(found: Json) -> list[tuple[str, str]]:
    """(column, what was found in it)."""
    columns = found["private"]["columns"].items()
    return [
        (name, ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in kinds.items()))
        for name, kinds in columns
    ]


def _labels(told: Json | None) -> dict[str, Any] | None:
    if told is None:
        return None
    shown = {name: {"train": n} for name, n in list(told["counts"].items())[: data_sections.MOST_LABELS]}
    label = "Rows of each label: " + "; ".join(f"{name} {n['train']:,}" for name, n in shown.items())
    return {
        "n": len(told["counts"]),
        "more": len(told["counts"]) - len(shown),
        "column": told["column"],
        "drawing": both(lambda width: data_charts.balance(label, shown, width)),
        "balance": told["balance"],
    }
