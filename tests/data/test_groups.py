"""Rules that run together give what they give one after the other; accounts of parts add up; nothing private is shown."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.data.digests import fold, folded
from luthier.data.engines.group import Grouped, run_group
from luthier.data.opened import Opened
from luthier.data.plan import Group, Step, plan_of
from luthier.data.records import RECORD
from luthier.data.report import EXAMPLES, HIDDEN, Account, Example
from luthier.data.rules.primitives import AtMost, Distinct
from luthier.data.rules.rule import RowRule, Said
from luthier.data.spec import RulesSpec, SplitSpec
from luthier.data.split import Sides

texts = st.text(st.sampled_from("ab \t\n\u200b\u0301é\x00ﬁ"), max_size=12)
conversations = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=3
)
LAWS = settings(max_examples=60, deadline=None)


def batch_of(rows: list[Any]) -> pa.RecordBatch:
    records = [
        {
            "id": f"{i:032x}",
            "messages": None if isinstance(row, str) else [{"role": r, "content": c} for r, c in row],
            "text": row if isinstance(row, str) else None,
            "source": "t",
            "origin": f"t:{i + 1}",
            "weight": 1.0,
        }
        for i, row in enumerate(rows)
    ]
    return pa.RecordBatch.from_pylist(records, schema=RECORD)


def step(name: str, **wish: Any) -> Step:
    rule = plugin.load("rule", name)
    return Step(rule, rule.spec.model_validate(wish))


STEPS = (
    step("normalize"),
    step("drop_empty"),
    step("length", max=6, on="all"),
    step("length", min=2, on="all"),
)


def told(found: Grouped) -> list[dict[str, Any]]:
    return [account.plain() for account in found.accounts]


@given(st.lists(conversations | texts, max_size=8))
@LAWS
def test_rules_on_one_opened_batch_are_the_rules_one_by_one(rows: list[Any]) -> None:
    batch = batch_of(rows)
    together = run_group(Group(STEPS), batch)
    one_by_one, removed = [], []
    for each in STEPS:
        found = run_group(Group((each,)), batch)
        batch = found.batch
        one_by_one += told(found)
        removed += found.removed
    assert together.batch.equals(batch)
    assert told(together) == one_by_one
    assert [part.to_pylist() for part in together.removed] == [part.to_pylist() for part in removed]


@given(st.lists(conversations | texts, min_size=2, max_size=8), st.data())
@LAWS
def test_where_batches_are_cut_changes_nothing(rows: list[Any], data: Any) -> None:
    batch, cut = batch_of(rows), data.draw(st.integers(1, len(rows) - 1))
    group = Group(STEPS, (step("deduplicate"),))
    whole, parts = (
        run_group(group, batch),
        [run_group(group, one) for one in (batch.slice(0, cut), batch.slice(cut))],
    )
    for name in ("batch", "keys"):
        joined = pa.Table.from_batches([getattr(part, name) for part in parts])
        assert joined.combine_chunks().equals(pa.Table.from_batches([getattr(whole, name)]).combine_chunks())
    for one, *others in zip(whole.accounts, *(part.accounts for part in parts), strict=True):
        sum_of = others[1]  # in another order
        sum_of.add(others[0])
        assert sum_of.plain() == one.plain()


@given(st.permutations([Example(str(i), "b", "a", "r") for i in range(8)]))
def test_examples_are_those_of_the_lowest_ids_whatever_came_first(examples: list[Example]) -> None:
    account = Account("x", {}, 1)
    for one in examples:
        account.show([one])
    assert [one.id for one in account.examples] == [str(i) for i in range(EXAMPLES)]


# -- what rules may use -------------------------------------------------------------------------------------------------


@given(st.lists(conversations | texts, max_size=6))
@LAWS
def test_an_opened_batch_closes_as_it_was_and_knows_its_bytes(rows: list[Any]) -> None:
    batch = batch_of(rows)
    opened = Opened(batch)
    assert opened.close().equals(batch)
    data, edges = opened.bytes
    every = opened.text.to_list()
    assert [bytes(data[a:b]).decode() for a, b in pairwise(edges)] == every
    from luthier.data.opened import KINDS

    wanted = [0] * len(every)
    for i, text in enumerate(every):
        for byte in text.encode():
            wanted[i] |= int(KINDS[byte])
    assert opened.marks.tolist() == wanted
    mine = [[every[t] for t in range(len(every)) if opened.row[t] == row] for row in range(len(rows))]
    assert mine == [opened.of_row(row) for row in range(len(rows))]
    lengths = opened.text.str.len_chars().to_numpy()
    assert opened.per_row(lengths, "sum").tolist() == [sum(map(len, row)) for row in mine]
    assert opened.per_row(lengths, "max").tolist() == [max(map(len, row), default=0) for row in mine]
    assert opened.per_row(lengths > 2, "any").tolist() == [any(len(t) > 2 for t in row) for row in mine]


@given(
    st.lists(
        st.text(
            st.characters(max_codepoint=0x17F) | st.sampled_from("\x1c\x1d\x1e\x1f\x0b ßẞΣς\u3000"),
            max_size=12,
        )
    )
)
@LAWS
def test_texts_fold_together_as_they_fold_alone(texts: list[str]) -> None:
    assert folded(texts) == [fold(text) for text in texts]


# -- primitives ---------------------------------------------------------------------------------------------------------

keys = st.sampled_from(["x", "y", "z"])


def decided(primitive: Any, columns: dict[str, list[Any]]) -> dict[int, str]:
    n = len(next(iter(columns.values())))
    database = duckdb.connect(config={"threads": 1})
    given_ = pa.table({"row": list(range(n)), "id": [f"{(7 * i) % 31:02d}-{i}" for i in range(n)], **columns})
    database.register("rows", given_)
    sql = primitive.decide("rows", lambda text: database.execute(text).fetchall(), lambda note: None)
    return dict(database.execute(sql).fetchall())


@given(st.lists(st.tuples(keys, keys, keys), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_distinct_is_its_plain_twin(rows: list[tuple[str, str, str]]) -> None:
    key, asked, answer = zip(*rows, strict=True)
    ids = [f"{(7 * i) % 31:02d}-{i}" for i in range(len(rows))]
    keep = {k: min(i for i, one in zip(ids, key, strict=True) if one == k) for k in set(key)}
    want = {n: f"the same as {keep[k]}" for n, k in enumerate(key) if ids[n] != keep[k]}
    assert decided(Distinct(), {"key": list(key), "input": list(asked), "answer": list(answer)}) == want


@given(
    st.lists(st.tuples(keys, st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from([1, 2, "median", "smallest"]),
)
@settings(max_examples=25, deadline=None)
def test_at_most_is_its_plain_twin(rows: list[tuple[str, int]], limit: Any) -> None:
    part, rank = zip(*rows, strict=True)
    sizes = sorted(part.count(one) for one in set(part))
    if limit == "smallest":
        limit_n = sizes[0]
    elif limit == "median":
        limit_n = int((sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2)
    else:
        limit_n = limit
    ids = [f"{(7 * i) % 31:02d}-{i}" for i in range(len(rows))]
    want = {}
    for one in set(part):
        mine = sorted((rank[n], ids[n], n) for n in range(len(rows)) if part[n] == one)
        want |= {n: f"{one} has more than {limit_n} rows" for _, _, n in mine[limit_n:]}
    assert decided(AtMost(limit), {"part": list(part), "rank": list(rank)}) == want


# -- the order of things ------------------------------------------------------------------------------------------------


def test_held_out_rows_never_see_a_rule_of_quantity() -> None:
    rules = RulesSpec.model_validate(
        {
            "quality": ["deduplicate", "normalize"],
            "relevance": [{"length": {"min": 1}}],
            "quantity": ["balance"],
        }
    )
    groups = plan_of(rules, Sides(SplitSpec(), stratify=True), ("named",))
    assert [[one.rule.name for one in group.steps] for group in groups] == [
        ["deduplicate"],
        ["normalize", "length"],
        ["balance"],
    ]
    assert [group.sides is not None for group in groups] == [False, True, False]
    assert [group.numbers for group in groups] == [("named",), None, None]
    assert [group.needs_keys for group in plan_of(RulesSpec(), Sides(SplitSpec(), stratify=False))] == [True]


def test_keyed_rules_decided_together_are_those_decided_one_by_one(prepare: Any, jsonl: Any) -> None:
    rows = [{"prompt": f"question {i % 20}", "completion": f"a {i % 3}"} for i in range(60)]
    jsonl(rows)
    pair = ["deduplicate", {"deduplicate": {"on": "user"}}]
    together = prepare({"sources": [{"files": "rows.jsonl"}], "rules": {"quality": pair}})
    apart = prepare(
        {
            "sources": [{"files": "rows.jsonl"}],
            "rules": {"quality": [pair[0], {"length": {"min": 0}}, pair[1]]},
        }
    )
    assert together.rows() == apart.rows() and together.removed() == apart.removed()
    assert [one["removed"] for one in together.rules if one["rule"] == "deduplicate"] == [0, 40]


class Secret(Spec):
    pass


def take_out(rows: Opened, settings: Secret) -> Said:
    edited = rows.text.str.replace_all("secret", "[X]")
    why = rows.reasons({int(row): "secret" for row in rows.row[edited.ne(rows.text).to_numpy()]})
    return Said(
        text=edited, changed=why, counts={"secrets": rows.per_row(edited.ne(rows.text).to_numpy(), "any")}
    )


PRIVATE = RowRule("private", 1, Secret, "Takes secrets out.", take_out, private=True)


@pytest.mark.parametrize("order", [("private", "length"), ("length", "private")])
def test_what_is_private_stands_in_no_report(prepare: Any, jsonl: Any, monkeypatch: Any, order: Any) -> None:
    monkeypatch.setitem(plugin.BUILT_IN["rule"], "private", f"{__name__}:PRIVATE")
    rows = [{"prompt": f"my secret {i}", "completion": "c"} for i in range(20)]
    rows += [{"prompt": f"a secret that is much too long {i}", "completion": "c"} for i in range(5)]
    jsonl(rows)
    rules: list[Any] = ["private" if one == "private" else {"length": {"max": 15}} for one in order]
    done = prepare({"sources": [{"files": "rows.jsonl"}], "rules": {"quality": rules}})
    for file in ("rules.json", "removed.parquet", "train.parquet"):
        assert b"secret " not in (done.out / file).read_bytes(), file
    shown = json.dumps(done.rules) + json.dumps(done.removed())
    assert "secret " not in shown and len(done.removed()) == 5
    assert (HIDDEN in shown) and done.rule("private")["counts"] == {
        "secrets": 25 if order[0] == "private" else 20
    }


def test_a_row_that_a_rule_has_removed_can_break_no_rule_after_it() -> None:
    """Its rating would make a weight of 0, which is an error; a filter before takes it out, as the error's remedy says."""
    batch = batch_of(["gone", "stays"])
    batch = batch.set_column(batch.schema.get_field_index("rating"), "rating", pa.array([0.0, 0.5]))
    weigh, remove = step("weight", expression="rating"), step("filter", keep="rating > 0")
    done = run_group(Group((remove, weigh)), batch)
    assert done.batch["text"].to_pylist() == ["stays"] and done.batch["weight"].to_pylist() == [0.5]
    with pytest.raises(DataError):
        run_group(Group((weigh, remove)), batch)


@pytest.mark.parametrize("name", ["balance", "sample"])
def test_a_removed_row_without_a_label_is_nobody_s_matter(name: str) -> None:
    batch = batch_of(["gone", "stays"])
    batch = batch.set_column(batch.schema.get_field_index("label"), "label", pa.array([None, "a"]))
    wish = {"n": 1, "by": "label"} if name == "sample" else {}
    done = run_group(Group((step("filter", keep="label == 'a'"),), (step(name, **wish),)), batch)
    assert done.keys["id"].to_pylist() == [batch["id"][1].as_py()]
