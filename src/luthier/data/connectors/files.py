"""Files: JSON Lines, JSON arrays, CSV, TSV, Parquet, Arrow, workbooks, plain text and documents; packed by gzip, bzip2, xz or
Zstandard; a path, a glob or any URL fsspec knows. Files are read one after the other in the order of their names, in
blocks of a few megabytes.

What identifies files is here; which there are is in `found`, how their bytes come out in `opened`, what is inside them the
business of `*_rows.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NoReturn, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from luthier.core.artifact import digest_of
from luthier.core.errors import SCHEME_EXTRAS, DataError, LuthierError, did_you_mean, missing_part
from luthier.core.spec import Spec, references

from .found import globbed, shown, unresolved
from .opened import as_text, opened
from .protocol import BadRow, Block, Count, Estimate, Head, Part, Secret
from .stretches import Stretch, divided, newlines, pieces_of
from .webhdfs import guarded, is_webhdfs, mark_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from luthier.data.spec import SourceSpec

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet", ".txt": "text", ".text": "text", ".md": "text",
    ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow", ".ipc": "arrow",
    ".xlsx": "excel", ".xlsm": "excel", ".xlsb": "excel", ".xls": "excel", ".ods": "excel",
    ".html": "document", ".htm": "document", ".xhtml": "document", ".pdf": "document",
}  # fmt: skip
COMPRESSION = {
    ".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz",
}  # fmt: skip
SAMPLE_BYTES = 1_000_000
Format = Literal["auto", "jsonl", "csv", "tsv", "parquet", "text", "arrow", "excel", "document"]
WHOLE = {"parquet": "a Parquet file", "arrow": "an Arrow file", "excel": "a workbook"}
"""Formats that are compressed inside and read at any place."""
ROWS = {
    "jsonl": "json_rows", "csv": "csv_rows", "tsv": "csv_rows", "text": "text_rows", "document": "document_rows",
    "parquet": "parquet_rows", "arrow": "arrow_rows", "excel": "excel_rows",
}  # fmt: skip
"""The module that reads a format's rows."""


@dataclass(frozen=True)
class File:
    """One file: where it is, what people call it, how its bytes are to be read, which pattern found it."""

    system: AbstractFileSystem
    path: str
    place: str
    size_bytes: int
    format: str
    compression: str | None
    pattern: str


