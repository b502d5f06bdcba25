"""Passes over bytes: digests, kinds of characters, phrases, what is tidy. Compiled and plain, against Python's own strings."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import compiled, digests
from luthier.data.opened import Opened
from luthier.data.phrases import LATIN_ENDS, Phrases
from luthier.data.points import Points
from luthier.data.rules import characters, mojibake, normalize, repetition, turns

from .test_rules import batch_of, run
from .test_words import each_way, hostile


@pytest.fixture(scope="module", autouse=True, params=["compiled", "plain"])
def _how(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from each_way(request.param, tmp_path_factory)


blanks = st.sampled_from(
    [" ", "  ", "\n", "\n\n\n", "\t", "\x1f", "\x85", "\u2028", "\u3000", "\xa0", "\r\n"]
)
words = st.sampled_from(
    ["Some", "WORDS", "of", "everyday", "use", "'s", "q", "é", "“so”", "ﬁ", "字", "½", "ﷺ", "Σας"]
)
lines = st.lists(st.one_of(words, blanks, hostile), max_size=30).map(lambda pieces: "".join(pieces))
texts = st.lists(lines | lines.map(lambda text: text * 9), max_size=6)


def plain_fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def plain_digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


@given(texts)
@settings(max_examples=150, deadline=None)
def test_digests_are_those_of_hashlib(told: list[str]) -> None:
    assert digests.of(told).to_pylist() == [plain_digest(text) for text in told]
    for _ in range(2):  # the second time every character has been met
        assert digests.of(told, folds=True).to_pylist() == [plain_digest(plain_fold(text)) for text in told]
    cut = pa.array(["before", *told, "behind"])[1:-1]
    assert digests.of(cut).equals(digests.of(told))


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000])
def test_digests_of_every_length(n: int) -> None:
    told = ("Ab c" * n)[:n]
    assert digests.of([told]).to_pylist() == [plain_digest(told)]
    assert digests.of([told], folds=True).to_pylist() == [plain_digest(plain_fold(told))]


def test_a_text_that_is_not_there_has_no_digest() -> None:
    with pytest.raises(TypeError, match="no digest"):
        digests.of(pa.array(["a", None]))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), lines), max_size=8),
    st.booleans(),
    st.sampled_from(["", " ", "é"]),
)
@settings(max_examples=100, deadline=None)
def test_digests_of_rows(pieces: list[tuple[int, int, str]], folds: bool, after: str) -> None:
    """Texts of a row may stand anywhere."""
    heads = ["", "\n", "\0Rôle\0 "]
    told, edges = digests.bytes_of(pa.array([text for _, _, text in pieces], pa.string()))
    rows = [[k for k, piece in enumerate(pieces) if piece[0] == row] for row in range(4)]
    order = np.array([k for row in rows for k in row], np.int64)
    begins = np.cumsum([0, *map(len, rows)])
    before = np.array([pieces[k][1] for k in order.tolist()], np.int64)
    found = digests.of_rows(told, edges, order, begins, folds=folds, heads=heads, before=before, after=after)
    whole = ["".join(heads[pieces[k][1]] + pieces[k][2] + after for k in row) for row in rows]
    assert found.to_pylist() == [plain_digest(plain_fold(text) if folds else text) for text in whole]


def test_characters_fold_alone_only_where_nothing_joins_them() -> None:
    """All that may be the second of a composition stands out, as Unicode's own decompositions say."""
    for point in range(0x110000):
        apart = unicodedata.decomposition(chr(point))
        if apart and not apart.startswith("<") and len(parts := apart.split()) == 2:
            assert digests.fold_alone(chr(int(parts[1], 16))) is None, hex(point)
    for point in [*range(0x80, 0x3000), *range(0xAC00, 0xD800, 97), *range(0xF900, 0x10000)]:
        one = chr(point)
        if (form := digests.fold_alone(one)) is not None:
            for around in ("e{}e", "é{}é", "ᄀ{}가", " {} "):
                want = plain_fold(around.format("\ufffc")).replace("\ufffc", form.decode() or " ")
                assert plain_fold(around.format(one)) == " ".join(want.split()), hex(point)


@given(texts)
@settings(max_examples=150, deadline=None)
def test_kinds_of_characters(told: list[str]) -> None:
    rows = Opened(batch_of(*told))
    points = Points({"blank": r"\s", "letter": r"\p{L}", "mark": r"\p{M}"})
    found = points.of(rows, np.arange(len(told))).tolist()
    for bits, text in zip(found, told, strict=True):
        for name, pattern in (("blank", r"\s"), ("letter", r"\p{L}"), ("mark", r"\p{M}")):
            assert bool(bits & points.bit(name)) == pl.Series([text]).str.contains(pattern)[0]
    for name, counts in characters._counted(rows, np.arange(len(told))).items():
        for n, text in zip(counts.tolist(), told, strict=True):
            pattern = {"chars": r"(?s).", "filled": r"\S"}.get(name) or characters.KINDS[name]
            assert n == pl.Series([text]).str.count_matches(pattern)[0], (name, text)


