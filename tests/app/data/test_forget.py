"""What is forgotten stays out, bit for bit as if it had never been there; who did it and why is on record, and no text is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import NotFound, SpecError
from luthier.data.forgotten import Forgotten, group_hash, stem
from luthier.store import Store

SPLITS = ("train", "validation", "test")


def split_bytes(shop, dataset):
    return {side: shop.file(dataset, f"{side}.parquet").read_bytes() for side in SPLITS}


def without(rows, *places):
    """Empty lines in their stead: the others keep their lines."""
    return [None if n + 1 in places else row for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("where", "places"),
    [
        (["origin=rows.jsonl:8"], [8]),
        (["group=c3"], [7, 8]),
        (["contains=MESSAGE 1:"], [2]),
        (["group=c3", "contains=delivery"], [8]),
    ],
)
def test_the_splits_are_as_if_the_rows_had_never_been_there(shop, some, tmp_path, where, places):
    shop.prepare()
    told = shop.app.data.forget(where, really=True)
    assert told["done"] and len(told["records"]) == len(places)
    forgotten = shop.prepare()
    assert {row["origin"] for row in shop.every_row(forgotten)}.isdisjoint(f"rows.jsonl:{n}" for n in places)
    shop.rows(without(some(), *places))
    shop.app.home = tmp_path / "another home"  # that never heard of them
    shop.app._store = None
    assert split_bytes(shop, shop.prepare()) == split_bytes(Elsewhere(shop, tmp_path / "home"), forgotten)


class Elsewhere:
    """The files of a dataset in another home."""

    def __init__(self, shop, home):
        self._store = Store.open(home)

    def file(self, dataset, name):
        return self._store.folder(dataset) / name


@settings(max_examples=10, deadline=None)
@given(
    texts=st.lists(st.integers(0, 12), min_size=25, max_size=40),
    places=st.sets(st.integers(1, 25), min_size=1, max_size=4),
)
def test_the_law_holds_for_any_rows_duplicates_and_choice(tmp_path_factory, texts, places):
    """Few different texts, so that rows are identical, deduplicated and numbered; some are forgotten by their place, and with
    each all that say the same."""
    from luthier.core.artifact import Artifact
    from luthier.core.testing import FakeContext
    from luthier.data.prepare import STAGE, PrepareSpec

    folder = tmp_path_factory.mktemp("law")
    rows = [{"prompt": f"Question {n}?  ", "completion": f"Answer {n}."} for n in [*texts, *range(20, 40)]]
    spec = {
        "data": {"sources": [{"files": "rows.jsonl"}], "rules": {"quality": ["normalize", "deduplicate"]}}
    }

    def prepare(name, lines, forgotten=None):
        (folder / "rows.jsonl").write_text("".join((json.dumps(r) if r else "") + "\n" for r in lines))
        out, scratch = folder / name, folder / f"{name}-scratch"
        out.mkdir()
        scratch.mkdir()
        listed = Artifact("source", "k", {"forgotten": forgotten.plain()}, 1, {}, ()) if forgotten else None
        inputs = {"forgotten": listed} if listed else {}
        STAGE.function(
            PrepareSpec.model_validate(spec), inputs, out, scratch, FakeContext(folder, root=folder)
        )
        return {side: (out / f"{side}.parquet").read_bytes() for side in SPLITS}

    gone = {texts[place - 1] for place in places}
    records = ids_of(folder, [rows[place - 1] for place in places])
    told = prepare("with", rows, Forgotten(dict.fromkeys(records)))
    assert told == prepare(
        "never", [None if r["prompt"] in {f"Question {n}?  " for n in gone} else r for r in rows]
    )


def ids_of(folder, rows):
    from luthier.core.testing import FakeContext
    from luthier.data.preparation import records
    from luthier.data.prepare import PrepareSpec

    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = PrepareSpec.model_validate({"data": {"sources": [{"files": "some.jsonl"}]}})
    found = records(spec, folder / "ids", FakeContext(folder, root=folder))
    return [record for batch in found for record in batch["id"].to_pylist()]


def test_identical_rows_go_together_and_a_group_keeps_them_apart(shop, some):
    rows = some()
    rows[10] = {**rows[9], "customer": "other"}  # the same content as line 10, of another customer
    shop.rows(rows)
    shop.write(shop_recipe(rules="[normalize]"))
    first = shop.prepare()
    twins = [row for row in shop.every_row(first) if row["origin"] in ("rows.jsonl:10", "rows.jsonl:11")]
    assert len({stem(row["id"]) for row in twins}) == 1 and len({row["id"] for row in twins}) == 2
    told = shop.app.data.forget(["group=other"], really=True)
    assert told["rows"] == 1 and told["within_a_group"]
    left = {row["origin"] for row in shop.every_row(shop.prepare())}
    assert "rows.jsonl:10" in left and "rows.jsonl:11" not in left
    told = shop.app.data.forget([f"id={twins[1]['id']}"], really=True)
    assert told["rows"] >= 1
    assert {"rows.jsonl:10", "rows.jsonl:11"}.isdisjoint(
        row["origin"] for row in shop.every_row(shop.prepare())
    )


def shop_recipe(rules="[normalize, drop_empty, deduplicate]", user="text", more=""):
    return f"""\
