"""Shares of characters against a plain twin, and the thresholds."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.data.rules.characters import Characters, _Counts
from luthier.data.testing import HOSTILE, batch_of, obeys, opened, run

ALL_OFF: dict[str, Any] = {"alphanumeric": None, "broken": None, "run": None, "from_chars": 1}
GOOD = "A sentence of plain words, long enough to be judged; it ends here."


@pytest.mark.parametrize(
    ("wish", "text", "reason"),
    [
        ({"letters": 0.5}, "aa 11", None),  # 2 of 4
        ({"letters": 0.5}, "a 11 é?", "the text turn has a share of letters of 0.4, less than 0.5"),
        (
            {"alphanumeric": 0.25},
            "==== a?",
            "the text turn has a share of letters and digits of 0.1667, less than 0.25",
        ),
        ({"digits": 0.5}, "123 a", "the text turn has a share of digits of 0.75, more than 0.5"),
        ({"upper": 0.5}, "LOUD är", "the text turn has a share of capitals of 0.6667, more than 0.5"),
        ({"upper": 0.5}, "漢字 12", None),  # letters, but none of them capital
        ({"upper": 0.5}, "12 !!", None),  # nothing to divide
        (
            {"broken": 0.1},
            "ab\x00\ufffd\t\n",
            "the text turn has a share of broken characters of 0.3333, more than 0.1",
        ),
        ({"run": 4}, "abcd efg", None),
        ({"run": 4}, "a äbcde", "the text turn has a longest stretch without a blank of 5, more than 4"),
        ({"run": 4}, "漢字漢字漢字漢字。abc漢", None),
        ({"shortest_word": 3}, "a bc", "the text turn has words with a mean length of 1.5, less than 3"),
        ({"longest_word": 4}, "abcde fghij", "the text turn has words with a mean length of 5, more than 4"),
        ({"longest_word": 4}, "漢字漢字漢字 a", None),
        (
            {"lettered_words": 0.8},
            "a1 2 3",
            "the text turn has a share of words with a letter of 0.3333, less than 0.8",
        ),
        ({"lettered_words": 0.8}, "", None),
        ({"letters": 1}, "हिन्दी में", None),  # vowel signs are marks
    ],
)
def test_thresholds(wish: dict[str, Any], text: str, reason: str | None) -> None:
    assert run("characters", batch_of(text), **(ALL_OFF | wish)).removed == [reason]


def test_defaults_leave_short_answers_numbers_and_code_alone() -> None:
    rows = [
        [("user", "6 * 7?"), ("assistant", "42")],
        [("user", GOOD), ("assistant", "{}[]();;")],
        [("user", GOOD), ("assistant", "for (int i = 0; i < n; ++i) { a[i] = b[i] + c[i]; }  // x")],
        [("user", GOOD), ("assistant", '{"id": 1, "tags": ["a", "b"], "price": {"eur": 12.5}, "n": []}')],
        GOOD,
        "日本語の文章です。" * 200,
    ]
    assert run("characters", batch_of(*rows)).removed == [None] * len(rows)


def test_the_first_turn_at_fault_is_named() -> None:
    rows = [
        [("user", GOOD), ("assistant", "=" * 50)],
        [("user", "#" * 50), ("assistant", "\x00" * 50)],
        [("user", GOOD), ("assistant", GOOD), ("rejected", "x" * 1001)],
        [("user", "ÿ" + "#" * 50), ("assistant", GOOD)],
    ]
    want = [
        "the assistant turn has a share of letters and digits of 0, less than 0.25",
        "the user turn has a share of letters and digits of 0, less than 0.25",
        "the rejected turn has a longest stretch without a blank of 1001, more than 1000",
        "the user turn has a share of letters and digits of 0.01961, less than 0.25",
    ]
    assert run("characters", batch_of(*rows)).removed == want


def test_on_says_which_texts_are_judged() -> None:
    bad = "=" * 50
    rows = [[("user", bad), ("assistant", GOOD)], [("user", GOOD), ("assistant", bad)], bad]
    for on, gone in (("user", [True, False, True]), ("assistant", [False, True, False]), ("all", [True] * 3)):
        assert [why is not None for why in run("characters", batch_of(*rows), on=on).removed] == gone


def test_settings_that_cannot_be() -> None:
    with pytest.raises(
        ValidationError, match="shortest_word 5 is larger than longest_word 4; no text could stay"
    ):
        Characters(shortest_word=5, longest_word=4)
    with pytest.raises(ValidationError, match="2 is not between 0 and 1; write 0.1 or '10%'"):
        Characters(letters=2)


def plain(text: str) -> dict[str, float]:
    """The same counts, character by character."""
    kinds = [unicodedata.category(c) for c in text]
    blank = [c.isspace() and c not in "\x1c\x1d\x1e\x1f" for c in text]
    filled = len(text) - sum(blank)
    letters = sum(k[0] in "LM" for k in kinds)
    digits = sum(k == "Nd" for k in kinds)
    broken = sum((k == "Cc" or c == "\ufffd") and c not in "\t\n\r" for c, k in zip(text, kinds, strict=True))
    return {
        "letters": letters / filled if filled else math.nan,
        "alphanumeric": (letters + digits) / filled if filled else math.nan,
        "upper": sum(k == "Lu" for k in kinds) / letters if letters else math.nan,
        "broken": broken / len(text),
    }


# Characters that Rust's and Python's tables of Unicode agree on whatever their versions.
agreed = st.text(
    st.characters(max_codepoint=0x2FF) | st.sampled_from("漢かกไहि‘”€\ufffd\u2003"), min_size=1, max_size=30
)


@given(st.lists(agreed, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_the_plain_twin(texts: list[str]) -> None:
    counts = _Counts(opened(*texts), Characters(from_chars=1))
    found = {
        "letters": counts.share("letters"),
        "alphanumeric": counts.share("alphanumeric"),
        "upper": counts.share("upper", of="letters"),
        "broken": counts.share("broken", of="chars"),
    }
    for k, text in enumerate(texts):
        for name, want in plain(text).items():
            assert found[name][k] == pytest.approx(want, nan_ok=True), name


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5), st.sampled_from(["user", "all"]))
@settings(max_examples=80, deadline=None)
def test_laws(texts: list[str], on: str) -> None:
    wish = {
        "from_chars": 5,
        "run": 6,
        "letters": 0.5,
        "digits": 0.3,
        "longest_word": 6,
        "lettered_words": 0.5,
    }
    obeys("characters", [*texts, [("user", texts[0]), ("assistant", texts[-1])]], on=on, **wish)


def test_hostile_texts() -> None:
    obeys("characters", [*HOSTILE, "x" * 1_000_000, "é" * 500_000])
