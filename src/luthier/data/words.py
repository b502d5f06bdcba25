"""The words of texts as 64-bit hashes, without a Python string for any of them.

    UTF-8 of T texts ─▶ folded bytes ─▶ where words start and end [W] ─▶ their hashes [W] ─▶ hashes of n words in a row

A text is folded as unicodedata does it: NFKC, then lower case. A word is a run of letters, marks and digits (Unicode's
categories L, M and N), so blanks, punctuation, symbols and pictures divide words, and so does every text's edge. Scripts
that are written without blanks (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give one word a character.

The hash of a word is built from eight bytes at a time, which one unaligned read fetches for all words at once; words up
to eight bytes never collide with others of their length. It is no defence against who wants a collision: a rule that
removes a row compares the words themselves before.

Where there is a C compiler, `cut` goes through each text once (words.c); what is here does the same, a step at a time over all.

Not here: Unicode segmentation, stemming, stop words, the model's tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from . import compiled
from .opened import Opened

BLOCK_BYTES = 1 << 18  # a block's arrays stay in the processor's second cache
LONGEST = 64  # words of more bytes are hashed by BLAKE2b, one by one: they are rare
STEP = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
CHUNK = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # the first n of eight bytes

APART, LETTER, ALONE, UNKNOWN = 0, 1, 2, 255
ALONE_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x312F), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
ASCII = bytes(
    ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else c if c >= 128 else 0 for c in range(256)
)


@dataclass(frozen=True)
class Words:
    """The W words of T texts, in order. `told` are the folded bytes, in which `start` and `end` (past the last byte) say
    where each word stands; the words of text t are first[t] to first[t + 1]."""

    told: np.ndarray
    hashes: np.ndarray
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def spoken(self, start: int, end: int) -> list[bytes]:
        """Some of the words themselves."""
        told = self.told[self.start[start] : self.end[end - 1]].tobytes() if end > start else b""
        shift = int(self.start[start]) if end > start else 0
        places = zip(self.start[start:end].tolist(), self.end[start:end].tolist(), strict=True)
        return [told[a - shift : b - shift] for a, b in places]

    def counts(self) -> np.ndarray:
        """How many words each text has [T]."""
        return np.diff(self.first)


def words_of(rows: Opened) -> Words:
    """The words of all texts of a batch, made once and again only after an edit."""
    found = rows.__dict__.get("words")
    if not isinstance(found, Words):
        found = rows.__dict__["words"] = cut(*rows.bytes)
    return found


def words_at(rows: Opened, places: np.ndarray) -> Words:
    """The words of some texts of a batch, those at `places`."""
    told, edges = rows.bytes
    pieces = [told[edges[k] : edges[k + 1]] for k in places.tolist()]
    own = np.concatenate([[0], np.cumsum(np.diff(edges)[places])])
    return cut(np.concatenate([np.zeros(0, np.uint8), *pieces]), own)


def words_in(texts: Sequence[str]) -> Words:
    """The words of texts that are in no batch.

    >>> found = words_in(["Don't panic!", "", "Straße 9"])
    >>> found.spoken(0, 5), found.first.tolist()
    ([b'don', b't', b'panic', b'stra\\xc3\\x9fe', b'9'], [0, 3, 3, 5])
    """
    told = [text.encode() for text in texts]
    edges = np.concatenate([[0], np.cumsum([len(text) for text in told], dtype=np.int64)])
    return cut(np.frombuffer(b"".join(told), np.uint8), edges)


def cut(told: np.ndarray, edges: np.ndarray) -> Words:
    """Words from UTF-8 bytes [N] and the texts' edges in it [T + 1]."""
    if (library := compiled.library()) is None or len(edges) < 2:
        return _plainly(told, edges)
    texts = len(edges) - 1
    told, edges = np.ascontiguousarray(told), np.ascontiguousarray(edges, np.int64)
    given = told, edges
    told, edges, ready = _hard_ones_folded(library, told, edges)
    most = len(told) // 2 + texts + 1  # a word has a byte, and another one behind it where no text ends
    folded, left = np.empty(len(told) + 8, np.uint8), np.empty(texts, np.uint8)
    hashes, first = np.empty(most, np.uint64), np.empty(texts + 1, np.int64)
    start, end = np.empty(most, np.int64), np.empty(most, np.int64)
    n = compiled.call(
        library.luthier_cut, told, edges, texts, *known(), ready, folded, hashes, start, end, first, left
    )
    found = Words(folded[: len(told)], hashes[:n], first, start[:n], end[:n])
    return _with_left(found, *given, np.flatnonzero(left)) if left.any() else found


