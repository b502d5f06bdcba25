"""A conversation remembers whole exchanges and nothing else."""

from __future__ import annotations

import pytest

from luthier.serving.engine import ContextLengthExceeded, Message, Request
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine
from luthier.serving.session import Conversation


@pytest.fixture
def engine():
    made = ScriptedEngine(
        [
            Rule("name", Reply("your name is Ada")),
            Rule("broken", Reply("a b", fails=OSError(), fails_after=1)),
        ],
        Reply("hello there"),
        context_tokens=40,
    )
    made.load()
    return made


def test_turns_add_up(engine):
    talk = Conversation(engine, system="be kind", settings=Request((), temperature=0.5, seed=3))
    assert list(talk.say("hi")) == ["hello", " there"]
    assert "".join(talk.say("my name?")) == "your name is Ada"
    first, second = engine.requests
    assert first.messages == (Message("system", "be kind"), Message("user", "hi"))
    assert second.messages == (
        *first.messages,
        Message("assistant", "hello there"),
        Message("user", "my name?"),
    )
    assert (second.temperature, second.seed) == (0.5, 3)
    assert talk.last.text == "your name is Ada"
    assert talk.last.usage.completion_tokens == 4
    assert talk.last.seconds >= 0
    talk.reset()
    assert talk.messages == (Message("system", "be kind"),)
    assert talk.last is None


def test_without_memory_every_question_stands_alone(engine):
    talk = Conversation(engine, remember=False)
    for question in ("one", "two"):
        list(talk.say(question))
        assert engine.requests[-1].messages == (Message("user", question),)


def test_what_broke_off_is_not_remembered(engine):
    talk = Conversation(engine)
    with pytest.raises(OSError):
        list(talk.say("broken"))
    assert talk.messages == ()
    answer = talk.say("hi")
    next(answer)
    answer.close()
    assert talk.messages == ()
    assert (engine.active, engine.abandoned) == (0, 1)
    with pytest.raises(ContextLengthExceeded):
        list(talk.say("word " * 50))
    assert talk.messages == ()
    assert "".join(talk.say("hi")) == "hello there"


def test_an_abstention_is_told_and_not_remembered(engine):
    talk = Conversation(engine, settings=Request((), constrain=("a", "b"), abstain_below=0.9))
    assert list(talk.say("hi")) == []
    assert talk.last.refusal.startswith("No label")
    assert talk.last.probability == pytest.approx(0.5)
    assert talk.messages == ()
