"""How many broken files the readers of rows survive: each is given bytes that grow out of small valid files, and may answer with rows
or with a DataError, with nothing else.

    python benchmarks/data/fuzz_rows.py                       every reader, 60 seconds each
    python benchmarks/data/fuzz_rows.py jsonl csv --seconds 600

With Atheris (pip install atheris; coverage guides the changes) where it is installed, else with random changes from a fixed seed.
Workbooks, HTML and PDF are not here: their libraries run in a process of their own, which a crash of theirs ends and nothing more.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
READERS = ("jsonl", "array", "csv", "tsv", "text", "parquet", "arrow", "gzip", "bz2", "xz", "zstd")


def seeds(reader: str) -> list[bytes]:
    """Small valid files, out of which broken ones grow."""
    import bz2
    import gzip
    import lzma

    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = '{"text": "a é", "x": [{"y": null}, 1.5e3, true]}\n{"text": "\\ud83d\\ude00"}\n'.encode()
    table = pa.table(
        {"text": ["a", None, "é"], "n": [1, 2, None], "m": [[{"role": "user", "content": "x"}], None, []]}
    )
    wide, packed, stream = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, wide)
    pq.write_table(table, packed, compression="zstd", use_dictionary=False)
    with pa.ipc.new_stream(stream, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(table)
    batches = io.BytesIO()
    with pa.ipc.new_file(batches, table.schema) as file:
        file.write_table(table)
    return {
        "jsonl": [lines],
        "array": [b"[" + b",".join(lines.splitlines()) + b"]"],
        "csv": ['text,n\n"a ""b""",1\r\n"two\nlines",2\né,3\n'.encode()],
        "tsv": [b"text\tn\na\t1\n"],
        "text": ["one\ntwo\n\nthree é\n".encode()],
        "parquet": [wide.getvalue(), packed.getvalue()],
        "arrow": [stream.getvalue(), batches.getvalue()],
        "gzip": [gzip.compress(lines, mtime=0)],
        "bz2": [bz2.compress(lines)],
        "xz": [lzma.compress(lines)],
        "zstd": [pa.compress(lines, "zstd", asbytes=True)],
    }[reader]


def target(reader: str) -> Callable[[bytes], None]:
    """Reads bytes as a file of that kind, with bad rows refused and set aside."""
    import zlib

    import pyarrow as pa

    from luthier.core.errors import DataError
    from luthier.data.connectors import arrow_rows, csv_rows, json_rows, parquet_rows, text_rows
    from luthier.data.connectors.opened import as_text, opened

    plain = {"jsonl": json_rows, "array": json_rows, "csv": csv_rows, "tsv": csv_rows, "text": text_rows}

    def once(data: bytes, aside: bool) -> None:
        stream = io.BytesIO(data)
        if reader == "parquet":
            blocks = parquet_rows.read(stream, "t", None)
        elif reader == "arrow":
            blocks = arrow_rows.read(stream, "t", None)
        elif reader in plain:
            how = {"tabs": reader == "tsv"} if reader in ("csv", "tsv") else {}
            blocks = plain[reader].read(as_text(stream, "t"), "t", None, aside=aside, **how)
        else:
            try:
                opened(stream, reader, "t").read(1_000_000)
            except (OSError, EOFError, zlib.error):  # FilesConnector makes a DataError of these
                return
            return
        for block in blocks:
            for column in block.columns.values():
                cells = column.to_pylist() if isinstance(column, pa.Array) else column
                assert len(cells) == len(block)
            block.origins(), block.bad_origins()

    def both(data: bytes) -> None:
        for aside in (False, True):
            try:
                once(data, aside)
            except DataError as error:
                assert error.remedy and len(str(error)) < 2_000

    return both


def guided(reader: str, seconds: int) -> int:
    """Atheris in a process of its own (it ends the process it runs in); how many executions it counted."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(reader)):
            (Path(corpus) / str(number)).write_bytes(seed)
        command = [sys.executable, __file__, "--inside", reader, corpus, "-max_len=4096", f"-max_total_time={seconds}", "-print_final_stats=1", "-rss_limit_mb=4096"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=corpus)  # noqa: S603
    found = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    if done.returncode or found is None:
        sys.exit(f"{reader}: something else than rows or a DataError:\n{done.stderr[-4000:]}")
    return int(found[1])


def inside(reader: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["luthier.data.connectors", "json", "csv", "gzip", "lzma"]):
        import luthier.data.connectors.arrow_rows
        import luthier.data.connectors.csv_rows
        import luthier.data.connectors.json_rows
        import luthier.data.connectors.opened
        import luthier.data.connectors.parquet_rows
        import luthier.data.connectors.text_rows  # noqa: F401
    atheris.Setup([__file__, *arguments], target(reader))
    atheris.Fuzz()


def unguided(reader: str, seconds: int) -> int:
    """Random changes to the seeds, from a fixed seed of their own."""
    chance = random.Random(0)  # noqa: S311
    run, grown = target(reader), seeds(reader)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = bytearray(chance.choice(grown))
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(data))
            data[at : at + chance.choice((0, 1, 1, 4))] = chance.randbytes(chance.choice((0, 1, 1, 2, 8)))
        try:
            run(bytes(data))
        except Exception:
            print(f"{reader}: {bytes(data)!r}", file=sys.stderr)
            raise
        count += 1
    return count


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], default=[])
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    how = guided if importlib.util.find_spec("atheris") else unguided
    print(
        f"changes by {'Atheris, guided by coverage' if how is guided else 'chance (Atheris is not installed)'}, {asked.seconds} s each"
    )
    for reader in asked.readers or READERS:
        print(
            f"{reader:8} {how(reader, asked.seconds):>10,} executions, each rows or a DataError", flush=True
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()
