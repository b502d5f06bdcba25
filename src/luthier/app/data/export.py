"""A dataset leaves: as files in a folder or under a URL (Parquet, JSON Lines, CSV), as one table of a database, or its test
rows as a task of lm-evaluation-harness.

Nothing is ever overwritten, what was written is verified, and who exported what is on record. Rows that were removed and the
trail of changes stay behind: they quote what was taken out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import SpecError
from luthier.core.event import Event
from luthier.core.spec import resolve
from luthier.data.connectors.database import Database, holds_secret
from luthier.data.shards import MANIFEST, excerpt, manifest_bytes
from luthier.store import Store

from . import export_files as files
from . import export_table
from .about import about_of
from .export_forms import Csv, JsonLines
from .find import SPLITS, Looking, batches, names_of, paths, row_count

if TYPE_CHECKING:
    import pyarrow as pa

CROISSANT = "croissant.json"
FORMATS = ("parquet", "jsonl", "csv", "lm-eval")
DATABASES = ("postgresql", "postgres", "sqlite", "duckdb", "mysql", "mariadb", "oracle", "mssql")
ROWS_AT_ONCE = 500


def export(
    store: Store, dataset: Artifact, to: str, look: Looking, environ: Mapping[str, str], *,
    form: str = "parquet", table: str | None = None, croissant: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """{"to", "format" or "table", "rows" by side, "files", "dataset"}, and how many canaries stand beside the rows of train, where
    there are any. `to` may hold ${VAR} and is told as written."""
    _can_be(to, resolve(to, environ), form, table, croissant)
    folder = store.folder(dataset)
    if table is not None:
        told = _to_table(folder, to, table, look, environ)
    elif form == "lm-eval":
        from .export_harness import write

        told = write(store, dataset, folder, to, look, environ)
    else:
        told = _to_files(store, dataset, folder, to, form, croissant, look, environ)
    if told["rows"]["train"] and (planted := _planted(folder)):  # artificial rows are no rows of anybody's
        told["rows"]["train"] -= planted
        told["canaries"] = planted
    told = {"to": to, **told, "dataset": dataset.digest}
    more = {name: cell for name, cell in told.items() if name not in ("files", "dataset")}
    store.ledger.append(Event("exported", dataset.digest, more))
    return told


def _planted(folder: Path) -> int:
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return int((facts.get("canaries") or {}).get("rows", 0))


def _can_be(to: str, resolved: str, form: str, table: str | None, croissant: bool) -> None:
    if holds_secret(to, path=table is None):
        raise SpecError(
            "a password is written in the address, where others may read it.",
            remedy="Put it in an environment variable and write '${PASSWORD}' (in single quotes, so that the shell leaves it alone).",
        )
    scheme = resolved.partition("://")[0].partition("+")[0] if "://" in resolved else ""
    if table is None and scheme in DATABASES:
        raise SpecError(f"{to} is a database.", remedy="Name the table to make: --table NAME")
    if table is not None:
        export_table.check_name(table)
        if scheme not in DATABASES:
            raise SpecError(
                f"--table {table} goes into a database, and {to} is none.",
                remedy="Write its address, such as '${DATABASE_URL}', or leave --table out.",
            )
    if form not in FORMATS:
        raise SpecError(f"there is no format {form!r}.", remedy=f"known: {', '.join(FORMATS)}")
    if form != "parquet" and (table is not None or croissant):
        odd = "--table" if table is not None else "--croissant"
        raise SpecError(f"{odd} and --format {form} do not go together.", remedy="Leave one of them out.")
    if croissant and table is not None:
        raise SpecError("--croissant describes files, and a table has none.", remedy="Leave one of them out.")


def _rows(folder: Path, side: str, look: Looking, done: list[int], total: int) -> Iterator[pa.RecordBatch]:
    for batch in batches(folder, side, at_once=ROWS_AT_ONCE):
        yield batch
        done[0] += batch.num_rows
        look.progress("writing rows", done[0], total)


def _to_table(folder: Path, to: str, table: str, look: Looking, environ: Mapping[str, str]) -> dict[str, Any]:
    import pyarrow.parquet as pq

    sides = [side for side in SPLITS if paths(folder, side)]
    total, done = sum(row_count(folder, side) for side in sides), [0]
    schema = pq.read_schema(paths(folder, sides[0])[0])
    database = Database(to, table, Path.cwd(), lambda text: resolve(text, environ), None)
    rows = ((side, batch) for side in sides for batch in _rows(folder, side, look, done, total))
    found = export_table.write(database, table, schema, rows)
    return {"table": table, "rows": {side: found.get(side, 0) for side in SPLITS}}


def _to_files(
    store: Store, dataset: Artifact, folder: Path, to: str, form: str, croissant: bool, look: Looking,
    environ: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    into = files.folder_at(to, environ)
    rows = {side: row_count(folder, side) for side in SPLITS}
    done, total = [0], sum(rows.values())
    lines: JsonLines | Csv | None = None
    if form == "jsonl":
        lines = JsonLines()
    elif form == "csv":
        lines = Csv(batch for side in SPLITS for batch in batches(folder, side, at_once=ROWS_AT_ONCE))

    def alive() -> None:
        look.progress("reading back", done[0], total)

    written = []
    with into.filling():
        for side in SPLITS:
            for path in paths(folder, side) if lines is None else ():
                name = path.relative_to(folder).as_posix()
                written.append(files.write(into, name, files.bytes_of(path), alive))
                done[0] = sum(rows[one] for one in SPLITS[: SPLITS.index(side) + 1])
            if lines is not None and paths(folder, side):
                pieces = (lines.lines(batch) for batch in _rows(folder, side, look, done, total))
                name = side + lines.suffix
                written.append(files.write(into, name, _after(lines.head(), pieces), alive))
        if lines is None and (sides := excerpt(folder, SPLITS)):
            written.append(files.write(into, MANIFEST, [manifest_bytes(sides)], alive))
        if croissant:
            text = json.dumps(_metadata(store, dataset, folder), indent=2, ensure_ascii=False) + "\n"
            written.append(files.write(into, CROISSANT, [text.encode()], alive))
        written.append(files.write(into, files.LAST, files.bytes_of(folder / files.LAST), alive))
    more = lines.facts() if lines is not None else {}
    return {"format": form, "rows": rows, "files": sorted(one["path"] for one in written), **more}


def _after(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


def _metadata(store: Store, dataset: Artifact, folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from .croissant import croissant

    known = {file.path: file for file in dataset.files}
    files, columns = [], []
    for side in SPLITS:
        for path in paths(folder, side):
            file, parquet = known[path.relative_to(folder).as_posix()], pq.ParquetFile(path)
            columns = parquet.schema_arrow.names
            files.append(
                {
                    "path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes,
                    "side": side, "rows": parquet.metadata.num_rows,
                }
            )  # fmt: skip
    names = names_of(store, dataset)
    name = names[-1].partition("@")[0] if names else f"dataset-{short(dataset.digest)}"
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    version = f"1.0.0+{short(dataset.digest)}"
    return croissant(
        name, version, dataset.created_s, files, columns, about_of(store, dataset.digest) or {}, facts["task"]
    )
