"""Records become tokenised rows: token ids, which of them are supervised, and what does not fit, row by row.

Tokenising is done once: the result is kept in the stage's scratch folder (Parquet), so that a resumed run reads it
back. A row is never cut: one that is too long is refused or left out by name, as `train.too_long` says.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.artifact import digest_of
from luthier.core.errors import DataError, ModelError
from luthier.core.stage import Context
from luthier.store.files import explained, write_atomic

from .method import Example, Method

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.models.template import Template

FORMAT = 2
ROWS_AT_ONCE = 256
NAMED = 5  # rows named in an error; all of them would hide the rest of it


@dataclass(frozen=True)
class Tokens:
    """One sequence, [N] each. `supervised[i]` says whether token i is learnt; token 0 never is, nothing precedes it."""

    ids: np.ndarray
    supervised: np.ndarray

    @property
    def supervised_count(self) -> int:
        return int(np.count_nonzero(self.supervised[1:]))


@dataclass(frozen=True)
class Row:
    """One record as a method sees it. `group` is the source it came from: losses are told by group too."""

    id: str
    weight: float
    group: str
    sequences: tuple[Tokens, ...]
    signal: float | None = None
    answer: str | None = None

    @property
    def tokens(self) -> int:
        return sum(len(one.ids) for one in self.sequences)


@dataclass(frozen=True)
class Rows:
    """A split, sorted by id. `ids` and `supervised` hold all rows end to end; row i is [offsets[i], offsets[i+1]),
    and its sequences have the lengths `cuts[i]`."""

    names: list[str]
    origins: list[str]
    groups: list[str]
    weights: np.ndarray
    signals: list[float | None]
    answers: list[str | None]
    offsets: np.ndarray
    cuts: list[list[int]]
    ids: np.ndarray
    supervised: np.ndarray
    too_long: Mapping[str, tuple[str, int]]  # id -> (origin, tokens) of rows that are left out

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Row:
        ends = self.offsets[i] + np.cumsum(self.cuts[i])
        sequences = tuple(
            Tokens(self.ids[end - n : end], self.supervised[end - n : end])
            for n, end in zip(self.cuts[i], ends, strict=True)
        )
        weight = float(self.weights[i])
        return Row(self.names[i], weight, self.groups[i], sequences, self.signals[i], self.answers[i])

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @property
    def supervised_tokens(self) -> np.ndarray:
        """Supervised tokens of each row; a sequence's first token has nothing before it to be predicted from."""
        told = self.supervised.copy()
        lengths = np.concatenate([np.zeros(0, np.int64), *map(np.asarray, self.cuts)]).astype(np.int64)
        told[np.cumsum(lengths) - lengths] = False
        return (
            np.add.reduceat(told, self.offsets[:-1], dtype=np.int64) if len(self) else np.zeros(0, np.int64)
        )

    def named(self, which: Sequence[int]) -> str:
        """The first few of these rows, by where they came from."""
        few = ", ".join(self.origins[i] for i in which[:NAMED])
        return few + (f" and {len(which) - NAMED} more" if len(which) > NAMED else "")


def read_split(
    path: Path, method: Method, template: Template, identity: Mapping[str, Any], scratch: Path, at: Context
) -> Rows:
    """Tokenise one split of a dataset, or read back what an earlier run tokenised.

    `identity` names everything the tokens follow from (dataset, base, method). Raises ModelError naming the row that
    the template cannot render.
    """
    import pyarrow.parquet as pq

    identity = {**identity, "split": path.stem, "limit": template.context, "format": FORMAT}
    cache = scratch / f"tokens-{digest_of(identity)[:16]}.parquet"
    if cache.exists():
        with explained(scratch):
            return _from_table(pq.read_table(cache))
    table = _tokenise(path, method, template, at)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(cache, buffer.getvalue())
    return _from_table(table)


def _tokenise(path: Path, method: Method, template: Template, at: Context) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    total, lines = file.metadata.num_rows, []
    for batch in file.iter_batches(ROWS_AT_ONCE):
        at.check()
        lines += [_encode(record, method, template) for record in batch.to_pylist()]
        at.progress(f"tokenise {path.stem}", len(lines), total)
    schema = pa.schema(
        {
            "id": pa.string(),
            "origin": pa.string(),
            "group": pa.string(),
            "weight": pa.float32(),
            "tokens": pa.int32(),
            "cuts": pa.list_(pa.int32()),
            "ids": pa.list_(pa.int32()),
            "supervised": pa.list_(pa.bool_()),
            "signal": pa.float64(),
            "answer": pa.string(),
        }
    )
    return pa.Table.from_pylist(lines, schema).sort_by("id")


