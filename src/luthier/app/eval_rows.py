"""The rows of a run: from the request, from an uploaded file, or from what models answered before. Each keeps its number over attempts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.data import schema

from .eval_spec import (
    MOST_ROWS,
    CustomConfig,
    FileContent,
    FileId,
    JsonlSource,
    LogsConfig,
    ModelSource,
    StoredCompletions,
    StoredResponses,
)

if TYPE_CHECKING:
    from luthier.store.traffic import Exchange

    from .app import App

LARGEST_ROW_BYTES = 200_000
LARGEST_FILE_BYTES = 100_000_000
RESPONSE = "resp_"
"""How ids of answers of /v1/responses begin."""


@dataclass(frozen=True)
class Row:
    """`answer`: what was answered before, None where nothing was or the model declined. `asked`: the model of then."""

    number: int
    item: Mapping[str, Any]
    sample: Mapping[str, Any] | None = None
    asked: str | None = None


def rows(
    app: App, wish: JsonlSource | ModelSource, config: CustomConfig | LogsConfig, through: int
) -> Iterator[Row]:
    """Raises DataError that names the row."""
    meets = (
        schema.checker(config.item_schema, "Holding rows against item_schema")
        if isinstance(config, CustomConfig)
        else None
    )
    n = 0
    for row in _of(app, wish, through):
        n += 1
        if n > MOST_ROWS:
            raise DataError(
                f"there are more than {MOST_ROWS:,} rows.", remedy="Divide them into several runs."
            )
        if meets is not None and (fault := meets(dict(row.item))):
            raise DataError(
                f"row {row.number}: the item {fault}.",
                remedy="Correct the row, or the item_schema of the eval.",
            )
        yield row
    if not n:
        raise DataError("the source holds no rows.", remedy="Choose another file, model or time.")


def _of(app: App, wish: JsonlSource | ModelSource, through: int) -> Iterator[Row]:
    match wish.source:
        case FileContent():
            for number, one in enumerate(wish.source.content):
                yield Row(number, one.item, one.sample)
        case FileId():
            yield from _file(app, wish.source.id)
        case StoredCompletions() | StoredResponses():
            yield from _kept(app, wish.source, through)


def _file(app: App, file_id: str) -> Iterator[Row]:
    with app.uploaded.content(file_id) as (file, path), open(path, "rb") as handle:
        if file.size_bytes > LARGEST_FILE_BYTES:
            raise DataError(
                f"the file has more than {LARGEST_FILE_BYTES:,} bytes.", remedy="Divide it into several runs."
            )
        number = 0
        while line := handle.readline(LARGEST_ROW_BYTES + 1):
            if len(line) > LARGEST_ROW_BYTES:
                raise DataError(
                    f"row {number} has more than {LARGEST_ROW_BYTES:,} bytes.", remedy="Make it shorter."
                )
            if not line.strip():
                continue
            yield _row(number, line)
            number += 1


def _row(number: int, line: bytes) -> Row:
    try:
        value = schema.read(line.decode(), LARGEST_ROW_BYTES)
    except UnicodeDecodeError:
        raise DataError(f"row {number} is not UTF-8.", remedy="Correct the file.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"row {number} {error}.", remedy="Correct the file.") from None
    known = isinstance(value, dict) and set(value) <= {"item", "sample"}
    if not known or not isinstance(value.get("item"), dict) or not isinstance(value.get("sample", {}), dict):
        raise DataError(
            f'row {number} is not {{"item": {{...}}}}, with or without "sample".', remedy="Correct the file."
        )
    return Row(number, value["item"], value.get("sample"))


def _kept(app: App, source: StoredCompletions | StoredResponses, through: int) -> Iterator[Row]:
    """Oldest first."""
    from luthier.store.traffic import Through

    limit = getattr(source, "limit", None) or MOST_ROWS + 1
    found = app.store.traffic.read(
        source.model,
        since_s=source.created_after,
        until_s=source.created_before,
        through=Through(through, 2**62),
    )
    n = 0
    for judged in found:
        exchange = judged.exchange
        if isinstance(source, StoredResponses) != exchange.id.startswith(RESPONSE) or not exchange.answers:
            continue
        yield _exchanged(exchange)
        n += 1
        if n >= limit:
            return


def _exchanged(exchange: Exchange) -> Row:
    answer = exchange.answers[0]
    said = answer.get("text")
    item = {
        "id": exchange.id,
        "model": exchange.name,
        "input": [dict(one) for one in exchange.messages],
        "output_text": said,
    }
    return Row(exchange.seq or 0, item, {"output_text": said} if said is not None else {}, exchange.name)
