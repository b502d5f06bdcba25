"""How a rule that makes rows of all rows is carried out, and what its account shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from luthier.data import report
from luthier.data.opened import Opened
from luthier.data.plan import Step
from luthier.data.report import HIDDEN, Account, Example
from luthier.data.rules.rule import MakeRule

Batches = Iterator[pa.RecordBatch]


def make_rows(
    step: Step, rows: Callable[[], Batches], held: Callable[[], Batches], account: Account
) -> Batches:
    """The rows that were made; `held` are those that are held out. Raises what the rule raises."""
    rule = step.rule
    assert isinstance(rule, MakeRule)
    with account.clock():
        before = sum(batch.num_rows for batch in rows())
        made = [one for one in rule.make(rows, held, step.given, account.notes.append) if one.num_rows]
        added = sum(batch.num_rows for batch in made)
        account.count(before, before + added)
        account.added += added
        if made:
            account.show(_examples(step, pa.Table.from_batches(made), rows()))
    yield from made


def _examples(step: Step, made: pa.Table, rows: Batches) -> list[Example]:
    """A few of those that were made beside what each was made of."""
    names = made["id"].to_pylist()
    shown = made.take(report.lowest(names)).combine_chunks().to_batches()[0]
    parents = set(shown["made_from"].to_pylist())
    texts: dict[str, list[str]] = {}
    for batch in rows:
        for row, name in enumerate(batch["id"].to_pylist()):
            if name in parents:
                texts[name] = Opened(batch.slice(row, 1)).of_row(0)
    new = Opened(shown)
    told = []
    for k in range(shown.num_rows):
        one = report.changed(
            shown["id"][k].as_py(), texts[shown["made_from"][k].as_py()], new.of_row(k), "made of another row"
        )
        told.append(report.Example(one.id, HIDDEN, HIDDEN, one.reason) if step.hidden else one)
    return told
