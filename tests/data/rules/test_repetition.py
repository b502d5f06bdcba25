"""repetition against a plain twin that counts strings."""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.rules.repetition import Repetition

from ..test_rules import batch_of, run
from ..test_words import hostile, plain_words

Row = Any
PLAIN = " ".join(f"w{k}" for k in range(60))


def removed(*rows: Row, **wish: Any) -> list[str | None]:
    return run("repetition", batch_of(*rows), **wish).removed


def test_lines_that_stood_there_before() -> None:
    lines = [f"a{k} b{k} c{k} d{k} e{k}" for k in range(10)]  # of 14 characters each
    fine = "\n".join([*lines, *lines[:4]])  # 4 of 14 are 29 %
    # equally long lines, so 4 of 14 are also 29 % of the characters
    assert removed(fine, line_characters=None) == [None]
    assert removed(fine) == [
        "56 of 196 characters of the text turn are in lines that stood there before, more than 20%"
    ]
    much = "\n\n  ".join([*lines, *lines[:5]])
    assert removed(much) == ["5 of 15 lines of the text turn stood there before, more than 30%"]
    assert removed([("user", "u"), ("assistant", much)], on="user") == [None]
    assert removed([("user", "u"), ("assistant", much)])[0] is not None
    assert removed([("system", much), ("user", "u"), ("assistant", "a")]) == [None]


def test_a_few_words_that_make_up_too_much() -> None:
    said = f"{PLAIN} " + "of course I can, " * 8  # 8 x 12 letters, 8 of them in the first two words
    share = 8 * 12 / (8 * 12 + 10 * 2 + 50 * 3)
    assert removed(said)[0] == "the same 2 words in a row make up 24.1% of the text turn, more than 20%"
    assert removed(said, top_2=None, top_3=None) == [
        f"the same 4 words in a row make up {share:.1%} of the text turn, more than 16%"
    ]
    assert removed(said, top_2=0.3, top_3=0.4, top_4=0.4) == [None]
    assert removed("thank you thank you thank you") == [None]  # too short to be judged by shares
    assert removed("thank you thank you thank you", shortest=5) == [None]  # and three times is not often
    assert removed("thank you thank you thank you", shortest=5, often=3)[0] is not None


LIST = """Simple and consistent framework for authentication in several ways

Authen::Simple is the base of various methods written by one author, and they are available in the following packages:

  * libauthen-simple-pam-perl
  * libauthen-simple-passwd-perl
  * libauthen-simple-http-perl
  * libauthen-simple-ldap-perl
  * libauthen-simple-smb-perl
  * libauthen-simple-kerberos-perl
  * libauthen-simple-net-perl"""


def test_a_list_whose_entries_begin_alike_is_no_repetition() -> None:
    assert removed(LIST) == [None]
    share = 7 * len("libauthensimple") / sum(map(len, re.findall(r"\w+", LIST)))
    assert removed(LIST, often=7) == [
        f"the same 2 words in a row make up {share:.1%} of the text turn, more than 20%"
    ]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("no " * 20, None),
        ("No, no! " * 11, "one word stands 22 times in a row in the text turn, more than 20"),
        ("哈" * 21, "one word stands 21 times in a row in the text turn, more than 20"),
        ("a" * 40, None),
        ("x" + "aA" * 25 + "y", "one letter stands 50 times in a row in the text turn, more than 40"),
        ("д" * 41, "one letter stands 41 times in a row in the text turn, more than 40"),
        ("=" * 100, None),
        ("0 1 " * 20, None),
        ("", None),
    ],
)
def test_runs(text: str, want: str | None) -> None:
    assert removed(text) == [want]


def test_settings() -> None:
    assert removed("no " * 30, word_run=None) == [None] and removed("a" * 99, letter_run=None) == [None]
    for wrong in ({"lines": 1.5}, {"word_run": 1}, {"on": "system"}, {"shortest": 0}):
        with pytest.raises(ValueError):
            Repetition.model_validate(wrong)


def plain(row: Row, wish: Repetition) -> bool:
    turns = [("text", row)] if isinstance(row, str) else row
    return any(_plain_text(text, wish) for role, text in turns if role != "system")


def _plain_text(text: str, wish: Repetition) -> bool:
    told = plain_words(text)
    if any(len(list(run)) > (wish.word_run or 0) for _, run in groupby(told)):
        return True
    if any(len(list(run)) > (wish.letter_run or 0) for word in told for _, run in groupby(word.decode())):
        return True
    if len(told) < wish.shortest:
        return False
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    size = sum(len(line) for line in lines)
    again = len(lines) - len(set(lines))
    if "\n" in text and (
        again > wish.lines * len(lines) or size - sum(map(len, set(lines))) > wish.line_characters * size
    ):  # type: ignore[operator]
        return True
    for n, limit in ((2, wish.top_2), (3, wish.top_3), (4, wish.top_4)):
        counts = Counter(tuple(told[k : k + n]) for k in range(len(told) - n + 1))
        most = max(
            (times * sum(map(len, gram)) for gram, times in counts.items() if times >= wish.often), default=0
        )
        if min(1.0, most / sum(map(len, told))) > limit:  # type: ignore[operator]
            return True
    return False


looping = st.lists(
    st.one_of(
        st.sampled_from(["a", "bb", "ccc", "字", "Ä", "\n", "\n\n", "line one\n", "xxxxxxxx", "…"]), hostile
    ),
    max_size=14,
).map(" ".join)
row_of = looping | st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), looping), min_size=1, max_size=3
)


@given(st.lists(row_of, max_size=5), st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_what_goes_is_what_the_twin_finds_row_by_row(rows: list[Row], often: int) -> None:
    wish = {
        "shortest": 4,
        "word_run": 3,
        "letter_run": 6,
        "top_2": 0.4,
        "top_3": 0.35,
        "top_4": 0.3,
        "often": often,
    }
    found = removed(*rows, **wish)
    assert [why is not None for why in found] == [plain(row, Repetition.model_validate(wish)) for row in rows]
    for k, row in enumerate(rows):
        assert removed(row, **wish) == [found[k]]
        assert run("repetition", batch_of(*rows).slice(k, 1), **wish).removed == [found[k]]


def test_no_rows_and_a_row_of_a_megabyte() -> None:
    assert run("repetition", batch_of().slice(0, 0)).removed == []
    assert removed("x" * 1_000_000, "ab " * 330_000, PLAIN)[2] is None
