"""Which rows are trained on, which watch the training, and which are never seen before the end.

A row's side follows from its leak key and the seed alone: u = hash(seed, key) in [0, 1);
    u < test                     test
    u < test + validation        validation        (fold 0; fold k holds back the k-th stretch of that length after it)
    else                         train
The leak key is the row's group if it has one, otherwise its folded input (case, Unicode variants and whitespace do
not matter). So identical inputs and equal groups never straddle two sides, the order of rows does not matter, and
new rows do not move old ones.

Shares therefore hold on average, not exactly. Each label (all rows, when not stratified) with at least five keys is
given at least one on the test side and one on the validation side: if none falls there, the one with the lowest u is
moved. That is the only thing that new rows can undo: per label and side, one key may move when a new key of that
label falls on that side or draws a lower u. Labels with fewer keys are left where they fall.

Rows of a source that says its side are on that side: nothing is drawn for them, and they help no label.

With groups, or sides that sources bring, one input can occur on different sides. Then it stays only on the most held-out side
(test before validation before train), and the other rows are set aside with that reason: no row changes sides. A group that
the data's own division cuts in two stays cut, and is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from .opened import Opened
from .records import hashed
from .report import Account
from .spec import SplitSpec
from .task import TaskSpec

SIDES = ("train", "validation", "test")
FEWEST_KEYS = 5
Ask = Callable[[str], list[tuple[Any, ...]]]
Keep = Callable[[str, str], None]
"""A name, and SQL whose answer it is to stand for."""


def draw(key: str, seed: int) -> float:
    """u of a leak key: uniform in [0, 1), the same on every machine.

    >>> draw("a", 0) == draw("a", 0), draw("a", 0) == draw("a", 1)
    (True, False)
    """
    number = int.from_bytes(blake2b(key.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")
    return (number >> 11) * 2.0**-53


def side(u: float, spec: SplitSpec) -> str:
    """Where a key falls by its own draw, before any label is helped.

    >>> side(0.05, SplitSpec()), side(0.15, SplitSpec()), side(0.5, SplitSpec())
    ('test', 'validation', 'train')
    >>> side(0.15, SplitSpec(fold=1)), side(0.25, SplitSpec(fold=1))
    ('train', 'validation')
    """
    low, high = stretch(spec)
    return "test" if u < spec.test else "validation" if low <= u < high else "train"


def stretch(spec: SplitSpec) -> tuple[float, float]:
    """From which draw to which a key is held back for validation."""
    if not spec.fold:
        return spec.test, spec.test + spec.validation
    return spec.test + spec.fold * spec.validation, spec.test + (spec.fold + 1) * spec.validation


@dataclass(frozen=True)
class Sides:
    """`stratify` is decided by the task, which also says what a row must be before it is given a side. `own` are sources that
    bring their side."""

    spec: SplitSpec
    stratify: bool
    task: TaskSpec = field(default_factory=TaskSpec)
    own: Mapping[str, str] = field(default_factory=dict)

    def account(self) -> Account:
        return Account("split", self.spec.plain(), 1)


def keys(rows: Opened, spec: SplitSpec, own: Mapping[str, str] | None = None) -> dict[str, pa.Array]:
    """Key columns for `decide`: the leak key, its draw, the hash of the input, the label, the place that the source says."""
    inputs = rows.hashed_inputs(fold=True)
    places = {name: n for n, name in enumerate(SIDES)}
    leak = [
        f"group:{group}" if group is not None else f"input:{text}"
        for group, text in zip(rows.column("group").to_pylist(), inputs.to_pylist(), strict=True)
    ]
    return {
        "key": hashed(leak),
        "grouped": rows.column("group").is_valid().cast(pa.int64()),
        "u": pa.array([draw(key, spec.seed) for key in leak], pa.float64()),
        "input": inputs,
        "label": rows.column("label"),
        "own": pa.array(
            [places.get((own or {}).get(name, "")) for name in rows.column("source").to_pylist()], pa.int64()
        ),
    }


def decide(rows: str, sides: Sides, keep: Keep) -> str:
    """SQL that gives (row, side, reason) over the table `rows`; `reason` is null unless the row is to be set aside. `keep`
    makes a table of an answer that is asked for again.

    The words are those that DuckDB and Spark share. A stratum is rich when it has keys enough for every side.
    """
    spec = sides.spec
    stratum = "coalesce(label, '')" if sides.stratify else "''"
    keep("drawn", f"SELECT DISTINCT {stratum} AS stratum, key, u FROM {rows} WHERE own IS NULL")
    test = f"SELECT DISTINCT key FROM drawn WHERE {_below(spec.test)}"
    keep("test_keys", f"{test} {_helped('drawn', test, spec.test)}")
    free = (
        "SELECT d.stratum, d.key, d.u FROM drawn AS d "
        "WHERE NOT EXISTS (SELECT 1 FROM test_keys AS t WHERE t.key = d.key)"
    )
    low, high = stretch(spec)
    after = f" AND NOT {_below(low)}" if spec.fold else ""
    validation = f"SELECT DISTINCT key FROM ({free}) AS free WHERE {_below(high)}{after}"
    # of a row that is drawn: the furthest side to which a source brings its group, which no row of it may leave
    owned = (
        "CASE WHEN r.own IS NULL AND r.grouped = 1 THEN max(r.own) OVER (PARTITION BY r.key) END"
        if sides.own
        else "CAST(NULL AS BIGINT)"
    )
    keep("validation_keys", f"{validation} {_helped(f'({free}) AS free', validation, spec.validation)}")
    return f"""
        WITH placed AS (
            SELECT r.row, r.input, {owned} AS owned, CASE WHEN r.own IS NOT NULL THEN r.own
                WHEN t.key IS NOT NULL THEN 2 WHEN v.key IS NOT NULL THEN 1 ELSE 0 END AS place
            FROM {rows} AS r LEFT JOIN test_keys AS t ON t.key = r.key
            LEFT JOIN validation_keys AS v ON v.key = r.key),
        reach AS (SELECT row, place, owned, max(place) OVER (PARTITION BY input) AS furthest FROM placed)
        SELECT row, {_name("place")} AS side,
            CASE WHEN owned <> place THEN 'its group is in the ' || {_name("owned")} || ' split, by a source of that side'
                 WHEN furthest > place
                 THEN 'the same input is in the ' || {_name("furthest")} || ' split{"" if sides.own else ", in another group"}'
            END AS reason
        FROM reach"""


def cut_groups(rows: str, ask: Ask) -> str | None:
    """What there is to tell of groups that stand on several of the sides that sources bring."""
    cut = f"SELECT key, min(id) AS first_id FROM {rows} WHERE own IS NOT NULL AND grouped = 1 GROUP BY key HAVING count(DISTINCT own) > 1"
    found, example = ask(f"SELECT count(*), min(first_id) FROM ({cut}) AS cut")[0]
    if not found:
        return None
    return f"{found} groups stand on several sides, as the sources divide them; a row of one of them is row:{example}"


def _below(share: float) -> str:
    """Text to number in one step: what a decimal in SQL comes to is an engine's own affair."""
    return f"u < CAST('{share!r}' AS DOUBLE)"


def _name(place: str) -> str:
    return f"CASE {place} WHEN 0 THEN 'train' WHEN 1 THEN 'validation' ELSE 'test' END"


def _helped(candidates: str, taken: str, share: float) -> str:
    """For every rich stratum that has no key among those taken, its candidate with the lowest draw."""
    if share == 0:
        return ""
    rich = f"SELECT stratum FROM drawn GROUP BY stratum HAVING count(DISTINCT key) >= {FEWEST_KEYS}"
    return f"""UNION SELECT key FROM (
            SELECT key, row_number() OVER (PARTITION BY stratum ORDER BY u, key) AS n FROM {candidates}
            WHERE stratum IN ({rich})
              AND stratum NOT IN (SELECT d.stratum FROM drawn AS d JOIN ({taken}) AS t ON d.key = t.key)) AS lowest
        WHERE n = 1"""


def missing_labels(counts: dict[str, dict[str, int]], sides: Iterable[str]) -> list[str]:
    """One sentence for every label that a side lacks."""
    return [
        f"the label {label!r} has no row in {name} ({sum(by_side.values())} rows in all)"
        for label, by_side in counts.items()
        for name in sides
        if by_side[name] == 0
    ]