@given(st.lists(st.text(st.sampled_from("ab \n\x0bé\u2003"), max_size=40), max_size=5), st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_long_stretches_are_all_seen(told: list[str], longest: int) -> None:
    rows = Opened(batch_of(*told))
    found = characters._long_stretches(rows, np.arange(len(told)), longest)
    for suspected, text in zip(found.tolist(), told, strict=True):
        assert suspected or max(map(len, text.split()), default=0) <= longest


@given(st.lists(st.text(st.sampled_from("xÃÂâ¶©é€…”Š ô\x80\xbf\ufffd"), max_size=9) | hostile, max_size=6))
@settings(max_examples=200, deadline=None)
def test_traces_of_mojibake(told: list[str]) -> None:
    rows = Opened(batch_of(*told))
    seen: list[bool] = []

    def keep(rows: Opened, suspects: np.ndarray, *_: Any) -> None:
        seen.extend(suspects.tolist())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mojibake, "repaired", keep)
        mojibake._run(rows, mojibake.Mojibake())
    assert seen == pl.Series(told, dtype=pl.String).str.contains(mojibake.TRACE).to_list()


@given(texts, st.sampled_from(["collapse", "trim", "keep"]), st.sampled_from(["keep", "space"]))
@settings(max_examples=200, deadline=None)
def test_what_is_left_alone_is_normal(told: list[str], whitespace: str, newlines: str) -> None:
    wish = normalize.Normalize.model_validate({"whitespace": whitespace, "newlines": newlines})
    rows = Opened(batch_of(*told))
    said = normalize._run(rows, wish)
    after = rows.text if said.text is None else said.text
    assert after.to_list() == normalize._clean(pl.Series(told, dtype=pl.String), wish).to_list()


@given(
    st.lists(
        st.sampled_from(["as an ai model", "As An AI", "i’m SORRY, ", "désolé", "x", "\u212aI", "\0", " "]),
        max_size=9,
    )
)
@settings(max_examples=150, deadline=None)
def test_phrases(pieces: list[str]) -> None:
    phrases = Phrases(["as an ai", "i'm sorry", "désolé", "sorry, a", "ki"], 20)
    text = "".join(pieces)
    start = text[:20].lower().replace("’", "'")
    rows = Opened(batch_of(text))
    want = any(one in start for one in ("as an ai", "i'm sorry", "désolé", "sorry, a", "ki"))
    assert phrases.within(rows, np.array([0])).tolist() == [want]


@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "b", "word", "é", "\u0301", "字", "\n", "longer-one"]), max_size=60
        ).map(" ".join),
        max_size=5,
    )
)
@settings(max_examples=100, deadline=None)
def test_what_repeats_is_seen(told: list[str]) -> None:
    wish = {"shortest": 4, "often": 3, "word_run": 4, "letter_run": 5}
    found = run("repetition", batch_of(*told), **wish)
    with compiled.plainly():
        assert found.removed == run("repetition", batch_of(*told), **wish).removed


def test_last_letters_that_end_a_sentence() -> None:
    for byte in turns.PLAIN_END:
        assert pl.Series([chr(byte)]).str.contains(turns.END)[0]
    for byte in set(range(128)) - set(turns.PLAIN_END) - set(b" \t\n\r\x0b\x0c"):
        assert not pl.Series([chr(byte)]).str.contains(turns.END)[0]


def test_nothing_is_read_of_no_texts() -> None:
    rows = Opened(batch_of())
    nothing = np.zeros(0, np.int64)
    assert digests.of([]).to_pylist() == [] and Points({"a": "a"}).of(rows, nothing).tolist() == []
    ask: list[Callable[[], Any]] = [
        lambda: characters._counted(rows, nothing)["chars"].tolist(),
        lambda: repetition._looked(rows, np.zeros(0, bool), repetition.Repetition())[0].tolist(),
        lambda: rows.marks.tolist(),
    ]
    assert [one() for one in ask] == [[], [], []]


def test_no_character_far_away_is_a_small_latin_letter() -> None:
    """What phrases.py takes for granted."""
    far = (chr(point) for point in range(0x2200, 0x110000) if not 0xD800 <= point < 0xE000)
    assert not any(letter < LATIN_ENDS for one in far for letter in one.lower())


@pytest.mark.parametrize("head", ["", "é" * 12, "日" * 13, "👩" * 14])
def test_phrases_are_looked_for_in_characters_not_bytes(head: str) -> None:
    phrases = Phrases(["as an ai", "désolé"], 20)
    told = [head + "As an AI", head + "DÉSOLÉ", head + "ſorry", head + "\u212a", head + "as an a", ""]
    want = [any(one in text[:20].lower() for one in ("as an ai", "désolé")) for text in told]
    assert phrases.within(Opened(batch_of(*told)), np.arange(len(told))).tolist() == want
