"""A row rule by itself on a batch, and the laws that every row rule keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.data.opened import Opened
from luthier.data.records import RECORD

HOSTILE = [
    "",
    "\x00",
    "e\u0301\u0301\u0301",
    "\u202eevil\u202c",
    "\U0001f469\u200d\U0001f4bb\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "İı\u1e9e" * 5,
    "\ufdfa" * 20,
    "@" * 500,
    "1 " * 500,
    "a" * 3000,
    "://" * 300,
    "-----BEGIN PRIVATE KEY-----" * 50,
    "password" * 200,
]
texts = st.text(max_size=40) | st.sampled_from(HOSTILE)
conversations = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=3
)
records = st.fixed_dictionaries(
    {}, optional={"messages": conversations, "rejected": texts, "label": texts}
) | st.fixed_dictionaries({"text": texts})


def record(messages: Any = None, **told: Any) -> dict[str, Any]:
    """One row of a batch; messages as (role, content), or one text for a user's turn."""
    if isinstance(messages, str):
        messages = [("user", messages)]
    if messages is None and "text" not in told:
        messages = [("user", ""), ("assistant", "")]
    if messages is not None:
        told["messages"] = [{"role": role, "content": content} for role, content in messages]
    return told


def batch_of(*rows: dict[str, Any]) -> pa.RecordBatch:
    filled = [
        {"id": f"{i:032x}", "source": "t", "origin": f"t:{i + 1}", "weight": 1.0, **row}
        for i, row in enumerate(rows)
    ]
    return pa.RecordBatch.from_pylist(filled, schema=RECORD)


@dataclass
class Ran:
    batch: pa.RecordBatch
    changed: list[str | None]
    removed: list[str | None]
    counts: dict[str, list[int]]

    def texts(self, row: int = 0) -> list[str]:
        return Opened(self.batch).of_row(row)


def run(name: str, batch: pa.RecordBatch, wish: Any = None) -> Ran:
    rule = plugin.load("rule", name)
    rows = Opened(batch)
    said = rule.run(rows, rule.spec.model_validate(wish or {}))
    rows.edit(said.text, said.label, dict(said.columns))
    none = [None] * batch.num_rows
    changed, removed = (none if why is None else why.to_pylist() for why in (said.changed, said.removed))
    assert len(changed) == len(removed) == batch.num_rows
    counts = {kind: np.asarray(of_rows).tolist() for kind, of_rows in said.counts.items()}
    assert all(len(of_rows) == batch.num_rows for of_rows in counts.values())
    return Ran(rows.close(), changed, removed, counts)


def keeps_laws(name: str, rows: list[dict[str, Any]], wish: Any = None) -> Ran:
    """One row says the same alone, in a batch and in a slice; an editing rule twice is the same as once."""
    batch = batch_of(*rows)
    whole = run(name, batch, wish)
    for row in range(len(rows)):
        alone = run(name, batch.slice(row, 1), wish)
        assert alone.batch.to_pylist() == whole.batch.slice(row, 1).to_pylist()
        assert (alone.changed, alone.removed) == ([whole.changed[row]], [whole.removed[row]])
        told = {kind: of_rows[row] for kind, of_rows in whole.counts.items() if of_rows[row]}
        assert {kind: of_rows[0] for kind, of_rows in alone.counts.items() if of_rows[0]} == told
    assert run(name, batch.slice(0, 0), wish).batch.num_rows == 0
    assert all(why is None or why.strip() for why in whole.removed + whole.changed)
    again = run(name, whole.batch, wish)
    if any(whole.changed):
        assert again.batch.equals(whole.batch) and again.changed == [None] * len(rows)
    return whole
