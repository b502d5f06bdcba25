"""Conversations of rows: the order of the rows does not matter, and what is no good is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.connectors import connect
from luthier.data.grouped import whole
from luthier.data.mapping import Layout
from luthier.data.reading import Job, read_part
from luthier.data.shapes import Shape
from luthier.data.spec import SourceSpec

from .conftest import Prepare
from .test_spark import LACKS, LOCAL, prepared, same

Jsonl = Callable[..., str]
GROUPED = {
    "group": "ticket",
    "order_by": "at",
    "role": "who",
    "content": "said",
    "roles": {"customer": "user", "agent": "assistant"},
}


def row(ticket: Any, at: Any, who: Any, said: Any, **more: Any) -> dict[str, Any]:
    return {"ticket": ticket, "at": at, "who": who, "said": said, **more}


def read(
    folder: Path, files: dict[str, list[dict[str, Any]]], more: dict[str, Any] | None = None, **wish: Any
) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """(place of a conversation -> its turns, place of what was set aside -> why)."""
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    written = {"conversation": {**GROUPED, **wish}, "on_bad_row": "set_aside", **(more or {})}
    source = SourceSpec.model_validate({"files": list(files), "map": written, "name": "t"})
    assert source.map is not None
    connector = connect(source, folder, str)
    head = connector.head(100)
    layout = Layout.of(
        Shape("map", source.map, 1, ""),
        source.map,
        None,
        classify=False,
        source="t",
        weight=1.0,
        columns=head.columns,
    )
    job = Job.from_plain(json.loads(json.dumps(Job.of(source, folder, layout, str, hidden=False).plain())))
    told: dict[str, list[tuple[str, str]]] = {}
    bad: dict[str, str] = {}
    for found in read_part(job, whole(connector.parts())):
        for one in found.records.to_pylist():
            told[one["origin"]] = [(turn["role"], turn["content"]) for turn in one["messages"]]
        for line in found.removed.to_pylist() if found.removed else []:
            bad[line["origin"]] = line["reason"]
    return told, bad


def test_rows_far_apart_and_in_two_files_become_conversations(tmp_path: Path) -> None:
    told, bad = read(
        tmp_path,
        {
            "a.jsonl": [
                row(7, "2026-01-01T10:00:00Z", "customer", "Where is it?"),
                row(8, "2026-01-01T09:00:00Z", "customer", "Hello"),
            ],
            "b.jsonl": [
                row(8, "2026-01-01T12:00:00+02:00", "agent", "Hi"),  # 10:00 UTC, after 09:00
                row(7, "2026-01-01 10:05:00", "agent", "On its way."),
            ],
        },
    )
    assert told == {
        "t?ticket=7": [("user", "Where is it?"), ("assistant", "On its way.")],
        "t?ticket=8": [("user", "Hello"), ("assistant", "Hi")],
    }
    assert bad == {}


def test_numbers_order_as_numbers_whatever_the_format(tmp_path: Path) -> None:
    rows = [row("x", "10", "agent", "second"), row("x", 9, "customer", "first")]
    told, _ = read(tmp_path, {"a.jsonl": rows})
    assert told["t?ticket=x"] == [("user", "first"), ("assistant", "second")]
    large = 2**60  # as floats these two would be equal
    rows = [
        row("x", large + 1, "agent", "2"),
        row("x", large, "customer", "1"),
        row("x", large + 2, "agent", "3"),
    ]
    told, _ = read(tmp_path, {"a.jsonl": rows})
    assert told["t?ticket=x"] == [("user", "1"), ("assistant", "2\n\n3")]


def test_what_is_equal_in_time_is_ordered_by_the_next_column_then_by_who_speaks_then_by_what_is_said(
    tmp_path: Path,
) -> None:
    rows = [row("x", 1, "agent", "b"), row("x", 1, "agent", "a"), row("x", 1, "customer", "c")]
    told, _ = read(tmp_path, {"a.jsonl": rows})
    assert told["t?ticket=x"] == [("user", "c"), ("assistant", "a\n\nb")]
    rows = [
        row("x", 1, "agent", "b", seq=1),
        row("x", 1, "agent", "a", seq=2),
        row("x", 1, "customer", "c", seq=0),
    ]
    told, _ = read(tmp_path, {"a.jsonl": rows}, order_by=["at", "seq"])
    assert told["t?ticket=x"] == [("user", "c"), ("assistant", "b\n\na")]


ASK, TELL = row("x", 1, "customer", "q"), row("x", 2, "agent", "a")


@pytest.mark.parametrize(
    ("rows", "wish", "reason"),
    [
        ([ASK, row("x", 2, "robot9", "a")], {}, "a message speaks as 'robot9'"),
        ([ASK, TELL, row("x", 3, "agent", None)], {}, "a.jsonl:3: the content is missing ('said' is empty)"),
        (
            [ASK, TELL, row("x", "soon", "agent", "b")],
            {},
            "a.jsonl:3: 'at' holds 'soon', no number and no time",
        ),
        ([ASK, TELL, row("x", None, "agent", "b")], {}, "a.jsonl:3: 'at' is empty, so it orders nothing"),
        ([ASK, row("x", "2026-01-01", "agent", "b")], {}, "numbers in at, and others times"),
        ([ASK, TELL, row("x", 3, "customer", "thanks")], {}, "`ending: trim` leaves them out"),
        ([ASK, row("x", 1.5, "customer", "?"), TELL], {"same_role": "refuse"}, "two messages of user"),
        ([ASK], {}, "does not end with the assistant"),
    ],
)
def test_a_conversation_that_is_no_good_is_set_aside_whole(
    tmp_path: Path, rows: list[dict[str, Any]], wish: dict[str, Any], reason: str
) -> None:
    good = [row("y", 1, "customer", "q"), row("y", 2, "agent", "a")]
    told, bad = read(tmp_path, {"a.jsonl": rows + good}, **wish)
    assert list(told) == ["t?ticket=y"]
    assert list(bad) == ["t?ticket=x"]
    assert reason in bad["t?ticket=x"]


def test_a_row_without_a_key_is_set_aside_alone(tmp_path: Path) -> None:
    told, bad = read(tmp_path, {"a.jsonl": [ASK, TELL, row(None, 3, "agent", "lost")]})
    assert list(told) == ["t?ticket=x"]
    assert bad == {"a.jsonl:3": "no conversation is named ('ticket' is empty)"}


def test_the_end_is_trimmed_and_roles_are_left_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    rows = [ASK, row("x", 1.5, "note", "secret"), TELL, row("x", 3, "customer", "thanks")]
    told, bad = read(tmp_path, {"a.jsonl": rows}, ending="trim", roles={**GROUPED["roles"], "note": None})
    assert (told, bad) == ({"t?ticket=x": [("user", "q"), ("assistant", "a")]}, {})


def test_what_is_said_of_a_conversation_stands_in_all_its_rows(tmp_path: Path) -> None:
    rows = [{**ASK, "shop": "north"}, {**TELL, "shop": "north"}]
    rows += [row("y", 1, "customer", "q", shop="north"), row("y", 2, "agent", "a", shop="south")]
    told, bad = read(tmp_path, {"a.jsonl": rows}, {"system": "Shop: {shop}", "group": "shop"})
    assert told == {"t?ticket=x": [("system", "Shop: north"), ("user", "q"), ("assistant", "a")]}
    assert bad == {"t?ticket=y": "its rows differ in shop"}


def test_columns_may_be_paths(tmp_path: Path) -> None:
    rows = [{"ticket": {"no": 1}, "event": json.dumps({"at": n, "by": by, "text": t})} for n, by, t in
            ((2, "agent", "a"), (1, "customer", "q"))]  # fmt: skip
    wish = {"group": "ticket.no", "order_by": "event.at", "role": "event.by", "content": "event.text"}
    told, _ = read(tmp_path, {"a.jsonl": rows}, **wish)
    assert told == {"t?ticket.no=1": [("user", "q"), ("assistant", "a")]}


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from(["customer", "agent"]), st.text(max_size=3)), max_size=25),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_the_order_of_the_rows_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[int, int, str, str]], shuffle: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [row(*one) for one in [*said, (9, 1, "customer", "q"), (9, 2, "agent", "a")]]
    one = read(folder, {"a.jsonl": rows})
    shuffle.shuffle(rows)
    cut = len(rows) // 2
    other = read(folder, {"a.jsonl": rows[:cut] or rows, "b.jsonl": rows[cut:]} if cut else {"a.jsonl": rows})
    assert list(one[0].items()) == list(other[0].items())
    assert one[1].keys() == other[1].keys()


def test_a_dataset_of_conversations_is_the_same_from_shuffled_rows_and_from_parquet(
    prepare: Prepare, jsonl: Jsonl, tmp_path: Path
) -> None:
    rows = [
        row(f"{n:03}", f"2026-01-{1 + k:02}T00:00:00Z", who, f"{who} {n} {k}")
        for n in range(40)
        for k, who in enumerate(["customer", "agent", "customer", "agent"])
    ]
    data = {"map": {"conversation": GROUPED}, "name": "tickets"}
    one = prepare({"sources": [{"files": jsonl(rows), **data}]})
    random.Random(1).shuffle(rows)
    other = prepare({"sources": [{"files": jsonl(rows, "b.jsonl"), **data}]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    third = prepare({"sources": [{"files": "c.parquet", **data}]})
    assert one.bytes() == other.bytes() == third.bytes()
    assert one.rule("read")["rows_in"] == 40
    assert {len(found["messages"]) for found in one.rows()} == {4}


def test_a_bad_conversation_stops_where_the_recipe_does_not_keep_it_out(
    prepare: Prepare, jsonl: Jsonl
) -> None:
    source = {"files": jsonl([ASK]), "map": {"conversation": GROUPED}}
    with pytest.raises(DataError, match=r"rows\.jsonl\?ticket=x: the conversation does not end"):
        prepare({"sources": [source]})


@pytest.mark.spark
@pytest.mark.skipif(bool(LACKS), reason=LACKS or "there")
def test_spark_gives_the_same_conversations(tmp_path: Path, spark_here: None) -> None:
    rows = [
        row(f"{n:03}", k, who, f"{who} {n} {k}")
        for k, who in enumerate(["customer", "agent", "customer", "agent"])
        for n in range(60)
    ]
    rows += [row("bad", 1, "customer", "alone"), row(None, 1, "customer", "lost")]
    for n in range(3):
        (tmp_path / f"rows-{n}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows[n::3]))
    wish = {"conversation": GROUPED, "on_bad_row": "set_aside"}
    data = {
        "sources": [{"files": "rows-*.jsonl", "map": wish}],
        "rules": {"quality": ["normalize", "deduplicate"]},
    }
    same(prepared(tmp_path, data), prepared(tmp_path, data, LOCAL))


def test_a_large_whole_number_in_text_has_its_place() -> None:
    from luthier.data.grouped import place_of

    assert place_of("12345678901234567890") == place_of(12345678901234567890)
    with pytest.raises(ValueError, match="no number to order by"):
        place_of("1" + "0" * 28)
