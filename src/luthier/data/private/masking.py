"""Private data taken out of a few texts that belong together, one by one and at once: for what comes in singly, such as a request.
Rows of a dataset go through the rule `redact`, which finds the same things in many texts at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.artifact import canonical

from . import KINDS
from .find import candidates
from .found import Found, settle
from .pseudonyms import NUMBERED, Masks

MOST_ROUNDS = 20
"""What a mask leaves beside it may be found only when it stands alone. A text that holds more after so many is not told at all."""
HIDDEN = "(not shown)"


def masked(texts: Sequence[str], beside: Sequence[str] = ()) -> tuple[list[str], int]:
    """The texts with a numbered mask in the place of each private value, the same for the same value in all of them; and how many
    values were masked. Masks that stand in `beside` are not given again: nobody knows any more whose they are.

    >>> masked(["I am jo@firm.com", "mail to jo@firm.com, or call"])
    (['I am [EMAIL_1]', 'mail to [EMAIL_1], or call'], 2)
    """
    told, count = list(texts), 0
    masks = Masks([*told, *beside])
    for _ in range(MOST_ROUNDS):
        all_of = [candidates(text, frozenset(KINDS)) for text in told]
        known = {(one.kind, one.value) for found in all_of for one in found if one.sure}
        spans = [settle(found, known) for found in all_of]
        if not any(spans):
            break
        count += sum(map(len, spans))
        told = [replaced(text, found, masks) for text, found in zip(told, spans, strict=True)]
    else:
        told = [HIDDEN if settle(candidates(text, frozenset(KINDS))) else text for text in told]
    return told, count


def strange(said: Any, beside: Any) -> bool:
    """Whether a mask stands in what is said, anything that JSON can hold, that does not stand in `beside`: nobody knows any more what it
    stands for.

    >>> strange("to [EMAIL_2]", ["from [EMAIL_1]"]), strange("to [EMAIL_1]", ["from [EMAIL_1]"])
    (True, False)
    >>> strange("see [TABLE_2]", [])
    False
    """
    there, known = (
        {found for found in NUMBERED.findall(canonical(one).decode()) if found[0].lower() in KINDS}
        for one in (said, beside)
    )
    return not there <= known


def replaced(text: str, told: Sequence[Found], masks: Masks) -> str:
    """The text with masks in the place of these spans, which do not overlap and are in order."""
    pieces, at = [], 0
    for one in told:
        pieces += [text[at : one.start], masks.mask(one.kind, one.value)]
        at = one.end
    return "".join([*pieces, text[at:]])
