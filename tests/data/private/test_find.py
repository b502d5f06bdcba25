"""What is found, without a rule around it: the sieve, places, keys."""

from __future__ import annotations

import string
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.data.private import KINDS, WORDS, phones, scan
from luthier.data.private.find import WAYS, candidates, sieves
from luthier.data.private.found import Found, settle
from luthier.data.private.readable import Readable, odd, table
from luthier.data.private.secrets import NAMED, SECRETS, secrets

from .corpus import Made, chats
from .ruled import batch_of, record, run

ALL = frozenset(KINDS)


def spans(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in settle(candidates(text, ALL))]


@given(
    st.integers(0, 2**32),
    st.sampled_from(KINDS),
    st.text(max_size=20),
    st.sampled_from(["", " ", "x", "-", ".", "_", "1", "é"]),
)
@settings(max_examples=300, deadline=None)
def test_a_sieve_lets_through_all_that_its_way_can_find(
    seed: int, kind: str, around: str, joint: str
) -> None:
    value = getattr(Made(seed), kind)()
    for text in (f"{around}{joint}{value}{joint}{around}", value.lower() + around, value.replace(" ", joint)):
        plain = Readable(text).plain
        for name, way in WAYS.items():
            if any(True for _ in way.look(plain, ALL)):
                assert pl.Series([plain]).str.contains(way.sieve()).item(), (name, plain)


@given(st.text("ABab12349 -./@:()+_T", max_size=60))
@settings(max_examples=500, deadline=None)
def test_a_sieve_lets_through_all_that_is_found_in_any_text(text: str) -> None:
    for name, way in WAYS.items():
        if any(True for _ in way.look(text, ALL)):
            assert pl.Series([text]).str.contains(way.sieve()).item(), name


blank = st.sampled_from(["", " ", "  ", "\n", "\t", "\r\n", "\x1f", "\u3000", "\u00a0 ", "\x85"])
said = st.tuples(
    st.sampled_from(NAMED).flatmap(lambda word: st.sampled_from([word, word.upper(), word.replace("k", "\u212a")])),
    st.sampled_from(["", "_of_x", "s", "lar\u0131m\u0131z", '"', "'", "-"]),
    blank,
    st.sampled_from(["", ":", "=", "=>", ":=", " is ", "is\n", " \u0131s\t", "IS ", " ist "]),
    blank,
    st.sampled_from(["", "bearer ", "Basic\n", "bas\u0131c ", "basic\t", "bearer  "]),
    st.sampled_from(["", '"', "`"]),
    st.sampled_from(["Hunter2xyz99", "a1B2c3D4e5F6g7H8i9J0", "dXNlcjpwYXNzd29yZDEyMw==", "abc\u0131123x", "\u017fecret12"]),
).map("".join)  # fmt: skip


@given(st.lists(said, min_size=1, max_size=3).map(" ".join))
@example("the password is\nHunter2xyz99")
@example("the password is\tHunter2xyz99 ok")
@example("authorization is  basic dXNlcjpwYXNzd29yZDEyMw==")
@example("password:basic\na1B2c3D4e5F6g7H8i9J0")
@example("password=abc\u0131123x")
@settings(max_examples=150, deadline=None)
def test_the_sieve_of_keys_lets_through_whatever_stands_after_a_word_for_one(text: str) -> None:
    if candidates(text, frozenset({"key"})):
        assert pl.Series([Readable(text).plain]).str.contains(WAYS["key"].sieve()).item()
        assert scan.ways(pl.Series([text]), frozenset({"key"})).item() & scan.BITS["key"]


@pytest.mark.parametrize(
    "text",
    ["the password is\nHunter2xyz99", "the password is\tHunter2xyz99 ok", "authorization is  basic dXNlcjpwYXNzd29yZDEyMw==",
     "password:basic\na1B2c3D4e5F6g7H8i9J0", "password=abc\u0131123x"],
)  # fmt: skip
def test_passwords_behind_other_blanks_are_masked(text: str) -> None:
    assert "[KEY_1]" in run("redact", batch_of(record(text))).texts()[0]


