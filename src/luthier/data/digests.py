"""Digests of texts by which rows are compared and named: 128 bits of BLAKE2b as 32 hexadecimal digits, of a text as it is or folded.

    of(texts)                                  of each text
    of_rows(told, edges, texts, begins, ...)   of several texts of each row as one, without a string for any

Folding is records.fold: NFKC, case and whitespace. Where a compiled function does it (texts.c), it knows characters that fold by
themselves, whatever stands beside them; a row with another one is folded by Python, and so is one with a character that nobody has
met. Both give the same digests.

Not here: what is compared (rules), what an id is of (records).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from threading import Lock

import numpy as np
import polars as pl
import pyarrow as pa

from . import compiled

DIGITS = 32
LONGEST_FORM = 15  # bytes, and at most three times those of the character: so much room is there
BLANK = 1
FIRST_JOINING = (
    ("\u1100", "\u11ff"),
    ("\ua960", "\ua97f"),
    ("\ud7b0", "\ud7ff"),
    ("\U00016d40", "\U00016d7f"),
)
"""Parts of Hangul and Kirat Rai, which join with what stands before though they are letters."""


def fold(text: str) -> str:
    """The form in which inputs count as identical: Unicode variants, case and whitespace do not matter.

    >>> fold("  Ｈello\\n WORLD ")
    'hello world'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def folded(texts: Sequence[str]) -> list[str]:
    """`fold` of each, those of ASCII alone all at once.

    >>> folded([" A\t\x1fb ", "Ａ"])
    ['a b', 'a']
    """
    series = pl.Series(texts, dtype=pl.String)
    ascii_ = series.str.len_bytes() == series.str.len_chars()
    plain = (
        series.filter(ascii_)
        .str.to_lowercase()
        .str.replace_all(r"[\s\x1c-\x1f]{2,}|[\s\x1c-\x1f--\x20]", " ")
    )
    quick = iter(plain.str.strip_chars(" ").to_list())
    return [next(quick) if one else fold(text) for text, one in zip(texts, ascii_, strict=True)]


def digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def of(texts: Iterable[str] | pa.Array, *, folds: bool = False) -> pa.Array:
    """Of each text [T], none of which may be null.

    >>> of(["a", "A"], folds=True).to_pylist() == [digest("a")] * 2
    True
    """
    array = texts if isinstance(texts, pa.Array) else pa.array(list(texts), pa.large_string())
    if array.null_count:
        raise TypeError("a text that is not there has no digest")
    if (library := compiled.library()) is None:
        strings = array.to_pylist()
        return pa.array(list(map(digest, folded(strings) if folds else strings)), pa.string())
    told, edges = bytes_of(array)
    n = len(edges) - 1
    if folds:
        return of_rows(told, edges, np.arange(n), np.arange(n + 1), folds=True)
    out = np.empty((n, DIGITS), np.uint8)
    compiled.call(library.luthier_digests, told, edges, n, out)
    return _strings(out)


def of_rows(
    told: np.ndarray,
    edges: np.ndarray,
    texts: np.ndarray,
    begins: np.ndarray,
    *,
    folds: bool,
    heads: Sequence[str] = ("",),
    before: np.ndarray | None = None,
    after: str = "",
) -> pa.Array:
    """Of each row's texts one digest [B]: of row b those from texts[begins[b]] on, each behind the head heads[before[i]] and before `after`.
    `told` and `edges` are those of Opened.bytes."""
    texts, begins = np.ascontiguousarray(texts, np.int64), np.ascontiguousarray(begins, np.int64)
    before = np.zeros(len(texts), np.int64) if before is None else np.ascontiguousarray(before, np.int64)
    rows = len(begins) - 1
    if (library := compiled.library()) is None:
        return of(_joined(told, edges, texts, begins, range(rows), heads, before, after), folds=folds)
    head_bytes = [head.encode() for head in heads]
    head_edges = np.concatenate([[0], np.cumsum([len(head) for head in head_bytes], dtype=np.int64)])
    tail = np.frombuffer(after.encode(), np.uint8)
    told, edges = np.ascontiguousarray(told), np.ascontiguousarray(edges, np.int64)
    sizes = np.zeros(len(texts) + 1, np.int64)
    np.cumsum((edges[1:] - edges[:-1])[texts] + np.diff(head_edges)[before] + len(tail), out=sizes[1:])
    scratch = np.empty(3 * int(np.diff(sizes[begins]).max(initial=0)) + 1, np.uint8)
    out, left = np.empty((rows, DIGITS), np.uint8), np.empty(rows, np.uint8)
    compiled.call(
        library.luthier_row_digests, told, edges, texts, begins, rows, np.frombuffer(b"".join(head_bytes), np.uint8),
        head_edges, before, tail, len(tail), int(folds), _forms.form, _forms.pool, scratch, out, left,
    )  # fmt: skip
    for row in np.flatnonzero(left).tolist():
        (text,) = _joined(told, edges, texts, begins, [row], heads, before, after)
        _forms.meet(text)
        out[row] = np.frombuffer(digest(fold(text)).encode(), np.uint8)
    return _strings(out)