def _encode(record: Mapping[str, Any], method: Method, template: Template) -> dict[str, Any]:
    """`ids` is null where the row is too long."""
    from luthier.models.template import TooLong

    line = {"id": record["id"], "origin": record["origin"] or record["id"], "weight": record["weight"]}
    line["group"] = record["source"] or ""
    if line["weight"] is None:
        line["weight"] = 1.0
    try:
        example: Example = method.encode(record, template)
    except TooLong as error:
        return {**line, "tokens": error.tokens}
    except (DataError, ModelError) as error:
        raise type(error)(f"{line['origin']}: {error.message}", remedy=error.remedy) from error
    cuts = [len(one.ids) for one in example.sequences]
    return {
        **line,
        "tokens": sum(cuts),
        "cuts": cuts,
        "ids": [token for one in example.sequences for token in one.ids],
        "supervised": [told for one in example.sequences for told in one.supervised],
        "signal": example.signal,
        "answer": example.answer,
    }


def _from_table(table: pa.Table) -> Rows:
    import pyarrow.compute as pc

    whole, cut = table.filter(pc.is_valid(table["ids"])), table.filter(pc.is_null(table["ids"]))
    ids, supervised = whole["ids"].combine_chunks(), whole["supervised"].combine_chunks()
    return Rows(
        names=whole["id"].to_pylist(),
        origins=whole["origin"].to_pylist(),
        groups=whole["group"].to_pylist(),
        weights=whole["weight"].to_numpy(),
        signals=whole["signal"].to_pylist(),
        answers=whole["answer"].to_pylist(),
        offsets=np.concatenate([[0], np.cumsum(whole["tokens"].to_numpy())]).astype(np.int64),
        cuts=whole["cuts"].to_pylist(),
        ids=ids.flatten().to_numpy(zero_copy_only=False),
        supervised=supervised.flatten().to_numpy(zero_copy_only=False),
        too_long={
            i: (o, n)
            for i, o, n in zip(*(cut[c].to_pylist() for c in ("id", "origin", "tokens")), strict=True)
        },
    )


def settle_too_long(splits: Mapping[str, Rows], limit: int, context: int, policy: str, at: Context) -> None:
    """Refuse rows that are too long, or tell that they are left out. Raises DataError."""
    found = [(split, *where) for split, rows in splits.items() for where in rows.too_long.values()]
    if not found:
        return
    total = len(found) + sum(map(len, splits.values()))
    longest = max(tokens for _, _, tokens in found)
    named = ", ".join(f"{origin} ({tokens:,} tokens)" for _, origin, tokens in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    if policy == "refuse":
        room = f"raise train.longest (the model's context is {context:,}), " if limit < context else ""
        raise DataError(
            f"{len(found):,} of {total:,} rows are longer than {limit:,} tokens (the longest has {longest:,}): "
            f"{named}{more}. No row is ever cut, so nothing was trained.",
            remedy=f"Shorten them, or remove them with the rule `length`, {room}"
            "or set train.too_long: skip to leave them out and list them in rows.parquet.",
        )
    at.emit("rows.skipped", rows=len(found), of=total, limit=limit, longest=longest, first=named + more)


def check_rows(splits: Mapping[str, Rows]) -> None:
    """Refuse rows that cannot be learnt from. Raises DataError."""
    for split, rows in splits.items():
        if len(empty := np.flatnonzero(rows.supervised_tokens == 0)):
            raise DataError(
                f"{len(empty):,} {split} rows have no token to learn: {rows.named(empty.tolist())}.",
                remedy="Give each an answer (or some text), or remove them with the rule `drop_empty`.",
            )
        if len(odd := np.flatnonzero(~(rows.weights > 0) | ~np.isfinite(rows.weights))):
            raise DataError(
                f"{len(odd):,} {split} rows have a weight that is not a positive number: {rows.named(odd.tolist())}.",
                remedy="Give a weight above zero, or leave those rows out.",
            )
    if not len(splits["train"]):
        raise DataError(
            "there is no row to train on.",
            remedy="Give more rows, a smaller validation and test share, or a longer limit (train.longest).",
        )


def ledger(splits: Mapping[str, Rows], seen: Mapping[str, int], limit: int) -> Iterable[dict[str, Any]]:
    """One line per row for rows.parquet, sorted by split and id: what became of it."""
    for split in sorted(splits):
        rows = splits[split]
        lines: list[tuple[str, int, int, str | None]] = [
            (name, int(tokens), int(supervised), None)
            for name, tokens, supervised in zip(rows.names, rows.tokens, rows.supervised_tokens, strict=True)
        ]
        lines += [(name, n, 0, f"{n} tokens, limit {limit}") for name, (_, n) in rows.too_long.items()]
        for name, tokens, supervised, skipped in sorted(lines):
            times = seen.get(name, 0) if split == "train" else 0
            yield {
                "id": name,
                "split": split,
                "tokens": tokens,
                "supervised": supervised,
                "seen": times,
                "skipped": skipped,
            }
