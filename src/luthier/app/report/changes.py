"""What differs between two texts, word by word: pieces that are the same, gone or new.

Blanks that changed are given marks, since a difference that cannot be seen explains nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

LONGEST = 600
_PIECES = re.compile(r"\w+|\s|[^\w\s]")
_BLANKS = str.maketrans({" ": "␣", "\t": "⇥", "\n": "⏎\n", "\r": "␍", "\u00a0": "⍽"})


@dataclass(frozen=True)
class Piece:
    kind: Literal["same", "gone", "new"]
    text: str


def compare(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """The pieces of both texts. Long texts are cut first: this explains examples, it is no tool for documents.

    >>> compare("the  end", "the end")
    ([Piece(kind='same', text='the '), Piece(kind='gone', text='␣'), Piece(kind='same', text='end')], \
[Piece(kind='same', text='the end')])
    """
    old, new = (_PIECES.findall(text[:LONGEST]) for text in (before, after))
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            _add(left, "same", "".join(old[a:b]))
            _add(right, "same", "".join(new[c:d]))
        else:
            _add(left, "gone", "".join(old[a:b]).translate(_BLANKS))
            _add(right, "new", "".join(new[c:d]).translate(_BLANKS))
    for pieces, text in ((left, before), (right, after)):
        if len(text) > LONGEST:
            _add(pieces, "same", " …")
    return left, right


def _add(pieces: list[Piece], kind: Literal["same", "gone", "new"], text: str) -> None:
    if not text:
        return
    if pieces and pieces[-1].kind == kind:
        text = pieces.pop().text + text
    pieces.append(Piece(kind, text))
