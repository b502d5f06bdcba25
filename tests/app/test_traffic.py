"""From what was asked and answered, judged by people, to rows that a model learns from."""

import json
from types import SimpleNamespace

import pytest

from luthier.app.retention import Retention
from luthier.core.errors import DataError, StoreError
from luthier.monitoring.rows import right

RECIPE = """
name: router
base: {base}
task: {{kind: classify, instruction: "Which queue?", labels: [billing, delivery]}}
data:
  sources:
    - {{traffic: router}}
  split: {{validation: 0, test: 0.34}}
"""


BILLING = {"text": "billing", "refusal": None}


def _fails(**_):
    raise StoreError("the disk is gone.")


def said(workshop, *words):
    result = workshop.luthier(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def capture(workshop, n=6):
    from luthier.app.app import App

    app = App.open({"LUTHIER_HOME": str(workshop.home)})
    keeper = app.traffic.capture(1.0)
    for i in range(n):
        keeper.keep(
            id=f"chatcmpl-{i}", name="router", release="router@1", digest="d" * 64, key_id="k", user_sha256=None,
            messages=[{"role": "user", "content": f"where is parcel {'abcdef'[i]}, I wrote from me{i}@firm.com"}], answers=[BILLING],
            probability=0.6, asked_to=False,
        )  # fmt: skip
    return app


def test_feedback_of_a_file_becomes_rows_of_a_dataset(workshop, tiny_base):
    app = capture(workshop)
    workshop.write(
        "labels.csv",
        "id,rating,correction\nchatcmpl-0,1,\nchatcmpl-1,-1,delivery\nchatcmpl-2,-1,\nchatcmpl-9,1,\n",
    )
    done = said(workshop, "traffic", "feedback", workshop.folder / "labels.csv", "--by", "support")
    assert done == {"judged": 3, "unknown": 1}
    recipe = workshop.write("recipe.yaml", RECIPE.format(base=tiny_base))
    told = said(workshop, "data", "prepare", recipe)
    folder = app.store.folder(app.store.catalog.get(told["dataset"]))
    import pyarrow.parquet as pq

    rows = [
        row for side in ("train", "test") for row in pq.read_table(folder / f"{side}.parquet").to_pylist()
    ]
    assert sorted((row["label"], row["rating"]) for row in rows) == [
        ("billing", 0.0),
        ("billing", 1.0),
        ("delivery", 1.0),
    ]
    assert all("[EMAIL_1]" in row["messages"][-2]["content"] for row in rows)
    assert {row["origin"] for row in rows} == {f"router?id=chatcmpl-{n}" for n in range(3)}


LOOK = {
    "type": "function",
    "function": {"name": "parcel", "description": "Ask ops@firm.com.", "parameters": {"type": "object"}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "parcel", "arguments": '{"of": "jo@firm.com", "n": 3}'},
}
PLAIN = """
name: desk
base: {base}
data:
  sources:
    - {{traffic: {{name: desk, only: all}}}}
  split: {{validation: 0, test: 0.34}}
"""


def test_an_exchange_with_tools_is_kept_without_private_values_and_becomes_a_row_with_tools(
    workshop, tiny_base
):
    app = capture(workshop, 0)
    facts = {
        "name": "desk",
        "release": "desk@1",
        "digest": "d" * 64,
        "key_id": "k",
        "user_sha256": None,
        "probability": None,
    }
    asked = {"role": "user", "content": "where is what jo@firm.com sent?"}
    again = [
        asked,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "with jo@firm.com", "tool_call_id": "call_1"},
    ]
    keep = app.traffic.capture(1.0).keep
    called = {"text": "", "refusal": None, "tool_calls": [CALL]}
    assert keep(id="chatcmpl-1", messages=[asked], answers=[called], tools=[LOOK], asked_to=False, **facts)
    last = {"text": "at your door", "refusal": None}
    assert keep(id="chatcmpl-2", messages=again, answers=[last], tools=[LOOK], asked_to=False, **facts)
    assert keep(
        id="chatcmpl-0",
        messages=[{"role": "user", "content": "hello"}],
        answers=[last],
        asked_to=False,
        **facts,
    )

    kept = app.traffic.show("chatcmpl-2").exchange
    assert "firm.com" not in repr(kept)
    masked = {**CALL, "function": {"name": "parcel", "arguments": '{"of":"[EMAIL_1]","n":3}'}}
    assert [one.get("tool_calls") for one in kept.messages] == [None, [masked], None]
    assert kept.messages[2] == {"role": "tool", "content": "with [EMAIL_1]", "tool_call_id": "call_1"}
    shown = workshop.luthier("traffic", "show", "chatcmpl-1").output
    assert "tools: parcel" in shown and 'answer: parcel({"of":"[EMAIL_1]","n":3})' in shown

    told = said_of(workshop, tiny_base)
    roles = sorted([turn["role"] for turn in row["messages"]] for row in told)
    assert roles == [["user", "assistant"], ["user", "call"], ["user", "call", "tool", "assistant"]]
    assert sorted(bool(row["tools"]) for row in told) == [False, True, True]

    better = {"function": {"name": "parcel", "arguments": {"of": "al@firm.com", "n": 4}}}
    workshop.write("calls.jsonl", json.dumps({"id": "chatcmpl-1", "tool_calls": [better]}) + "\n")
    said(workshop, "traffic", "feedback", workshop.folder / "calls.jsonl")
    shown = workshop.luthier("traffic", "show", "chatcmpl-1").output
    assert 'correction: parcel({"of":"[EMAIL_2]","n":4})' in shown  # not the one that was called for
    assert right(app.traffic.show("chatcmpl-1")) is None  # jo's, or another's: nobody knows any more
    assert not [one for one in said_of(workshop, tiny_base) if one["origin"].endswith("chatcmpl-1")]

    better = {"function": {"name": "parcel", "arguments": {"of": "all", "n": 4}}}
    judged = [
        {"id": "chatcmpl-1", "rating": -1, "tool_calls": [better]},
        {"id": "chatcmpl-2", "rating": 1, "tool_calls": None},
    ]
    workshop.write("calls.jsonl", "".join(json.dumps(one) + "\n" for one in judged))
    assert said(workshop, "traffic", "feedback", workshop.folder / "calls.jsonl") == {
        "judged": 2,
        "unknown": 0,
    }
    shown = workshop.luthier("traffic", "show", "chatcmpl-1").output
    assert 'correction: parcel({"of":"all","n":4})' in shown and "rated -1, corrected" in shown
    assert right(app.traffic.show("chatcmpl-1")) == 0.0 and right(app.traffic.show("chatcmpl-2")) == 1.0
    [row] = [one for one in said_of(workshop, tiny_base) if one["origin"].endswith("chatcmpl-1")]
    assert json.loads(row["messages"][-1]["content"])["arguments"] == {"of": "all", "n": 4}
    same = json.dumps([{"name": "parcel", "arguments": {"n": 3.0, "of": "[EMAIL_1]"}}]).replace('"', '""')
    workshop.write("calls.csv", f'id,tool_calls\nchatcmpl-1,"{same}"\n')
    said(workshop, "traffic", "feedback", workshop.folder / "calls.csv")
    assert right(app.traffic.show("chatcmpl-1")) == 1.0  # what was called after all


