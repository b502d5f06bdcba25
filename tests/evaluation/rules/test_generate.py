"""generate: what is made, what is refused, what it costs, and that nothing is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.testing import FakeContext
from luthier.data.prepare import STAGE, PrepareSpec
from luthier.data.rules.rule import WouldAsk
from luthier.evaluation.testing import answer, said_by_user, serving

THINGS = ["invoice", "parcel", "password", "refund", "contract", "delivery", "account", "receipt"]
ROWS = [
    {
        "text": f"Where is the {thing} that I have asked for in week {n}?",
        "queue": "billing" if n % 2 else "other",
    }
    for n, thing in enumerate(THINGS * 2)
]


def otherwise(_: int, body: dict[str, Any]) -> str:
    """A paraphrase that every check lets pass."""
    words = said_by_user(body).rstrip("?").split()
    return f"Please tell me about the {words[3]} of week {words[-1]}, I wait for it"


class Made:
    def __init__(self, out: Path, at: FakeContext) -> None:
        self.at = at
        self.bytes = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
        self.train = pq.read_table(out / "train.parquet").to_pylist()
        self.held = [
            row
            for side in ("validation", "test")
            for row in pq.read_table(out / f"{side}.parquet").to_pylist()
        ]
        self.made = [row for row in self.train if row["made_from"]]
        self.rules = json.loads((out / "rules.json").read_text())
        self.removed = pq.read_table(out / "removed.parquet").to_pylist()

    @property
    def notes(self) -> str:
        return "; ".join(next(one for one in self.rules if one["rule"] == "generate")["notes"])


def spec_of(url: str, wish: dict[str, Any], **more: Any) -> PrepareSpec:
    endpoint = {"url": url, "model": "writer", "at_once": 1, "tries": 3, **wish.pop("endpoint", {})}
    who = {"model": "tiny"} if url == "tiny" else {"endpoint": endpoint}
    rules = more.pop("rules", {"quantity": [{"generate": {"n": 8, **who, **wish}}]})
    source = {"files": "rows.jsonl", "map": more.pop("map", {"user": "text", "label": "queue"})}
    split = more.pop("split", {"validation": 0, "test": 0})
    return PrepareSpec.model_validate(
        {"task": more.pop("task", {}), "data": {"sources": [source], "rules": rules, "split": split}, **more}
    )


def make(
    folder: Path,
    url: str,
    wish: dict[str, Any] | None = None,
    rows: Any = ROWS,
    home: str = "home",
    **more: Any,
) -> Made:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / f"out-{len(list(folder.iterdir()))}"
    for one in (out, folder / home, folder / "scratch"):
        one.mkdir(exist_ok=True)
    asked = Artifact("model", "k", {}, 1, {}, ())
    context = more.pop("context", {})
    at = FakeContext(folder / home, root=folder, folders={asked.digest: more.pop("tiny", folder)}, **context)
    spec = spec_of(url, wish or {}, **more)
    STAGE.function(spec, {"asked.0": asked} if url == "tiny" else {}, out, folder / "scratch", at)
    return Made(out, at)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.evaluation.asking import endpoint

    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.001)


def test_made_rows_say_what_they_are(tmp_path: Path) -> None:
    with serving(otherwise) as server:
        found = make(tmp_path, server.url, {"weight": 0.5})
    by_id = {row["id"]: row for row in found.train}
    assert len(found.made) == 8 == len(found.train) - len(ROWS)
    for row in found.made:
        parent = by_id[row["made_from"]]
        assert row["made_by"] == "generate" and row["weight"] == 0.5 and row["label"] == parent["label"]
        asked = {"messages": [{"content": parent["messages"][0]["content"]}]}
        assert row["messages"][0]["content"] == otherwise(0, asked)
        assert row["messages"][1:] == parent["messages"][1:]
    assert found.notes.startswith(
        "paraphrase by writer at 127.0.0.1, prompts 1: 8 rows of 8 that were asked for, from 8 rows"
    )
    entry = next(one for one in found.rules if one["rule"] == "generate")
    assert (entry["rows_in"], entry["added"], entry["rows_out"]) == (16, 8, 24) and len(
        entry["examples"]
    ) == 5
    [asked_] = [event.data for event in found.at.events if event.kind == "asked"]
    assert (asked_["requests"], asked_["tokens_in"], asked_["tokens_out"]) == (8, 80, 40)


def test_the_same_rows_are_drawn_in_whatever_order_they_come(tmp_path: Path) -> None:
    with serving(otherwise) as server:
        first = make(tmp_path, server.url, {"endpoint": {"at_once": 4}})
        again = make(tmp_path, server.url, rows=ROWS[::-1], home="other")
        more = make(tmp_path, server.url, {"n": 12}, home="third")
    told = [
        {(row["made_from"], row["messages"][0]["content"]) for row in one.made}
        for one in (first, again, more)
    ]
    assert told[0] == told[1] < told[2]


def test_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    with serving(otherwise) as server:
        first = make(tmp_path, server.url)
        assert server.requests == 8
        again = make(tmp_path, server.url)
        assert server.requests == 8 and again.bytes == first.bytes
        make(tmp_path, server.url, {"n": 10})
        assert server.requests == 10
        make(tmp_path, server.url, {"n": 10, "temperature": 0.2})
        assert server.requests == 20


def test_faults_that_pass_are_tried_again(tmp_path: Path) -> None:
    faults: dict[int, Any] = {
        0: (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
        1: (500, {}, b"oops"),
        2: (200, {}, b'{"choices": [{"mess'),  # broken JSON
        4: (200, {"Content-Length": "500"}, b'{"choices": []'),  # half an answer
        5: (200, {}, {"choices": []}),
        7: "silence",
        8: (200, {}, b"[1, 2]"),
    }
    with serving(lambda n, body: faults.get(n) or otherwise(n, body)) as server:
        found = make(tmp_path, server.url, {"endpoint": {"timeout": 0.2, "tries": 4}})
        assert server.requests == 8 + len(faults)
    with serving(otherwise) as server:
        plain = make(tmp_path, server.url, home="other")
    told = [sorted(row["messages"][0]["content"] for row in one.made) for one in (found, plain)]
    assert told[0] == told[1]


def test_a_server_that_stays_down_stops_the_run_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    down = (503, {}, {"error": "overloaded"})
    with serving(lambda n, body: otherwise(n, body) if n < 3 or n > 5 else down) as server:
        with pytest.raises(DataError, match=r"answers 503 \(overloaded\); tried 3 times") as error:
            make(tmp_path, server.url)
        assert "kept" in str(error.value) and server.requests == 6
        found = make(tmp_path, server.url)
        assert server.requests == 6 + 5 and len(found.made) == 8


def test_a_server_that_asks_for_too_much_patience_is_told(tmp_path: Path) -> None:
    with serving(lambda n, body: (429, {"Retry-After": "3600"}, {})) as server:
        with pytest.raises(DataError, match="asks to wait 3600 s; tried 1 times"):
            make(tmp_path, server.url)
        assert server.requests == 1


@pytest.mark.parametrize(("status", "told"), [(401, "bad key"), (404, "no such model"), (302, "")])
def test_what_no_request_can_mend_stops_at_once(tmp_path: Path, status: int, told: str) -> None:
    elsewhere = {"Location": "http://127.0.0.1:1/v1"} if status == 302 else {}
    with serving(lambda n, body: (status, elsewhere, {"error": {"message": told}})) as server:
        with pytest.raises(DataError, match=told or "another place"):
            make(tmp_path, server.url)
        assert server.requests == 1


def test_declined_questions_are_answers(tmp_path: Path) -> None:
    def script(n: int, body: dict[str, Any]) -> Any:
        return (400, {}, {"error": {"message": "filtered"}}) if n == 2 else otherwise(n, body)

    with serving(script) as server:
        found = make(tmp_path, server.url)
        assert len(found.made) == 7 and "1 were not kept: 1 declined" in found.notes
        assert make(tmp_path, server.url).bytes == found.bytes and server.requests == 8
    with serving(lambda n, body: (400, {}, {"error": {"message": "no such parameter"}})) as server:
        with pytest.raises(DataError, match="declines every request: 400: no such parameter"):
            make(tmp_path, server.url, home="other")
        assert server.requests == 5


def test_the_forecast_is_held_against_the_budget_before_anything_is_sent(tmp_path: Path) -> None:
    price = {"input": "1000 USD", "output": "2000 USD"}
    with serving(otherwise) as server:
        for budget, told in (
            ({"requests": 7}, "8 requests, and the budget is 7"),
            ({"tokens": 100}, "tokens, and the budget is 100"),
            ({"money": "0.01 USD"}, "USD, and the budget is 0.01 USD"),
        ):
            with pytest.raises(DataError, match=rf"{told}; nothing was sent"):
                make(tmp_path, server.url, {"budget": budget, "endpoint": {"price": price}})
        assert server.requests == 0
        found = make(
            tmp_path, server.url, {"budget": {"requests": 8, "money": "9 USD"}, "endpoint": {"price": price}}
        )
        [spent] = [event.data for event in found.at.events if event.kind == "asked"]
        assert spent["money"] == [(80 * 1000 + 40 * 2000) / 1e6, "USD"]
        with_budget, without = (
            make(tmp_path, server.url, wish).bytes for wish in ({"budget": {"requests": 9}}, {})
        )
        assert with_budget == without


def test_the_budget_may_run_out_in_the_middle(tmp_path: Path) -> None:
    faults = {2: (500, {}, b""), 5: (500, {}, b"")}
    with serving(lambda n, body: faults.get(n) or otherwise(n, body)) as server:
        with pytest.raises(
            DataError,
            match="the budget is used up: the next request may make it 9 requests, and the budget is 8",
        ):
            make(tmp_path, server.url, {"budget": {"requests": 8}})
        assert server.requests == 8  # two of them for nothing
        found = make(tmp_path, server.url, {"budget": {"requests": 2}})
        assert server.requests == 10 and len(found.made) == 8


def test_a_server_that_bills_more_than_it_may_is_stopped(tmp_path: Path) -> None:
    with serving(lambda n, body: (200, {}, answer(otherwise(n, body), written=5000))) as server:
        with pytest.raises(DataError, match="budget is used up"):
            make(tmp_path, server.url, {"budget": {"tokens": 9000}})
        assert server.requests == 2


def test_requests_under_way_are_bounded(tmp_path: Path) -> None:
    import time

    def slow(n: int, body: dict[str, Any]) -> str:
        time.sleep(0.02)
        return otherwise(n, body)

    with serving(slow) as server:
        make(tmp_path, server.url, {"n": 16, "endpoint": {"at_once": 3}})
    assert 1 < server.most_at_once <= 3


def test_a_killed_run_pays_only_for_the_rest(tmp_path: Path) -> None:
    """The fourth request kills who asks: it alone is lost."""
    victim: list[int] = []

    def script(n: int, body: dict[str, Any]) -> str:
        if n == 3:
            os.kill(victim[0], signal.SIGKILL)
        return otherwise(n, body)

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "import importlib.util, importlib\n"
        "made = importlib.import_module('tests.evaluation.rules.test_generate')\n"
        "made.make(Path(sys.argv[1]), sys.argv[2])\n"
    )
    with serving(script) as server:
        root = str(Path(__file__).parents[3])
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url, root])
        victim.append(child.pid)
        assert child.wait(60) == -signal.SIGKILL
        assert server.requests == 4
        found = make(tmp_path, server.url)
        assert server.requests == 4 + 5 and len(found.made) == 8
        assert found.bytes == make(tmp_path, server.url, home="other").bytes


def test_two_languages_and_back(tmp_path: Path) -> None:
    def script(n: int, body: dict[str, Any]) -> str:
        system, said = body["messages"][0]["content"], said_by_user(body)
        if "into French" in system:
            return f"FR:{said}"
        assert "into English" in system and said.startswith("FR:")
        return otherwise(n, {"messages": [{"content": said.removeprefix("FR:")}]})

    with serving(script) as server:
        found = make(tmp_path, server.url, {"way": "back_translate", "pivot": "French"})
        assert server.requests == 16 and len(found.made) == 8
        with pytest.raises(DataError, match="16 requests, and the budget is 15"):
            make(
                tmp_path, server.url, {"way": "back_translate", "pivot": "Dutch", "budget": {"requests": 15}}
            )
        assert (
            make(
                tmp_path, server.url, {"way": "back_translate", "pivot": "French", "budget": {"requests": 0}}
            ).bytes
            == found.bytes
        )


def test_new_messages_follow_examples_of_their_label(tmp_path: Path) -> None:
    seen = []

    def script(n: int, body: dict[str, Any]) -> str:
        seen.append(body["messages"])
        return f"Nobody has answered my question number {n} about something else yet"

    with serving(script) as server:
        found = make(
            tmp_path,
            server.url,
            {"way": "new", "n": 4, "labels": ["billing"], "examples": 3},
            task={"kind": "classify"},
        )
    assert {row["label"] for row in found.made} == {"billing"} and len(found.made) == 4
    billing = {row["text"] for row in ROWS if row["queue"] == "billing"}
    for messages in seen:
        assert "'billing'" in messages[0]["content"] and "3 messages" in messages[0]["content"]
        shown = [part.split(":\n")[1] for part in messages[1]["content"].split("\n\n")]
        assert len(set(shown)) == 3 and set(shown) <= billing


def test_new_messages_without_labels_are_answered(tmp_path: Path) -> None:
    rows = [
        {"q": f"How do I open the {thing} drawer?", "a": f"Pull number {n}."}
        for n, thing in enumerate(THINGS)
    ]

    def script(n: int, body: dict[str, Any]) -> str:
        if len(body["messages"]) == 1:
            return f"Answer to: {said_by_user(body)}"
        return f"What happens when nobody arrives on day {n} of our holidays?"

    with serving(script) as server:
        found = make(
            tmp_path, server.url, {"way": "new", "n": 3}, rows=rows, map={"user": "q", "assistant": "a"}
        )
        assert server.requests == 6
    for row in found.made:
        assert row["messages"][1]["content"] == f"Answer to: {row['messages'][0]['content']}"


def test_what_a_model_gets_wrong_is_not_kept(tmp_path: Path) -> None:
    answers = [
        "",
        None,
        "I cannot assist with that request about week {n}.",
        "copy",
        "{n}",
        "cut",
        "Was ist mit dem {n}, das ich nicht habe und der Frage dazu?",
    ]

    def script(n: int, body: dict[str, Any]) -> Any:
        said = said_by_user(body)
        week = said.rstrip("?").split()[-1]
        told = answers[n] if n < len(answers) else otherwise(n, body)
        if told == "cut":
            return (200, {}, answer("Please tell me about", finish="length"))
        if told is None:
            return (200, {}, {"choices": [{"message": {"content": None, "refusal": "no"}}]})
        return f'"{said}"' if told == "copy" else told.replace("{n}", week)

    with serving(script) as server:
        found = make(tmp_path, server.url, {"likeness": [0, 0.9]})
    assert len(found.made) == 1
    for told in (
        "1 empty",
        "1 declined",
        "1 speaks of the task",
        "1 the same as its source",
        "1 too short",
        "1 cut off",
        "1 another language",
    ):
        assert told in found.notes
    assert "7 were not kept" in found.notes


def test_rows_stay_on_this_machine_unless_the_recipe_names_the_host() -> None:
    with pytest.raises(
        ValueError, match=r"rows would be sent to llm\.example.* write allow_host: llm\.example"
    ):
        spec_of("https://llm.example/v1", {})
    with pytest.raises(ValueError, match=r"allow_host is 'other\.example'"):
        spec_of("https://llm.example/v1", {"endpoint": {"allow_host": "other.example"}})
    spec_of("https://llm.example/v1", {"endpoint": {"allow_host": "llm.example"}})
    for here in ("http://127.0.0.1:1/v1", "http://localhost:1/v1", "http://[::1]:1/v1"):
        spec_of(here, {})
    for odd in (
        "http://127.0.0.1@llm.example/v1",
        "ftp://127.0.0.1/",
        "http://0x7f.1/v1",
        "http://127.0.0.1.llm.example/v1",
        "file:///etc/passwd",
    ):
        with pytest.raises(ValueError):
            spec_of(odd, {})
    with pytest.raises(ValueError, match="a key is not written in a recipe"):
        spec_of("http://127.0.0.1:1/v1", {"endpoint": {"key": "sk-secret"}})


def test_private_data_is_taken_out_before_rows_leave() -> None:
    who = {"n": 3, "endpoint": {"url": "https://llm.example/v1", "model": "m", "allow_host": "llm.example"}}
    with pytest.raises(
        ValueError, match=r"generate sends rows to llm\.example before redact has taken private data out"
    ):
        spec_of("", {}, rules={"quantity": [{"generate": who}, {"redact": "pii"}]})
    spec_of("", {}, rules={"quality": [{"redact": "pii"}], "quantity": [{"generate": who}]})
    here = {**who, "endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}}
    spec_of("", {}, rules={"quantity": [{"generate": here}, {"redact": "pii"}]})


def test_what_is_redacted_is_not_sent_and_keys_are_nowhere(tmp_path: Path) -> None:
    rows = [{**row, "text": row["text"].replace("?", " Write to jo@firm.com, please.")} for row in ROWS]
    with serving(lambda n, body: said_by_user(body).replace("Write to", "Do answer to")) as server:
        wish = {
            "n": 8,
            "likeness": [0, 1],
            "endpoint": {"url": server.url, "model": "w", "key": "${LLM_KEY}"},
        }
        rules = {"quality": [{"redact": "pii"}], "quantity": [{"generate": wish}]}
        found = make(
            tmp_path, server.url, rows=rows, rules=rules, context={"environ": {"LLM_KEY": "sk-very-secret"}}
        )
    assert "jo@firm.com" not in json.dumps(server.bodies) and "[EMAIL" in json.dumps(server.bodies)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-very-secret"}
    everything = b"".join(found.bytes.values()) + b"".join(
        p.read_bytes() for p in (tmp_path / "home").iterdir()
    )
    assert b"sk-very-secret" not in everything and "sk-very-secret" not in str(
        [e.data for e in found.at.events]
    )
    assert len(found.made) == 8


def test_a_plan_asks_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    with serving(otherwise) as server:
        with pytest.raises(WouldAsk) as told:
            make(tmp_path, server.url, {"budget": {"requests": 3}}, asks=False)
        assert server.requests == 0
        assert told.value.figures["requests"] == 8 and told.value.figures["tokens_in"] > 8 * 20
        assert (
            "at most 8 requests" in told.value.sentences[0]
            and "over its budget: 8 requests" in told.value.sentences[1]
        )
        made = make(tmp_path, server.url)
        assert (
            make(tmp_path, server.url, asks=False).bytes == made.bytes
        )  # all is known: there is nothing to ask


def test_made_rows_that_stand_in_held_out_rows_go(tmp_path: Path) -> None:
    """The model knows the whole file by heart, and answers the first question with what stands on the other side."""
    rows = [
        {"text": f"Where is the {a} that I have left on the {b}?", "queue": a}
        for a in THINGS
        for b in ("desk", "shelf")
    ]
    split = {"validation": 0.25, "test": 0.25}
    first = make(tmp_path, "", rows=rows, split=split, rules={})
    copied = first.held[0]["messages"][0]["content"]

    def script(n: int, body: dict[str, Any]) -> str:
        words = said_by_user(body).rstrip("?").split()
        return f" {copied.upper()} " if n == 0 else f"I miss the {words[3]}: is it still on that {words[-1]}"

    with serving(script) as server:
        wish: dict[str, Any] = {
            "n": 4,
            "likeness": [0, 0.99],
            "endpoint": {"url": server.url, "model": "writer"},
        }
        found = make(tmp_path, server.url, rows=rows, split=split, rules={"quantity": [{"generate": wish}]})
    assert len(found.made) == 3 and found.held == first.held
    assert "1 were not kept: 1 what a row that is held out says" in found.notes
    assert copied.casefold() not in {row["messages"][0]["content"].casefold() for row in found.train}
    both = {"quantity": [{"generate": wish}, "held_out", {"generate": {**wish, "seed": 1, "n": 9}}]}
    with serving(script) as server:
        wish["endpoint"]["url"] = server.url
        again = make(tmp_path, server.url, rows=rows, split=split, rules=both, home="other")
    assert (
        len({row["id"] for row in again.made}) == len(again.made) == 3
    )  # the split leaves four rows of train, all drawn twice
    assert "there already" in "; ".join(again.rules[-1]["notes"])


def test_a_local_model_writes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from luthier.models.testing import tiny_model

    tiny = tiny_model(tmp_path_factory.mktemp("writer") / "tiny")
    wish = {"likeness": [0, 1], "length": [0, 9], "max_tokens": 12, "copies": 2}
    first = make(tmp_path, "tiny", wish, tiny=tiny)
    assert "8 rows that were asked for" not in first.notes and "from 4 rows" in first.notes
    reversed_ = make(tmp_path, "tiny", wish, rows=ROWS[::-1], tiny=tiny, home="other")
    assert reversed_.notes == first.notes
    again = make(tmp_path, "tiny", wish, tiny=tiny)
    assert again.bytes == first.bytes


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"n": None}, "how many rows"),
        ({"share": 0.5}, "how many rows"),
        ({"model": "tiny"}, "somebody has to write"),
        ({"budget": {"money": "1 USD"}}, "needs a price"),
        ({"likeness": [0.9, 0.1]}, "leaves nothing"),
        ({"copies": 2, "temperature": 0}, "every copy is the same"),
        ({"way": "translate"}, "paraphrase"),
    ],
)
def test_settings_that_cannot_be_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        spec_of("http://127.0.0.1:1/v1", wish)


def test_rows_are_made_in_quantity_alone() -> None:
    with pytest.raises(ValueError, match="generate makes rows, which train alone may have"):
        spec_of("", {}, rules={"quality": [{"generate": {"n": 1, "model": "tiny"}}]})
