"""What is told of a purse adds up to what was spent."""

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