def said_of(workshop, tiny_base):
    import pyarrow.parquet as pq

    told = said(workshop, "data", "prepare", workshop.write("desk.yaml", PLAIN.format(base=tiny_base)))
    from luthier.app.app import App

    store = App.open({"LUTHIER_HOME": str(workshop.home)}).store
    folder = store.folder(store.catalog.get(told["dataset"]))
    return [
        row for side in ("train", "test") for row in pq.read_table(folder / f"{side}.parquet").to_pylist()
    ]


def test_texts_hidden_in_arguments_are_found_and_too_many_are_not_kept(workshop):
    app = capture(workshop, 0)
    facts = {
        "name": "desk",
        "release": None,
        "digest": "d" * 64,
        "key_id": "k",
        "user_sha256": None,
        "probability": None,
    }

    def keep(n, arguments, id="call_1"):
        call = {"id": id, "type": "function", "function": {"name": "parcel", "arguments": arguments}}
        said = {"text": "", "refusal": None, "tool_calls": [call]}
        app.traffic.capture(1.0).keep(
            id=f"chatcmpl-{n}", messages=[{"role": "user", "content": "q"}], answers=[said], tools=[LOOK], asked_to=False, **facts
        )  # fmt: skip
        [kept] = app.traffic.show(f"chatcmpl-{n}").exchange.answers[0]["tool_calls"]
        return kept

    escaped = keep(1, '{"to": "jo\\u0040firm.com"}')["function"]["arguments"]
    assert json.loads(escaped) == {"to": "[EMAIL_1]"}
    key, number = json.loads(
        keep(2, '{"jo@firm.com": {"card": 4111111111111111}}')["function"]["arguments"]
    ).popitem()
    assert key == "[EMAIL_1]" and "4111" not in str(number)
    assert "jo@firm.com" not in keep(3, "{}", id="jo@firm.com")["id"]
    assert "jo@firm.com" not in keep(4, '{"to": jo@firm.com')["function"]["arguments"]  # no JSON
    untouched = '{ "n" : 1.50, "of": "a" }'
    assert keep(5, untouched)["function"]["arguments"] == untouched
    with pytest.raises(DataError, match="6,0"):
        keep(6, json.dumps({"all": list(range(6_000))}))


