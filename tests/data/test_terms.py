"""Terms against a plain twin of Python words and a Counter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.terms import BITS, ROLES, Terms, frequencies, read, terms_in, terms_of
from luthier.data.testing import batch_of, opened
from luthier.data.words import words_in

from .test_words import plain_words

texts = st.text(st.sampled_from("ab é.\n"), max_size=14)
rows = st.lists(
    texts
    | st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=3),
    max_size=6,
)


def bucket(word: bytes) -> int:
    return int(words_in([word.decode()]).hashes[0] >> np.uint64(64 - BITS))


def plain(row: Any, on: str) -> Counter[int]:
    told = [("text", row)] if isinstance(row, str) else row
    return Counter(bucket(word) for role, text in told if role in ROLES[on] for word in plain_words(text))


def dicts(terms: Terms) -> list[dict[int, int]]:
    cuts = zip(terms.first[:-1], terms.first[1:], strict=True)
    return [dict(zip(terms.ids[a:b].tolist(), terms.counts[a:b].tolist(), strict=True)) for a, b in cuts]


@given(rows, st.sampled_from(list(ROLES)))
@settings(max_examples=80, deadline=None)
def test_terms_are_those_of_the_plain_twin(rows: list[Any], on: str) -> None:
    found = terms_of(opened(*rows), on)
    assert dicts(found) == [dict(plain(row, on)) for row in rows]
    assert all(
        np.all(np.diff(found.ids[a:b]) > 0) for a, b in zip(found.first[:-1], found.first[1:], strict=True)
    )
    twice = [sum(counts.values()) for counts in (plain(row, on) for row in rows)]
    assert found.per_row(found.counts).tolist() == twice
    frequent = Counter(key for row in rows for key in plain(row, on))
    assert {int(n): int(k) for n, k in enumerate(frequencies([found])) if k} == dict(frequent)


@given(rows, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_they_come_back_from_features_in_any_pieces(rows: list[Any], at_once: int, skip: int) -> None:
    found = terms_of(opened(*rows), "conversation")
    batch = pa.record_batch({**found.columns(), "n": pa.array(range(len(rows)), pa.int64())}).slice(skip)
    back = [(part["n"].to_pylist(), dicts(terms)) for part, terms in read([batch], at_once)]
    assert [one for _, part in back for one in part] == dicts(found)[skip:]
    assert [n for numbers, _ in back for n in numbers] == list(range(len(rows)))[skip:]


def test_two_words_in_a_row_do_not_cross_texts() -> None:
    """5 words in two turns: 4 different ones, and the pairs a b, b c | c d; a plain text counts as both."""
    found = terms_of(
        opened([("user", "a b c"), ("assistant", "c d")], batch_of("a b c d")["text"][0].as_py()),
        "conversation",
        pairs=True,
    )
    assert np.diff(found.first).tolist() == [4 + 3, 4 + 3]
    assert len(terms_in(["a b a b"], pairs=True).ids) == 2 + 2
