"""datasketch in the race: MinHash and MinHashLSH as its documentation shows them, word 3-grams, one process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def main() -> None:
    import pyarrow.parquet as pq
    from datasketch import MinHash, MinHashLSH

    job = json.loads(Path(sys.argv[1]).read_text())
    table = pq.read_table(job["texts"])
    index = MinHashLSH(num_perm=128, params=(16, 8))
    keep = []
    for n, text in enumerate(table["text"].to_pylist()):
        words = re.findall(r"[^\W_]+", text.lower())
        grams = {" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))}
        sketch = MinHash(num_perm=128)
        sketch.update_batch(grams)
        if not index.query(sketch):
            index.insert(str(n), sketch)
            keep.append(n)
    pq.write_table(table.take(keep), Path(job["out"]) / "kept.parquet")


if __name__ == "__main__":
    main()
