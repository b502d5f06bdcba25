"""A release in another engine than the plain one: only where it says the same, and told how far it does."""

from __future__ import annotations

import pytest

from luthier.app.app import App
from luthier.app.context import Silent
from luthier.app.engine_parity import _judge
from luthier.core.errors import ModelError, SpecError
from luthier.models import llamacpp
from luthier.serving.engine import Message, Request

ASK = (Message("user", "Message 3: the courier again, please help."),)


class Notes(Silent):
    def __init__(self):
        self.parity = []

    def event(self, event):
        if event.kind == "parity":
            self.parity.append(event.data)


@pytest.mark.skipif(llamacpp.version() is None, reason="xllamacpp is not installed")
def test_a_release_is_served_by_llamacpp_once_it_says_what_the_plain_engine_says(ran):
    app, notes = App.open(), Notes()
    plain = app.engine("router")
    other = app.engine("router", by="llamacpp", settings={"format": "f16", "threads": "1"}, watch=notes)
    try:
        (mine,), (theirs,) = other.engine.generate(Request(ASK)), plain.engine.generate(Request(ASK))
        assert mine.probability == pytest.approx(theirs.probability, abs=0.02)
        assert (other.by, other.digest, other.release) == ("llamacpp", plain.digest, plain.release)
        assert "f16" in other.how and "8 streams" in other.how
        assert notes.parity[0]["form"] == "llamacpp" and other.parity["labels"] < 0.02
        files = {path.suffix for path in (app.home / "cache" / "engines").iterdir()}
        assert files == {".gguf", ".json"}
        began = {path.name: path.stat().st_mtime_ns for path in (app.home / "cache" / "engines").iterdir()}
    finally:
        plain.engine.close()
        other.engine.close()
    again = app.engine("router", by="llamacpp", settings={"format": "f16", "threads": "1"})
    again.engine.close()
    assert again.parity == other.parity  # kept, and not asked for again
    assert began == {
        path.name: path.stat().st_mtime_ns for path in (app.home / "cache" / "engines").iterdir()
    }


def test_an_engine_that_says_something_else_is_refused():
    told = {"top_1": 0.9, "tokens": 400, "divergence": 0.01}
    with pytest.raises(
        ModelError, match=r"the engine llamacpp does not say .* the same in 90.0% \(at least 95%\)"
    ):
        _judge(told, "llamacpp", "gguf-q8")
    with pytest.raises(ModelError, match=r"0.4 nats \(at most 0.03\)"):
        _judge({**told, "top_1": 1.0, "divergence": 0.4}, "llamacpp", "gguf-q8")
    with pytest.raises(ModelError):
        _judge({**told, "tokens": 0}, "upstream", "merged")
    _judge({**told, "top_1": 0.96}, "llamacpp", "gguf-q8")


def test_engines_and_their_settings_are_named(ran):
    app = App.open()
    with pytest.raises(SpecError, match="there is no engine called 'lamacpp'") as caught:
        app.engine("router", by="lamacpp")
    assert "llamacpp" in str(caught.value.remedy)
    with pytest.raises(SpecError, match="answers from no release"):
        app.engine("router", by="scripted")
    with pytest.raises(SpecError, match="the engine transformers has no setting 'streams'"):
        app.engine("router", settings={"streams": "2"})


def test_settings_are_written_once_and_with_a_value(ran):
    for words, told in ((["streams"], "names no value"), (["a=1", "a=2"], "is given twice")):
        options = [word for one in words for word in ("--engine-set", one)]
        found = ran.luthier("serve", "router", *options)
        assert found.exit_code == 2 and told in found.output
