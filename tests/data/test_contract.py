"""Contracts: which rows break them, what refuses the whole, and the open standard's form of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.app.data.files import as_yaml
from luthier.core.errors import DataError, SpecError
from luthier.core.spec import parse, read_yaml
from luthier.data.connectors.protocol import Block
from luthier.data.contract import ContractSpec, contract_of, judged
from luthier.data.contract_proposal import check_contract, propose_contract
from luthier.data.odcs import from_odcs, to_odcs
from luthier.data.spec import DataSpec, SourceSpec

from .conftest import Prepare
from .test_spark import LACKS, LOCAL, prepared, same

Jsonl = Callable[..., str]
WISH = {"user": "q", "assistant": "a"}


def faults(cells: list[Any], **column: Any) -> dict[int, str]:
    block = Block({"c": cells}, "t", range(len(cells)))
    found = judged(block, ContractSpec.model_validate({"columns": {"c": column}}))
    assert len(found) == len(found.columns["c"]) == len(cells) - len(found.bad)
    assert {one.rule for one in found.bad} <= {"contract"}
    return {one.line: one.reason for one in found.bad}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["x", ""], [1, True, ["x"], {}]),
        ("integer", [1, "2", " -3 "], [1.5, "x", True, "1.0"]),
        ("number", [1, 1.5, "2e3"], ["x", True, "true", "nan"]),
        ("boolean", [True, "False"], [1, "yes"]),
        ("timestamp", ["2026-01-31T09:30:00Z", "2026-01-31", datetime(2026, 1, 31)], ["31.1.2026", 5]),
        ("date", ["2026-01-31"], ["2026-01-31T09:30:00", "x", 1]),
        ("object", [{"a": 1}, '{"a": 1}'], [[1], "x", "[1]"]),
        ("array", [[1], "[1]"], [{}, "x"]),
    ],
)
def test_types(kind: str, good: list[Any], bad: list[Any]) -> None:
    assert faults([*good, None], type=kind) == {}
    assert list(faults(bad, type=kind)) == list(range(len(bad)))


@pytest.mark.parametrize(
    ("column", "cells", "told"),
    [
        ({"required": True}, [None, ""], {0: "'c' is missing"}),
        ({"min": 0, "max": 10}, [0, "10", -1, 10.5, "x"], {2: "'c' is '-1', below 0", 3: "'c' is '10.5', above 10", 4: "'c' is 'x', neither below nor above 0"}),
        ({"min": "2026-01-01"}, ["2025-12-31T23:59:59", "2026-01-01T00:00:00+00:00", 5],
         {0: "'c' is '2025-12-31T23:59:59', below 2026-01-01", 2: "'c' is '5', which 2026-01-01 is not to be compared with"}),
        ({"values": ["a", 1, True]}, ["a", "1", "true", "b", None], {3: "'c' is 'b', which is none of its 3 values"}),
        ({"pattern": "[a-z]+"}, ["abc", "abc1", "", None], {1: "'c' is 'abc1', which does not match '[a-z]+'", 2: "'c' is '', which does not match '[a-z]+'"}),
        ({"min_length": 2, "max_length": 3}, ["a", "ab", "äöü", "abcd"], {0: "'c' has 1 characters, fewer than 2", 3: "'c' has 4 characters, more than 3"}),
    ],
)  # fmt: skip
def test_what_a_row_breaks_is_told(column: dict[str, Any], cells: list[Any], told: dict[int, str]) -> None:
    assert faults(cells, **column) == told


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"columns": {}}, "at least 1 item"),
        ({"columns": {"a": {"min": "soon"}}}, "neither a number nor a time"),
        ({"columns": {"a": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"columns": {"a": {"min_length": 3, "max_length": 2}}}, "min_length 3 is above"),
        ({"columns": {"a": {}}, "rows": {}}, "rows says nothing"),
        ({"columns": {"a": {}}, "rows": {"at_least": 3, "at_most": 2}}, "at_least 3 is above at_most 2"),
        ({"columns": {"a": {"values": []}}}, "values is empty"),
        ({"columns": {"a": {"pattern": "("}}}, "no regular expression"),
        ({"columns": {"a": {}}, "fresh": {"column": "b", "within": "1 day"}}, "fresh is about 'b'"),
        ({"columns": {"a": {"typ": "string"}}}, "did you mean 'type'"),
    ],
)
def test_contracts_that_cannot_be_kept_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ContractSpec.model_validate(wish)


def test_a_contract_on_single_messages_is_refused() -> None:
    grouped = {"group": "t", "order_by": "at", "role": "r", "content": "c"}
    source = {"files": "x", "contract": {"columns": {"t": {}}}, "map": {"conversation": grouped}}
    with pytest.raises(ValueError, match=r"needs all of a conversation's"):
        DataSpec.model_validate({"sources": [source]})


def rows(n: int = 60) -> list[dict[str, Any]]:
    return [{"q": f"question {k}", "a": f"answer {k}", "id": k, "kind": "faq"} for k in range(n)]


def test_rows_that_break_it_are_quarantined_with_the_reason(prepare: Prepare, jsonl: Jsonl) -> None:
    told = rows()
    told[3]["kind"], told[7]["id"] = "rumour", None
    contract = {"columns": {"kind": {"values": ["faq"]}, "id": {"required": True}}, "broken": "10%"}
    found = prepare({"sources": [{"files": jsonl(told), "map": WISH, "contract": contract}]})
    gone = {(row["origin"], row["rule"], row["reason"]) for row in found.removed()}
    assert gone == {
        ("rows.jsonl:4", "contract", "'kind' is 'rumour', which is none of its 1 values"),
        ("rows.jsonl:8", "contract", "'id' is missing"),
    }
    assert found.rule("read")["removed"] == 2 and len(found.rows()) == 58
    assert found.rule("read")["counts"] == {
        "rows.jsonl: rows that break its contract": 2,
        "rows.jsonl: rows under its contract": 60,
    }
    with pytest.raises(DataError, match=r"2 of 60 rows break the contract, more than the 0\.01 of them"):
        prepare({"sources": [{"files": jsonl(told), "map": WISH, "contract": {**contract, "broken": "1%"}}]})


def test_a_bad_row_and_a_broken_one_are_told_apart(prepare: Prepare, jsonl: Jsonl) -> None:
    told = rows()
    told[3]["kind"], told[7]["a"] = "rumour", None
    contract = {"columns": {"kind": {"values": ["faq"]}}, "broken": "5%"}
    wish = {**WISH, "on_bad_row": "set_aside"}
    found = prepare({"sources": [{"files": jsonl(told), "map": wish, "contract": contract}]})
    assert {(row["origin"], row["rule"]) for row in found.removed()} == {
        ("rows.jsonl:4", "contract"),
        ("rows.jsonl:8", "read"),
    }


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("contract", "told"),
    [
        ({"columns": {"gone": {}}}, r"promises the column 'gone', and it is not there"),
        (
            {"columns": {"q": {}}, "others": "refuse"},
            r"there is a column 'a' that the contract does not promise",
        ),
        ({"columns": {"kind": {"unique": True}}}, r"rows\.jsonl:2: 'kind' is the same as in rows\.jsonl:1"),
        ({"columns": {"q": {}}, "rows": {"at_least": 61}}, r"at least 61 rows, and there are 60"),
        ({"columns": {"q": {}}, "rows": {"at_most": 59}}, r"at most 59 rows, and there are 60"),
        ({"columns": {"q": {}}, "fresh": {"column": "q", "within": "1 day"}}, r"'q' holds no time"),
    ],
)
def test_what_refuses_the_whole(prepare: Prepare, jsonl: Jsonl, contract: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        prepare({"sources": [{"files": jsonl(rows()), "map": WISH, "contract": contract}]})


def test_freshness_looks_at_the_newest_row(prepare: Prepare, jsonl: Jsonl) -> None:
    told = [{**row, "at": (NOW - timedelta(days=10 + k)).isoformat()} for k, row in enumerate(rows())]
    contract = {
        "columns": {"at": {"type": "timestamp", "unique": True}},
        "fresh": {"column": "at", "within": "11 days"},
    }
    source = {"files": jsonl(told), "map": WISH, "contract": contract}
    assert len(prepare({"sources": [source]}).rows()) == 60
    contract["fresh"] = {"column": "at", "within": "9 days"}
    with pytest.raises(DataError, match=r"10\.0 days ago, and the contract promises 9 days at most"):
        prepare({"sources": [source]})


def test_a_contract_stands_in_a_file_of_ours_or_of_the_standard(
    prepare: Prepare, jsonl: Jsonl, tmp_path: Path
) -> None:
    contract = ContractSpec.model_validate(
        {"columns": {"kind": {"values": ["faq"]}, "id": {"type": "integer"}}, "broken": 0.05}
    )
    told = rows()
    told[3]["kind"] = "rumour"
    inline = prepare({"sources": [{"files": jsonl(told), "map": WISH, "contract": contract.plain()}]})
    for name, value in (("ours.yaml", contract.plain()), ("odcs.yaml", to_odcs(contract, "rows"))):
        (tmp_path / name).write_text(as_yaml(value))
        assert contract_of(name, tmp_path) == contract
        found = prepare({"sources": [{"files": "rows.jsonl", "map": WISH, "contract": name}]})
        assert found.bytes() == inline.bytes()
    with pytest.raises(DataError, match=r"the contract no\.yaml cannot be read"):
        prepare({"sources": [{"files": "rows.jsonl", "map": WISH, "contract": "no.yaml"}]})
    (tmp_path / "odd.yaml").write_text("columns: {a: {typ: string}}")
    with pytest.raises(SpecError, match=r"odd\.yaml:1: columns\.a\.typ"):
        contract_of("odd.yaml", tmp_path)


def test_another_contract_in_the_file_is_another_source(jsonl: Jsonl, tmp_path: Path) -> None:
    from luthier.core.testing import FakeContext
    from luthier.data.connectors import fingerprints

    data = DataSpec.model_validate({"sources": [{"files": jsonl(rows()), "map": WISH, "contract": "c.yaml"}]})
    found = []
    for text in ("columns: {q: {}}", "columns:\n  q: {}\n", "columns: {q: {required: true}}"):
        (tmp_path / "c.yaml").write_text(text)
        found.append(
            [digest for _, digest in fingerprints(data, tmp_path, FakeContext(tmp_path, root=tmp_path))]
        )
    assert found[0] == found[1] != found[2]


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
COLUMNS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer", "number", "boolean", "timestamp", "date", "object", "array"]),
        "required": st.booleans(), "unique": st.booleans(), "min": st.sampled_from([0, -1.5, "2026-01-01"]),
        "max": st.sampled_from([7, "2027-01-01T00:00:00"]), "values": st.lists(TEXTS | st.integers() | st.booleans(), min_size=1, max_size=3),
        "pattern": st.just("[a-z]+"), "min_length": st.integers(0, 3), "max_length": st.integers(3, 9),
    },
).map(lambda told: {k: v for k, v in told.items() if not (k == "max" and isinstance(told.get("min"), str) != isinstance(v, str))})  # fmt: skip
CONTRACTS = st.fixed_dictionaries(
    {"columns": st.dictionaries(TEXTS, COLUMNS, min_size=1, max_size=4)},
    optional={
        "others": st.sampled_from(["allow", "refuse"]), "broken": st.sampled_from([0, 0.01, 0.5]),
        "rows": st.fixed_dictionaries({}, optional={"at_least": st.integers(0, 5), "at_most": st.integers(5, 9)}).filter(bool),
    },
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(CONTRACTS, st.booleans())
def test_the_standard_says_all_of_it_and_its_own_schema_agrees(told: dict[str, Any], fresh: bool) -> None:
    if fresh:
        column = next(iter(told["columns"])).replace(".", "_")
        told["columns"][column] = {}
        told["fresh"] = {"column": column, "within": 7 * 86_400.0}
    contract = ContractSpec.model_validate(told)
    document = to_odcs(contract, "tickets")
    jsonschema.Draft201909Validator(_schema()).validate(document)
    assert from_odcs(document, "t") == contract
    written = read_yaml(as_yaml(document), "t").value
    assert from_odcs(written, "t") == contract
    assert parse(ContractSpec, read_yaml(as_yaml(contract.plain()), "t")) == contract


@cache
def _schema() -> Any:
    return json.loads((resources.files("open_data_contract_standard") / "schema.json").read_text())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"apiVersion": "v2.2.0"}, "read from version 3 on"),
        ({"schema": []}, "describes 0 tables"),
        ({"schema": [{"name": "t", "properties": [{"name": "a", "quality": [{"type": "sql", "query": "x", "mustBe": 0}]}]}]}, "a has a check that would not be carried out"),
        ({"schema": [{"name": "t", "properties": [{"name": "a", "logicalType": "number", "logicalTypeOptions": {"multipleOf": 2}}]}]}, "multipleOf"),
        ({"schema": [{"name": "t", "quality": [{"metric": "duplicateValues", "mustBe": 0}], "properties": [{"name": "a"}]}]}, "duplicateValues"),
    ],
)  # fmt: skip
def test_a_promise_that_would_not_be_kept_is_refused(change: dict[str, Any], told: str) -> None:
    document = {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": "t",
        "version": "1",
        "schema": [{"name": "t", "properties": [{"name": "a"}]}],
    }
    assert list(from_odcs(document, "t").columns) == ["a"]
    with pytest.raises(SpecError, match=told):
        from_odcs(document | change, "t")


def test_a_proposal_is_kept_by_what_it_was_made_of_and_names_what_breaks_it(tmp_path: Path) -> None:
    told = [{"id": k, "queue": ("a", "b")[k % 2], "body": f"text {k}", "score": k / 2, "ok": True, "tags": [k], "note": None if k % 3 else "x"} for k in range(40)]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    pq.write_table(pa.Table.from_pylist(told), tmp_path / "t.parquet")
    source = SourceSpec.model_validate({"files": "t.jsonl"})
    contract, _ = propose_contract(source, tmp_path)
    kinds = {name: spec.type for name, spec in contract.columns.items()}
    assert kinds == {"id": "integer", "queue": "string", "body": "string", "score": "number", "ok": "boolean", "tags": "array", "note": "string"}  # fmt: skip
    assert contract.columns["id"].unique and contract.columns["queue"].values == ["a", "b"]
    assert [name for name, spec in contract.columns.items() if not spec.required] == ["note"]
    typed, _ = propose_contract(SourceSpec.model_validate({"files": "t.parquet"}), tmp_path)
    assert typed == contract
    done = check_contract(source, contract, tmp_path)
    assert (done.rows, done.broken, done.refused) == (40, 0, [])
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({**row, "queue": "c"}) + "\n" for row in [*told, told[0]])
    )
    done = check_contract(source, contract, tmp_path)
    assert done.broken == 41 and done.first["t.jsonl:1"] == "'queue' is 'c', which is none of its 2 values"
    assert len(done.refused) == 2 and "t.jsonl:41: 'id' is the same as in t.jsonl:1" in done.refused[0]


@pytest.mark.spark
@pytest.mark.skipif(bool(LACKS), reason=LACKS or "there")
def test_spark_keeps_the_same_contract(tmp_path: Path, spark_here: None) -> None:
    told = rows(200)
    for k in (3, 50, 51):
        told[k]["kind"] = "rumour"
    for n in range(3):
        (tmp_path / f"rows-{n}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told[n::3]))
    contract = {"columns": {"kind": {"values": ["faq"]}, "id": {"unique": True}}, "broken": "5%"}
    data = {
        "sources": [{"files": "rows-*.jsonl", "map": WISH, "contract": contract}],
        "rules": {"quality": ["normalize"]},
    }
    same(prepared(tmp_path, data), prepared(tmp_path, data, LOCAL))
    contract["broken"] = "1%"
    for engine in ("local", LOCAL):
        with pytest.raises(DataError, match="3 of 200 rows break the contract"):
            prepared(tmp_path, data, engine)


BROKEN = {"columns": {"email": {"pattern": "[a-z]+@firm[.]com"}}, "broken": "50%"}


def _with_mail(n: int) -> dict[str, Any]:
    return {
        "prompt": f"Question {n}?",
        "completion": f"Answer {n}.",
        "email": "anna@other.org" if n == 7 else "jo@firm.com",
    }


def test_a_reason_says_nothing_private_where_the_recipe_takes_it_out(prepare: Prepare, jsonl: Jsonl) -> None:
    source = {"files": jsonl([_with_mail(n) for n in range(40)]), "contract": BROKEN}
    for rules, told in (([], True), (["redact"], False)):
        done = prepare({"sources": [source], "rules": {"quality": rules}})
        [gone] = done.removed()
        everything = str(gone) + str(done.rules)
        assert gone["rule"] == "contract" and ("anna@other.org" in everything) is told
        assert told or "[EMAIL_1]" in gone["reason"]


def test_a_row_that_stops_the_reading_is_not_shown_where_the_recipe_takes_private_data_out(
    prepare: Prepare, jsonl: Jsonl
) -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"I am jo{n}@firm.com", "label": "a" if n else None} for n in range(3)
    ]
    wish = {"sources": [{"files": jsonl(rows), "map": {"user": "text", "label": "label"}}]}
    for rules, told in (([], True), (["redact"], False)):
        with pytest.raises(DataError) as caught:
            prepare({**wish, "rules": {"quality": rules}}, {"kind": "classify"})
        assert "rows.jsonl:1" in str(caught.value) and ("jo0@firm.com" in str(caught.value)) is told


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "I am jo@firm.com", "completion": oops}',
        b'{"prompt": "jo@firm.com \xff", "completion": "a"}',
    ],
)
def test_a_broken_row_is_not_shown_either(prepare: Prepare, tmp_path: Path, line: str | bytes) -> None:
    good = b"".join(b'{"prompt": "Question %d?", "completion": "Answer."}\n' % n for n in range(300))
    bad = line.encode() if isinstance(line, str) else line
    for place in (0, len(good)):  # where the layout is looked at, and where rows are read
        (tmp_path / "rows.jsonl").write_bytes(good[:place] + bad + b"\n" + good[place:])
        for rules, told in (([], True), (["redact"], False)):
            with pytest.raises(DataError) as caught:
                prepare({"sources": [{"files": "rows.jsonl"}], "rules": {"quality": rules}})
            assert "rows.jsonl:" in str(caught.value) and ("jo@firm" in str(caught.value)) is told


def test_an_address_that_a_rule_reads_is_told_without_its_secret(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = jsonl([{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(30)])
    rules = {"quality": [{"decontaminate": {"against": "http://me:${PW}@127.0.0.1:9/bench.jsonl"}}]}
    with pytest.raises(DataError) as caught:
        prepare({"sources": [{"files": rows}], "rules": rules}, environ={"PW": "hunter2"})
    assert "hunter2" not in str(caught.value)
