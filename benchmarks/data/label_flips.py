"""How many planted wrong labels `label_noise` finds, and how much of what it finds was planted.

    python benchmarks/data/label_flips.py ROWS.jsonl --user review --assistant score --rate 0.05 0.1

Labels that were wrong before anything was planted count as mistakes of the rule here, so precision is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

import pyarrow as pa
from gather import batches

from luthier.data.records import RECORD, replace
from luthier.data.testing import gathered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--user", default="text")
    parser.add_argument("--assistant", default="label")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rate", type=float, nargs="+", default=[0.05, 0.1])
    wish = parser.parse_args()
    for rate in wish.rate:
        draw = random.Random(0)  # noqa: S311  the same every time
        whole = pa.Table.from_batches(
            batches(wish.path, wish.user, wish.assistant, wish.rows, labels=True), RECORD
        )
        batch = whole.combine_chunks().to_batches()[0]
        labels, ids = batch["label"].to_pylist(), batch["id"].to_pylist()
        names = sorted(set(labels))
        wrong = {k for k in range(len(labels)) if draw.random() < rate}
        given = [
            draw.choice([one for one in names if one != label]) if k in wrong else label
            for k, label in enumerate(labels)
        ]
        planted = {ids[k] for k in wrong}
        with tempfile.TemporaryDirectory() as folder:
            found = gathered("label_noise", [replace(batch, label=pa.array(given))], Path(folder))
        hits = len(planted & set(found.trail))
        told = {"rate": rate, "rows": len(labels), "labels": len(names), "planted": len(planted), "found": len(found.trail),
                "precision": round(hits / max(len(found.trail), 1), 3), "recall": round(hits / max(len(planted), 1), 3),
                "note": found.account.notes[0]}  # fmt: skip
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