def test_what_the_command_shows_and_removes(workshop):
    app = capture(workshop, 3)
    [name] = said(workshop, "traffic", "list")
    assert (name["name"], name["exchanges"], name["judged"]) == ("router", 3, 0)
    shown = workshop.luthier("traffic", "list", "router").output
    assert shown.count("chatcmpl-") == 3 and "→ billing" in shown
    assert "[EMAIL_1]" in workshop.luthier("traffic", "show", "chatcmpl-1").output
    assert said(workshop, "traffic", "remove", "--id", "chatcmpl-1", "--because", "asked to") == {
        "removed": 1
    }
    event = app.store.ledger.last(kind="traffic.removed")
    assert event.data["exchanges"] == 1 and event.data["why"] == "asked to"
    assert "chatcmpl-1" not in json.dumps(event.data)
    assert said(workshop, "traffic", "remove", "--older", "30 days") == {"removed": 0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id\nchatcmpl-0\n", "a correction, tool_calls or a comment"),
        ("id,rating\nchatcmpl-0,5\n", "not between -1 and 1"),
        ("id,rating\nchatcmpl-0,good\n", "not a number"),
        ("id,rating,choice\nchatcmpl-0,1,3\n", "no answer 3"),
        ("id,rating\nchatcmpl-0,\n", "nothing is said"),
        ("id,rating\nchatcmpl-77,1\n", "none of its 1 ids"),
        ("name,rating\nchatcmpl-0,1\n", "columns"),
        ('id,tool_calls\nchatcmpl-0,"[{""name"": ""now"", ""arguments"": {}}]"\n', "There were none"),
        ("id,tool_calls\nchatcmpl-0,now\n", "tool_calls: "),
        ("id,tool_calls\nchatcmpl-0,[]\n", "no list of calls"),
        ("id,tool_calls\nchatcmpl-0,7\n", "tool_calls: "),
    ],
)
def test_a_file_of_judgements_that_cannot_be_taken(workshop, text, told):
    app = capture(workshop, 1)
    workshop.write("labels.csv", text)
    result = workshop.luthier("traffic", "feedback", workshop.folder / "labels.csv")
    assert result.exit_code == 3 and told in result.output
    assert app.traffic.show("chatcmpl-0").rating is None


def test_words_that_cannot_be(workshop):
    assert "--capture" in workshop.luthier("serve", "router", "--keep-for", "1 day").output
    assert "not between 0 and 1" in workshop.luthier("serve", "router", "--capture", "7").output
    assert "Give --id" in workshop.luthier("traffic", "remove").output
    assert workshop.luthier("traffic", "show", "chatcmpl-nowhere").exit_code == 5


def test_what_strangers_wrote_does_not_steer_the_terminal(workshop):
    app = capture(workshop, 1)
    app.traffic.capture(1.0).keep(
        id="chatcmpl-evil", name="router", release="router@1", digest="d" * 64, key_id="k", user_sha256=None,
        messages=[{"role": "user", "content": "hello \x1b[2J\u202e there"}], answers=[{"text": "\x1b]0;title\x07", "refusal": None}], probability=0.6, asked_to=False,
    )  # fmt: skip
    for words in (["traffic", "list", "router"], ["traffic", "show", "chatcmpl-evil"]):
        told = workshop.luthier(*words).stdout
        assert "\x1b" not in told and "\x07" not in told and "\u202e" not in told
        assert "⟨U+001B⟩[2J" in told


def test_what_a_server_takes_out_by_itself_is_no_persons_act(workshop, caplog):
    app, away = capture(workshop, 2), SimpleNamespace(home="away", traffic=SimpleNamespace(remove=_fails))
    Retention(lambda: [("away", lambda: away), ("here", lambda: app)], 1e-6).step()
    assert "could not be removed from away" in caplog.text
    [entry] = [one for one in app.store.audit.read() if one.action == "traffic.removed"]
    assert entry.actor == "server" and entry.person_sha256 is None and entry.data["exchanges"] == 2
