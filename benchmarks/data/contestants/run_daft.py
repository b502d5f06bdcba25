"""Daft in the race. It has functions (regular expressions, minhash) and no rules: what is built of them is written here, as
a person would write it. Near duplicates: its minhash, bands and connected parts in NumPy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HASHES, BANDS = 128, 16


def main() -> None:
    import daft
    from daft import col
    from daft import functions as f

    job = json.loads(Path(sys.argv[1]).read_text())
    frame = daft.read_parquet(job["texts"])
    if job["work"] == "clean":
        text = col("text")
        for pattern, other in ((r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u2060\ufeff\u202a-\u202e]", ""), (r"<[^<>]{1,200}>", " "), (r"\s{2,}|[\t\n\r]", " ")):  # fmt: skip
            text = f.regexp_replace(text, pattern, other)
        frame = frame.with_column("text", text)
        frame = frame.where((f.length(col("text")) >= 50) & (f.length(col("text")) <= 20_000))
        frame.write_parquet(job["out"])
    elif job["work"] == "exact":
        folded = f.lower(f.regexp_replace(f.regexp_replace(col("text"), r"\s+", " "), r"^ | $", ""))
        frame = frame.with_column("key", f.hash(folded))
        frame.distinct("key").select("id", "text").write_parquet(job["out"])
    else:
        near(frame, job["out"])


def near(frame: object, out: str) -> None:
    import numpy as np
    from daft import col
    from daft import functions as f

    folded = f.lower(f.regexp_replace(col("text"), r"[^\pL\pN]+", " "))
    made = frame.select(
        "id", "text", f.minhash(folded, num_hashes=HASHES, ngram_size=3, seed=1).alias("signs")
    )
    table = made.to_arrow()
    signs = table["signs"].combine_chunks()
    flat = np.asarray(signs.flatten(), np.uint32).reshape(len(signs), HASHES)
    parent = np.arange(len(flat))
    for band in np.split(flat, BANDS, axis=1):
        rows = np.ascontiguousarray(band).view([("", np.uint32)] * band.shape[1]).ravel()
        _, first, which = np.unique(rows, return_index=True, return_inverse=True)
        for one, other in enumerate(first[which.ravel()]):
            if one != other:
                a, b = root(parent, one), root(parent, int(other))
                parent[max(a, b)] = min(a, b)
    keep = [n for n in range(len(flat)) if root(parent, n) == n]
    import pyarrow.parquet as pq

    pq.write_table(table.select(["id", "text"]).take(keep), Path(out) / "kept.parquet")


def root(parent: object, n: int) -> int:
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = int(parent[n])
    return n


if __name__ == "__main__":
    main()
