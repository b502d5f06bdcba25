"""Tools: how calls are read, what is refused, and that rules reach into arguments without breaking them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import plugin
from luthier.data.connectors.protocol import Block
from luthier.data.json_text import dumps
from luthier.data.mapping import Layout, to_records
from luthier.data.maps import MapSpec
from luthier.data.opened import Opened
from luthier.data.records import RECORD, TURNS, content_ids
from luthier.data.shapes import detect
from luthier.data.testing import run
from luthier.data.tools import chat, said

from .conftest import Prepare

Jsonl = Callable[..., str]


def tool(name: str, **properties: str) -> dict[str, Any]:
    kinds = {key: {"type": kind} for key, kind in properties.items()}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": {"type": "object", "properties": kinds}}}  # fmt: skip


def call(name: str, given_: dict[str, Any], id_: str = "call_1") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(given_)}}


def calls(*told: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(told)}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def result(text: str, id_: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": text}


MATHS, WEATHER, SEND = tool("area", base="integer", height="integer"), tool("weather", city="string"), tool("send", to="string", body="string")  # fmt: skip
# Like BFCL's categories, made by hand: simple, multiple, parallel, several turns, and one where no tool fits.
FIXTURE: list[dict[str, Any]] = [
    {"tools": [MATHS], "messages": [user("Area of a triangle, base 10, height 5?"), calls(call("area", {"base": 10, "height": 5}))]},
    {"tools": [MATHS, WEATHER], "messages": [user("Is it raining in Oslo?"), calls(call("weather", {"city": "Oslo"}), content="Let me look.")]},
    {"tools": [WEATHER], "messages": [user("Oslo or Bergen?"), calls(call("weather", {"city": "Oslo"}, "a"), call("weather", {"city": "Bergen"}, "b")),
                                      result("dry", "a"), result("rain", "b"), answer("Only in Bergen.")]},
    {"tools": [SEND, WEATHER], "messages": [{"role": "system", "content": "Be kind."}, user("Tell Ann the weather."), calls(call("weather", {"city": "Bonn"}, "x")),
                                            result("sun", "x"), calls(call("send", {"to": "ann@example.org", "body": "Sun!"}, "y")), result("", "y"), answer("Done.")]},
    {"tools": [MATHS], "messages": [user("Who wrote Faust?"), answer("Goethe did.")]},
    {"tools": None, "messages": [user("Hello"), answer("Hi")]},
]  # fmt: skip
WISH = MapSpec(messages="messages", tools="tools")


def read(
    rows: list[dict[str, Any]], wish: MapSpec = WISH, keys: tuple[str, str] = ("role", "content")
) -> Any:
    layout = Layout(wish, keys, False, "t", 1.0)
    columns = {name: [row.get(name) for row in rows] for name in layout.columns}
    return to_records(Block(columns, "t.jsonl", range(1, len(rows) + 1)), layout)


def roles(record: dict[str, Any]) -> list[str]:
    return [turn["role"] for turn in record["messages"]]


def test_calls_and_answers_are_turns_of_their_own() -> None:
    batch, bad = read(FIXTURE)
    assert bad.reasons == []
    rows = batch.to_pylist()
    assert [roles(row) for row in rows] == [
        ["user", "call"],
        ["user", "assistant", "call"],
        ["user", "call", "call", "tool", "tool", "assistant"],
        ["system", "user", "call", "tool", "call", "tool", "assistant"],
        ["user", "assistant"],
        ["user", "assistant"],
    ]
    assert rows[0]["messages"][1]["content"] == '{"name":"area","arguments":{"base":10,"height":5}}'
    assert json.loads(rows[1]["tools"]) == [MATHS, WEATHER] and rows[5]["tools"] is None


def test_what_a_template_is_given_is_what_was_read() -> None:
    batch, _ = read(FIXTURE)
    for row, record in zip(FIXTURE, batch.to_pylist(), strict=True):
        messages, tools = said(record)
        assert tools == row["tools"]
        ours = [one["id"] for message in messages for one in message.get("tool_calls", ())]
        assert ours == [m["tool_call_id"] for m in messages if m["role"] == "tool"] or messages[-1].get(
            "tool_calls"
        )
        given_ids = dict(
            zip((one["id"] for m in row["messages"] for one in m.get("tool_calls", ())), ours, strict=True)
        )
        wanted = json.loads(json.dumps(row["messages"]))
        for message in wanted:
            for one in message.get("tool_calls", ()):
                one["function"]["arguments"] = json.loads(one["function"]["arguments"])
            for one in [*message.get("tool_calls", ()), *([message] if message["role"] == "tool" else [])]:
                name = "id" if "id" in one else "tool_call_id"
                one[name] = given_ids.setdefault(one[name], f"call{len(given_ids)}")
            message["content"] = message["content"] or ""
        assert messages == wanted


def test_ids_of_rows_without_tools_stay_what_they_are() -> None:
    """The number was taken before there were tools."""
    messages = pa.array([[user("q"), answer("a")]], TURNS)
    none = pa.nulls(1, pa.string())
    [known] = content_ids(messages, none).to_pylist()
    assert known == "e5e0708a310b2c6c1ae5bdd9f8755cc2"
    assert content_ids(messages, none, none, pa.nulls(1, pa.float64()), none).to_pylist() == [known]
    assert content_ids(messages, none, tools=pa.array(["[]"])).to_pylist() != [known]
    plain, _ = read([{"messages": [user("q"), answer("a")]}], MapSpec(messages="messages"))
    beside, _ = read([{"messages": [user("q"), answer("a")], "tools": []}])
    assert plain["id"].to_pylist() == beside["id"].to_pylist() == [known]


def test_sharegpt_parquet_and_json_text_say_the_same(tmp_path: Path) -> None:
    share = [
        {"from": "human", "value": "Oslo?"},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})},
        {"from": "observation", "value": "dry"},
        {"from": "gpt", "value": "Dry."},
    ]
    told = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
    }
    openai = [user("Oslo?"), told, {"role": "tool", "content": "dry"}, answer("Dry.")]
    rows = [
        read([{"messages": share, "tools": json.dumps([WEATHER])}], keys=("from", "value"))[0],
        read([{"messages": openai, "tools": [WEATHER["function"]]}])[0],
        read([{"messages": json.dumps(openai), "tools": json.dumps([WEATHER])}])[0],
    ]
    assert len({tuple(map(str, batch.drop_columns(["origin"]).to_pylist())) for batch in rows}) == 1
    pq.write_table(pa.Table.from_pylist(FIXTURE), tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    columns = {name: table[name].combine_chunks() for name in ("messages", "tools")}
    typed, bad = to_records(
        Block(columns, "t", range(1, 7)), Layout(WISH, ("role", "content"), False, "t", 1.0)
    )
    assert bad.reasons == []
    plain = read(FIXTURE)[0]
    assert [roles(row) for row in typed.to_pylist()] == [roles(row) for row in plain.to_pylist()]
    assert typed["id"].to_pylist()[4:] == plain["id"].to_pylist()[4:]


@pytest.mark.parametrize(
    ("messages", "tools", "reason"),
    [
        ([user("q"), calls(call("nope", {}))], [WEATHER], "it calls 'nope', which is none of its tools (weather)"),
        ([user("q"), calls(call("weather", {}))], None, "none of its tools (none)"),
        ([user("q"), calls({"id": "a", "function": {"name": "weather", "arguments": "{oops"}})], [WEATHER], "the arguments of 'weather' are no JSON"),
        ([user("q"), calls({"id": "a", "function": {"name": "weather", "arguments": "[1]"}})], [WEATHER], "are no object"),
        ([user("q"), calls(call("weather", {})), answer("a")], [WEATHER], "the call 'call_1' has no answer"),
        ([user("q"), calls(call("weather", {}, "a"), call("weather", {}, "b")), result("x", "a"), answer("a")], [WEATHER], "the call 'b' has no answer"),
        ([user("q"), result("x"), answer("a")], [WEATHER], "a tool answers, and nothing was asked of it"),
        ([user("q"), calls(call("weather", {})), result("x", "other"), answer("a")], [WEATHER], "answers the call 'other', which is not there"),
        ([user("q"), calls(call("weather", {}), call("weather", {}))], [WEATHER], "two calls have the id 'call_1'"),
        ([user("q"), {**user("r"), "tool_calls": [call("weather", {})]}, answer("a")], [WEATHER], "only the assistant may"),
        ([user("q"), answer("a")], [{"type": "function"}], "a tool has no name"),
        ([user("q"), answer("a")], [WEATHER, WEATHER], "two tools have the name 'weather'"),
        ([user("q"), answer("a")], "not json", "it is not valid JSON"),
        ([user("q"), calls(call("weather", {})), result("x")], [WEATHER], "does not end with the assistant"),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_learnt_are_told(messages: Any, tools: Any, reason: str) -> None:
    batch, bad = read([FIXTURE[0], {"messages": messages, "tools": tools}, FIXTURE[1]])
    assert len(batch) == 2 and bad.origins == ["t.jsonl:2"]
    assert reason in bad.reasons[0]


def test_calls_are_never_dropped_where_tools_are_not_mapped() -> None:
    _, bad = read([FIXTURE[1]], MapSpec(messages="messages"))
    assert bad.reasons == ["'messages' calls a tool; say which there are, as in map: {tools: tools}"]


def test_a_column_of_tools_is_recognised() -> None:
    assert detect(["messages", "tools"], FIXTURE, "t").map == WISH
    assert (
        detect(
            ["messages", "tools"], [{"messages": FIXTURE[4]["messages"], "tools": "hammer"}], "t"
        ).map.tools
        is None
    )


PRIVATE = {
    "tools": [SEND],
    "messages": [
        user("Write to her."),
        calls(call("send", {"to": "ann@example.org", "body": 'Say "hi" to ann@example.org', "card": 4111111111111111, "list": [{"at": "ann@example.org"}]})),
        result("sent to ann@example.org"),
        answer("Done."),
    ],
}  # fmt: skip


def test_redact_reaches_into_arguments_and_leaves_json() -> None:
    batch, _ = read([PRIVATE, FIXTURE[5]])
    after = run("redact", batch)
    [first, second] = after.batch.to_pylist()
    told = json.loads(first["messages"][1]["content"])
    assert set(told["arguments"]) == {"to", "body", "card", "list"} and told["name"] == "send"
    assert "ann@example.org" not in dumps(first["messages"]) and "4111111111111111" not in dumps(
        first["messages"]
    )
    assert isinstance(told["arguments"]["card"], str) and told["arguments"]["body"].startswith('Say "hi" to ')
    assert second["messages"] == read([FIXTURE[5]])[0].to_pylist()[0]["messages"]


@pytest.mark.parametrize(
    "name", [n for n in plugin.names("rule") if n in ("normalize", "drop_empty", "mojibake", "html", "redact", "turns", "repetition", "injection", "toxicity")]
)  # fmt: skip
def test_rules_leave_calls_valid_and_keep_good_rows(name: str) -> None:
    odd = 'a &quot;b&quot; &amp; "c" <b>d</b> \u201cquoted\u201d\u00a0e\\n '
    rows = [
        *FIXTURE,
        {
            "tools": [SEND],
            "messages": [
                user("Please send it now."),
                calls(call("send", {"to": odd, "body": "", "n": 1.50})),
            ],
        },
    ]
    batch, _ = read(rows)
    after = run(name, batch)
    assert after.removed == [None] * len(rows)
    for before, record in zip(batch.to_pylist(), after.batch.to_pylist(), strict=True):
        assert roles(record) == roles(before)
        for old, new in zip(before["messages"], record["messages"], strict=True):
            if new["role"] == "call":
                was, told = json.loads(old["content"]), json.loads(new["content"])
                assert (told["name"], list(told["arguments"])) == (was["name"], list(was["arguments"]))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), min_size=1, max_size=4))
def test_opening_and_closing_changes_nothing(arguments: list[dict[str, Any]]) -> None:
    rows = [{"tools": [SEND], "messages": [user("q"), calls(call("send", one))]} for one in arguments]
    batch, bad = read([*rows, FIXTURE[5], FIXTURE[2]])
    assert bad.reasons == []
    assert Opened(batch).close().equals(batch)
    opened = Opened(batch)
    opened.edit(opened.text)
    assert opened.close().equals(batch)
    turned = Opened(batch)
    turned.edit(turned.text.str.to_uppercase())
    for record in turned.close().to_pylist():
        for turn in record["messages"]:
            if turn["role"] == "call":
                json.loads(turn["content"])


def test_a_dataset_with_tools_is_prepared(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = [json.loads(json.dumps(row).replace("Oslo", f"Oslo {n}").replace("Hello", f"Hello {n}").replace("Faust", f"Faust {n}")
            .replace("Tell Ann", f"Tell Ann {n}").replace("triangle", f"triangle {n}")) for n in range(20) for row in FIXTURE]  # fmt: skip
    rules = {"quality": ["normalize", "drop_empty", "turns", "deduplicate"]}
    found = prepare({"sources": [{"files": jsonl(rows)}], "rules": rules})
    assert found.summary["removed"] == 0
    assert {tuple(roles(row)) for row in found.rows()} == {
        tuple(roles(row)) for row in read(FIXTURE)[0].to_pylist()
    }
    assert set(pq.read_schema(found.out / "train.parquet").names) == set(RECORD.names) - {"kept"}
    assert all(chat(row["messages"]) for row in found.rows())


# pairs

PROMPT = FIXTURE[2]["messages"][:4]
PAIR = {
    "tools": [WEATHER],
    "chosen": [*PROMPT, answer("Only in Bergen.")],
    "rejected": [*PROMPT, answer("In both.")],
}
PAIRED = MapSpec(chosen="chosen", rejected="rejected", tools="tools")
APART = MapSpec(messages="prompt", chosen="chosen", rejected="rejected", tools="tools")


@pytest.mark.parametrize(
    ("row", "wish"),
    [
        (PAIR, PAIRED),
        ({"tools": [WEATHER], "prompt": PROMPT, "chosen": [answer("Only in Bergen.")], "rejected": [answer("In both.")]}, APART),
        ({"tools": [WEATHER], "prompt": PROMPT, "chosen": "Only in Bergen.", "rejected": "In both."}, APART),
        ({"tools": [WEATHER], "prompt": PROMPT, "chosen": PAIR["chosen"], "rejected": PAIR["rejected"]}, APART),
        ({"tools": json.dumps([WEATHER]), "prompt": json.dumps(PROMPT), "chosen": json.dumps([answer("Only in Bergen.")]), "rejected": "In both."}, APART),
        ({"tools": [WEATHER], "prompt": PAIR["chosen"], "rejected": "In both."}, MapSpec(messages="prompt", rejected="rejected", tools="tools")),
    ],
)  # fmt: skip
def test_pairs_with_calls_before_the_answer_are_one_record_however_they_are_written(
    row: dict[str, Any], wish: MapSpec
) -> None:
    batch, bad = read([row], wish)
    assert bad.reasons == []
    [record] = batch.to_pylist()
    assert roles(record) == ["user", "call", "call", "tool", "tool", "assistant"]
    assert record["rejected"] == "In both." and json.loads(record["tools"]) == [WEATHER]
    [plain] = read([{**PAIR, "messages": PAIR["chosen"]}])[0].to_pylist()
    assert record["messages"] == plain["messages"] and record["id"] != plain["id"]
    assert record["id"] == read([PAIR], PAIRED)[0].to_pylist()[0]["id"]


def test_the_better_answer_may_call_where_the_worse_one_talks() -> None:
    better = [calls(call("weather", {"city": "Oslo"}), content="Let me look.")]
    row = {
        "tools": [WEATHER],
        "prompt": [user("Is it raining in Oslo?")],
        "chosen": better,
        "rejected": "Surely.",
    }
    batch, bad = read([row], APART)
    assert bad.reasons == [] and roles(batch.to_pylist()[0]) == ["user", "assistant", "call"]
    assert batch.to_pylist()[0]["rejected"] == "Surely."


@pytest.mark.parametrize(
    ("rejected", "why"),
    [
        ([*PROMPT[:1], answer("Both.")], "differs from the chosen conversation before its last answer"),
        ([user("Oslo or Bergen?"), calls(call("weather", {"city": "Rome"}))], "ends with a call, and a rejected answer is read as text alone"),
        ([user("Oslo or Bergen?")], "does not end with the assistant"),
        ([*PROMPT[:1], calls(call("area", {"base": 1})), result("1"), answer("x")], "which is none of its tools"),
        ([], "the rejected answer is missing"),
        (None, "the rejected answer is missing"),
    ],
)  # fmt: skip
def test_a_pair_that_is_none_says_why(rejected: Any, why: str) -> None:
    _, bad = read([{**PAIR, "rejected": rejected}], PAIRED)
    assert len(bad.reasons) == 1 and why in bad.reasons[0]


def test_pairs_with_tools_are_recognised_and_come_back_from_the_layout_they_are_written_in() -> None:
    from luthier.data.convert import row_of

    found = detect(list(PAIR), [PAIR], "t")
    assert found.name == "preference" and found.map == PAIRED and "tools they may call" in found.reason
    [record] = read([PAIR], PAIRED)[0].to_pylist()
    written = json.loads(json.dumps(row_of(record, "preference")))
    again = detect(list(written), [written], "t")
    assert again.map == APART
    [back] = read([written], again.map)[0].to_pylist()
    assert {k: v for k, v in back.items() if k != "origin"} == {
        k: v for k, v in record.items() if k != "origin"
    }


def test_tools_beside_columns_of_text_are_refused() -> None:
    with pytest.raises(ValueError, match="tools belong to lists of messages"):
        MapSpec(user="q", chosen="a", rejected="b", tools="tools")
    with pytest.raises(ValueError, match="tools belong to lists of messages"):
        MapSpec(text="q", tools="tools")


def _calling(n: int, given_: dict[str, Any], *tools: dict[str, Any]) -> dict[str, Any]:
    asked = f"Please do number {n // 2} of the many things that we have on our list for today."
    return {"tools": list(tools or (SEND, MATHS)), "messages": [user(asked), calls(call("send", given_))]}


@pytest.mark.parametrize("rule", ["deduplicate", "near_duplicates"])
def test_rows_that_call_otherwise_are_not_the_same(prepare: Prepare, jsonl: Jsonl, rule: str) -> None:
    """Pairs that ask the same, and of which a list of the texts in them would say the same."""
    pairs = [
        ({"to": "a", "body": True}, {"to": "a", "body": False}),
        ({"to": "Paris", "body": "Rome"}, {"to": "Rome", "body": "Paris"}),
        ({"to": "a", "body": []}, {"to": "a", "body": None}),
        ({"to": "a", "body": 1}, {"to": "a", "body": 2}),
    ]
    rows = [_calling(2 * n + k, pair[k]) for n, pair in enumerate(pairs) for k in (0, 1)]
    rows += [_calling(8, {"to": "b"}), _calling(8, {"to": "b"}, SEND), _calling(10, {"to": "c", "body": "d"})]
    rows += [_calling(10, {"body": "d", "to": "c"})]  # the same, whatever the order of its keys
    split = {"validation": 0, "test": 0}
    done = prepare(
        {"sources": [{"files": jsonl(rows)}], "rules": {"quality": [rule]}, "split": split}, {"kind": "chat"}
    )
    assert len(done.rows()) == len(rows) - 1
    assert done.rule(rule)["removed"] == 1


def test_rows_that_ask_the_same_and_call_otherwise_are_told(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = [_calling(0, {"to": "a", "body": True}), _calling(1, {"to": "a", "body": False})]
    rows += [_calling(n, {"to": str(n)}) for n in range(2, 40, 2)]
    split = {"validation": 0, "test": 0}
    done = prepare(
        {"sources": [{"files": jsonl(rows)}], "rules": {"quality": ["deduplicate"]}, "split": split},
        {"kind": "chat"},
    )
    assert done.rule("deduplicate")["removed"] == 0
    assert done.rule("deduplicate")["notes"][0].startswith("1 inputs stand there with more than one answer")


def test_everything_of_a_row_is_long_and_may_insult(prepare: Prepare, jsonl: Jsonl) -> None:
    def row(n: int, told: str) -> dict[str, Any]:
        talk = [
            user(f"Send it, number {n}."),
            calls(call("send", {"to": "a"})),
            result(told),
            answer("Done."),
        ]
        return {"tools": [SEND], "messages": talk}

    file = jsonl([row(n, "x" * 2_000 if n == 3 else "you idiot" if n == 5 else "sent") for n in range(30)])
    rules = {"quality": [{"length": {"max": 1_000, "on": "all"}}, "toxicity"]}
    done = prepare({"sources": [{"files": file}], "rules": rules}, {"kind": "chat"})
    assert {one["origin"] for one in done.removed()} == {"rows.jsonl:4", "rows.jsonl:6"}
