"""Rows in a second of one core for rules that learn from all rows, on any rows: what `docs/rules.md` tells.

    python benchmarks/data/gather.py ROWS.jsonl --user text --assistant label [--classify] --rows 20000 select:'{"n": 500}' triggers

Prints for each rule: rows, CPU seconds of all it does (features, learning, saying) and rows in each of them, the largest
memory of the process, and what its account notes. One thread, one process for each rule.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

BATCH = 5_000


def batches(path: Path, user: str, assistant: str | None, rows: int, *, labels: bool) -> list[pa.RecordBatch]:
    from luthier.data.records import RECORD, hashed

    with path.open() as file:
        told = [json.loads(line) for _, line in zip(range(rows), file, strict=False)]
    ids = hashed([str(n) for n in range(len(told))]).to_pylist()
    records = []
    for name, row in zip(ids, told, strict=True):
        messages = row.get("messages") or [{"role": "user", "content": row[user]}]
        label = str(row[assistant]) if labels and assistant else None
        if assistant:
            messages = [*messages, {"role": "assistant", "content": str(row[assistant])}]
        records.append(
            {"id": name, "messages": messages, "label": label, "source": "s", "origin": "s", "weight": 1.0}
        )
    whole = pa.RecordBatch.from_pylist(records, RECORD)
    return [whole.slice(start, BATCH) for start in range(0, whole.num_rows, BATCH)]


def measure(given: list[pa.RecordBatch], name: str, wish: dict[str, Any], folder: str) -> None:
    from luthier.core import plugin
    from luthier.data.engines.local import LocalEngine
    from luthier.data.engines.protocol import At, LocalEngineSpec
    from luthier.data.plan import Group, Step

    rule = plugin.load("rule", name)
    group = Group(learns=Step(rule, rule.spec.model_validate(wish)))
    accounts = [step.account() for step in group.steps]
    at = At(Path(folder), lambda lines: None, lambda: None, str)
    start = time.process_time()
    rows = sum(
        batch.num_rows for batch in LocalEngine(LocalEngineSpec(), at).run(group, iter(given), accounts, None)
    )  # type: ignore[arg-type]
    cpu_s = time.process_time() - start
    total = sum(batch.num_rows for batch in given)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    told = {"rule": name, "settings": wish, "rows": total, "left": rows, "cpu_s": round(cpu_s, 2),
            "rows_per_cpu_s": round(total / cpu_s), "peak_mb": round(peak_mb), "notes": accounts[0].notes}  # fmt: skip
    print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("rules", nargs="+")
    parser.add_argument("--user", default="text")
    parser.add_argument("--assistant")
    parser.add_argument("--classify", action="store_true")
    parser.add_argument("--rows", type=int, default=20_000)
    wish = parser.parse_args()
    given = batches(wish.path, wish.user, wish.assistant, wish.rows, labels=wish.classify)
    for told in wish.rules:
        name, _, settings = told.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            one = multiprocessing.get_context("fork").Process(
                target=measure, args=(given, name, json.loads(settings or "{}"), folder)
            )
            one.start()
            one.join()


if __name__ == "__main__":
    main()
