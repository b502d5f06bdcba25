"""What is searched is what str.translate makes of a text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.private import readable
from luthier.data.private.readable import Readable, table


@given(st.text(st.one_of(st.sampled_from([chr(point) for point in table()]), st.sampled_from("a7-. é漢"))))
@settings(max_examples=200, deadline=None)
def test_odd_characters_become_plain_as_translate_does_it(text: str) -> None:
    assert Readable(text).plain == text.translate(table())


def test_of_many_odd_characters_at_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(map(chr, table())) + "7"
    assert Readable(text).plain == text.translate(table())
    monkeypatch.setattr(readable, "FEW", len(table()))
    assert Readable(text).plain == text.translate(table())
