"""mojibake: UTF-8 that somebody read as Latin-1 or Windows-1252 ("cafÃ©") is read again as what it is
("café").

The repair is ftfy's `fix_encoding` and nothing else of ftfy. It sees only texts with the trace that this
mistake leaves: one of the letters that UTF-8's lead bytes become (Â to ô), followed by what its second bytes
become. A correct text can have such a pair by chance ("voilà…"); ftfy decides by what would come out, and by
how unlikely the letters are side by side.

Not repaired: what lost bytes on the way for good (those become U+FFFD), and mistakes between two one-byte
encodings."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from luthier.core.spec import Spec

from .editing import repaired
from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from luthier.data.opened import Opened

# U+0080 to U+00BF as they are in Latin-1, those that Windows-1252 shows instead, and what a lost byte leaves.
SHOWN = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ\ufffd"
SECOND = rf"[\u{{80}}-\u{{bf}}{SHOWN}]"
TRACE = (
    "[Â-ô]" + SECOND + "|Ã "
)  # the last: à, whose second byte is a no-break space, which became a plain one


class Mojibake(Spec):
    pass


def _run(rows: Opened, settings: Mojibake) -> Said:  # noqa: ARG001  every rule has this signature
    import numpy as np

    from luthier.data import compiled
    from luthier.data.opened import NOT_ASCII

    suspects = rows.have(NOT_ASCII)
    if (library := compiled.library()) is None:
        suspects = rows.matching(suspects, TRACE)
    else:
        told, edges = rows.bytes
        places = np.flatnonzero(suspects)
        found = np.zeros(len(places), np.uint8)
        compiled.call(library.luthier_trace, told, edges, places, len(places), _second(), found)
        suspects[places] = found != 0
    return repaired(rows, suspects, _trace, _repair)


@cache
def _second() -> np.ndarray:
    """Which code points are of SECOND, uint8 [0x10000]."""
    import numpy as np

    table = np.zeros(1 << 16, np.uint8)
    table[0x80:0xC0] = 1
    table[list(map(ord, SHOWN))] = 1
    return table


def _trace(text: pl.Series) -> pl.Series:
    return text.str.contains(TRACE)


def _repair(text: str) -> tuple[str, tuple[str, ...]]:
    """
    >>> _repair("schÃ¶n")
    ('schön', ('UTF-8 read as Latin-1',))
    """
    import ftfy

    return ftfy.fix_encoding(text), ("UTF-8 read as Latin-1",)


mojibake = RowRule(
    "mojibake",
    1,
    Mojibake,
    "Repairs UTF-8 that was read as Latin-1 or Windows-1252.",
    _run,
    source="ftfy (Speer, 2019), fix_encoding alone",
)
