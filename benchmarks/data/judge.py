"""What a contestant of the race has left of the rows, against what was planted.  judge.py WORK CORPUS OUT

    judge.py texts CORPUS     writes CORPUS/texts.parquet, what all contestants are given: id (the line) and text (what user
                              and assistant say, a blank line between)

Prints {"judged": a sentence}. OUT holds Parquet files with `id` and `text` of the rows that are left.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from truth import fold

AT_ONCE = 10_000
LEAST = 0.85


def write_texts(corpus: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    unfinished = corpus / "texts.parquet.unfinished"
    with (
        (corpus / "corpus.jsonl").open(encoding="utf-8") as lines,
        pq.ParquetWriter(unfinished, schema) as writer,
    ):
        some: list[dict[str, str]] = []
        for line, row in enumerate(lines, 1):
            some.append({"id": str(line), "text": _text(json.loads(row))})
            if len(some) == AT_ONCE:
                writer.write_table(pa.Table.from_pylist(some, schema))
                some = []
        if some:
            writer.write_table(pa.Table.from_pylist(some, schema))
    unfinished.rename(corpus / "texts.parquet")


def _text(row: dict[str, Any]) -> str:
    return "\n\n".join(m["content"] for m in row["messages"] if m["role"] != "system")


def texts_of(folder: Path) -> dict[int, str]:
    import pyarrow.parquet as pq

    found: dict[int, str] = {}
    for path in sorted(folder.rglob("*.parquet")):
        told = pq.read_table(path, columns=["id", "text"])
        found |= dict(zip(map(int, told["id"].to_pylist()), told["text"].to_pylist(), strict=True))
    return found


def judge(work: str, corpus: Path, out: Path) -> str:
    import pyarrow.parquet as pq

    given = pq.read_table(corpus / "texts.parquet")
    before = dict(zip(map(int, given["id"].to_pylist()), given["text"].to_pylist(), strict=True))
    planted = {one["line"]: one for one in pq.read_table(corpus / "truth.parquet").to_pylist()}
    left = texts_of(out)
    if not left or not left.keys() <= before.keys():
        raise SystemExit(f"{len(left)} rows are left, of which some were never given")
    if work == "clean":
        return f"{len(left):,} rows left, {sum(left[n] != before[n] for n in left):,} changed"
    if work == "personal":
        return _personal(before, left, planted, corpus)
    pairs = [one for one in planted.values() if _wanted(work, one)]
    found = sum(one["line"] not in left or one["of"] not in left for one in pairs)
    gone = before.keys() - left.keys()
    if work == "exact":
        kept = {fold(text) for text in left.values()}
        false = sum(fold(before[n]) not in kept for n in gone)
    else:
        likely = {n for one in planted.values() if one["of"] for n in (one["line"], one["of"])}
        false = len(gone - likely)
    return f"recall {found / len(pairs):.4f} of {len(pairs):,} pairs; {len(gone):,} rows removed, {false:,} of them no duplicates"


def _wanted(work: str, one: dict[str, Any]) -> bool:
    if work == "exact":
        return one["kind"] == "exact"
    return one["jaccard"] is not None and one["jaccard"] >= LEAST


def _personal(before: dict[int, str], left: dict[int, str], planted: dict[int, Any], corpus: Path) -> str:
    from truth import Lines

    lines = Lines(corpus / "corpus.jsonl")
    there: dict[str, int] = defaultdict(int)
    found: dict[str, int] = defaultdict(int)
    for n, one in planted.items():
        for span in one["spans"] if one["kind"] == "personal" else ():
            value = lines[n]["messages"][span["turn"]]["content"][span["start"] : span["end"]]
            there[span["kind"]] += 1
            found[span["kind"]] += value not in left.get(n, "")
    changed = [n for n, text in left.items() if text.split() != before[n].split()]
    false = sum(planted.get(n, {}).get("kind") != "personal" for n in changed)
    kinds = ", ".join(f"{kind} {found[kind]}/{n}" for kind, n in sorted(there.items()))
    total = sum(found.values()) / max(1, sum(there.values()))
    return f"recall {total:.3f} ({kinds}); {false:,} rows changed that hold none"


def main() -> None:
    work, corpus = sys.argv[1], Path(sys.argv[2])
    if work == "texts":
        write_texts(corpus)
    else:
        print(json.dumps({"judged": judge(work, corpus, Path(sys.argv[3]))}))


if __name__ == "__main__":
    main()
