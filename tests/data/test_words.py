"""Words and their hashes, against a plain twin that cuts Python strings."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import compiled, words
from luthier.data.opened import Opened
from luthier.data.words import LONGEST, Words, cut, grams, words_in, words_of

from .test_rules import batch_of

FULL = 2**64 - 1


@pytest.fixture(scope="module", autouse=True, params=["compiled", "plain"])
def _how(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from each_way(request.param, tmp_path_factory)


def each_way(how: str, folders: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled from today's source, and not what a cache holds; or without it."""
    if how == "plain":
        with compiled.plainly():
            yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_found", None)
        if compiled.use(folders.mktemp("compiled")):
            pytest.skip("no C compiler here")
        yield


def all_spoken(words: Words) -> list[bytes]:
    """One by one, wherever their bytes stand."""
    return [words.told[a:b].tobytes() for a, b in zip(words.start.tolist(), words.end.tolist(), strict=True)]


STEP = 0x9E3779B97F4A7C15

hostile = st.text(
    st.one_of(
        st.sampled_from(list("abcXYZ019 .,'_-\n\0\x7f")),
        st.sampled_from(list("äÖßéñœŁжЖσΣςİıǅﬁＡａ，　\u00a0")),
        st.sampled_from(
            list("漢字かなカナ、。กำไทยພາ\u0301\u0338\u200d\ufe0f\u202e한글\u1112\u1161\u11ab👩💻½²①")
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


def mix(x: int) -> int:
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & FULL
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & FULL
    return x ^ x >> 31


def word_hash(word: bytes) -> int:
    if len(word) > LONGEST:
        return int.from_bytes(blake2b(word, digest_size=8).digest(), "little")
    told = len(word) * STEP
    for k in range(0, len(word), 8):
        told = mix((told + int.from_bytes(word[k : k + 8], "little")) & FULL)
    return told


def plain_words(text: str) -> list[bytes]:
    found, at_hand = [], ""
    for character in words.fold(text):
        kind = words.kind_of(character)
        if kind == words.LETTER:
            at_hand += character
            continue
        if at_hand:
            found.append(at_hand)
            at_hand = ""
        if kind == words.ALONE:
            found.append(character)
    return [word.encode() for word in ([*found, at_hand] if at_hand else found)]


def plain_grams(hashes: list[int], n: int) -> list[int]:
    out = []
    for k in range(len(hashes) - n + 1):
        told = hashes[k]
        for other in hashes[k + 1 : k + n]:
            told = (told * STEP + other) & FULL
        out.append(mix(told))
    return out


def of_text(found: Words, text: int) -> list[bytes]:
    return found.spoken(int(found.first[text]), int(found.first[text + 1]))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Don't PANIC, 42 times!", ["don", "t", "panic", "42", "times"]),
        ("snake_case kebab-case", ["snake", "case", "kebab", "case"]),
        ("Ärger über STRASSE und Straße", ["ärger", "über", "strasse", "und", "straße"]),
        ("“curly” — quotes…", ["curly", "quotes"]),
        ("cafe\u0301 ＣＡＦÉ ﬁne", ["café", "café", "fine"]),
        ("ΟΔΟΣ ὈΔΌΣ", ["οδος", "ὀδός"]),
        ("漢字とkana", ["漢", "字", "と", "kana"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("👍🏽❤️ ok", ["ok"]),
        ("a\0b", ["a", "b"]),
        ("", []),
        ("…", []),
    ],
)
def test_words(text: str, want: list[str]) -> None:
    assert of_text(words_in([text]), 0) == [word.encode() for word in want]


@given(st.lists(hostile, max_size=8), st.integers(1, 5))
@settings(max_examples=400, deadline=None)
def test_words_hashes_and_grams_are_those_of_the_twin(texts: list[str], n: int) -> None:
    found = words_in(texts)
    plain = [plain_words(text) for text in texts]
    assert [of_text(found, k) for k in range(len(texts))] == plain
    assert found.hashes.tolist() == [word_hash(word) for told in plain for word in told]
    assert found.counts().tolist() == [len(told) for told in plain]
    hashes, place = grams(found, n)
    want = [plain_grams([word_hash(word) for word in told], n) for told in plain]
    assert hashes.tolist() == [one for told in want for one in told]
    in_text = np.searchsorted(found.first, place, "right") - 1
    assert np.bincount(in_text, minlength=len(texts)).tolist() == [len(told) for told in want]


@given(st.lists(hostile, max_size=8))
@settings(max_examples=100, deadline=None)
def test_blocks_make_no_difference(texts: list[str]) -> None:
    whole = words_in(texts)
    before, words.BLOCK_BYTES = words.BLOCK_BYTES, 7
    try:
        parts = words_in(texts)
    finally:
        words.BLOCK_BYTES = before
    for name in ("hashes", "first"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert all_spoken(whole) == all_spoken(parts)


def test_every_character_folds_as_in_python_beside_letters_that_marks_join_to() -> None:
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    strange = [
        c
        for k, c in enumerate(everything)
        if words.fold(c) != c or words.kind_of(c) == words.ALONE or not k % 97
    ]
    for before, after in (("a", "b"), ("ㅎ", "é")):
        texts = [before + character + after for character in strange]
        found = words_in(texts)
        assert [of_text(found, k) for k in range(len(texts))] == [plain_words(text) for text in texts]


def test_long_words_and_long_texts() -> None:
    letters = "x" * 1_000_000
    edge = ["y" * n for n in (7, 8, 9, 16, 63, 64, 65)]
    found = words_in([letters, " ".join(edge), "ß" * 40])
    assert found.hashes.tolist() == [
        word_hash(word) for word in [letters.encode(), *(w.encode() for w in edge), ("ß" * 40).encode()]
    ]


def test_nothing_at_all() -> None:
    assert cut(np.zeros(0, np.uint8), np.zeros(1, np.int64)).first.tolist() == [0]
    found = words_in(["", "", ""])
    assert found.first.tolist() == [0, 0, 0, 0] and len(grams(found, 3)[0]) == 0


def test_words_of_a_batch_are_made_once_and_again_after_an_edit() -> None:
    rows = Opened(batch_of("one", [("user", "two"), ("assistant", "three")], "four").slice(1))
    found = words_of(rows)
    assert found.spoken(0, 3) == [b"two", b"three", b"four"]
    assert words_of(rows) is found
    rows.edit(text=pl.Series(["a b", "", "c"]))
    assert words_of(rows).spoken(0, 3) == [b"a", b"b", b"c"]


@given(st.lists(hostile, max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_compiled_and_plain_words_are_the_same(texts: list[str], data: st.DataObject) -> None:
    texts = [
        text * data.draw(st.sampled_from([1, 1, 1, 9])) for text in texts
    ]  # some words of more than 64 bytes
    found = words_in(texts)
    order = np.array(data.draw(st.permutations(range(len(texts)))), np.int64)
    begins = np.sort(np.array([0, data.draw(st.integers(0, len(texts))), len(texts)]))
    told = [one.tobytes() for one in words.lines(found, order, begins)]
    with compiled.plainly():
        plain = words_in(texts)
        assert told == [one.tobytes() for one in words.lines(plain, order, begins)]
    assert np.array_equal(found.hashes, plain.hashes) and np.array_equal(found.first, plain.first)
    assert all_spoken(found) == all_spoken(plain)
