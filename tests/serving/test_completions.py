"""Engines behind OpenAI's completions protocol: against a server that has a tiny model, and a managed process that plays vLLM."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luthier.core.errors import ModelError, SpecError
from luthier.models.grammar import Grammar
from luthier.serving.engine import Message, Refused, Request, Unavailable
from luthier.serving.opening import Opening
from luthier.serving.package import PackageFacts
from luthier.serving.transformers_engine import TransformersEngine
from luthier.serving.upstream_engine import UpstreamEngine
from luthier.serving.vllm_engine import VllmEngine

ASK = (Message("user", "Please refund the second payment"),)
LABELS = ("nine", "eight", "delivery")
NO_FACTS = PackageFacts()


class Server(ThreadingHTTPServer):
    """Completions by the tiny model; `quirk` is how it misbehaves."""

    quirk = ""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plain = TransformersEngine(folder).backend
        self.plain.load()
        self.lock = threading.Lock()
        self.seen = []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        if self.server.quirk == "busy":
            self._whole(503, {"error": {"message": "busy"}})
        elif "logprob_token_ids" in body:
            with self.server.lock:
                self._whole(200, self._next(body))
        elif body.get("echo"):
            with self.server.lock:
                self._whole(200, self._scored(body))
        else:
            with self.server.lock:
                self._streamed(body)

    def _scored(self, body):
        from luthier.models.forward import sequence_loss
        from luthier.models.template import Encoded

        choices = []
        for n, ids in enumerate(body["prompt"]):
            told = [None] + [
                -float(
                    sequence_loss(self.server.plain._model, [Encoded(ids[: i + 1], [False] * i + [True])])[0][
                        0
                    ]
                )
                for i in range(1, len(ids))
            ]
            told = [] if self.server.quirk == "no echo" else [*told, -1.0]  # and the one that it wrote
            choices.append({"index": n, "text": "", "logprobs": {"token_logprobs": told}})
        return {"choices": choices[::-1]}

    def _next(self, body):
        """Of each prompt the next token's log-probabilities, of the tokens that were asked for."""
        import torch

        choices = []
        for n, ids in enumerate(body["prompt"]):
            with torch.inference_mode():
                logp = self.server.plain._model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            told = {f"token_id:{one}": float(logp[one]) for one in body["logprob_token_ids"]}
            told = {} if self.server.quirk == "no ids" else told
            choices.append({"index": n, "logprobs": {"top_logprobs": [told]}})
        return {"choices": choices[::-1]}

    def _streamed(self, body):
        from luthier.models.generate import generate

        plain = self.server.plain
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        steps = generate(
            plain._model, plain.template, body["prompt"], max_tokens=body["max_tokens"], temperature=body["temperature"],
            top_p=body["top_p"], seed=body["seed"], logprobs=body["logprobs"],
        )  # fmt: skip
        for step in steps:

            def name(token):
                if self.server.quirk == "texts":
                    return plain.template.tokenizer.decode([token])
                return f"token_id:{token}"

            told = {"tokens": [name(step.token_id)], "token_logprobs": [step.logprob],
                    "top_logprobs": [{name(one): p for one, p in step.top}]}  # fmt: skip
            choice = {"index": 0, "text": step.text_delta, "logprobs": told, "finish_reason": step.finish}
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            if self.server.quirk == "breaks off":
                return
        self.wfile.write(b"data: [DONE]\n\n")

    def _whole(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=160)


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()


def opening(folder, facts=NO_FACTS, adapter=None, **settings):
    return Opening(
        folder, adapter, facts, "fp32", "cpu", base_digest="b", digest=adapter.name if adapter else "b",
        cache=folder / "cache", settings=settings, secret=lambda text: "hush" if text == "${K}" else text,
    )  # fmt: skip


@pytest.fixture
def upstream(folder, server):
    def opened(facts=NO_FACTS, **more):
        url = f"http://127.0.0.1:{server.server_port}/v1"
        made = UpstreamEngine.open(opening(folder, facts, url=url, model="m", **more))
        made.load()
        return made

    yield opened
    server.quirk = ""