class FilesSpec(Spec):
    files: str | Annotated[list[str], Field(min_length=1)]
    """A path, glob or URL, or a list of them; relative to the recipe's folder. ${VAR} is filled in when it is read."""
    format: Format = "auto"
    """How the bytes are laid out; `auto` goes by the file's name. A trailing .gz, .bz2, .xz or .zst is decompressed. `document` makes a whole file one row (of a PDF, each page): text, Markdown, HTML or PDF."""
    sheet: str | None = None
    """The sheet of a workbook to read; without it, every sheet that holds anything, and all must have the same columns."""

    @model_serializer(mode="wrap")
    def _as_written(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a sheet that is not named: sources that were written before there were sheets keep their identity."""
        told: dict[str, Any] = standard(self)
        return {key: value for key, value in told.items() if key != "sheet" or value is not None}

    @property
    def patterns(self) -> list[str]:
        return [self.files] if isinstance(self.files, str) else self.files

    @property
    def default_name(self) -> str:
        """What records are called when the recipe does not say.

        >>> FilesSpec(files="s3://bucket/tickets/*.parquet").default_name
        '*.parquet'
        """
        name = self.patterns[0].rstrip("/").rpartition("/")[2]
        if not name:
            raise DataError(f"{self.patterns[0]!r} names no file.", remedy="Write a path, a glob or a URL.")
        return name


class FilesConnector:
    """Rows of files: JSON Lines, JSON arrays, CSV, TSV, Parquet, Arrow, workbooks, plain text or documents, wherever fsspec reaches."""

    spec = FilesSpec

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        assert isinstance(source.settings, FilesSpec)
        self._source, self._wish, self._base, self._secret = source, source.settings, base, secret
        self._aside = source.map is not None and source.map.on_bad_row == "set_aside"
        self._known: list[File] | None = None
        self._raw: BinaryIO | None = None
        self._passed_bytes = self._begin = self._part_bytes = 0

    @property
    def files(self) -> list[File]:
        """Every file, in reading order. Raises DataError when a pattern finds none."""
        if self._known is None:
            self._known = [file for pattern in self._wish.patterns for file in self._find(pattern)]
        return self._known

    def head(self, n: int) -> Head:
        bad: tuple[str, BadRow] | None = None
        for file in self.files:
            rows: list[dict[str, Any]] = []
            names: dict[str, None] = {}
            for block in self._read(file, None):
                bad = bad or next(zip(block.bad_origins(), block.bad, strict=True), None)
                columns = {
                    name: column if isinstance(column, list) else column.to_pylist()
                    for name, column in block.columns.items()
                }
                names |= dict.fromkeys(columns)
                rows += [
                    {name: column[i] for name, column in columns.items()}
                    for i in range(min(len(block), n - len(rows)))
                ]
                if len(rows) >= n:
                    break
            if rows:
                return Head(list(names), rows, file.format)
        if bad is not None:
            raise DataError(
                f"{bad[0]}: no row can be read; of this one, {bad[1].reason}.",
                remedy="Is it the right format?",
            )
        raise self._empty()

    def parts(self) -> list[Part]:
        """One for each file."""
        return [
            Part({"path": file.path, "pattern": file.pattern, "place": file.place}, file.size_bytes)
            for file in self.files
        ]

    # protocol.Divisible

    def divide(self, parts: Sequence[Part], about_bytes: int, count: Count) -> list[Part]:
        return divided(parts, about_bytes, count, self._pieces)

    def count(self, part: Part) -> int:
        file = self._of(part)
        with self._failing(file), file.system.open(file.path, "rb") as raw:
            return newlines(cast("BinaryIO", raw), part.at["begin"], part.at["end"])

    # protocol.Connector, again

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        self._passed_bytes, self._begin, self._part_bytes = 0, part.at.get("begin", 0), part.size_bytes
        file = self._of(part)
        checked = False
        for block in self._read(file, list(columns), part.at):
            if not checked and len(block):
                self._need(file, block, columns)
                checked = True
            yield block
        self._passed_bytes = part.size_bytes

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        passed_bytes = 0
        any_rows = False
        for part in self.parts():
            for block in self.read(part, columns):
                any_rows |= len(block) + len(block.bad) > 0
                self._passed_bytes = passed_bytes
                yield block
            passed_bytes += part.size_bytes
            self._passed_bytes = passed_bytes
        if not any_rows:
            raise self._empty()

    def done_bytes(self) -> int:
        inside = self._raw.tell() - self._begin if self._raw and not self._raw.closed else 0
        return self._passed_bytes + min(max(inside, 0), self._part_bytes)

    def estimate(self) -> Estimate:
        rows: float | None = 0
        exact = True
        for file in self.files:
            n, counted = self._estimate(file)
            exact &= counted
            rows = None if rows is None or n is None else rows + n
        size = sum(file.size_bytes for file in self.files)
        return Estimate(len(self.files), size, None if rows is None else round(rows), exact)

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        marks = []
        for file in self.files:
            with self._failing(file):
                marks.append([file.place, self._identity(file, cache if cache is not None else {})])
        return digest_of(marks)

    # finding

    def _find(self, pattern: str) -> list[File]:
        system, path = self._system(pattern)
        try:
            magic = any(sign in path for sign in "*?[")
            infos = globbed(system, path) if magic else {path: system.info(path)}
        except FileNotFoundError:
            raise self._missing(system, path, pattern) from None
        except Exception as error:
            self._fail(error, pattern, pattern)
        found = {p: info for p, info in sorted(infos.items()) if info["type"] != "directory"}
        for p, info in found.items():
            if info["type"] != "file" and "file" in _protocols(system):
                raise DataError(
                    f"{shown(p)} is no file: a socket, a pipe, a device or a link that leads nowhere.",
                    remedy="Name files, or a pattern that finds files alone.",
                )
        if not found and magic:
            raise self._missing(system, path, pattern)
        if not found:
            raise DataError(
                f"{pattern} is a folder.", remedy=f"Name its files, for example {pattern.rstrip('/')}/*.jsonl"
            )
        root = _fixed_folder(path)
        return [
            self._file(
                system, p, shown(self._told(p[len(root) :].lstrip("/"), pattern)), info["size"] or 0, pattern
            )
            for p, info in found.items()
        ]

    def _system(self, pattern: str) -> tuple[AbstractFileSystem, str]:
        """The file system that a pattern is on, and the pattern as that knows it."""
        from fsspec.core import url_to_fs

        written = self._secret(pattern)
        is_url = "://" in written
        try:
            system, path = url_to_fs(written if is_url else str(self._base / Path(written).expanduser()))
        except (ImportError, ValueError) as error:
            scheme = written.partition("://")[0]
            if scheme in SCHEME_EXTRAS:
                raise missing_part(
                    f"fsspec driver for {scheme}", SCHEME_EXTRAS[scheme], f"reading {pattern}"
                ) from None
            raise DataError(
                f"{pattern}: {self._told(error, pattern)}", remedy="Check the URL's scheme."
            ) from None
        return guarded(system), path

    def _of(self, part: Part) -> File:
        system, _ = self._system(part.at["pattern"])
        return self._file(system, part.at["path"], part.at["place"], part.size_bytes, part.at["pattern"])

    def _file(self, system: AbstractFileSystem, path: str, place: str, size_bytes: int, pattern: str) -> File:
        suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
        compression = COMPRESSION.get(suffixes[-1]) if suffixes else None
        if compression:
            suffixes.pop()
        form = self._wish.format
        if form == "auto":
            suffix = suffixes[-1] if suffixes else ""
            if suffix not in SUFFIXES:
                raise DataError(
                    f"{place}: the suffix {suffix or '(none)'!r} says nothing about the format.",
                    remedy="Set `format:` to jsonl, csv, tsv, parquet, arrow, excel, text or document.",
                )
            form = cast("Any", SUFFIXES[suffix])
        if form in WHOLE and compression:
            raise DataError(
                f"{place}: {WHOLE[form]} is compressed inside, not outside.",
                remedy="Decompress the file once.",
            )
        return File(system, path, place, size_bytes, form, compression, pattern)

    def _missing(self, system: AbstractFileSystem, path: str, pattern: str) -> DataError:
        folder, _, name = path.rpartition("/")
        try:
            others = sorted(
                str(p).rstrip("/").rpartition("/")[2]
                for p in system.ls(_fixed_folder(path) or folder, detail=False)
            )
        except Exception:  # any driver's own error: the hint is only a courtesy, the error itself follows
            return DataError(
                f"{pattern}: there is no such file, and no folder {self._told(folder, pattern)}.",
                remedy=self._where(),
            )
        hint = did_you_mean(name, others[:50]) if others else "that folder is empty"
        return DataError(f"{pattern}: there is no such file.", remedy=f"{hint}. {self._where()}")

    def _where(self) -> str:
        return f"Relative paths start at {self._base}"

    def _empty(self) -> DataError:
        names = ", ".join(file.place for file in self.files[:3])
        size = sum(file.size_bytes for file in self.files)
        return DataError(
            f"{names}: there are no rows in {'it' if size else 'it: the file is empty'}.",
            remedy="Point `files:` at data.",
        )

    # reading

    def _pieces(self, part: Part, about_bytes: int) -> list[Part]:
        file = self._of(part)
        if file.compression or file.format not in ("jsonl", "parquet"):
            return [part]
        with self._failing(file), self._open(file) as stream:
            return pieces_of(part, about_bytes, stream, file.format)

    def _read(
        self, file: File, columns: list[str] | None, at: Mapping[str, Any] | None = None
    ) -> Iterator[Block]:
        """Of the whole file, or the stretch of it that `at` says."""
        how: dict[str, Any] = {} if file.format in WHOLE else {"aside": self._aside}
        at = at or {}
        if "groups" in at:
            how["within"] = tuple(at["groups"])
        if "begin" in at:
            how["before"] = at["before"]
        if file.format == "excel":
            how["sheet"] = self._wish.sheet
        elif file.format in ("csv", "tsv"):
            how["tabs"] = file.format == "tsv"
        with self._failing(file):
            stream = self._open(file, (at["begin"], at["end"]) if "begin" in at else None)
            try:
                rows = import_module(f".{ROWS[file.format]}", __package__)
                yield from rows.read(stream, file.place, columns, **how)
            finally:
                stream.close()
                if self._raw:
                    self._raw.close()

    @contextmanager
    def _failing(self, file: File) -> Iterator[None]:
        """Whatever a file system or a decompressor raises, with the file's place."""
        try:
            yield
        except Exception as error:
            known = isinstance(error, OSError | EOFError | zlib.error | ValueError)
            if not known and type(error).__module__.partition(".")[0] in ("builtins", "luthier"):
                raise  # a defect of ours is not a fault of the file; a driver's own error is
            self._fail(error, file.place, file.pattern, file.compression)

    def _open(self, file: File, stretch: tuple[int, int] | None = None) -> BinaryIO:
        self._raw = cast("BinaryIO", file.system.open(file.path, "rb"))
        if stretch:
            lines = cast("BinaryIO", io.BufferedReader(Stretch(self._raw, *stretch), 1 << 17))
            return lines if stretch[0] else as_text(lines, file.place)
        stream = opened(self._raw, file.compression, file.place)
        return as_text(stream, file.place) if file.format in ("jsonl", "csv", "tsv", "text") else stream

    def _need(self, file: File, block: Block, columns: Sequence[str]) -> None:
        """Refuse a wanted column that the file's first block does not have."""
        if file.format == "jsonl":
            absent = [name for name in columns if not any(cell is not None for cell in block.columns[name])]
            present = (
                list(dict.fromkeys(key for b in self._first(file) for key in b.columns)) if absent else []
            )
            absent = [name for name in absent if name not in present]
        else:
            absent = [name for name in columns if name not in block.columns]
            present = list(self._first(file)[0].columns) if absent else []
        if absent:
            raise DataError(
                f"{file.place}: there is no column {absent[0]!r}.",
                remedy=did_you_mean(absent[0], present) + " (see `map:`)",
            )

    def _first(self, file: File) -> list[Block]:
        every = FilesConnector(self._source, self._base, self._secret)._read(file, None)
        return [next(block for block in every if len(block))]

    def _fail(self, error: Exception, place: str, pattern: str, compression: str | None = None) -> NoReturn:
        """Give a library's error a place and a remedy, without secrets."""
        if isinstance(error, LuthierError):
            raise error
        reason = f"{type(error).__name__}: {self._told(error, pattern)}"
        remedy = "Check the path, the rights to read it, and the credentials."
        damaged = isinstance(error, EOFError | zlib.error | gzip.BadGzipFile)
        if damaged or (compression and isinstance(error, OSError) and error.errno is None):
            reason, remedy = (
                f"the compressed data is damaged or cut off ({error})",
                "Fetch or compress the file again.",
            )
        raise DataError(f"{place}: cannot be read: {reason}.", remedy=remedy) from None

    def _told(self, what: object, pattern: str) -> str:
        return unresolved(str(what), references(pattern), self._secret)

    # measuring

    def _estimate(self, file: File) -> tuple[float | None, bool]:
        if file.format in ("parquet", "excel", "document", "arrow"):
            if file.format == "parquet":
                from .parquet_rows import count

                with self._failing(file), self._open(file) as stream:
                    return count(stream, file.place), True
            return sum(len(block) for block in self._read(file, [])), True
        with self._failing(file), self._open(file) as stream:
            sample = stream.read(SAMPLE_BYTES)
            if not stream.read(1):
                return sum(len(block) for block in self._read(file, [])), True
            if sample.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"[") and file.format == "jsonl":
                return None, False
            stored = self._raw.tell() if self._raw and file.compression else len(sample)
        rows = sample.count(b"\n\n" if file.format == "text" else b"\n")
        return rows * file.size_bytes / max(stored, 1), False

    def _identity(self, file: File, cache: MutableMapping[str, str]) -> str:
        if "file" not in _protocols(file.system):
            if is_webhdfs(file.system):
                return f"{file.size_bytes}:{mark_of(file.system, file.path)}"
            try:
                return f"{file.size_bytes}:{file.system.checksum(file.path)}"
            except NotImplementedError:
                return f"{file.size_bytes}:{file.system.ukey(file.path)}"
        stat = Path(file.path).stat()
        key = f"{file.path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        if key not in cache:
            with open(file.path, "rb") as stream:
                cache[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        return cache[key]


def _fixed_folder(path: str) -> str:
    """The part of a pattern before its first wildcard, up to a folder.

    >>> _fixed_folder("/data/2026-*/part.jsonl"), _fixed_folder("/data/a.jsonl")
    ('/data', '/data')
    """
    fixed = path
    for sign in "*?[":
        fixed = fixed.partition(sign)[0]
    return fixed.rpartition("/")[0]


def _protocols(system: AbstractFileSystem) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
