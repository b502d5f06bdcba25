"""One data set, prepared in a process of its own: what run.py watches.  prepare_once.py JOB

JOB is JSON: {"mode": "stage" | "rules", "root": ..., "out": ..., "data": {...}, "task": {...}}

    stage   the stage as `luthier run` calls it: files in, files out
    rules   only the rules: the rows are read into memory first, and what is timed is the engine from record batches to
            record batches, with its spool and its keys. The processor's seconds are printed as the last line.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any


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
    from luthier.core.testing import FakeContext
    from luthier.data.engines.local import LocalEngine
    from luthier.data.plan import plan_of
    from luthier.data.preparation import Preparation
    from luthier.data.prepare import PrepareSpec, source_names
    from luthier.data.split import Sides

    wish = PrepareSpec.model_validate(spec)
    work = out.with_name(out.name + ".scratch")
    shutil.rmtree(work, ignore_errors=True)
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    at = FakeContext(root, root=root)
    preparation = Preparation(wish, out, work / "read", at)
    batches: Any = list(preparation._read(preparation._sources()))
    n = sum(batch.num_rows for batch in batches)
    named = tuple(source_names(wish.data.sources)) if wish.data.sources[0].map else ()
    groups = [replace(g, sides=None, numbers=None) for g in plan_of(wish.data.rules, Sides(wish.data.split, False), named)]  # fmt: skip
    engine = LocalEngine(work, lambda lines: None, at.check)
    cpu, wall = time.process_time(), time.perf_counter()
    rows: Iterator[Any] = iter(batches)
    for group in groups:
        rows = engine.run(group, rows, [step.account() for step in group.steps], Nobody())
    kept = sum(batch.num_rows for batch in rows)
    told = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "rows": n, "kept": kept}
    shutil.rmtree(work)
    return told


class Nobody:
    """Looks at nothing on the way."""

    def at_group(self, group: Any, batch: Any) -> None: ...

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