@pytest.fixture(scope="module")
def plain(folder):
    made = TransformersEngine(folder)
    made.load()
    return made


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def test_an_upstream_that_has_the_model_says_what_the_plain_engine_says(upstream, plain, server):
    engine = upstream(dialect="vllm", key="${K}")
    request = Request(ASK, max_tokens=12, temperature=0.0, top_logprobs=2)
    mine, theirs = list(engine.generate(request)), list(plain.generate(request))
    assert text_of(mine) == text_of(theirs)
    assert mine[-1].usage == theirs[-1].usage and mine[-1].finish == theirs[-1].finish
    told, wanted = ([t for c in chunks for t in c.tokens] for chunks in (mine, theirs))
    assert [(t.chosen.text, [o.text for o in t.top]) for t in told] == [
        (t.chosen.text, [o.text for o in t.top]) for t in wanted
    ]
    assert [t.chosen.logprob for t in told] == pytest.approx([t.chosen.logprob for t in wanted], abs=1e-5)
    path, body, key = server.seen[-1]
    assert (path, key) == ("/v1/completions", "Bearer hush")
    assert body["prompt"] == engine.backend.template.prompt(
        [ASK[0].plain()]
    )  # token ids, of our own rendering


def test_tokens_may_be_told_by_their_texts(upstream, plain, server):
    server.quirk = "texts"
    request = Request(ASK, max_tokens=6, temperature=0.0, top_logprobs=1)
    mine, theirs = (
        [token.chosen.text for chunk in engine.generate(request) for token in chunk.tokens]
        for engine in (upstream(), plain)
    )
    assert mine == theirs


def test_labels_are_compared_by_echo_or_not_at_all(upstream, plain, server):
    facts = PackageFacts(labels=LABELS, constrain=True)
    engine = upstream(facts)
    assert engine.score(ASK, LABELS) == pytest.approx(plain.score(ASK, LABELS), abs=1e-4)
    server.quirk = "no echo"
    with pytest.raises(Refused, match="does not tell the log-probabilities of a prompt"):
        list(engine.generate(Request(ASK)))


def test_labels_are_walked_where_the_server_tells_given_tokens(upstream, plain, server, monkeypatch):
    engine = upstream(PackageFacts(labels=LABELS, constrain=True), dialect="vllm")
    assert engine.score(ASK, LABELS) == pytest.approx(plain.score(ASK, LABELS), abs=1e-4)
    one = len(server.seen)
    monkeypatch.setattr("luthier.serving.completions.TOKENS_AT_ONCE", 2)  # several questions, the same answer
    assert engine.score(ASK, LABELS) == pytest.approx(plain.score(ASK, LABELS), abs=1e-4)
    assert len(server.seen) - one > 2
    server.quirk = "no ids"
    with pytest.raises(Refused, match="of given tokens"):
        engine.score(ASK, LABELS)


def test_what_goes_wrong_upstream_is_told_and_health_knows(upstream, server):
    engine = upstream()
    assert engine.health().ready
    server.quirk = "busy"
    with pytest.raises(Unavailable, match="upstream does not answer: the server answers 503"):
        next(engine.generate(Request(ASK, max_tokens=3)))
    assert not engine.health().ready and "503" in engine.health().detail
    # Not ready, nobody is sent here and nobody asks: so a fault is believed for a while only.
    engine.backend.clock = lambda: time.monotonic() + 10.1
    assert engine.health().ready
    with pytest.raises(Unavailable, match="503"):
        next(engine.generate(Request(ASK, max_tokens=3)))
    assert not engine.health().ready
    server.quirk = "breaks off"
    with pytest.raises(Unavailable, match="breaks off"):
        list(engine.generate(Request(ASK, max_tokens=3, temperature=0.0)))
    server.quirk = ""
    assert list(engine.generate(Request(ASK, max_tokens=3)))
    assert engine.health().ready
    with pytest.raises(Refused, match="cannot hold an answer"):
        next(engine.generate(Request(ASK, constrain=Grammar("regex", "a"))))


