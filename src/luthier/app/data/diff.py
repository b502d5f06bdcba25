"""What two datasets do not share: rows that only one holds, rows that say or count for something else, and what was asked for.

A row is found again by its id, which names its content before any rule, so a rule that now edits more shows as other content
and not as one row gone and one new. For a row that one dataset lacks, its removed.parquet says why; where it does not, the
row was not among the sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, short
from luthier.store import Store

from .find import SPLITS, Looking, batches, lines_of, names_of, row_count

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = 5
REASONS = 20
COMPARED = ("side", "content", "label", "weight", "rejected", "rating", "group")


def compare(store: Store, a: Artifact, b: Artifact, look: Looking) -> dict[str, Any]:
    """{"a", "b", "same", "only_a", "only_b", "changed", "asked", "rows"}: counts, reasons and a few examples of each."""
    import polars as pl

    told = {"a": _named(store, a), "b": _named(store, b)}
    if a.digest == b.digest:
        nothing = {"rows": 0, "by_side": {}, "reasons": {}, "examples": []}
        both = sum(row_count(store.folder(a), side) for side in SPLITS)
        return told | {
            "same": True, "rows_in_both": both, "only_a": nothing, "only_b": nothing,
            "changed": {"rows": 0, "by": {}, "moves": {}, "examples": []}, "asked": [],
        }  # fmt: skip
    left, right = _rows(store, a, look), _rows(store, b, look)
    joined = left.join(right, on="id", how="inner", suffix="_b")
    differs = [(pl.col(name).ne_missing(pl.col(f"{name}_b"))).alias(f"{name}_differs") for name in COMPARED]
    joined = joined.with_columns(differs)
    changed = joined.filter(pl.any_horizontal([f"{name}_differs" for name in COMPARED]))
    only_a, only_b = left.join(right, on="id", how="anti"), right.join(left, on="id", how="anti")
    return told | {
        "same": False,
        "rows_in_both": joined.height,
        "only_a": _only(store, a, b, only_a),
        "only_b": _only(store, b, a, only_b),
        "changed": _changed(store, a, b, changed),
        "asked": asked(_wish(store, a), _wish(store, b)),
    }


def _named(store: Store, dataset: Artifact) -> dict[str, Any]:
    summary = {side: dataset.summary.get(side) for side in (*SPLITS, "removed")}
    return {"digest": dataset.digest, "names": names_of(store, dataset), **summary}


def _rows(store: Store, dataset: Artifact, look: Looking) -> pl.DataFrame:
    """One line per row: its id, where it stands, and hashes of what it says; texts stay in their files."""
    import polars as pl

    from luthier.data.opened import Opened
    from luthier.data.records import hashed

    folder = store.folder(dataset)
    total = sum(row_count(folder, side) for side in SPLITS)
    done, parts = 0, []
    for side in SPLITS:
        for batch in batches(folder, side):
            whole = hashed(Opened(batch).whole())
            rejected = hashed([text or "" for text in batch["rejected"].to_pylist()])
            columns = {
                name: pl.from_arrow(batch[name]) for name in ("id", "label", "weight", "rating", "group")
            }
            parts.append(
                pl.DataFrame(columns).with_columns(
                    pl.lit(side).alias("side"),
                    pl.Series("content", pl.from_arrow(whole)),
                    pl.Series("rejected", pl.from_arrow(rejected)),
                )
            )
            done += batch.num_rows
            look.progress(f"read {dataset.digest[:12]}", done, total)
    empty = {
        "id": pl.String,
        "label": pl.String,
        "weight": pl.Float32,
        "rating": pl.Float64,
        "group": pl.String,
    }
    none = pl.DataFrame(schema={**empty, "side": pl.String, "content": pl.String, "rejected": pl.String})
    return pl.concat([none, *parts])


def _only(store: Store, here: Artifact, there: Artifact, rows: pl.DataFrame) -> dict[str, Any]:
    """Rows that `here` holds and `there` does not, with why that is."""
    import polars as pl

    removed = [
        pl.DataFrame(pl.from_arrow(batch))
        for batch in batches(store.folder(there), "removed", ("id", "rule", "reason"))
    ]
    gone = pl.concat(removed).unique("id", keep="first", maintain_order=True) if removed else None
    told = (
        rows.join(gone, on="id", how="left")
        if gone is not None
        else rows.with_columns(rule=pl.lit(None, pl.String), reason=pl.lit(None, pl.String))
    )
    unread = (
        pl.col("id").str.replace("-[0-9]+$", "").is_in(_forgotten(store, there)) & pl.col("rule").is_null()
    )
    told = told.with_columns(rule=pl.when(unread).then(pl.lit("forgotten")).otherwise(pl.col("rule")))
    reasons: Counter[str] = Counter()
    # which row another is like is that row's own matter: of reasons the kind is counted
    kinds = told.with_columns(
        pl.col("reason").str.replace_all(r"(?:row:)?\b[0-9a-f]{32}(?:-[0-9]+)?\b", "another row")
    )
    for rule, reason, n in kinds.group_by("rule", "reason").len().iter_rows():
        reasons[_why(rule, reason)] += n
    shown = []
    for line in told.sort("id").head(EXAMPLES).iter_rows(named=True):
        (row,) = lines_of(store.folder(here), line["side"], [line["id"]])
        shown.append(
            {
                "id": line["id"], "side": line["side"], "origin": row["origin"],
                "why": _why(line["rule"], line["reason"]), "says": _says(row),
            }
        )  # fmt: skip
    ordered = sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    more = sum(n for _, n in ordered[REASONS:])
    return {
        "rows": rows.height,
        "by_side": {side: n for side, n in _counts(rows, "side").items() if n},
        "reasons": dict(ordered[:REASONS]) | ({"other reasons": more} if more else {}),
        "examples": shown,
    }


def _forgotten(store: Store, dataset: Artifact) -> list[str]:
    """The records that it was made without."""
    if "forgotten" not in dataset.parents:
        return []
    return list(store.catalog.get(dataset.parents["forgotten"]).spec["forgotten"]["records"])


def _why(rule: str | None, reason: str | None) -> str:
    if rule is None:
        return "not among the sources"
    return rule if reason is None else f"{rule}: {reason}"


def _changed(store: Store, a: Artifact, b: Artifact, rows: pl.DataFrame) -> dict[str, Any]:
    from luthier.data.report import window

    by = {name: n for name in COMPARED if (n := int(rows[f"{name}_differs"].sum()))}
    moves: dict[str, int] = {}
    for before, after, n in (
        rows.filter(rows["side_differs"]).group_by("side", "side_b").len().sort("side", "side_b").iter_rows()
    ):
        moves[f"{before} → {after}"] = n
    examples = []
    for line in rows.sort("id").head(EXAMPLES).iter_rows(named=True):
        (old,) = lines_of(store.folder(a), line["side"], [line["id"]])
        (new,) = lines_of(store.folder(b), line["side_b"], [line["id"]])
        told: dict[str, Any] = {
            "id": line["id"],
            "what": [name for name in COMPARED if line[f"{name}_differs"]],
        }
        if line["content_differs"] or line["rejected_differs"]:
            told["before"], told["after"] = window(_says(old, None), _says(new, None))
        for name in ("side", "label", "weight", "rating", "group"):
            if line[f"{name}_differs"]:
                told[name] = [line[name], line[f"{name}_b"]]
        examples.append(told)
    return {"rows": rows.height, "by": by, "moves": moves, "examples": examples}


def _counts(rows: pl.DataFrame, name: str) -> dict[str, int]:
    return dict(rows.group_by(name).len().sort(name).iter_rows())


def _says(row: Mapping[str, Any], longest: int | None = 200) -> str:
    told = [f"{turn['role']}: {turn['content']}" for turn in row["messages"] or ()]
    told += [row["text"]] if row["text"] is not None else []
    told += [f"rejected: {row['rejected']}"] if row["rejected"] is not None else []
    text = "\n".join(told)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


# -- what was asked for ---------------------------------------------------------------------------------------------------


def _wish(store: Store, dataset: Artifact) -> dict[str, Any]:
    """The spec, and what its parents are: the sources' bytes, the rows that were forgotten."""
    found: dict[str, Any] = {**dataset.spec, "preparation": dataset.version}
    for role, parent in dataset.parents.items():
        one = store.catalog.get(parent)
        if one.kind == "model":
            found[role] = short(parent)
        else:
            found[role] = one.spec.get("fingerprint") or f"{len(_forgotten(store, dataset))} records"
    return found


def asked(one: Any, other: Any, where: str = "") -> list[dict[str, Any]]:
    """Every value that differs, by its place; a key that one side lacks is None there.

    >>> asked({"data": {"split": {"seed": 0}}}, {"data": {"split": {"seed": 5}}})
    [{'key': 'data.split.seed', 'a': 0, 'b': 5}]
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return [
            d
            for key in _keys(one, other)
            for d in asked(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            d for n, (x, y) in enumerate(zip(one, other, strict=True)) for d in asked(x, y, f"{where}.{n}")
        ]
    return [] if one == other else [{"key": where, "a": one, "b": other}]


def _keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    yield from dict.fromkeys([*one, *other])
