"""One data set, prepared in a process of its own: what run.py watches.  prepare_once.py JOB

JOB is JSON: {"mode": "stage" | "rules", "root": ..., "out": ..., "data": {...}, "task": {...}}

    stage   the stage as `luthier run` calls it: files in, files out
    rules   only the rules: the rows are read into memory first, and what is timed is the engine from record batches to
            record batches, with its spool and its keys. The processor's seconds are printed as the last line.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

AT_ONCE, WARM = 1_750, 100


def stage(root: Path, out: Path, spec: dict[str, Any]) -> None:
    from luthier.core.testing import FakeContext
    from luthier.data.prepare import STAGE, PrepareSpec

    scratch = out.with_name(out.name + ".scratch")
    for folder in (out, scratch):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    STAGE.function(PrepareSpec.model_validate(spec), {}, out, scratch, FakeContext(root, root=root))
    shutil.rmtree(scratch)


def rules(root: Path, out: Path, spec: dict[str, Any]) -> dict[str, float]:
    from luthier.data.engines.local import LocalEngine, LocalEngineSpec
    from luthier.data.engines.protocol import At
    from luthier.data.plan import plan_of
    from luthier.data.prepare import PrepareSpec
    from luthier.data.split import Sides

    wish = PrepareSpec.model_validate(spec)
    work = out.with_name(out.name + ".scratch")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    at = At(work, lambda lines: None, lambda: None, lambda told: told)
    source = wish.data.sources[0].plain()
    batches = list(records(root / source["files"], labels=bool(source["map"].get("label"))))
    n = sum(batch.num_rows for batch in batches)
    sides = Sides(wish.data.split, False, wish.task)
    groups = [replace(group, sides=None, numbers=None) for group in plan_of(wish.data.rules, sides)]

    def through(some: list[Any]) -> int:
        engine = LocalEngine(LocalEngineSpec(), at)
        rows: Iterator[Any] = iter(some)
        for group in groups:
            rows = engine.run(group, rows, [step.account() for step in group.steps], Nobody())
        return sum(batch.num_rows for batch in rows)

    through([batches[0].slice(0, WARM)])  # what is imported and compiled on first use is not the rule's cost
    cpu, wall = time.process_time(), time.perf_counter()
    kept = through(batches)
    told = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "rows": n, "kept": kept}
    shutil.rmtree(work)
    return told


def records(path: Path, *, labels: bool) -> Iterator[Any]:
    """A corpus as record batches of about two megabytes, each row with an id of its own."""
    import pyarrow as pa

    from luthier.data.records import RECORD

    def batch(some: list[dict[str, Any]]) -> Any:
        return pa.RecordBatch.from_pylist(some, RECORD)

    some: list[dict[str, Any]] = []
    empty = dict.fromkeys(RECORD.names)
    with path.open(encoding="utf-8") as lines:
        for line, told in enumerate(lines, 1):
            row = json.loads(told)
            messages = row.get("messages") or [
                {"role": "user", "content": row["text"]},
                {"role": "assistant", "content": row["topic"]},
            ]
            name = hashlib.blake2b(str(line).encode(), digest_size=16).hexdigest()
            one = {
                "id": name,
                "messages": messages,
                "source": path.name,
                "origin": f"{path.name}:{line}",
                "weight": 1.0,
            }
            some.append({**empty, **one, "label": row["topic"] if labels else None})
            if len(some) == AT_ONCE:
                yield batch(some)
                some = []
    if some:
        yield batch(some)


class Nobody:
    """Looks at nothing on the way."""

    def seen(self, done_bytes: int, rows: int) -> None: ...

    def settle(self, ask: Any, rows: str) -> None: ...

    def held(self, batch: Any, side: str) -> None: ...


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    spec = {"task": job["task"], "data": job["data"]}
    root, out = Path(job["root"]), Path(job["out"])
    if job["mode"] == "stage":
        stage(root, out, spec)
    else:
        print(json.dumps(rules(root, out, spec)))


if __name__ == "__main__":
    main()
