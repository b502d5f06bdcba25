"""datatrove in the race, with its local executor: its four stages of MinHash, its PII formatter; for `clean`, which it has no
part for, a formatter and a filter as a person would write them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u2060\ufeff\u202a-\u202e]")
TAG, BLANKS = re.compile(r"<[^<>]{1,200}>"), re.compile(r"\s{2,}|[\t\n\r]")


class Clean(BaseFormatter):
    name = "clean"

    def format(self, text: str) -> str:
        return BLANKS.sub(" ", TAG.sub(" ", CONTROL.sub("", text)))


def fits(document: object) -> bool:
    return 50 <= len(document.text) <= 20_000


class Job:
    def __init__(self, told: dict) -> None:
        self.told, self.scratch = told, Path(told["scratch"])
        self.parts = self.scratch / "parts"
        self.parts.mkdir(parents=True)
        self.n = told["processes"]
        self._divide()

    def _divide(self) -> None:
        """A file for each process: it divides work by files."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.told["texts"])
        step = -(-table.num_rows // self.n)
        for k in range(self.n):
            pq.write_table(table.slice(k * step, step), self.parts / f"{k}.parquet")

    def reader(self) -> ParquetReader:
        return ParquetReader(str(self.parts))

    def writer(self) -> ParquetWriter:
        return ParquetWriter(self.told["out"], output_filename="${rank}.parquet")

    def run(self, name: str, pipeline: list, tasks: int | None = None) -> None:
        tasks = tasks or self.n
        log = str(self.scratch / "log" / name)
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(tasks, self.n), logging_dir=log).run()


def main() -> None:
    job = Job(json.loads(Path(sys.argv[1]).read_text()))
    work = job.told["work"]
    if work == "clean":
        job.run("clean", [job.reader(), Clean(), LambdaFilter(fits), job.writer()])
    elif work == "personal":
        job.run("personal", [job.reader(), PIIFormatter(), job.writer()])
    else:
        config = MinhashConfig(n_grams=3, num_buckets=16, hashes_per_bucket=8)
        signs, buckets, gone = (str(job.scratch / name) for name in ("signatures", "buckets", "removed"))
        job.run("signatures", [job.reader(), MinhashDedupSignature(output_folder=signs, config=config)])
        job.run(
            "buckets", [MinhashDedupBuckets(input_folder=signs, output_folder=buckets, config=config)], 16
        )
        job.run("cluster", [MinhashDedupCluster(input_folder=buckets, output_folder=gone, config=config)], 1)
        job.run("filter", [job.reader(), MinhashDedupFilter(input_folder=gone), job.writer()])


if __name__ == "__main__":
    main()
