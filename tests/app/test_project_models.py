"""The engine that a server's models are answered by."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from luthier.app import answering
from luthier.app.site import Site
from luthier.core.errors import LuthierError, MissingPart, ModelError, SpecError
from luthier.models import llamacpp, paged
from luthier.models.testing import tiny_model
from luthier.serving.engine import Message, Request, Unavailable


@pytest.fixture
def site(tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    site.key = site.found()
    return site


def said(answerer):
    with closing(answerer.engine) as engine:
        told = list(engine.generate(Request((Message("user", "hello"),), max_tokens=4, temperature=0.0)))
    return "".join(one.text for one in told), engine.slots


@pytest.mark.skipif(paged.version() is None, reason="openvino-genai is not installed")
def test_models_are_answered_by_the_engine_that_was_named_and_others_by_the_plain_one(
    site, tiny_base, tmp_path, caplog
):
    odd = tiny_model(tmp_path / "odd", hidden_act="gelu")  # no GGUF file can say that
    (site.top.home / "bases.yaml").write_text(f"tiny: {tiny_base}\nodd: {odd}\n")
    caller = site.check(site.key)
    opens = site.models.opener("openvino", {"threads": "1", "streams": "3"})
    made, release = opens(site.models.find(caller, "tiny"))
    plain, _ = site.models.open(site.models.find(caller, "tiny"))
    assert (made.by, plain.by, release) == ("openvino", "transformers", None)
    (text, slots), (same, _) = said(made), said(plain)
    assert text == same and slots == 3
    made, _ = opens(site.models.find(caller, "odd"))
    assert made.by == "transformers" and said(made)[1] == 1
    [told] = [one for one in site.store.ledger.read(kind="fallback") if one.data["what"] == "engine"]
    assert "odd is answered by the plain engine, and not by openvino" in told.data["reason"]
    assert "gelu" in told.data["reason"] and told.data["reason"] in caplog.text


class Says:
    """An engine whose `open` says what it is told to."""

    error: Exception = ModelError("it has a head", remedy="x")

    @staticmethod
    def check(settings):
        pass

    @classmethod
    def open(cls, what):
        raise cls.error


@pytest.fixture
def other(monkeypatch):
    """The engine `says`, beside those that are there."""
    found = answering.load
    monkeypatch.setattr(answering, "load", lambda kind, name: Says if name == "says" else found(kind, name))
    return Says


def told(site):
    return [one.data["reason"] for one in site.store.ledger.read(kind="fallback")]


def test_what_an_engine_refused_is_not_tried_again_and_told_once(site, tiny_base, other, monkeypatch):
    (site.top.home / "bases.yaml").write_text(f"tiny: {tiny_base}\n")
    tiny = site.models.find(site.check(site.key), "tiny")
    opens = site.models.opener("says", {})
    for _ in range(2):
        made, _ = opens(tiny)
        made.engine.close()
        assert made.by == "transformers"
        monkeypatch.setattr(other, "error", AssertionError("asked again"))
    assert told(site) == ["tiny is answered by the plain engine, and not by says: it has a head"]


def test_what_may_go_better_in_a_moment_is_no_reason_for_the_plain_engine(
    site, tiny_base, other, monkeypatch
):
    (site.top.home / "bases.yaml").write_text(f"tiny: {tiny_base}\n")
    tiny = site.models.find(site.check(site.key), "tiny")
    opens = site.models.opener("says", {})
    monkeypatch.setattr(other, "error", Unavailable("its process was killed", remedy="Ask again."))
    with pytest.raises(Unavailable):
        opens(tiny)
    made, _ = opens(tiny)  # but not for ever
    made.engine.close()
    assert made.by == "transformers"
    assert told(site) == ["tiny is answered by the plain engine, and not by says: its process was killed"]


def test_what_was_refused_is_tried_again_after_a_while(site, tiny_base, other, monkeypatch):
    (site.top.home / "bases.yaml").write_text(f"tiny: {tiny_base}\n")
    tiny = site.models.find(site.check(site.key), "tiny")
    opens = site.models.opener("says", {})
    now = [0.0]
    opens.keywords["by"].clock = lambda: now[0]
    monkeypatch.setattr(other, "error", OSError(28, "No space left on device"))
    for at in (0.0, 599.0, 601.0, 1_100.0):
        now[0] = at
        made, _ = opens(tiny)
        made.engine.close()
        assert made.by == "transformers"
    assert len(told(site)) == 2 and "OSError: [Errno 28] No space left on device" in told(site)[0]


def test_a_model_that_no_engine_opens_is_not_said_to_be_answered(site, tmp_path, other):
    (site.top.home / "bases.yaml").write_text(f"bad: {tmp_path / 'none'}\n")
    with pytest.raises(LuthierError):
        site.models.opener("says", {})(site.models.find(site.check(site.key), "bad"))
    assert told(site) == []


def test_what_is_wrong_with_every_model_is_refused_before_there_is_one(site, monkeypatch):
    for engine, settings, message in (
        ("openvno", {}, "openvno"),
        ("scripted", {}, "answers from no release"),
        ("upstream", {"url": "http://127.0.0.1/v1", "model": "m"}, "has one model"),
        ("vllm", {"python": sys.executable}, "memory of a whole GPU"),
        ("vllm", {"python": "/tmp"}, "'/tmp' is none"),
        ("transformers", {"streams": "2"}, "has no setting 'streams'"),
        ("vllm", {"python": "/none"}, "'/none' is none"),
        ("openvino", {"precision": "f16"}, "precision is 'f16'"),
        ("openvino", {"streams": "0"}, "streams is '0'"),
        ("llamacpp", {"format": "q2"}, "format is 'q2'"),
        ("llamacpp", {"stream": "2"}, "has no setting 'stream'"),
    ):
        if (engine == "openvino" and paged.version() is None) or (
            engine == "llamacpp" and "format" in settings and llamacpp.version() is None
        ):
            continue
        with pytest.raises(SpecError, match=message):
            site.models.opener(engine, settings)
    monkeypatch.setattr(paged, "version", lambda: None)
    with pytest.raises(MissingPart, match="openvino"):
        site.models.opener("openvino", {})