def known() -> tuple[np.ndarray, ...]:
    """What compiled functions must know of characters."""
    return np.frombuffer(ASCII, np.uint8), _characters.kind, _characters.lower, _characters.simple


def _hard_ones_folded(
    library: Any, told: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bytes, edges, which texts have been folded [T]): those with a character that does not fold by itself. All others are met."""
    texts = len(edges) - 1
    every, found = np.arange(texts), np.empty(texts, np.uint8)
    compiled.call(library.luthier_points, told, edges, every, texts, _characters.hard, 1, found)
    hard = np.flatnonzero(found)
    if len(hard):
        points = _points_of(b"".join(told[edges[k] : edges[k + 1]].tobytes() for k in hard.tolist()))
        _characters.meet(points)
        compiled.call(library.luthier_points, told, edges, hard, len(hard), _characters.hard, 1, found)
        hard = hard[found[: len(hard)] != 0]
    ready = np.zeros(texts, np.uint8)
    ready[hard] = 1
    if len(hard):
        told, edges = _folded_by_python(told, edges, hard)
        _characters.meet(_points_of(b"".join(told[edges[k] : edges[k + 1]].tobytes() for k in hard.tolist())))
    return told, edges, ready


def _points_of(told: bytes) -> np.ndarray:
    return np.frombuffer(told.decode().encode("utf-32-le"), "<u4")


def _with_left(found: Words, told: np.ndarray, edges: np.ndarray, left: np.ndarray) -> Words:
    """The words of all texts, those of the texts `left` [L] found by Python. Their bytes stand behind all others'."""
    own = np.concatenate([[0], np.cumsum(np.diff(edges)[left])])
    other = _plainly(np.concatenate([told[edges[text] : edges[text + 1]] for text in left.tolist()]), own)
    counts = found.counts()
    counts[left] = other.counts()
    shift = len(found.told)
    columns = [
        (found.hashes, other.hashes),
        (found.start, other.start + shift),
        (found.end, other.end + shift),
    ]
    pieces: tuple[list[np.ndarray], ...] = ([], [], [])
    done = 0
    for n, before in enumerate(found.first[left].tolist()):
        mine = slice(other.first[n], other.first[n + 1])
        for column, (ours, theirs) in zip(pieces, columns, strict=True):
            column += [ours[done:before], theirs[mine]]
        done = before
    hashes, start, end = (
        np.concatenate([*column, ours[done:]]) for column, (ours, _) in zip(pieces, columns, strict=True)
    )
    first = np.concatenate([[0], np.cumsum(counts)])
    return Words(np.concatenate([found.told, other.told]), hashes, first, start, end)


def _plainly(told: np.ndarray, edges: np.ndarray) -> Words:
    """`cut` without compiled functions."""
    pieces = []
    start = 0
    while start < len(edges) - 1:
        end = max(int(np.searchsorted(edges, edges[start] + BLOCK_BYTES, "right")) - 1, start + 1)
        block = edges[start : end + 1]
        pieces.append(_cut(told[block[0] : block[-1]], block - block[0]))
        start = end
    return pieces[0] if len(pieces) == 1 else _joined(pieces)


def _joined(pieces: Sequence[Words]) -> Words:
    out: list[list[np.ndarray]] = [[], [], [], [], [np.zeros(1, np.int64)]]
    n = shift = 0
    for piece in pieces:
        for k, column in enumerate(
            (piece.told, piece.hashes, piece.start + shift, piece.end + shift, piece.first[1:] + n)
        ):
            out[k].append(column)
        n += len(piece.hashes)
        shift += len(piece.told)
    kinds = (np.uint8, np.uint64, np.int64, np.int64, np.int64)
    told, hashes, starts, ends, first = (
        np.concatenate(column) if column else np.zeros(0, kind)
        for column, kind in zip(out, kinds, strict=True)
    )
    return Words(told, hashes, first, starts, ends)


