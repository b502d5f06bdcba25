"""Votes, confidence and when another model is asked; without any model."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError, SpecError
from luthier.core.spec import parse, read_yaml
from luthier.outputs.answering import Answering, Sample, draws, vote
from luthier.outputs.calibration import Belief, as_sure, tempered, warmed
from luthier.outputs.chain import Outcome
from luthier.outputs.other import EndpointOther
from luthier.outputs.spec import AnsweringSpec, EndpointModelSpec, VoteSpec
from luthier.outputs.step import About

ROWS = st.lists(st.lists(st.floats(-8, 0), min_size=3, max_size=3), min_size=1, max_size=4)


def spec(**wish):
    return AnsweringSpec.model_validate(wish)


def outcomes(*texts):
    return [Outcome("", "no") if text is None else Outcome(text) for text in texts]


@pytest.mark.parametrize(
    ("said", "expected", "share", "tied"),
    [
        (["a", "b", " a"], "a", 2 / 3, False),  # blanks do not count
        (["a", "b"], "b", 1 / 2, True),  # as many, and b is likelier
        ([None, "b", None], "b", 1 / 3, False),
        (["a", "a", "b", "b", "c"], "b", 2 / 5, True),
    ],
)
def test_the_majority_after_the_steps_wins_and_a_tie_goes_to_the_likeliest(said, expected, share, tied):
    samples = [Sample(text or "bad", -2.0 if text != "b" else -1.0) for text in said]
    _, outcome, found, even = vote(samples, outcomes(*said))
    assert (outcome.text.strip(), found, even) == (expected, pytest.approx(share), tied)


def test_all_refused_is_refused_for_the_likeliest_ones_reason():
    samples = [Sample("x", -3.0), Sample("y", -1.0)]
    winner, outcome, share, _ = vote(samples, [Outcome("", "one"), Outcome("", "two")])
    assert (winner.text, outcome.refusal, share) == ("y", "two", 1.0)


def test_steps_come_before_the_vote():
    way = Answering.of(spec(answers=[{"snap": {"labels": ["yes", "no"]}}], vote={"samples": 3}))
    settled = way.settle([Sample("Yes!", -1), Sample("no", -0.1), Sample("YES", -2)], About())
    assert (settled.text, settled.raw, settled.raw_sure) == ("yes", "Yes!", pytest.approx(2 / 3))


def test_samples_follow_from_the_seed_and_the_prompt():
    wish = VoteSpec(samples=3, seed=1)
    one = draws(wish, [1, 2], 5)
    assert one.shape == (3, 5) and ((one >= 0) & (one < 1)).all()
    assert (draws(wish, [1, 2], 5) == one).all() and len(np.unique(one)) == 15
    assert (draws(wish, [1, 3], 5) != one).all()
    assert (draws(VoteSpec(samples=3, seed=2), [1, 2], 5) != one).all()


def test_who_is_asked_and_why():
    way = Answering.of(
        spec(answers=["json"], fallback={"to": "big", "below": 0.6}), Belief(knots=((0.0, 1.0), (0.2, 1.0)))
    )
    # the geometric mean 0.25 becomes 0.2 + 0.8 · 0.25 = 0.4, and 0.75 becomes 0.8
    low, high, refused = (
        way.settle([Sample(text, math.log(p))], About())
        for text, p in (("1", 0.25), ("1", 0.75), ("no json", 0.75))
    )
    assert (low.sure, high.sure) == (pytest.approx(0.4), pytest.approx(0.8))
    assert [way.asks_other(one) for one in (low, high, refused)] == ["below", None, "refused"]
    taken = way.with_other(low, "so: [2]", "below", About())
    assert (taken.text, taken.sure, taken.other, taken.raw) == ("[2]", None, "so: [2]", "1")
    # a second answer that the steps refuse does not take the place of one that may be given
    assert way.with_other(low, "nothing", "below", About()).text == "1"
    assert way.with_other(refused, "nothing", "refused", About()).refusal
    assert way.with_other(low, None, "below", About()).text == "1"


@given(ROWS, st.floats(0.1, 10))
def test_tempering_there_and_back(rows, heat):
    log = tempered(np.array(rows), 1.0)
    assert np.exp(tempered(log, heat)).sum(1) == pytest.approx(1)
    assert tempered(tempered(log, heat), 1 / heat) == pytest.approx(log, abs=1e-6)
    assert warmed(np.exp(log), heat) == pytest.approx(np.exp(tempered(log, heat)))


@given(
    st.lists(st.floats(-6, 0), min_size=3, max_size=3, unique_by=lambda x: round(x, 1)), st.floats(0.4, 0.99)
)
def test_as_sure_gives_the_winner_what_is_wanted_keeps_the_order_and_is_its_own_inverse(row, wanted):
    log = tempered(np.array([row]), 1.0)
    found = as_sure(log, np.array([wanted]))
    assert np.exp(found.max()) == pytest.approx(wanted, abs=1e-4)
    assert (np.argsort(found[0]) == np.argsort(log[0])).all()
    assert np.exp(as_sure(found, np.exp(log.max(1)))) == pytest.approx(np.exp(log), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fallback: {below: 0.5}", "who is asked"),
        ("fallback: {to: a, refused: false}", "never be asked"),
        ("fallback: {endpoint: {url: 'https://x.y/v1', model: m}}", "write allow_host: x.y"),
        ("fallback: {endpoint: {url: 'http://localhost/v1', model: m, key: abc}}", "a key is not written"),
        ("constrain: {regex: a, json_schema: auto}", "either regex or json_schema"),
        ("vote: {sample: 3}", "did you mean 'samples'"),
    ],
)
def test_what_is_written_wrongly(text, told):
    with pytest.raises(SpecError, match=told):
        parse(AnsweringSpec, read_yaml(text, "recipe.yaml"))


class Server(BaseHTTPRequestHandler):
    answers: ClassVar = []  # (status, body)
    seen: ClassVar = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers["Authorization"], body))
        status, told = self.answers.pop(0)
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.answers, Server.seen = [], []
    with HTTPServer(("127.0.0.1", 0), Server) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/v1"
        made.shutdown()
        thread.join()


def said(text, **more):
    return {"choices": [{"message": {"content": text, **more}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}  # fmt: skip


def test_a_server_is_asked_with_its_key_and_tried_again(server):
    wish = EndpointModelSpec(url=server, model="big", key="${KEY}", tries=2)
    other = EndpointOther(wish, {"${KEY}": "s3cret"}.__getitem__, ("billing", "login"), wait=lambda _: None)
    turns = [{"role": "user", "content": "why?"}]
    Server.answers = [(503, {}), (200, said("Billing.")), (200, said("neither")), (400, {"error": "no"})]
    told = other.ask(turns, 5)
    assert (told.text, told.tokens_in, told.tokens_out) == ("billing", 7, 2)
    key, body = Server.seen[-1]
    assert key == "Bearer s3cret"
    assert body == {"model": "big", "messages": turns, "max_tokens": 5, "temperature": 0.0}
    assert other.ask(turns, 5).text is None  # no label
    assert "400" in other.ask(turns, 5).why
    Server.answers = [(500, {}), (500, {})]
    with pytest.raises(DataError, match="tried 2 times") as error:
        other.ask(turns, 5)
    assert "s3cret" not in str(error.value)
