"""Keys: their form, and that nothing but the right one opens."""

from __future__ import annotations

import hashlib
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import SpecError
from luthier.server.keys import KeyRing, generate, key_from

TEXT, KEY = generate()
RING = KeyRing([KEY, generate()[1]])


def test_form():
    match = re.fullmatch(r"(luthier_([a-z2-7]{8})_([a-z2-7]{32}))_([0-9a-f]{8})", TEXT)
    assert match
    assert len(match[3]) * 5 == 160  # bits: 32 characters of 32 letters
    assert int(match[4], 16) == zlib.crc32(match[1].encode())
    assert KEY.id == match[2]


def test_only_the_hash_is_kept():
    assert KEY.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert TEXT not in repr(KEY)
    assert match_secret(TEXT) not in repr(RING.__dict__)


def match_secret(text):
    return text.split("_")[2]


def test_keys_differ_and_open():
    texts = {generate()[0] for _ in range(100)}
    assert len(texts) == 100
    assert RING.check(TEXT) == KEY == key_from(TEXT)


@given(st.text() | st.text("luthier_abc234567", max_size=60))
def test_no_other_text_opens(text):
    if text != TEXT:
        assert RING.check(text) is None


@given(st.integers(0, len(TEXT) - 1), st.characters())
def test_a_changed_character_does_not_open(at, character):
    changed = TEXT[:at] + character + TEXT[at + 1 :]
    if changed != TEXT:
        assert RING.check(changed) is None
        with pytest.raises(SpecError):
            key_from(changed)


def test_a_well_formed_key_with_the_right_id_and_another_secret_does_not_open():
    body = f"luthier_{KEY.id}_{'a' * 32}"
    assert RING.check(f"{body}_{zlib.crc32(body.encode()):08x}") is None


def test_a_wrong_key_is_not_repeated_in_the_error():
    with pytest.raises(SpecError) as caught:
        key_from("sk-my-secret")
    assert "sk-my-secret" not in str(caught.value)


def test_one_id_twice():
    with pytest.raises(SpecError, match="Two keys"):
        KeyRing([KEY, KEY])
