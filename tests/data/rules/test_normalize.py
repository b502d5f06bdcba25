"""What normalization is spared, by the characters that it could change."""

from __future__ import annotations

import sys

import polars as pl

from luthier.data.rules.normalize import COMPOSED


def test_nfc_changes_no_text_without_the_characters_that_are_looked_for() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    characters = pl.Series(every)
    spared = characters.filter(~characters.str.contains(COMPOSED))
    assert len(spared) > 250_000  # nearly all that are assigned
    together = pl.Series(["".join(spared.to_list()), "".join(spared.reverse().to_list())])
    assert together.str.normalize("NFC").equals(together)
