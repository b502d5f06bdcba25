"""Exchanges and their feedback as rows."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.core.spec import resolve
from luthier.data.connectors import connect
from luthier.data.spec import SourceSpec
from luthier.store import Store
from luthier.store.traffic import Exchange, Judgement


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def traffic(home):
    return Store.open(home).traffic


def keep(traffic, n, answer="yes", refusal=None, release="router@1"):
    traffic.keep(
        Exchange(
            id=f"chatcmpl-{n}", name="router", release=release, digest="d" * 64, key_id="k", user_sha256=None,
            messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"q{n}"}],
            answers=[{"text": None if refusal else answer, "refusal": refusal}], probability=0.5, masked=0, time_s=1_000.0 + n,
        )
    )  # fmt: skip


def judge(traffic, n, rating=None, correction=None):
    traffic.judge([Judgement(f"chatcmpl-{n}", 0, rating, correction, None, "me", 1.0)])


def source(home, pinned=None, **settings):
    wish = SourceSpec.model_validate({"traffic": {"name": "router", **settings} if settings else "router"})
    return connect(wish, Path.cwd(), lambda text: resolve(text, {"LUTHIER_HOME": str(home)}), pinned)


def rows(connector):
    found = []
    for block in connector.blocks(connector.head(1).columns):
        found += [{name: cells[i] for name, cells in block.columns.items()} for i in range(len(block))]
    return found


def test_judged_exchanges_with_the_answer_to_learn(home, traffic):
    for n in range(4):
        keep(traffic, n)
    judge(traffic, 0, rating=1.0)
    judge(traffic, 1, rating=-1.0)
    judge(traffic, 2, rating=-1.0, correction="no")
    found = rows(source(home))
    assert [
        (one["id"], one["messages"][-1]["content"], one["rating"], one["corrected"]) for one in found
    ] == [
        ("chatcmpl-0", "yes", True, False),
        ("chatcmpl-1", "yes", False, False),
        ("chatcmpl-2", "no", True, True),
    ]
    assert found[0]["messages"][:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "q0"},
    ]
    [block] = source(home).blocks(["id"])
    assert block.origins()[0] == "router?id=chatcmpl-0"


def test_all_takes_what_nobody_disliked_and_says_no_rating(home, traffic):
    for n in range(3):
        keep(traffic, n)
    judge(traffic, 1, rating=-0.5)
    found = rows(source(home, only="all"))
    assert [one["id"] for one in found] == ["chatcmpl-0", "chatcmpl-2"]
    assert "rating" not in found[0]


def test_pairs_of_a_better_and_a_worse_answer(home, traffic):
    for n in range(3):
        keep(traffic, n)
    judge(traffic, 0, rating=1.0)
    judge(traffic, 1, correction="no")
    judge(traffic, 2, correction="yes")  # what was said already: no pair
    [pair] = rows(source(home, **{"as": "pairs"}))
    assert (pair["id"], pair["chosen"], pair["rejected"]) == (
        "chatcmpl-1",
        [{"role": "assistant", "content": "no"}],
        [{"role": "assistant", "content": "yes"}],
    )


def test_calls_stand_in_the_conversation_and_functions_beside_it(home, traffic):
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "now"}}
    for n in range(3):
        keep(traffic, n)
    traffic.keep(
        Exchange(
            id="chatcmpl-3", name="router", release="router@1", digest="d" * 64, key_id="k", user_sha256=None,
            messages=[{"role": "user", "content": "when?"}], answers=[{"text": "", "refusal": None, "tool_calls": [call]}],
            probability=None, masked=0, time_s=1_003.0, tools=[tool],
        )
    )  # fmt: skip
    connector = source(home, only="all")
    assert [row.get("tools") for row in connector.head(2).rows] == [None, [tool]]  # seen in the first rows
    found = rows(connector)
    assert found[3]["messages"][-1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert [one["tools"] for one in found] == [None, None, None, [tool]]
    judge(traffic, 3, correction="at noon")
    assert rows(source(home, only="all"))[3]["messages"][-1] == {"role": "assistant", "content": "at noon"}
    judge(traffic, 0, correction="no")
    [pair] = rows(source(home, **{"as": "pairs"}))  # a call is no worse answer
    assert pair["id"] == "chatcmpl-0"


def test_a_correction_may_be_calls(home, traffic):
    tool = {"type": "function", "function": {"name": "now"}}
    better = {"type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
    keep(traffic, 0)
    traffic.keep(
        Exchange(
            id="chatcmpl-1", name="router", release="router@1", digest="d" * 64, key_id="k", user_sha256=None,
            messages=[{"role": "user", "content": "when?"}], answers=[{"text": "It is late.", "refusal": None}],
            probability=None, masked=0, time_s=1_001.0, tools=[tool],
        )
    )  # fmt: skip
    say = lambda **told: traffic.judge(  # noqa: E731
        [
            Judgement(
                **{
                    "exchange": "chatcmpl-1",
                    "choice": 0,
                    "rating": None,
                    "correction": None,
                    "comment": None,
                    "by": "me",
                    "time_s": 1.0,
                    **told,
                }
            )
        ]
    )
    say(calls=[better])
    [row] = rows(source(home, only="corrected"))
    assert row["messages"][-1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_0", **better}],
    }
    assert (row["rating"], row["corrected"], row["tools"]) == (True, True, [tool])
    say(comment="thanks")  # takes nothing back
    say(correction="One moment.", calls=[better])
    [row] = rows(source(home))
    assert row["messages"][-1]["content"] == "One moment." and row["messages"][-1]["tool_calls"]
    with pytest.raises(DataError):  # a call is no text to be preferred
        rows(source(home, **{"as": "pairs"}))
    say(correction="At noon.")  # the newest counts, as a whole
    [row] = rows(source(home))
    assert row["messages"][-1] == {"role": "assistant", "content": "At noon."}
    [pair] = rows(source(home, **{"as": "pairs"}))
    assert pair["rejected"] == [{"role": "assistant", "content": "It is late."}]
    assert traffic.bad("router", "router@1", 0.0) == [True]


def test_a_declined_answer_is_a_row_only_when_corrected(home, traffic):
    keep(traffic, 0, refusal="not sure")
    keep(traffic, 1, refusal="not sure")
    judge(traffic, 0, rating=-1.0)
    judge(traffic, 1, correction="yes")
    assert [one["id"] for one in rows(source(home))] == ["chatcmpl-1"]


def test_releases_and_times(home, traffic):
    for n in range(4):
        keep(traffic, n, release=f"router@{n % 2 + 1}")
    found = rows(source(home, only="all", releases=["router@2"], since="1970-01-01T00:16:42Z"))
    assert [one["id"] for one in found] == ["chatcmpl-3"]


def test_what_is_pinned_leads_to_the_same_rows_though_traffic_goes_on(home, traffic):
    keep(traffic, 0)
    judge(traffic, 0, rating=1.0)
    first = source(home)
    mark, pinned = first.fingerprint(), first.pinned()
    keep(traffic, 1)
    assert source(home).fingerprint() == mark, "an exchange that nobody judged is no row"
    judge(traffic, 1, rating=1.0)
    judge(traffic, 0, rating=-1.0)
    again = source(home, pinned)
    assert again.fingerprint() == mark
    assert [(one["id"], one["rating"]) for one in rows(again)] == [("chatcmpl-0", True)]
    assert source(home).fingerprint() != mark


def test_rows_that_were_removed_meanwhile_are_told(home, traffic):
    for n in range(2):
        keep(traffic, n)
        judge(traffic, n, rating=1.0)
    pinned = source(home).pinned()
    traffic.remove(ids=["chatcmpl-0"])
    with pytest.raises(DataError, match="no longer there"):
        rows(source(home, pinned))


def test_nothing_kept_and_a_name_that_is_not_there(home, traffic):
    with pytest.raises(DataError, match="no traffic is kept here") as none:
        source(home).head(1)
    assert "--capture" in str(none.value.remedy)
    keep(traffic, 0)
    with pytest.raises(DataError, match="of 'ruoter'") as wrong:
        source(home, name="ruoter").head(1)
    assert "router" in str(wrong.value.remedy)
    with pytest.raises(DataError, match="only: all"):
        source(home).head(1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"since": "yesterday"}, "neither a time"),
        ({"as": "pairs", "only": "all"}, "pairs are made of corrected"),
        ({"only": "good"}, "judged"),
        ({"release": ["a"]}, "releases"),
    ],
)
def test_a_wish_that_cannot_be(home, settings, told):
    with pytest.raises(ValidationError, match=told):
        source(home, **settings)


def test_a_database_by_url_is_found_and_its_secret_is_not_shown(home, tmp_path):
    environ = {"LUTHIER_DATABASE": "sqlite:///${PLACE}/x.db", "PLACE": str(tmp_path)}
    Store.open(home, database_url=environ["LUTHIER_DATABASE"], environ=environ)
    wish = SourceSpec.model_validate({"traffic": "router"})
    connector = connect(wish, Path.cwd(), lambda text: resolve(text, environ))
    with pytest.raises(DataError, match="no traffic is kept"):
        connector.head(1)


def test_who_reads_the_rows_stands_where_the_fingerprint_stood(home, traffic, tmp_path):
    from luthier.core.testing import FakeContext
    from luthier.data.preparation import Preparation
    from luthier.data.prepare import PrepareSpec
    from luthier.data.reading import Job, read_part

    for n in range(3):
        keep(traffic, n)
        judge(traffic, n, rating=1.0)
    pinned = source(home).pinned()
    keep(traffic, 3)
    judge(traffic, 3, rating=1.0)
    judge(traffic, 0, rating=-1.0)
    spec = PrepareSpec.model_validate({"data": {"sources": [{"traffic": "router"}]}})
    at = FakeContext(tmp_path, root=tmp_path, environ={"LUTHIER_HOME": str(home)})
    preparation = Preparation(spec, tmp_path / "out", tmp_path / "work", at, pins={"source.0": pinned})
    for job, part in preparation._work():
        there = Job.from_plain(json.loads(json.dumps(job.plain())))  # as another process has it
        assert there.connect().pinned() == pinned
        told = [row for found in read_part(there, part) for row in found.records.to_pylist()]
        assert [(row["origin"], row["rating"]) for row in told] == [
            (f"router?id=chatcmpl-{n}", 1.0) for n in range(3)
        ]
        traffic.remove(ids=["chatcmpl-1"])
        with pytest.raises(DataError, match="removed"):
            list(read_part(there, part))
