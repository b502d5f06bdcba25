"""What is told of a purse adds up to what was spent."""

import pytest

from luthier.evaluation.asking.purse import AskBudgetSpec, Purse
from luthier.evaluation.asking.question import Answer, Question


def test_what_is_told_of_a_purse_adds_up():
    purse = Purse(AskBudgetSpec(), None)
    question = Question("row 1", (("user", "a"),), max_tokens=8)
    told = []
    for read, written in ((30, 4), (20, 2)):
        purse.paid(question, Answer("x", tokens_in=read, tokens_out=written))
        told.append(purse.since_told())
    purse.paid(question, None)
    told += [purse.since_told(), purse.since_told()]
    assert [(one["requests"], one["tokens_in"], one["tokens_out"]) for one in told] == [
        (1, 30, 4),
        (1, 20, 2),
        (1, 0, 0),
        (0, 0, 0),
    ]
    assert sum(one["requests"] for one in told) == purse.spent.requests == 3


def test_an_answer_that_is_too_long_is_paid_for(monkeypatch, tmp_path):
    from luthier.core.errors import DataError
    from luthier.data.egress import Door
    from luthier.data.rules.rule import Lent
    from luthier.evaluation.asking.endpoint import EndpointAsker, EndpointSpec
    from luthier.store.answers import Answers

    told = {
        "choices": [{"message": {"content": "x" * 10_000}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2_500},
    }
    monkeypatch.setattr(Door, "post", lambda *_: told)
    spec = EndpointSpec.model_validate({"url": "http://127.0.0.1:9/v1", "model": "m", "tries": 1})
    purse = Purse(AskBudgetSpec(), None)
    with Answers(tmp_path / "answers.db") as answers:
        asker = EndpointAsker(spec, Lent(None), answers, purse)
        with pytest.raises(DataError, match="answers 10,000 characters where 8 tokens were asked for"):
            asker.ask([("k", Question("row 1", (("user", "a"),), max_tokens=8))])
    assert (purse.spent.requests, purse.spent.tokens_in, purse.spent.tokens_out) == (1, 7, 2_500)
