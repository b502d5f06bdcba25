"""toxicity: whole words, without case, in any Unicode form; the plain twin counts with Python's own expressions."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.data.rules.toxicity import INSULTS, Toxicity, folded

from ..private.ruled import batch_of, keeps_laws, record, records, run


def found(text: str, **wish: Any) -> int:
    done = run("toxicity", batch_of(record(text)), wish)
    assert (done.removed[0] is not None) == (done.counts["words"][0] >= wish.get("at_least", 1))
    return done.counts["words"][0]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("You IDIOT, you moron!", 2),
        ("idiotic, Scunthorpe, cocktail, Fuchs, retarder", 0),
        ("Du Arschloch. ARSCHLÖCHER! arschlo\u0308cher", 3),
        ("fils  de\npute, CONNARD", 2),
        ("¡Gilipollas! hijo de puta", 2),
        ("ｉｄｉｏｔ, id\u200biot", 2),
        ("le retard du train", 0),
        ("", 0),
    ],
)
def test_words(text: str, want: int) -> None:
    assert found(text) == want


def test_the_reason_says_how_many_and_never_which() -> None:
    done = run("toxicity", batch_of(record("idiot idiot"), record("fine"), record(text="moron")))
    assert done.removed == [
        "2 words of the lists of insults, 1 or more",
        None,
        "1 words of the lists of insults, 1 or more",
    ]
    assert run("toxicity", batch_of(record("idiot idiot")), {"at_least": 3}).removed == [None]


@pytest.mark.parametrize(("on", "want"), [("user", [1, 1]), ("assistant", [2, 0]), ("all", [4, 1])])
def test_whose_turns(on: str, want: list[int]) -> None:
    rows = [
        record([("system", "idiot"), ("user", "idiot"), ("assistant", "idiot moron")], rejected="idiot"),
        record(text="idiot"),
    ]
    assert run("toxicity", batch_of(*rows), {"on": on}).counts["words"] == want


def test_words_of_the_recipe() -> None:
    wish = {"words": ["Straßenköter", "c++ guru", "笨蛋", "@$$"]}
    assert found("STRASSENKÖTER und C++  GURU; 你是笨蛋啊 @$$x", **wish) == 4
    assert found("Straßenköters", **wish) == 0
    for blank in ("", " ", "\u200b"):
        with pytest.raises(ValidationError, match="word 2 of the list is blank"):
            Toxicity.model_validate({"words": ["a", blank]})


def twin(text: str, words: list[str]) -> int:
    """The same, slowly: fold all, one expression with edges."""
    pieces = [r"\s+".join(re.escape(part) for part in word.split()) for word in words]
    either = "|".join(sorted(pieces, key=lambda piece: (-len(piece), piece)))
    return len(re.findall(rf"(?<![\w\u0300-\u036f])(?:{either})(?![\w\u0300-\u036f])", folded(text)))


@given(
    st.lists(
        st.sampled_from(
            [
                "idiot",
                "Idioten",
                "arschlöcher",
                "TA GUEULE",
                "ta",
                "gueule",
                " ",
                ",",
                "é",
                "_",
                "1",
                "x",
                "\u0308",
                "Ｉdiot",
            ]
        ),
        max_size=10,
    )
)
@settings(max_examples=300, deadline=None)
def test_twin(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert found(text) == twin(text, [folded(word) for word in INSULTS])


@given(st.lists(records.map(lambda told: record(**told)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_laws(rows: list[dict[str, Any]]) -> None:
    keeps_laws("toxicity", rows, {"words": ["a", "1"]})


def test_lists_hold_no_word_twice_and_none_that_is_inside_another_language() -> None:
    assert len(set(INSULTS)) == len(INSULTS)
    assert not {"retard", "fox", "depp", "kike"} & set(INSULTS)