name: router
base: tiny
task: {{kind: classify, instruction: "Route the message."}}
data:
  sources: [{{files: rows.jsonl, map: {{user: {user}, label: queue, group: customer{more}}}}}]
  rules: {{quality: {rules}}}
  split: {{validation: 0.15, test: 0.25}}
"""


def test_a_dataset_that_is_not_concerned_stays_what_it_is(shop, some):
    shop.rows([{"text": f"Another {i}.", "queue": "billing" if i % 2 else "other", "customer": f"d{i}"} for i in range(40)], "more.jsonl")  # fmt: skip
    shop.write(shop_recipe().replace("rows.jsonl", "more.jsonl"), "other.yaml")
    dataset, other = shop.prepare(), shop.prepare(name="other.yaml")
    shop.app.data.forget(["origin=rows.jsonl:3"], really=True)
    assert shop.prepare(name="other.yaml").digest == other.digest
    again = shop.prepare()
    assert again.digest != dataset.digest and "forgotten" in again.parents
    assert "forgotten" not in dataset.parents and "forgotten" not in other.parents
    assert shop.prepare().digest == again.digest  # and it is found when it is asked for again


def test_the_same_rows_in_other_bytes_are_found_when_they_are_read(shop, some):
    """The file has grown, so no tombstone knows its bytes; the record is met on the way, and that is written down."""
    shop.prepare()
    shop.app.data.forget(["origin=rows.jsonl:8"], reason="a letter", really=True)
    lines = len(list(shop.app.store.tombstones.read()))
    rows = some()
    shop.rows([{"text": "A new first line.", "queue": "billing", "customer": "n"}, *rows])
    dataset = shop.prepare()
    assert "forgotten" in dataset.parents
    assert "rows.jsonl:9" not in {row["origin"] for row in shop.every_row(dataset)}
    stones = list(shop.app.store.tombstones.read())
    assert len(stones) == lines + 1 and stones[-1].origins == ("rows.jsonl:9",)
    assert stones[-1].reason == "a letter" and stones[-1].record == stones[0].record
    # a copy under another name too
    shop.rows(rows, "copy.jsonl")
    shop.write(shop_recipe().replace("rows.jsonl", "copy.jsonl"), "copy.yaml")
    assert "copy.jsonl:8" not in {row["origin"] for row in shop.every_row(shop.prepare(name="copy.yaml"))}


def test_another_map_of_the_same_bytes_leaves_the_row_out_by_its_place(shop):
    shop.prepare()
    shop.app.data.forget(["origin=rows.jsonl:8"], really=True)
    shop.write(shop_recipe(user='"{customer}: {text}"'))  # another content, so another id
    assert "rows.jsonl:8" not in {row["origin"] for row in shop.every_row(shop.prepare())}


def test_a_row_that_could_not_be_read_goes_too(shop, some):
    rows = some()
    rows[4] = {"text": None, "queue": "billing", "customer": "secret name"}
    shop.rows(rows)
    shop.write(shop_recipe(more=", on_bad_row: set_aside"))
    first = shop.prepare()
    assert [row["origin"] for row in shop.table(first, "removed")] == ["rows.jsonl:5"]
    shop.app.data.forget(["origin=rows.jsonl:5"], really=True)
    again = shop.prepare()
    assert shop.table(again, "removed") == [] and split_bytes(shop, again) == split_bytes(shop, first)


def test_rows_that_rules_took_out_or_changed_are_found_in_the_sources(shop, some):
    rows = some()
    rows[0]["text"] = "Write to jane@example.com about   billing."
    shop.rows(rows)
    recipe = shop.write(shop_recipe(rules="[{redact: {what: [email]}}]"))
    shop.prepare()
    with pytest.raises(NotFound, match="no row meets"):
        shop.app.data.forget(["contains=jane@example.com"], really=True)
    told = shop.app.data.forget(["contains=jane@example.com"], recipe=recipe, really=True)
    assert len(told["records"]) == 1 and told["rows"] == 1  # its dataset is found by the record's id
    assert "rows.jsonl:1" not in {row["origin"] for row in shop.every_row(shop.prepare())}


def test_a_group_that_redact_has_renamed_is_found_by_its_own_name_and_by_that(shop, some):
    """By its own name the source leaves out that group alone; the new name is unknown there, so the record goes everywhere."""
    rows = some()
    for row in rows[8:11]:
        row |= {"text": f"{row['text']} {row['customer']}", "customer": "jane@example.com"}
    rows[11] = {**rows[10], "customer": "other"}
    shop.rows(rows)
    shop.write(shop_recipe(rules="[{redact: {what: [email]}}]"))
    first = shop.prepare()
    [name] = {row["group"] for row in shop.every_row(first) if row["origin"] == "rows.jsonl:9"}
    assert name.startswith("[EMAIL:")
    by_name = shop.app.data.forget([f"group={name}"])
    assert by_name["rows"] == 3 and not by_name["within_a_group"]
    told = shop.app.data.forget(["group=jane@example.com"], really=True)
    assert told["rows"] == 3 and told["within_a_group"]
    left = {row["origin"] for row in shop.every_row(shop.prepare())}
    assert left == {f"rows.jsonl:{n + 1}" for n in range(60) if n not in (8, 9, 10)}
    shop.app.data.forget([f"group={name}"], really=True)
    assert "rows.jsonl:12" not in {row["origin"] for row in shop.every_row(shop.prepare())}


def test_a_rule_that_reads_a_file_is_no_hindrance(shop):
    (shop.folder / "bench.jsonl").write_text(json.dumps({"q": "what is nowhere in any of these rows"}) + "\n")
    recipe = shop.write(shop_recipe(rules="[{decontaminate: {against: bench.jsonl}}]"))
    shop.prepare()
    told = shop.app.data.forget(["contains=Message 7:"], recipe=recipe, really=True)
    assert told["rows"] == 1
    assert "rows.jsonl:8" not in {row["origin"] for row in shop.every_row(shop.prepare())}


def test_only_told_changes_nothing(shop):
    dataset = shop.prepare()
    told = shop.app.data.forget(["group=c3"])
    assert not told["done"] and told["rows"] == 2 and told["new"] == 2
    assert told["datasets"][0]["digest"] == dataset.digest
    assert not shop.app.store.tombstones.any() and shop.prepare().digest == dataset.digest


def test_twice_is_once(shop):
    shop.prepare()
    shop.app.data.forget(["group=c3"], really=True)
    again = shop.app.data.forget(["group=c3"], really=True)
    assert again["new"] == 0 and len(list(shop.app.store.tombstones.read())) == 2


def test_who_when_and_why_are_on_record_and_no_text_is(shop, monkeypatch):
    import os
    import pwd

    monkeypatch.setenv("USER", "somebody else")
    shop.prepare()
    shop.app.data.forget(["group=c3", "contains=Message 7"], reason="request 4711", really=True)
    (one,) = shop.app.data.forgotten()
    assert one["by"] == pwd.getpwuid(os.getuid()).pw_name and one["reason"] == "request 4711"
    assert one["sources"] == ["rows.jsonl"] and one["origins"] == ["rows.jsonl:8"] and one["within_a_group"]
    with shop.app.store.catalog._database.reading() as connection:
        kept = "".join(
            str(row)
            for table in ("tombstones", "events")
            for row in connection.execute(sa.text(f"select * from {table}")).all()
        )
    assert "Message 7" not in kept
    assert re.search(r"\bc3\b", kept) is None  # as a word: a digest may well have these two digits
    (event,) = shop.app.store.ledger.read(kind="forgotten")
    assert event.data["by_field"] == ["group", "contains"] and event.data["records"] == 1


def test_the_count_is_all_that_rules_json_says_of_them(shop):
    first = shop.prepare()
    shop.app.data.forget(["group=c3"], really=True)
    before, after = (
        json.loads(shop.file(one, "rules.json").read_text())[0] for one in (first, shop.prepare())
    )
    assert after["rows_in"] == before["rows_in"] - 2 and after["counts"] == {"forgotten": 2}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ([], "nothing is named"),
        (["label=billing"], "there is no field 'label'"),
        (["group"], "no condition"),
        (["group!=c3"], "does not name rows"),
        (["group="], "does not name rows"),
    ],
)
def test_what_does_not_name_rows_is_refused(shop, where, said):
    shop.prepare()
    with pytest.raises(SpecError, match=said):
        shop.app.data.forget(where, really=True)


def test_the_tombstones_cannot_be_rewritten(shop):
    shop.prepare()
    shop.app.data.forget(["group=c3"], really=True)
    for statement in ("delete from tombstones", "update tombstones set record = 'x'"):
        with (
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            shop.app.store.catalog._database.engine.begin() as connection,
        ):
            connection.exec_driver_sql(statement)


def test_an_older_dataset_is_searched_too(shop):
    old = shop.aged(shop.prepare())
    told = shop.app.data.forget(["origin=rows.jsonl:8"])
    assert old.digest in {one["digest"] for one in told["datasets"]}


# -- the data floor's part --------------------------------------------------------------------------------------------------


def test_the_plain_form_is_canonical_and_comes_back():
    one = Forgotten({"b": None, "a": ["y", "x"]}, {"s": ["s:2", "s:1"], "t": []})
    same = Forgotten({"a": ("x", "y"), "b": None}, {"s": {"s:1", "s:2"}})
    assert one.plain() == same.plain() == Forgotten.of(one.plain()).plain()
    assert one and not Forgotten() and len(one) == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["g", "h", None]), st.integers(0, 3))))
def test_what_is_held_is_what_a_plain_loop_says(rows):
    import pyarrow as pa

    told = Forgotten({"a": None, "b": [group_hash("g")]}, {"s": ["s:0"]})
    batch = pa.record_batch(
        {
            "id": pa.array([r[0] for r in rows], pa.string()),
            "group": pa.array([r[1] for r in rows], pa.string()),
            "origin": pa.array([f"s:{r[2]}" for r in rows], pa.string()),
        }
    )
    want = [name == "a" or (name == "b" and group == "g") or place == 0 for name, group, place in rows]
    assert told.holds(batch, "s").to_pylist() == want
    assert [hit.record for hit in told.hits(batch, "s")] == [
        r[0] for r, w in zip(rows, want, strict=True) if w
    ]
    elsewhere = [name == "a" or (name == "b" and group == "g") for name, group, _ in rows]
    assert told.holds(batch, "t").to_pylist() == elsewhere  # a place is of one source


def test_a_hash_of_a_group_is_no_name():
    assert "c3" not in group_hash("c3") and group_hash("c3") != group_hash("c4")
    assert Path(group_hash("../x")).name == group_hash("../x")


def test_a_contract_in_a_file_is_no_hindrance(shop):
    (shop.folder / "contract.yaml").write_text("columns: {queue: {type: string}}\n")
    shop.write(
        "name: router\nbase: tiny\ntask: {kind: classify}\ndata:\n"
        "  sources: [{files: rows.jsonl, contract: contract.yaml, map: {user: text, label: queue, group: customer}}]\n"
    )
    shop.prepare()
    shop.app.data.forget(["contains=Message 7:"], really=True)
    assert "rows.jsonl:8" not in {row["origin"] for row in shop.every_row(shop.prepare())}


COPIES = "[{augment: {copies: 2}}, {augment: {ways: [typo], labels: [billing]}}]"


def test_a_row_that_was_made_goes_with_the_one_it_was_made_of(shop):
    dataset = shop.prepare(f"data.rules.quantity={COPIES}")
    train = shop.table(dataset, "train")
    parent = next(row for row in train if row["label"] == "billing" and row["made_from"] is None)
    made = [row for row in train if row["made_from"] == parent["id"]]
    made += [row for row in train if row["made_from"] in {one["id"] for one in made}]
    assert len(made) > 4  # of some a copy was made, too
    told = shop.app.data.forget([f"id={parent['id']}"])
    assert told["records"] == [stem(parent["id"])] and told["rows"] == 1 + len(made)
    of_a_copy = shop.app.data.forget([f"id={made[-1]['id']}"])
    assert of_a_copy["records"] == told["records"] and of_a_copy["rows"] == told["rows"]
    shop.app.data.forget([f"id={made[0]['id']}"], really=True)
    left = shop.every_row(shop.prepare(f"data.rules.quantity={COPIES}"))
    assert parent["origin"] not in {row["origin"] for row in left}
    assert {row["id"] for row in left}.isdisjoint(row["id"] for row in [parent, *made])


def test_a_place_that_is_another_row_in_another_version_of_its_source_is_refused(shop, some):
    first = shop.prepare()
    mine = next(row for row in shop.every_row(first) if row["origin"] == "rows.jsonl:8")
    shop.rows([{**row, "text": f"Another month. {row['text']}"} for row in some()])
    second = shop.prepare()
    with pytest.raises(SpecError, match="another row in each of 2 files"):
        shop.app.data.forget(["origin=rows.jsonl:8"], really=True)
    told = shop.app.data.forget(["origin=rows.jsonl:8"], dataset=first.digest, really=True)
    assert told["records"] == [stem(mine["id"])]
    assert shop.prepare().digest == second.digest, "nothing of the second is concerned"


def test_one_of_two_sources_is_meant_where_it_is_named(shop, some):
    rows = some()
    (shop.folder / "x").mkdir()
    (shop.folder / "y").mkdir()
    shop.rows(rows[:30], "x/rows.jsonl")
    shop.rows(rows[30:], "y/rows.jsonl")
    one = "{files: x/rows.jsonl, map: {user: text, label: queue}}"
    shop.prepare(f"data.sources=[{one}, {one.replace('x/', 'y/')}]")
    with pytest.raises(SpecError, match="another row in each of 2 files"):
        shop.app.data.forget(["origin=rows.jsonl:8"], really=True)
    assert shop.app.data.forget(["origin=rows.jsonl:8", "source=rows.jsonl#2"])["rows"] == 1
    with pytest.raises(SpecError, match="a whole source is named"):
        shop.app.data.forget(["source=rows.jsonl"], really=True)


def test_what_was_removed_is_of_its_only_source_and_of_one_that_is_named(shop, some):
    rows = some()
    rows[7]["text"] = " "
    shop.rows(rows)
    shop.prepare(
        "data.sources.0.map.on_bad_row=set_aside", "data.rules.quality=[normalize, {length: {min: 3}}]"
    )
    told = shop.app.data.forget(["origin=rows.jsonl:8", "source=rows.jsonl"])
    assert told["rows"] == 1 and told["datasets"][0]["rows"] == {"removed": 1}
