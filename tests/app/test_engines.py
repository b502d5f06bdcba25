"""A release in another engine than the plain one: only where it says the same, and told how far it does."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from luthier.app import doctor, engine_parity
from luthier.app.app import App
from luthier.app.context import Silent
from luthier.app.engine_parity import _judge, agreed
from luthier.core.errors import ModelError, SpecError
from luthier.models import llamacpp, paged
from luthier.serving.backend import Backend
from luthier.serving.engine import Candidate, ContextLengthExceeded, Message, Refused, Request, Token
from luthier.serving.gguf_cache import PLACE
from luthier.serving.opening import Opening
from luthier.serving.package import PackageFacts
from luthier.serving.package_engine import PackageEngine

ASK = (Message("user", "Message 3: the courier again, please help."),)
NO_FACTS = PackageFacts()


class Notes(Silent):
    def __init__(self):
        self.parity = []

    def event(self, event):
        if event.kind == "parity":
            self.parity.append(event.data)


@pytest.mark.skipif(llamacpp.version() is None, reason="xllamacpp is not installed")
def test_a_release_is_served_by_llamacpp_once_it_says_what_the_plain_engine_says(ran):
    app, notes = App.open(), Notes()
    plain = app.models.engine("router")
    other = app.models.engine(
        "router", by="llamacpp", settings={"format": "f16", "threads": "1"}, watch=notes
    )
    try:
        (mine,), (theirs,) = other.engine.generate(Request(ASK)), plain.engine.generate(Request(ASK))
        assert mine.probability == pytest.approx(theirs.probability, abs=0.02)
        assert (other.by, other.digest, other.release) == ("llamacpp", plain.digest, plain.release)
        assert "f16" in other.how and "8 streams" in other.how
        assert notes.parity[0]["form"] == "llamacpp" and other.parity["labels"] < 0.02
        files = {path.suffix for path in (app.home / "cache" / "engines").iterdir() if path.name != ".lock"}
        assert files == {".gguf", ".json"}
        began = {path.name: path.stat().st_mtime_ns for path in (app.home / "cache" / "engines").iterdir()}
    finally:
        plain.engine.close()
        other.engine.close()
    again = app.models.engine("router", by="llamacpp", settings={"format": "f16", "threads": "1"})
    again.engine.close()
    assert again.parity == other.parity  # kept, and not asked for again
    assert began == {
        path.name: path.stat().st_mtime_ns for path in (app.home / "cache" / "engines").iterdir()
    }


@pytest.mark.skipif(paged.version() is None, reason="openvino-genai is not installed")
def test_a_release_is_served_by_openvino_once_it_says_what_the_plain_engine_says(ran):
    app, notes = App.open(), Notes()
    plain = app.models.engine("router")
    other = app.models.engine("router", by="openvino", settings={"threads": "1"}, watch=notes)
    try:
        (mine,), (theirs,) = other.engine.generate(Request(ASK)), plain.engine.generate(Request(ASK))
        assert mine.probability == pytest.approx(theirs.probability, abs=0.05)
        assert (other.by, other.digest, other.release) == ("openvino", plain.digest, plain.release)
        assert "8 streams" in other.how and other.parity["labels"] < 0.05
        assert notes.parity[0]["form"] == "openvino"
        [found] = doctor._engines(app.home)
        assert "kept without a bound" in found.detail
    finally:
        plain.engine.close()
        other.engine.close()


def test_an_engine_that_says_something_else_is_refused():
    told = {"top_1": 0.9, "tokens": 400, "divergence": 0.01}
    with pytest.raises(
        ModelError, match=r"the engine llamacpp does not say .* the same in 90.0% \(at least 95%\)"
    ):
        _judge(told, "llamacpp", "gguf-q8")
    with pytest.raises(ModelError, match=r"0.4 nats \(at most 0.03\)"):
        _judge({**told, "top_1": 1.0, "divergence": 0.4}, "llamacpp", "gguf-q8")
    with pytest.raises(ModelError) as caught:
        _judge(told, "openvino", "gguf-q8")
    assert "precision=f32" in str(caught.value.remedy)
    with pytest.raises(ModelError):
        _judge({**told, "tokens": 0}, "upstream", "merged")
    _judge({**told, "top_1": 0.96}, "llamacpp", "gguf-q8")


def test_labels_that_are_far_apart_are_refused():
    told = {"top_1": 1.0, "tokens": 60, "divergence": 0.0}
    # sqrt(0.02 / 2) = 0.1
    _judge({**told, "labels": 0.099}, "vllm", "merged", labels=True)
    with pytest.raises(ModelError, match=r"a label's probability differs by 0.97 \(at most 0.1\)"):
        _judge({**told, "labels": 0.97}, "vllm", "merged", labels=True)
    with pytest.raises(ModelError, match="differs by nan"):
        _judge({**told, "labels": float("nan")}, "vllm", "merged", labels=True)
    with pytest.raises(ModelError, match="no row was short enough"):
        _judge(told, "vllm", "merged", labels=True)
    _judge(told, "vllm", "merged")


def opened(tmp_path, facts=NO_FACTS, **settings):
    return Opening(
        tmp_path, None, facts, "fp32", "cpu", base_digest="b", digest="d", cache=tmp_path / "cache", settings=settings
    )  # fmt: skip


def test_an_upstream_is_asked_at_every_start_and_ours_once_a_version(tmp_path, monkeypatch):
    asked = []
    told = {"rows": 1, "tokens": 60, "top_1": 1.0, "divergence": 0.0}
    monkeypatch.setattr(engine_parity, "compared", lambda *_: asked.append(1) or told)
    at = SimpleNamespace(run="x" * 8, emit=lambda *_, **__: None)

    def starts(name, how, **settings):
        del asked[:]
        for _ in range(2):
            engine = SimpleNamespace(backend=SimpleNamespace(told=how))
            assert agreed(at, engine, opened(tmp_path, **settings), name, []) == told
        return len(asked)

    assert starts("upstream", "m at http://127.0.0.1/v1", url="http://127.0.0.1/v1", model="m") == 2
    assert not (tmp_path / "cache").exists()
    assert starts("vllm", "base in vLLM 1.0") == 1
    assert starts("vllm", "base in vLLM 1.0") == 0
    assert starts("vllm", "base in vLLM 1.1") == 1
    monkeypatch.setattr("luthier.__version__", "99")
    assert starts("vllm", "base in vLLM 1.1") == 1


class Says(Backend):
    """A model that writes nothing; `error` is what it says when labels are asked of it."""

    writes, slots, name, error = False, 1, "played", None
    template = SimpleNamespace(prompt=lambda *_, **__: [1], context=100)

    def load(self):
        pass

    def close(self):
        pass

    def score(self, prompt_ids, labels, unwanted, cache_salt=""):
        if self.error is not None:
            raise self.error
        return [math.log(0.5)] * len(labels)


def test_a_near_tie_that_turned_is_no_difference_and_a_clear_one_is():
    def said(*places):
        """Each place: what is told there, the likeliest first. The plain engine's own 0.4, 0.32 and 0.2."""
        return [
            Token(top[0], top)
            for names in places
            for top in [
                tuple(
                    Candidate(name, None, math.log(p))
                    for name, p in zip(names, (0.4, 0.32, 0.2), strict=True)
                )
            ]
        ]

    plain = said("abc", "abc", "abc")
    for told, same in (
        (said("abc", "abc", "abc"), [True, True, True]),
        (said("abc", "bac", "xyz"), [True, True]),  # 0.08 less likely; what follows is another question
        (said("cab", "abc", "abc"), [False]),  # 0.2 less likely
        (said("xab", "abc", "abc"), [False]),  # unheard of
        (said("abc"), [True, False]),  # it ended
    ):
        found: list[bool] = []
        engine_parity._steps(plain, told, found, [], 0.1)
        assert found == same
        if same == [True, True]:
            del found[:]
            engine_parity._steps(plain, told, found, [], 0.0)
            assert found == [True, False]