def lines(words: Words, texts: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words of each row's texts, blanks between and a line for each text: (bytes, where each row's begin, and the end).
    `texts` stand row after row, those of row b from begins[b] on."""
    counts = words.counts()[texts]
    if (library := compiled.library()) is not None:
        out = np.empty(int((words.end - words.start).sum()) + len(words.start), np.uint8)
        ends = np.zeros(len(begins), np.int64)
        n = compiled.call(
            library.luthier_lines, words.told, words.start, words.end, words.first, texts, begins,
            len(begins) - 1, out, ends[1:],
        )  # fmt: skip
        return out[:n], ends
    text = np.repeat(texts, counts)
    nth = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = words.first[text] + nth
    lengths = words.end[place] - words.start[place] + 1
    end = np.cumsum(lengths)
    bytes_ = int(lengths.sum())
    source = np.repeat(words.start[place] - (end - lengths), lengths) + np.arange(bytes_)
    told = words.told[np.minimum(source, len(words.told) - 1)] if bytes_ else np.zeros(0, np.uint8)
    told[end - 1] = np.where(nth + 1 == np.repeat(counts, counts), ord("\n"), ord(" "))
    return told, np.append(0, end)[np.append(0, np.cumsum(counts))[begins]]


def grams(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `n` words in a row of one text: (their hashes uint64 [G], the first word of each int64 [G])."""
    last = len(words.hashes) - n + 1
    if last <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashes = words.hashes[:last].copy()
    for k in range(1, n):
        hashes *= STEP
        hashes += words.hashes[k : last + k]
    whole = np.ones(len(words.hashes), bool)
    for k in range(1, n):  # the last n - 1 words of a text begin nothing whole
        whole[np.maximum(words.first[1:] - k, words.first[:-1])[words.counts() > 0]] = False
    whole[last:] = False
    place = np.flatnonzero(whole)
    return mix(hashes[place]), place


