"""Names that people write and others read: one canonical form, nothing in them that cannot be seen.

Not here: which names must differ from each other (the store says so), and ids, which nobody writes.
"""

from __future__ import annotations

import unicodedata

from .errors import SpecError

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control characters, what turns the direction of writing, halves of pairs, private and unassigned ones, line ends."""


def clean(text: str, what: str, longest: int = 200) -> str:
    """As it is kept: NFC, without space around it. Raises SpecError that calls it `what`.

    >>> clean("  Cafe\\u0301 ", "title")
    'Café'
    """
    if len(text) > 4 * longest:  # looked at before anything is done with it
        raise _wrong(what, f"has more than {longest} characters")
    for char in text:
        if unicodedata.category(char) in _HIDDEN:
            raise _wrong(what, f"holds the character U+{ord(char):04X}, which cannot be seen")
    kept = " ".join(unicodedata.normalize("NFC", text).split())
    if not kept:
        raise _wrong(what, "is empty")
    if len(kept) > longest:
        raise _wrong(what, f"has more than {longest} characters")
    return kept


def folded(text: str) -> str:
    """What two names share that people would take for the same.

    >>> folded("CAFE\\u0301") == folded("café"), folded("ﬁle") == folded("FILE")
    (True, True)
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _wrong(what: str, rule: str) -> SpecError:
    return SpecError(f"the {what} {rule}.", remedy="Write plain text in one line.")
