"""Records become tokenised rows: token ids, which of them are supervised, and what does not fit, row by row.

Tokenising is done once for a data set, a tokenizer and a method: the result stands in a file that later runs and trials
find (`tokenfile`), and is read through a memory map. A row is never cut: one that is too long is refused or left out by
name, as `train.too_long` says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow.compute as pc

from luthier.core.artifact import digest_of
from luthier.core.errors import DataError, ModelError
from luthier.core.stage import Context
from luthier.data.shards import Side

from .method import Example, Method

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.models.template import Template

    from .tokenfile import Line, TokenFile

FORMAT = 3
ROWS_AT_ONCE = 256
AT_ONCE = 1 << 15  # values fetched together when a whole column is walked
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


class Column(Sequence[Any]):
    """One value per row, fetched from the file when it is asked for."""

    def __init__(self, values: pa.ChunkedArray, order: np.ndarray) -> None:
        self._values, self._order = values, order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return self._values.take(self._order[i]).to_pylist()
        return self._values[int(self._order[i])].as_py()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]


class Rows(Sequence[Row]):
    """A split, sorted by id. Tokens and texts stay in the file; in memory are a few numbers per row. Immutable, and safe
    to read from several threads."""

    def __init__(self, file: TokenFile, which: np.ndarray | None = None) -> None:
        """`which` names rows of the file in the order wanted; without it all that are not too long, by id."""
        self._file, self._whole = file, which is None
        self._order = file.order_by_id() if which is None else which
        self.weights: np.ndarray = file.numbers("weight")[self._order]
        self.tokens: np.ndarray = file.numbers("tokens")[self._order]
        """Tokens of each row."""
        self.supervised_tokens: np.ndarray = file.numbers("supervised_tokens")[self._order].astype(np.int64)
        """Supervised tokens of each row; a sequence's first token has nothing before it to be predicted from."""

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> list[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | list[Row]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        sequences = tuple(Tokens(*one) for one in self._file.sequences(int(self._order[i])))
        told = (self.names[i], float(self.weights[i]), self.groups[i])
        return Row(*told, sequences, self.signals[i], self.answers[i])

    @cached_property
    def names(self) -> Column:
        """Ids."""
        return self._column("id")

    @cached_property
    def origins(self) -> Column:
        return self._column("origin")

    @cached_property
    def groups(self) -> Column:
        """The source that each row came from."""
        return self._column("group")

    @cached_property
    def signals(self) -> Column:
        return self._column("signal")

    @cached_property
    def answers(self) -> Column:
        return self._column("answer")

    def _column(self, name: str) -> Column:
        return Column(self._file.table[name], self._order)

    @cached_property
    def sources(self) -> tuple[list[str], np.ndarray]:
        """The names of the sources, sorted, and for each row which of them it came from."""
        coded = self._file.table["group"].combine_chunks().dictionary_encode()
        names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()[self._order]
        there = sorted({names[code] for code in np.unique(codes)})
        place = np.array([there.index(name) if name in there else -1 for name in names], np.int32)
        return there, place[codes] if len(codes) else codes.astype(np.int32)

    @cached_property
    def largest_token(self) -> int:
        """Of the whole file; -1 where there is none."""
        return max(
            (pc.max(chunk.flatten()).as_py() or 0 for chunk in self._file.table["ids"].chunks), default=-1
        )

    @cached_property
    def too_long(self) -> Mapping[str, tuple[str, int]]:
        """id -> (origin, tokens) of rows that are left out."""
        table = self._file.table if self._whole else self._file.table[:0]
        out = table.select(["id", "origin", "tokens"]).filter(table["supervised_tokens"].is_null())
        return {row["id"]: (row["origin"], row["tokens"]) for row in out.to_pylist()}

    def take(self, which: Sequence[int]) -> Rows:
        """These rows alone, in this order; their tokens stay where they are."""
        return Rows(self._file, self._order[np.asarray(which, np.int64)])

    def named(self, which: Sequence[int]) -> str:
        """The first few of these rows, by where they came from."""
        few = ", ".join(self.origins[i] for i in which[:NAMED])
        return few + (f" and {len(which) - NAMED} more" if len(which) > NAMED else "")


def read_split(
    path: Path, method: Method, template: Template, identity: Mapping[str, Any], folder: Path, at: Context
) -> Rows:
    """Tokenise one split of a dataset, or open what an earlier run tokenised.

    `identity` names the dataset and the method with its settings; the tokenizer and the code that renders are added
    here. `folder` is the cache. Raises ModelError naming the row that the template cannot render.
    """
    from . import tokenfile

    told = {**identity, "split": path.stem, "limit": template.context, "format": FORMAT}
    kept = folder / f"{digest_of({**told, **_renders(method, template)})}.arrow"
    try:
        return Rows(tokenfile.TokenFile.open(kept))
    except FileNotFoundError:
        pass
    except tokenfile.Damaged as why:
        at.emit("tokens.damaged", file=kept.name, reason=f"{why}; the rows are tokenised again")
    with tokenfile.writing(kept) as add:
        for line in _tokenised(path, method, template, at):
            add(line)
    if gone := tokenfile.evict(folder):
        at.emit("tokens.removed", files=gone, reason="the cache of tokenised rows was full")
    return Rows(tokenfile.TokenFile.open(kept))


def _renders(method: Method, template: Template) -> dict[str, str]:
    """What turns text into tokens: the tokenizer as it really is, whichever base it came with, and the code."""
    tokenizer = template.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else digest_of(tokenizer.get_vocab())
    return {
        "tokenizer": sha256(vocabulary.encode()).hexdigest(),
        "special": digest_of({name: str(token) for name, token in tokenizer.special_tokens_map.items()}),
        "chat": tokenizer.chat_template,
        "class": type(tokenizer).__name__,
        "method": _code(type(method), beside="*.py"),  # methods share how they encode
        "template": _code(type(template)),
        **{package: version(package) for package in ("tokenizers", "transformers")},
    }


def _code(kind: type, beside: str = "") -> str:
    """The file that a class is written in, and those beside it that match: without this, tokens of an older release
    would be taken for today's."""
    import inspect

    try:
        file = Path(inspect.getfile(kind))
        digest = sha256(file.read_bytes())
        for other in sorted(file.parent.glob(beside)) if beside else ():
            digest.update(other.read_bytes())
        return digest.hexdigest()
    except (OSError, TypeError):  # typed into a session, or built in
        return f"{kind.__module__}.{kind.__qualname__}"


def _tokenised(path: Path, method: Method, template: Template, at: Context) -> Iterator[Line]:
    side = Side(path)
    done = 0
    for batch in side.batches(rows=ROWS_AT_ONCE):
        at.check()
        for record in batch.to_pylist():
            yield encoded(record, method, template)
        done += batch.num_rows
        at.progress(f"tokenise {side.name}", done, side.rows)


def encoded(record: Mapping[str, Any], method: Method, template: Template) -> Line:
    """One record as it is written down. Raises what the method and the template raise, naming the row."""
    from luthier.models.template import TooLong

    from .tokenfile import Line

    name, origin, group = record["id"], record["origin"] or record["id"], record["source"] or ""
    weight = 1.0 if record["weight"] is None else record["weight"]
    if record.get("tools") and "tools" not in method.reads:
        raise DataError(
            f"{origin}: this row has tools, and the method learns no calls of them.",
            remedy="Train with `sft`, or with pairs (`dpo` and its kin), or leave rows with tools out.",
        )
    try:
        example: Example = method.encode(record, template)
    except TooLong as error:
        return Line(name, origin, group, weight, error.tokens)
    except (DataError, ModelError) as error:
        raise type(error)(f"{origin}: {error.message}", remedy=error.remedy) from error
    ids = [np.asarray(one.ids, np.int32) for one in example.sequences]
    supervised = [np.asarray(one.supervised, np.uint8) for one in example.sequences]
    return Line(
        name,
        origin,
        group,
        weight,
        sum(map(len, ids)),
        tuple(map(len, ids)),
        np.concatenate([np.zeros(0, np.int32), *ids]),
        np.concatenate([np.zeros(0, np.uint8), *supervised]),
        sum(int(np.count_nonzero(one[1:])) for one in supervised),
        example.signal,
        example.answer,
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


def warn_of_unread(name: str, method: Method, path: Path, at: Context) -> None:
    """Tell that rows judge their own answers and the method does not look at it: bad ones are learnt like good ones."""
    side = Side(path)
    there = set(side.columns)
    for column in ("rejected", "rating"):
        if column in method.reads or column not in there:
            continue
        cells = side.table([column])[column]
        if not (judged := len(cells) - cells.null_count):
            continue
        what = f"{judged:,} of {len(cells):,} training rows have a {column}, which the method {name} does not read"
        if column == "rating" and (bad := pc.sum(pc.less_equal(cells, 0)).as_py()):
            what += f": it learns the answers of {bad:,} rows rated 0 or less like all others"
        at.emit("warning", about=f"train.method: {name}", message=what)


def check_rows(splits: Mapping[str, Rows], vocabulary: int) -> None:
    """Refuse rows that cannot be learnt from, and tokens that the model has no numbers for. Raises DataError, ModelError."""
    for split, rows in splits.items():
        if (largest := rows.largest_token) >= vocabulary:
            raise ModelError(
                f"{split} rows hold token {largest} of the base's tokenizer, and its weights have {vocabulary:,} tokens.",
                remedy="The tokenizer is not the one of these weights: fetch the model again, both from one place. Where "
                "a special token was added, its row must stand in the weights too.",
            )
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


def ledger(
    splits: Mapping[str, Rows], seen: Sequence[int] | np.ndarray, limit: int
) -> Iterator[dict[str, Any]]:
    """One line per row for rows.parquet, sorted by split and id: what became of it. `seen` says how often training took
    each of its rows. One line at a time, for there may be many."""
    for split in sorted(splits):
        rows = splits[split]
        times = seen if split == "train" else [0] * len(rows)
        columns = (rows.names, rows.tokens, rows.supervised_tokens, times)
        whole: Iterable[tuple[str, int, int, int, str | None]] = (
            (name, int(tokens), int(supervised), int(n), None)
            for name, tokens, supervised, n in zip(*columns, strict=True)
        )
        left_out = sorted(
            (name, n, 0, 0, f"{n} tokens, limit {limit}") for name, (_, n) in rows.too_long.items()
        )
        for line in heapq.merge(whole, left_out, key=lambda line: line[0]):
            name, tokens, supervised, taken, skipped = line
            yield {
                "id": name,
                "split": split,
                "tokens": tokens,
                "supervised": supervised,
                "seen": taken,
                "skipped": skipped,
            }