def short_texts(words: Words, below: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of at least one word and fewer than `below`, each as one: (their hashes uint64 [S], which texts int64 [S])."""
    counts = words.counts()
    found, texts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    short = np.flatnonzero((counts > 0) & (counts < below))
    for n in np.unique(counts[short]).tolist():
        text = short[counts[short] == n]
        hashes = words.hashes[words.first[text]]
        for k in range(1, n):
            hashes = hashes * STEP + words.hashes[words.first[text] + k]
        found.append(mix(hashes))
        texts.append(text)
    return np.concatenate(found), np.concatenate(texts)


def mix(hashes: np.ndarray) -> np.ndarray:
    """Spreads what differs in a few bits over all 64 (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    out = hashes >> np.uint64(30)
    out ^= hashes
    out *= MIX_1
    out ^= out >> np.uint64(27)
    out *= MIX_2
    out ^= out >> np.uint64(31)
    return out


def _cut(told: np.ndarray, edges: np.ndarray) -> Words:
    """One block."""
    folded, edges, apart, alone = _fold(told, edges)
    letter = folded != 0
    letter[apart] = False
    before, after = np.zeros_like(letter), np.zeros_like(letter)
    before[1:], after[:-1] = letter[:-1], letter[1:]
    inner = edges[(edges > 0) & (edges < len(folded))]
    before[inner] = False
    after[inner - 1] = False
    if len(alone):
        begin, past = alone[:, 0], alone[:, 1]
        before[begin] = False
        before[past[past < len(folded)]] = False
        after[past - 1] = False
        after[begin[begin > 0] - 1] = False
    start = np.flatnonzero(letter & ~before)
    end = np.flatnonzero(letter & ~after) + 1
    return Words(folded, _hash(folded, start, end), np.searchsorted(start, edges), start, end)


def _hash(told: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Eight bytes after the other: h = mix(h + bytes), from the length on."""
    padded = np.zeros(len(told) + 8, np.uint8)
    padded[: len(told)] = told
    eight = np.ndarray(
        (len(told) + 1,), "<u8", padded.data, 0, (1,)
    )  # the eight bytes that begin at each byte
    length = end - start
    hashes = mix(length.astype(np.uint64) * STEP + (eight[start] & CHUNK[np.minimum(length, 8)]))
    rest = np.flatnonzero(length > 8)
    long = rest[length[rest] > LONGEST]
    rest = rest[length[rest] <= LONGEST]
    done = 8
    while len(rest):
        left = np.minimum(length[rest] - done, 8)
        hashes[rest] = mix(hashes[rest] + (eight[start[rest] + done] & CHUNK[left]))
        done += 8
        rest = rest[length[rest] > done]
    for k in long.tolist():
        word = told[start[k] : end[k]].tobytes()
        hashes[k] = int.from_bytes(blake2b(word, digest_size=8).digest(), "little")
    return hashes


# Folding. Nearly all characters fold one by one into as many bytes, in place; a text with any other goes through Python.


def fold(text: str) -> str:
    """The form in which words are compared.

    >>> fold("ﬁne ＡÄ")
    'fine aä'
    """
    return unicodedata.normalize("NFKC", text).lower()


class _Characters:
    """What is known of each code point that has been met: its kind once folded, what it folds to, and whether it may be
    folded by itself."""

    def __init__(self) -> None:
        self.kind = np.full(0x110000, UNKNOWN, np.uint8)
        self.lower = np.zeros(0x110000, np.uint32)
        self.simple = np.zeros(0x110000, bool)
        self.hard = np.ones(0x110000, np.uint8)  # not met, or not simple

    def meet(self, points: np.ndarray) -> None:
        for point in np.unique(points[self.kind[points] == UNKNOWN]).tolist():
            told = chr(point)
            folded = fold(told)
            kinds = {kind_of(part) for part in folded}
            apart, alike = kinds == {APART}, self._alike(told, folded)
            self.lower[point] = ord(folded) if alike and not apart else point
            self.kind[point] = APART if apart else kind_of(chr(self.lower[point]))
            self.simple[point] = apart or alike
            self.hard[point] = not self.simple[point]  # last: other threads may look at it

    @staticmethod
    def _alike(told: str, folded: str) -> bool:
        """One character for one of as many bytes, whatever stands beside it. Marks and the parts of Hangul syllables join
        with what stands before, and a capital sigma looks at what follows."""
        return (
            len(folded) == 1
            and len(folded.encode()) == len(told.encode())
            and told < "\U00010000"
            and told != "Σ"
            and unicodedata.category(folded)[0] != "M"
            and not any(
                a <= folded <= b
                for a, b in (("\u1100", "\u11ff"), ("\ua960", "\ua97f"), ("\ud7b0", "\ud7ff"))
            )
        )


_characters = _Characters()


def kind_of(character: str) -> int:
    """Whether a folded character divides words, belongs to one or is one.

    >>> kind_of("é"), kind_of("—"), kind_of("字")
    (1, 0, 2)
    """
    point = ord(character)
    if (
        unicodedata.category(character)[0] not in "LMN" or 0xFE00 <= point <= 0xFE0F
    ):  # those choose a picture's looks
        return APART
    return ALONE if any(a <= point <= b for a, b in ALONE_RANGES) else LETTER


def _fold(told: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(folded bytes, in which an ASCII character that divides words is 0; edges; places of bytes of other characters that
    divide; where characters that are words of their own begin and are past [A, 2])."""
    none = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    folded = np.frombuffer(told.tobytes().translate(ASCII), np.uint8)
    lead = np.flatnonzero(folded >= 0xC0)
    if not len(lead):
        return folded, edges, *none
    points, sizes = _decoded(folded, lead)
    _characters.meet(points)
    done = np.zeros(0, np.int64)
    if not (simple := _characters.simple[points]).all():
        done = np.unique(np.searchsorted(edges, lead[~simple], "right") - 1)
        told, edges = _folded_by_python(told, edges, done)
        folded = np.frombuffer(told.tobytes().translate(ASCII), np.uint8)
        lead = np.flatnonzero(folded >= 0xC0)
        points, sizes = _decoded(folded, lead)
        _characters.meet(points)
    folded = folded.copy()
    lower = _characters.lower[points]
    changed = np.flatnonzero(lower != points)
    if len(done) and len(changed):  # what Python has folded is not folded again
        changed = changed[~np.isin(np.searchsorted(edges, lead[changed], "right") - 1, done)]
    _write(folded, lead[changed], lower[changed], sizes[changed])
    kind = _characters.kind[points]
    begin, size = lead[kind == APART], sizes[kind == APART]
    apart = np.concatenate([begin + k for k in range(2)] + [begin[size > k] + k for k in (2, 3)])
    begin = lead[kind == ALONE]
    return folded, edges, apart, np.stack([begin, begin + sizes[kind == ALONE]], axis=1)


def _decoded(told: np.ndarray, lead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The code points that begin at `lead`, and of how many bytes each is."""
    first = told[lead].astype(np.int64)
    sizes = 2 + (first >= 0xE0) + (first >= 0xF0)
    points = first & (0x7F >> sizes)
    for k in (1, 2, 3):
        more = np.flatnonzero(sizes > k)
        points[more] = points[more] << 6 | told[lead[more] + k] & 0x3F
    return points, sizes


def _write(told: np.ndarray, lead: np.ndarray, points: np.ndarray, sizes: np.ndarray) -> None:
    """Characters of two or three bytes, in place."""
    for size, first in ((2, 0xC0), (3, 0xE0)):
        at, point = lead[sizes == size], points[sizes == size]
        told[at] = first | point >> 6 * (size - 1)
        for k in range(1, size):
            told[at + k] = 0x80 | point >> 6 * (size - 1 - k) & 0x3F


def _folded_by_python(
    told: np.ndarray, edges: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same texts, with those at `places` folded."""
    data = told.tobytes()
    pieces, done = [], 0
    lengths = np.diff(edges)
    for place in places.tolist():
        folded = fold(data[edges[place] : edges[place + 1]].decode()).encode()
        pieces += [data[done : edges[place]], folded]
        done = int(edges[place + 1])
        lengths[place] = len(folded)
    pieces.append(data[done:])
    return np.frombuffer(b"".join(pieces), np.uint8), np.concatenate([[0], np.cumsum(lengths)])