def test_a_schema_goes_to_vllm_with_the_blanks_that_it_may_have(upstream, server):
    engine = upstream(dialect="vllm")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    list(engine.generate(Request(ASK, max_tokens=2, constrain=Grammar.of_schema(schema))))
    held = server.seen[-1][1]["structured_outputs"]["json"]
    assert held["properties"] == schema["properties"]
    assert held["x-guidance"]["whitespace_pattern"].startswith("( |")
    list(engine.generate(Request(ASK, max_tokens=2, constrain=Grammar("regex", "[ab]"))))
    assert server.seen[-1][1]["structured_outputs"] == {"regex": "[ab]"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "needs url"),
        ({"url": "http://127.0.0.1/v1"}, "needs model"),
        ({"url": "http://far.example/v1", "model": "m"}, "rows would be sent to far.example"),
        ({"url": "http://far.example/v1", "model": "m", "allow_host": "far.example"}, "no rule takes private data out"),
        ({"url": "http://127.0.0.1/v1", "model": "m", "key": "sk-1"}, "a key is not written"),
        ({"url": "http://127.0.0.1/v1", "model": "m", "dialect": "latin"}, "dialect is 'latin'"),
        ({"url": "http://127.0.0.1/v1", "model": "m", "modle": "x"}, "no setting 'modle'"),
    ],
)  # fmt: skip
def test_an_upstream_is_asked_only_as_it_may_be(folder, settings, told):
    with pytest.raises(SpecError, match=told) as caught:
        UpstreamEngine.open(opening(folder, **settings))
    assert "sk-1" not in str(caught.value)


# -- vLLM's part, played ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An "interpreter" that has the fake in the place of vLLM."""
    place = tmp_path_factory.mktemp("env") / "python"
    fake = Path(__file__).with_name("fake_vllm.py")
    place.write_text(
        f'#!/bin/sh\n[ "$2" = vllm.entrypoints.openai.api_server ] || exit 3\nshift 2\nexec {sys.executable} {fake} "$@"\n'
    )
    place.chmod(0o755)
    return str(place)


def adapter(tmp_path, name, **config):
    place = tmp_path / name
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    (place / "adapter_model.safetensors").touch()
    return place


def test_vllm_serves_adapters_over_one_base_and_comes_back_with_them(folder, python, tmp_path):
    made = []
    for name in ("red", "blue"):
        engine = VllmEngine.open(opening(folder, adapter=adapter(tmp_path, name), python=python))
        engine.load()
        made.append(engine)
    server = made[0].backend._server
    assert server is made[1].backend._server
    ask = Request(ASK, max_tokens=20)
    assert [text_of(one.generate(ask)) for one in made] == ["red says", "blue says"]
    with open(f"/proc/{server.pid}/environ", "rb") as told:
        environ = dict(one.decode().split("=", 1) for one in told.read().split(b"\0") if one)
    assert environ["VLLM_NO_USAGE_STATS"] == environ["DO_NOT_TRACK"] == environ["HF_HUB_OFFLINE"] == "1"
    assert not {"LUTHIER_HOME", "AWS_SECRET_ACCESS_KEY"} & set(environ)
    with open(f"/proc/{server.pid}/cmdline", "rb") as told:
        assert server.key.encode() not in told.read()
    before = server.pid
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (
        server.pid in (None, before) or not all(one.health().ready for one in made)
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [text_of(one.generate(ask)) for one in made] == ["red says", "blue says"]
    made[0].close()
    with pytest.raises(Unavailable, match="404"):  # unloaded there
        replaced = replace(ask)
        made[1].backend._called, called = made[0].backend._called, made[1].backend._called
        list(made[1].generate(replaced))
    made[1].backend._called = called
    pid = server.pid
    made[1].close()
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_vllm_cannot_do_is_refused(folder, python, tmp_path):
    with pytest.raises(SpecError, match="needs the interpreter"):
        VllmEngine.open(opening(folder))
    with pytest.raises(SpecError, match="/nowhere"):
        VllmEngine.open(opening(folder, python="/nowhere"))
    with pytest.raises(ModelError, match="its rank 128 is above max_rank 64"):
        VllmEngine.open(opening(folder, adapter=adapter(tmp_path, "high", r=128), python=python))
    engine = VllmEngine.open(replace(opening(folder, python=python), base_folder=tmp_path / "fails"))
    from luthier.models.testing import tiny_model

    tiny_model(tmp_path / "fails")
    with pytest.raises(ModelError, match="vLLM does not start: ValueError: this model has no such layer"):
        engine.load()
