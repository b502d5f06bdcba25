"""Rows that are each one message become conversations, wherever in the source they stand, in bounded memory.

    rows of all parts ─▶ one table on disk (DuckDB, spills) ─▶ sorted by conversation and time ─▶ blocks of conversations

A conversation needs all its rows, so such a source is one part: whoever reads it, locally or on a cluster, reads all of it,
and the same function does it everywhere. What comes out does not depend on the order of the rows: conversations come in the
order of their keys, and are named by them. A conversation of which one message is no good is no good.

Not here: what is asked of the finished conversation (conversations.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .connectors import cells
from .connectors.faults import LONGEST_ROW_BYTES
from .connectors.protocol import BadRow, Block, Part
from .conversations import TOGETHER, VOICES
from .maps import ConversationSpec, columns_of
from .paths import reach
from .rankings import ranked

if TYPE_CHECKING:
    from .mapping import Layout
    from .rankings import Reads

MEMORY_BYTES = 500_000_000
"""What the table takes before it goes to disk."""
AT_ONCE = 2_000
ENOUGH = 4_000_000
"""Characters in a block."""
RANKS = {"system": 0, "user": 1, "assistant": 2}
TIME, NUMBER = "times", "numbers"
_PLACES = Decimal("0.000000001")
_WIDE = Context(prec=60)  # a number below 10^28 with nine places


def whole(parts: Sequence[Part]) -> Part:
    """All parts as one."""
    at = {"parts": [[dict(part.at), part.size_bytes] for part in parts]}
    return Part(at, sum(part.size_bytes for part in parts))


def blocks_of(connector: Reads, part: Part, layout: Layout) -> Iterator[Block]:
    """The rows of a part, each of which becomes a record or tells why not."""
    if layout.map.conversation is not None:
        return gathered(connector, part, layout)
    if layout.map.ranking is not None:
        return ranked(connector, part, layout)
    return connector.read(part, layout.columns)


def gathered(connector: Reads, part: Part, layout: Layout) -> Iterator[Block]:
    """Blocks with the column TOGETHER (a list of role and content) and what else the map reads of a conversation. Blocks
    without rows come while the source is read, so that whoever asked may stop."""
    import duckdb

    assert layout.map.conversation is not None
    with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
        config = {
            "memory_limit": f"{MEMORY_BYTES}B",
            "temp_directory": f"{folder}/spill",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(f"{folder}/rows.duckdb", config=config) as database:
            made = False
            for at, size in part.at["parts"]:
                for block in connector.read(Part(at, size), layout.columns):
                    table, bad = _messages(block, layout)
                    database.register("more", table)
                    how = "INSERT INTO said" if made else "CREATE TABLE said AS"
                    database.execute(f"{how} SELECT * FROM more")
                    database.unregister("more")
                    made = True
                    yield Block({}, block.place, [], None, [*block.bad, *bad])
            if made:
                yield from _conversations(database, Path(folder), layout)


# rows -> the table


def _carried(layout: Layout) -> list[str]:
    """The columns that are read beside the messages: one value for a conversation."""
    m = layout.map
    parts = [one for one in (m.system, m.rating, m.id, m.group) if one is not None]
    return list(dict.fromkeys([*(name for part in parts for name in columns_of(part)), *m.keep]))


def _messages(block: Block, layout: Layout) -> tuple[pa.Table, list[BadRow]]:
    """A line for each row: key, the order o0.., role, content, why it is no good, c0.. what is carried."""
    wish = layout.map.conversation
    assert wish is not None
    problems: cells.Problems = {}
    reached = reach(block, layout.paths, problems)

    def texts(name: str) -> pa.Array:
        found, why = cells.texts(reached.columns.get(name, [None] * len(block)), name, block.place)
        for row, reason in why.items():
            problems.setdefault(row, reason)
        return found

    def need(found: pa.Array, name: str, what: str) -> pa.Array:
        for row in np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False)):
            problems.setdefault(int(row), f"the {what} is missing ({name!r} is empty)")
        return found

    key = texts(wish.group)
    role = _roles(need(texts(wish.role), wish.role, "role"), wish)
    content = need(texts(wish.content), wish.content, "content")
    columns = {"key": key, "role": role, "content": content}
    for n, name in enumerate(wish.ordered_by):
        places, kinds = _order(reached.columns.get(name, [None] * len(block)), name, problems)
        columns |= {f"o{n}": places, f"kind{n}": kinds}
    columns |= {f"c{n}": texts(name) for n, name in enumerate(_carried(layout))}
    origins = block.origins()
    columns["why"] = pa.array(
        [f"{origins[row]}: {problems[row]}" if row in problems else None for row in range(len(block))],
        pa.string(),
    )
    left_out = pc.equal(role, "")
    no_key = [row for row, one in enumerate(key.is_null().to_pylist()) if one]
    bad = [
        BadRow(
            block.lines[row],
            f"no conversation is named ({wish.group!r} is empty)",
            (content[row].as_py() or "")[:200],
            block.names[row] if block.names is not None else None,
        )
        for row in no_key
    ]
    keep = pc.and_(key.is_valid(), pc.invert(pc.fill_null(left_out, False)))
    return pa.table(columns).filter(keep), bad


def _roles(told: pa.Array, wish: ConversationSpec) -> pa.Array:
    """By their one name; "" for those that are left out. An unknown one stays as it is."""
    known = {**VOICES, **{word: role or "" for word, role in wish.roles.items()}}
    words = told.dictionary_encode()
    found = [
        known.get(one if one in wish.roles else one.strip().lower(), one)
        for one in words.dictionary.to_pylist()
    ]
    return pa.array(found, pa.string()).take(words.indices)


def _order(column: list[Any] | pa.Array, name: str, problems: cells.Problems) -> tuple[pa.Array, pa.Array]:
    """(where each stands, which kind of value it was)."""
    places: list[Decimal | None] = []
    kinds: list[str | None] = []
    for row, cell in enumerate(column if isinstance(column, list) else column.to_pylist()):
        try:
            place, kind = place_of(cell)
        except ValueError as error:
            problems.setdefault(row, f"{name!r} {error}, so it orders nothing")
            place, kind = None, None
        places.append(place)
        kinds.append(kind)
    return pa.array(places, pa.decimal128(38, 9)), pa.array(kinds, pa.string())


def place_of(cell: Any) -> tuple[Decimal, str]:
    """A number as it is, a time as microseconds since 1970; without a zone it is UTC. Raises ValueError.

    >>> place_of("1970-01-01T00:00:01Z") == place_of("1970-01-01 02:00:01+02:00") == (Decimal(1_000_000), "times")
    True
    >>> place_of("10")[0] > place_of(9.5)[0]
    True
    """
    if type(cell) is int and abs(cell) < 10**28:
        return Decimal(cell), NUMBER
    if cell is None or cell == "":
        raise ValueError("is empty")
    if isinstance(cell, datetime) or hasattr(cell, "isoformat"):
        cell = cell.isoformat()
    if isinstance(cell, bool | list | dict):
        raise ValueError("holds no time and no number")
    text = str(cell).strip()
    try:
        number = Decimal(text)
    except ArithmeticError:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"holds {text[:40]!r}, no number and no time as in 2026-01-31T09:30:00Z"
            ) from None
        since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        return Decimal((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds), TIME
    if not number.is_finite() or abs(number) >= Decimal(10) ** 28:
        raise ValueError(f"holds {text[:40]!r}, which is no number to order by")
    return number.quantize(_PLACES, context=_WIDE), NUMBER


# the table -> conversations


def _conversations(database: Any, folder: Path, layout: Layout) -> Iterator[Block]:
    import pyarrow.parquet as pq

    wish = layout.map.conversation
    assert wish is not None
    orders = range(len(wish.ordered_by))
    carried = _carried(layout)
    faults = ["min(why)"]
    faults += [
        f"CASE WHEN count(DISTINCT kind{n}) > 1 THEN 'some of its rows have numbers in {_sql(name)}, and others times' END"
        for n, name in enumerate(wish.ordered_by)
    ]
    faults += [
        f"CASE WHEN count(DISTINCT c{n}) > 1 THEN 'its rows differ in {_sql(name)}' END"
        for n, name in enumerate(carried)
    ]
    large = f"it is longer than {LONGEST_ROW_BYTES:,} bytes"
    faults.append(f"CASE WHEN sum(strlen(content)) > {LONGEST_ROW_BYTES} THEN '{large}' END")
    told = "".join(f", max(c{n}) AS c{n}" for n in range(len(carried)))
    database.execute(
        f"CREATE TABLE whole AS SELECT key, coalesce({', '.join(faults)}) AS fault{told} FROM said GROUP BY key"
    )
    rank = "CASE role " + " ".join(f"WHEN '{role}' THEN {n}" for role, n in RANKS.items()) + " ELSE 9 END"
    order = ", ".join(f"s.{name}" for name in ["key", *(f"o{n}" for n in orders), "rank", "content", "role"])
    path = folder / "sorted.parquet"
    beside = "".join(f", w.c{n}" for n in range(len(carried)))
    database.execute(
        f"COPY (SELECT s.key, s.role, s.content{beside} FROM (SELECT *, {rank} AS rank FROM said) AS s "
        f"JOIN whole AS w ON w.key = s.key WHERE w.fault IS NULL ORDER BY {order}) "
        f"TO '{_sql(str(path))}' (FORMAT parquet)"
    )
    batch = _Batch(layout, carried)
    for some in pq.ParquetFile(path).iter_batches(AT_ONCE):
        for row in some.to_pylist():
            if batch.key != row["key"]:
                if len(batch) >= AT_ONCE or batch.size > ENOUGH:
                    yield batch.block()
                batch.begin(row)
            batch.say(row["role"], row["content"])
    if len(batch):
        yield batch.block()
    faulty = database.sql("SELECT key, fault FROM whole WHERE fault IS NOT NULL ORDER BY key")
    for more in faulty.to_arrow_reader(AT_ONCE):
        bad = [BadRow(0, one["fault"], one["key"], _name(wish, one["key"])) for one in more.to_pylist()]
        yield Block({}, layout.source, [], None, bad)


def _sql(text: str) -> str:
    """Between single quotes."""
    return text.replace("'", "''")


def _name(wish: ConversationSpec, key: str) -> str:
    return f"{wish.group}={quote(key, safe=' :,+/')}"


@dataclass
class _Batch:
    """Conversations on their way into a block."""

    layout: Layout
    carried: list[str]
    key: str | None = None
    size: int = 0
    names: list[str] = field(default_factory=list)
    together: list[list[dict[str, str]]] = field(default_factory=list)
    beside: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.together)

    def begin(self, facts: dict[str, Any]) -> None:
        wish = self.layout.map.conversation
        assert wish is not None
        self.key = facts["key"]
        self.names.append(_name(wish, facts["key"]))
        self.together.append([])
        self.beside.append(facts)

    def say(self, role: str, content: str) -> None:
        self.together[-1].append({"role": role, "content": content})
        self.size += len(content)

    def block(self) -> Block:
        """What is there; the next begins afresh."""
        columns: dict[str, Any] = {TOGETHER: self.together}
        for n, name in enumerate(self.carried):
            columns[name] = [facts[f"c{n}"] for facts in self.beside]
        found = Block(columns, self.layout.source, range(1, len(self) + 1), self.names)
        self.size, self.names, self.together, self.beside = 0, [], [], []
        return found