def test_an_engine_that_refuses_labels_does_not_start(tmp_path, monkeypatch):
    facts = PackageFacts(labels=("a", "b"), constrain=True)
    monkeypatch.setattr(
        engine_parity, "TransformersEngine", lambda *_, facts, **__: PackageEngine(Says(), facts)
    )
    what, rows, backend = opened(tmp_path, facts), [[{"role": "user", "content": "hello"}]], Says()
    engine = PackageEngine(backend, facts)
    assert engine_parity.compared(engine, what, rows)["labels"] == 0
    backend.error = Refused(
        "it tells no echo.", param="labels", code="unsupported_parameter", remedy="Use ours."
    )
    with pytest.raises(ModelError, match="cannot serve this model: it tells no echo") as caught:
        engine_parity.compared(engine, what, rows)
    assert caught.value.remedy == "Use ours."
    backend.error = ContextLengthExceeded(200, 1, 100)
    assert "labels" not in engine_parity.compared(engine, what, rows)


def test_engines_and_their_settings_are_named(ran):
    app = App.open()
    with pytest.raises(SpecError, match="there is no engine called 'lamacpp'") as caught:
        app.models.engine("router", by="lamacpp")
    assert "llamacpp" in str(caught.value.remedy)
    with pytest.raises(SpecError, match="answers from no release"):
        app.models.engine("router", by="scripted")
    with pytest.raises(SpecError, match="the engine transformers has no setting 'streams'"):
        app.models.engine("router", settings={"streams": "2"})


def test_the_doctor_tells_what_engines_keep(tmp_path):
    assert doctor._engines(tmp_path) == []
    (tmp_path / PLACE).mkdir(parents=True)
    (tmp_path / PLACE / "a.gguf").write_bytes(b"x" * 2_000_000)
    [found] = doctor._engines(tmp_path)
    assert found.state == "ok" and "2.0 MB" in found.detail and PLACE in found.detail


def test_settings_are_written_once_and_with_a_value(ran):
    for words, told in ((["streams"], "names no value"), (["a=1", "a=2"], "is given twice")):
        options = [word for one in words for word in ("--engine-set", one)]
        found = ran.luthier("serve", "router", *options)
        assert found.exit_code == 2 and told in found.output
