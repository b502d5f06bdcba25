from dataclasses import replace

import pytest

from luthier.core.errors import DataError
from luthier.evaluation.baselines import tfidf, three_examples
from luthier.evaluation.questions import Question, with_examples


def _record(name, said, label, system=None):
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": label}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"id": name, "messages": messages, "text": None, "label": label}


TRAIN = [
    _record("1", "refund my invoice", "billing", "Route."),
    _record("2", "charged twice on the invoice", "billing", "Route."),
    _record("3", "parcel is late", "delivery", "Route."),
    _record("4", "where is my parcel", "delivery", "Route."),
    _record(
        "5", "cannot log in, and this message is a good deal longer than every other one", "login", "Route."
    ),
]


def _ask(text):
    return Question(text, ({"role": "user", "content": text},), "")


def test_tfidf_learns_words_and_gives_probabilities_in_label_order():
    labels = ["login", "returns", "delivery", "billing"]  # nobody returned anything in the train split
    answers = tfidf(TRAIN, [_ask("my invoice is wrong"), _ask("a parcel")], labels, seed=0)
    assert [a.text for a in answers] == ["billing", "delivery"]
    for answer in answers:
        assert sum(answer.probabilities) == pytest.approx(1)
        assert answer.probabilities[1] == 0
        assert (
            answer.probability == max(answer.probabilities) == answer.probabilities[labels.index(answer.text)]
        )


def test_tfidf_is_the_same_twice():
    twice = [
        tfidf(TRAIN, [_ask("invoice parcel")], ["billing", "delivery", "login"], seed=0) for _ in range(2)
    ]
    one, other = ([replace(answer, seconds=None) for answer in answers] for answers in twice)
    assert one == other


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (TRAIN[:2], "holds 1 label"),
        ([_record("1", "!!", "a"), _record("2", "??", "b")], "no training row holds a single word"),
    ],
)
def test_tfidf_says_why_it_cannot(train, told):
    with pytest.raises(DataError, match=told):
        tfidf(train, [_ask("x")], ["a", "b"], seed=0)


def test_examples_do_not_depend_on_row_order_and_differ_in_label_first():
    chosen = three_examples(TRAIN, seed=0)
    assert chosen == three_examples(TRAIN[::-1], seed=0)
    # lengths 17, 28, 14, 18, 76: the median is 18, so rows 1, 3 and 4 are candidates
    assert {m["content"] for m in chosen if m["role"] == "user"} == {
        "refund my invoice", "parcel is late", "where is my parcel",
    }  # fmt: skip
    assert {m["content"] for m in chosen[1:4:2]} == {"billing", "delivery"}
    assert [m["role"] for m in chosen] == ["user", "assistant"] * 3


def test_another_seed_may_choose_others():
    many = [_record(str(i), f"text number {i:03}", "ab"[i % 2]) for i in range(50)]
    assert len({str(three_examples(many, seed)) for seed in range(5)}) > 1


def test_fewer_rows_give_fewer_examples():
    assert len(three_examples(TRAIN[:1], seed=0)) == 2
    assert three_examples([{"id": "1", "messages": None, "text": "plain", "label": None}], seed=0) == []


def test_examples_stand_between_the_system_message_and_the_question():
    system, user = {"role": "system", "content": "Route."}, {"role": "user", "content": "Q"}
    example = [{"role": "user", "content": "E"}, {"role": "assistant", "content": "A"}]
    assert with_examples((system, user), example) == [system, *example, user]
    assert with_examples((user,), example) == [*example, user]