def test_every_secret_of_the_table_is_found_behind_its_hint() -> None:
    tails = (
        "Zx9" * 100,
        "9f3A" * 100,
        "0a1f" * 8,
        "0a1f" * 16,
        "ABCDEFGHIJ234567",
        "A1" * 29,
        string.ascii_letters + string.digits,
    )
    for secret in SECRETS:
        lead = "123456789" if secret.before else ""
        texts = [
            f"x {lead}{secret.hint}{tail[:n]} y"
            for tail in tails
            for n in (16, 20, 32, 33, 35, 36, 58, 64, 300)
        ]
        texts += [f"x {secret.hint}{'aZ9' * 7}.{'bY8' * 14} y"]
        found = [
            text for text in texts if any(text[a:b].startswith(lead + secret.hint) for a, b in secrets(text))
        ]
        assert found, secret.hint
        assert all(pl.Series(found).str.contains(WAYS["key"].sieve())), secret.hint


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_places_lead_back_to_what_was_read(text: str) -> None:
    readable = Readable(text)
    known = table()
    assert len(readable.plain) == sum(known.get(ord(c), c) is not None for c in text)
    for at, character in enumerate(readable.plain):
        start, end = readable.place(at, at + 1)
        assert end == start + 1 and known.get(ord(text[start]), text[start]) == character
    assert pl.Series([text]).str.contains(odd()).item() == (readable.plain != text)


@given(
    st.lists(
        st.builds(
            lambda start, size, kind, checked: Found(start, start + size, kind, "v", checked),
            st.integers(0, 40), st.integers(1, 12), st.sampled_from(KINDS), st.booleans(),
        ),
        max_size=12,
    ),
    st.randoms(),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_settle_leaves_no_overlap_no_uncovered_candidate_and_does_not_depend_on_order(
    some: list[Found], order: st.DrawFn
) -> None:
    kept = settle(some)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    for one in some:
        rivals = [other for other in kept if other.start < one.end and one.start < other.end]
        assert rivals
        # What a checked one loses to is checked, and what a long one loses to is checked or as long.
        assert one in kept or any(
            (other.checked, other.end - other.start) >= (one.checked, one.end - one.start) for other in rivals
        )
    shuffled = list(some)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert settle(shuffled) == kept


def test_kinds_are_found_only_when_asked_for() -> None:
    text = (
        "a@b.de +4930123456 4111111111111111 DE89370400440532013000 10.1.2.3 AKIAIOSFODNN7EXAMPLE 078-05-1120"
    )
    for kind in KINDS:
        assert {one.kind for one in settle(candidates(text, frozenset({kind})))} == {kind}
    assert {kind for _, kinds in WORDS.items() for kind in kinds} == set(KINDS)
    assert list(sieves(frozenset({"ip"}))) == ["ip"]


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-05 12:30:45.123456", "01.02.2024 10:11:12", "1700000000000", "1 234 567 890.50 EUR", "978-3-16-148410-0", "9783161484100",
        "550e8400-e29b-41d4-a716-446655440000", "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "ATA 32-41-00-101", "P/N 123-4567-89", "1.0.0.1-rc1", "section 3.2.1.4", "10.1.2.3.4", "1:2:3", "12:34:56:78", "0x00000000deadbeef",
        "3.14159265358979", "C++11 201103", "+1", "+10 000 000", "=2+12345678", "1-2-3-4-5-6-7-8", "00 00 00 00", "EAN 4006381333931",
        "user@localhost", "@name", "a@b", "foo@1.2.3", "std::vec::abc", "::", "git@github.com:a/b", "//user@", "sk-learn", "hf_hub", "task-force-one-two-three",
        "order 4539578763621486", "tracking no. 1Z999AA10123456784", "#12345678903", "$12345678903", "12345678A-1",
    ],
)  # fmt: skip
def test_what_looks_like_it_and_is_none(text: str) -> None:
    assert spans(text) == []


def test_phone_lengths_and_words() -> None:
    assert phones.is_international("41446681800") and not phones.is_international("4144668180011")
    assert phones.is_said("Tel.: ") and phones.is_said("电话：") and not phones.is_said("phone 1 and ")
    assert not phones.is_said("phone " + "x" * 30)


def test_the_corpus_is_the_same_for_a_seed() -> None:
    assert chats(20, seed=3) == chats(20, seed=3)


@pytest.mark.parametrize("letter", "\u212aſıİ")
def test_letters_that_are_equal_but_for_case_are_no_error(letter: str) -> None:
    for text in (
        f"AAA{letter}000000HAAAAA00",
        f"1.111.111-{letter}",
        f"12345678{letter}",
        f"{letter}1234567D",
    ):
        assert all(one.kind != "national_id" or one.value.isascii() for one in candidates(text, ALL))
