"""The fake keeps the engine's contract; what it promises here, the real engine is held to in its own tests."""

from __future__ import annotations

import math
import threading

import pytest

from luthier.serving.engine import ContextLengthExceeded, Message, Refused, Request, Unavailable, Usage
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

ASK = Request((Message("user", "I want a refund"),))


def engine(*args, **options):
    made = ScriptedEngine(*args, **options)
    made.load()
    return made


def asked(**fields):
    return Request(ASK.messages, **fields)


def test_first_rule_that_applies():
    rules = [
        Rule(lambda r: r.seed == 7, Reply("seven")),
        Rule("refund", Reply("billing now")),
        Rule("", Reply("never")),
    ]
    chunks = list(engine(rules).generate(ASK))
    assert [c.text for c in chunks] == ["billing", " now", ""]
    assert [c.finish for c in chunks] == [None, None, "stop"]
    assert chunks[-1].usage == Usage(4, 2)
    assert [c.usage.completion_tokens for c in chunks] == [1, 2, 2]
    assert next(engine(rules).generate(asked(seed=7))).text == "seven"


def test_bounds():
    chunks = list(engine(default=Reply("a b c d")).generate(asked(max_tokens=2)))
    assert ("".join(c.text for c in chunks), chunks[-1].finish, chunks[-1].usage.completion_tokens) == (
        "a b",
        "length",
        2,
    )
    chunks = list(engine(default=Reply("a b c d")).generate(asked(stop=(" d", "c"))))
    assert ("".join(c.text for c in chunks), chunks[-1].finish) == ("a b ", "stop")
    with pytest.raises(
        ContextLengthExceeded,
        match="The context of this model is 10 tokens; the messages take 4 and 7 were asked",
    ):
        next(engine(context_tokens=10).generate(asked(max_tokens=7)))
    assert list(engine(context_tokens=10).generate(asked(max_tokens=6)))


def test_not_loaded():
    with pytest.raises(Unavailable):
        next(ScriptedEngine().generate(ASK))
    closed = engine()
    closed.close()
    closed.close()
    assert not closed.health().ready
    with pytest.raises(Unavailable):
        closed.score(ASK.messages, ("a", "b"))


def test_failing_after_some_tokens_and_going_on():
    fails = engine([Rule("refund", Reply("a b c", fails=OSError("x"), fails_after=2))], Reply("fine"))
    heard = []
    with pytest.raises(OSError, match="x"):
        for chunk in fails.generate(ASK):
            heard.append(chunk.text)
    assert heard == ["a", " b"]
    assert next(fails.generate(Request((Message("user", "hello"),)))).text == "fine"
    assert fails.active == 0


def test_closing_frees_the_slot():
    one = engine(default=Reply("a b c"))
    answer = one.generate(ASK)
    next(answer)
    assert one.active == 1
    answer.close()
    assert (one.active, one.abandoned) == (0, 1)
    assert list(one.generate(ASK))


def test_more_than_the_slots_wait():
    one = engine(default=Reply("a b"))
    first = one.generate(ASK)
    next(first)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (list(one.generate(ASK)), done.set()))
    thread.start()
    assert not done.wait(0.05)
    list(first)
    assert done.wait(5)
    thread.join()


def test_labels():
    labelled = engine(
        [Rule("refund", Reply("billing"))], labels=("login", "billing", "other"), abstain_below=0.5
    )
    # 0.9 for the scripted label, the rest shared: 0.05 each
    assert labelled.score(ASK.messages, labelled.labels) == pytest.approx(
        [math.log(0.05), math.log(0.9), math.log(0.05)]
    )
    (chunk,) = labelled.generate(asked(top_logprobs=2))
    assert (chunk.text, chunk.finish, chunk.usage) == ("billing", "stop", Usage(4, 1))
    assert chunk.probability == pytest.approx(0.9)
    assert [c.text for c in chunk.tokens[0].top] == ["billing", "login"]
    (declined,) = labelled.generate(Request((Message("user", "hello"),)))
    assert (declined.text, declined.finish) == ("", "stop")
    assert declined.refusal == "No label reached the probability 0.5: the likeliest, 'login', has 0.33."
    (anyway,) = labelled.generate(Request((Message("user", "hello"),), abstain_below=0.0))
    assert anyway.text == "login"
    free = list(labelled.generate(asked(constrain=())))
    assert [c.text for c in free] == ["billing", ""]


def test_what_would_cut_a_label_is_refused():
    labelled = engine(default=Reply("GPL 2"), labels=("GPL 2", "MIT"))
    with pytest.raises(Refused, match="the label 'GPL 2' takes 2 tokens") as short:
        next(labelled.generate(asked(max_tokens=1)))
    assert short.value.param == "max_tokens"
    with pytest.raises(Refused, match="would cut the label 'GPL 2'") as stop:
        next(labelled.generate(asked(stop=(" ",))))
    assert stop.value.param == "stop"
    assert next(labelled.generate(asked(stop=("\n",), max_tokens=2))).text == "GPL 2"
