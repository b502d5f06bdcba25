"""luthier's rules in the race, without its stage: Parquet in, record batches through the engine, Parquet out. This is what
the peers' programs do, too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from run_luthier import rules_of

AT_ONCE = 5_000


class Nobody:
    """Looks at nothing on the way."""

    def seen(self, done_bytes: int, rows: int) -> None: ...

    def settle(self, ask: Any, rows: str) -> None: ...

    def held(self, batch: Any, side: str) -> None: ...


def main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data import compiled
    from luthier.data.engines.local import LocalEngine, LocalEngineSpec
    from luthier.data.engines.protocol import At
    from luthier.data.plan import plan_of
    from luthier.data.records import RECORD
    from luthier.data.spec import RulesSpec, SplitSpec
    from luthier.data.split import Sides
    from luthier.data.task import TaskSpec

    job = json.loads(Path(sys.argv[1]).read_text())
    compiled.use(Path(job["compiled"]))

    same: dict[str, Any] = {field.name: pa.nulls(AT_ONCE, field.type) for field in RECORD}
    same["weight"] = pa.repeat(pa.scalar(1.0, pa.float32()), AT_ONCE)

    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(job["texts"]) as file:
            for batch in file.iter_batches(AT_ONCE):
                told = {"id": batch["id"], "text": batch["text"], "origin": batch["id"]}
                yield pa.record_batch(
                    [told.get(name, same[name].slice(0, len(batch))) for name in RECORD.names], schema=RECORD
                )

    wish = RulesSpec.model_validate({"quality": rules_of(job["work"])})
    work = Path(job["scratch"])
    work.mkdir(parents=True)
    engine = LocalEngine(LocalEngineSpec(), At(work, lambda lines: None, lambda: None, lambda told: told))
    rows: Any = batches()
    for group in plan_of(wish, Sides(SplitSpec(), False, TaskSpec())):
        group = replace(group, sides=None, numbers=None)
        rows = engine.run(group, rows, [step.account() for step in group.steps], Nobody())
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    # hardly a text stands there twice, so a dictionary of them would be made for nothing
    with pq.ParquetWriter(Path(job["out"]) / "kept.parquet", schema, use_dictionary=False) as writer:
        for batch in rows:
            writer.write_batch(batch.select(["id", "text"]))


if __name__ == "__main__":
    main()