def bytes_of(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(UTF-8 of texts one after the other, uint8 [N]; where each begins and the last ends, int64 [T + 1])."""
    if not pa.types.is_large_string(array.type):
        array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    if not len(array):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    edges = np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8)
    told = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return told[edges[0] : edges[-1]], edges - edges[0]


def strings_of(told: np.ndarray, edges: np.ndarray) -> pa.Array:
    """The other way: strings over the same bytes. Raises ArrowInvalid where they are more than 2 GB."""
    large = pa.Array.from_buffers(
        pa.large_string(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(told)]
    )
    return large.cast(pa.string())


def _joined(
    told: np.ndarray,
    edges: np.ndarray,
    texts: np.ndarray,
    begins: np.ndarray,
    rows: Iterable[int],
    heads: Sequence[str],
    before: np.ndarray,
    after: str,
) -> list[str]:
    """What these rows' digests are of."""
    out = []
    for row in rows:
        mine = slice(int(begins[row]), int(begins[row + 1]))
        pieces = zip(texts[mine].tolist(), before[mine].tolist(), strict=True)
        out.append(
            "".join(f"{heads[k]}{told[edges[t] : edges[t + 1]].tobytes().decode()}{after}" for t, k in pieces)
        )
    return out


def _strings(digits: np.ndarray) -> pa.Array:
    """[n, 32] as texts."""
    edges = np.arange(len(digits) + 1, dtype=np.int32) * DIGITS
    return pa.StringArray.from_buffers(len(digits), pa.py_buffer(edges), pa.py_buffer(digits))


class _Forms:
    """Of each character that has been met and folds by itself: where its form stands in `pool`, and in four bits how many bytes it has.
    BLANK for whitespace; 0 for all others."""

    def __init__(self) -> None:
        self.form = np.zeros(0x110000, np.uint32)
        self.pool = np.zeros(
            1 << 24, np.uint8
        )  # more than all characters need: it never moves while somebody reads
        self._end = 1  # so that no form is BLANK
        self._met: set[str] = set()
        self._one_at_a_time = Lock()

    def meet(self, text: str) -> None:
        with self._one_at_a_time:
            for character in set(text) - self._met:
                self._met.add(character)
                form = fold_alone(character)
                if form is None:
                    continue
                if form:
                    self.pool[self._end : self._end + len(form)] = np.frombuffer(form, np.uint8)
                self.form[ord(character)] = self._end << 4 | len(form) if form else BLANK
                self._end += len(form)


def fold_alone(character: str) -> bytes | None:
    """What a character folds to, whatever stands beside it; empty for whitespace. None where that depends, or is long. Marks and
    parts of syllables join with what stands before, and so does what begins with one.

    >>> fold_alone("Ä"), fold_alone("\u2003"), fold_alone("\u0301")
    (b'\\xc3\\xa4', b'', None)
    """
    apart = unicodedata.normalize("NFKD", character)
    if any(unicodedata.category(one)[0] == "M" or unicodedata.combining(one) for one in apart[:1]) or any(
        a <= apart[0] <= b for a, b in FIRST_JOINING
    ):
        return None
    form = unicodedata.normalize("NFKC", character).casefold()
    if form.isspace():
        return b""
    told = form.encode()
    if any(map(str.isspace, form)) or len(told) > min(LONGEST_FORM, 3 * len(character.encode())):
        return None
    return told


_forms = _Forms()
