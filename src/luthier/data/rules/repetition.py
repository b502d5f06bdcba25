"""repetition: a text that says the same again and again teaches just that, and is mostly a broken page or a model that went
round in circles. A row goes if any of its texts has too many lines that stood there before, a few words that make up too
much of it, or a long run of one word or one letter.

The shares and their limits are those of Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher" (2021), table A1; like there, only texts of some length are judged by them. The limits of runs are ours. A share of
words is counted in bytes of the folded words (data/words), and of several n-grams the one that covers most is judged.

What is ours is `often`: that paper's texts are pages of the web, where a tenth of the words is many; in fifty words a name that
stands there three times is a tenth, too. Of 50,164 good descriptions of Debian's packages (100 to 1,200 characters) shares
alone took 1,759, for words that stood there twice (1,470 of them) up to five times in nearly all; from eight times on, 14 go,
most of them lists of one module's parts. Who goes round in circles does it more often than that.

Reasons say how much, not what: the words may be private.

Not here: repeated paragraphs and longer n-grams of that table, and repetition across rows.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.spec import Spec
from luthier.core.units import Share

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened
    from luthier.data.words import Words


class Repetition(Spec):
    on: Literal["all", "user", "assistant"] = "all"
    """Whose texts are judged; a plain text counts as either, a system message never."""
    lines: Share | None = 0.30
    """The largest share of lines that stood there before; blank lines do not count."""
    line_characters: Share | None = 0.20
    """The largest share of a text's characters in lines that stood there before."""
    top_2: Share | None = 0.20
    """The largest share of a text that the same two words in a row may make up."""
    top_3: Share | None = 0.18
    """The largest share of a text that the same three words in a row may make up."""
    top_4: Share | None = 0.16
    """The largest share of a text that the same four words in a row may make up."""
    often: int = Field(default=8, ge=2)
    """How often the same two, three or four words must stand there before their share counts: lists repeat words, too."""
    shortest: int = Field(default=50, ge=1)
    """Texts of fewer words are not judged by shares, only by runs."""
    word_run: int | None = Field(default=20, ge=2)
    """How often one word may stand in a row."""
    letter_run: int | None = Field(default=40, ge=2)
    """How often one letter or digit may stand in a row."""


ROLES = {
    "all": ("user", "assistant", "text", "rejected"),
    "user": ("user", "text"),
    "assistant": ("assistant", "text", "rejected"),
}


def _run(rows: Opened, settings: Repetition) -> Said:
    """Cheap bounds first, for all texts at once; what they let pass is counted exactly, text by text."""

    from luthier.data.words import words_at

    judged = rows.says(*ROLES[settings.on])
    looks, counts = _looked(rows, judged, settings)
    words = words_at(rows, looks)
    counts[looks] = words.counts()
    long = judged & (counts >= settings.shortest)
    limits = {2: settings.top_2, 3: settings.top_3, 4: settings.top_4}
    why: dict[int, str] = {}
    for found in (
        _lines(rows, long, settings),
        _placed(_grams(words, long[looks], limits, settings.often), looks),
        _placed(_word_runs(words, settings.word_run), looks),
        _placed(_letter_runs(words, settings.letter_run), looks),
    ):
        for text in sorted(found):
            why.setdefault(int(rows.row[text]), found[text].format(turn=f"the {rows.role[text]} turn"))
    return Said(removed=rows.reasons(why))


def _looked(rows: Opened, judged: np.ndarray, settings: Repetition) -> tuple[np.ndarray, np.ndarray]:
    """(texts that are judged and need a closer look, how many words each text has [T] where it needs none)."""
    import numpy as np

    from luthier.data import compiled, words

    told, edges = rows.bytes
    texts = len(edges) - 1
    counts = np.zeros(texts, np.int64)
    if (library := compiled.library()) is None:
        return np.flatnonzero(judged), counts
    longest = int(np.diff(edges).max(initial=0))
    room = 1 << 16
    shares = [settings.top_2, settings.top_3, settings.top_4]
    limits = np.array([np.inf if share is None else share for share in shares], np.float64)
    never = longest + 1
    runs = (never if run is None else run for run in (settings.word_run, settings.letter_run))
    folded, found = np.empty(longest + 8, np.uint8), np.empty(texts, np.uint8)
    hashes, start, end = (np.empty(longest // 2 + 2, kind) for kind in (np.uint64, np.int64, np.int64))
    compiled.call(
        library.luthier_repeats, told, edges, texts, *words.known(), settings.shortest, settings.often, *runs, limits, folded,
        hashes, start, end, np.empty(room, np.uint32), room, counts, found,
    )  # fmt: skip
    return np.flatnonzero(judged & (found != 0)), counts


def _placed(found: dict[int, str], places: np.ndarray) -> dict[int, str]:
    return {int(places[k]): why for k, why in found.items()}


def _lines(rows: Opened, long: np.ndarray, settings: Repetition) -> dict[int, str]:
    import numpy as np

    from luthier.data import opened

    found: dict[int, str] = {}
    if settings.lines is None and settings.line_characters is None:
        return found
    places = np.flatnonzero(long & rows.have(opened.BREAK))
    for text, told in zip(places, opened.strings(rows.text, places), strict=True):
        lines = [line for part in told.split("\n") if (line := part.strip())]
        seen = Counter(lines)
        again = len(lines) - len(seen)
        if not again:
            continue
        size = sum(map(len, lines))
        more = size - sum(map(len, seen))
        if settings.lines is not None and again > settings.lines * len(lines):
            found[int(text)] = (
                f"{again} of {len(lines)} lines of {{turn}} stood there before, more than {settings.lines:.0%}"
            )
        elif settings.line_characters is not None and more > settings.line_characters * size:
            found[int(text)] = (
                f"{more} of {size} characters of {{turn}} are in lines that stood there before, "
                f"more than {settings.line_characters:.0%}"
            )
    return found


def _grams(words: Words, long: np.ndarray, limits: dict[int, float | None], often: int) -> dict[int, str]:
    """The share of the n words that cover most, of those that stand there often enough. No n-gram covers more than the most frequent one would with the longest
    words, and none is more frequent than a shorter one."""
    import numpy as np

    from luthier.data.words import grams

    found: dict[int, str] = {}
    counts = words.counts()
    text_of = np.repeat(np.arange(len(counts)), counts)
    lengths = words.end - words.start
    size = np.bincount(text_of, weights=lengths, minlength=len(counts))
    longest = np.zeros(len(counts))
    full = np.flatnonzero(counts)
    if len(full):
        longest[full] = np.maximum.reduceat(lengths, words.first[:-1][full])
    most = np.where(long, counts, 0)
    for n, limit in limits.items():
        if limit is None:
            continue
        hashes, place = grams(words, n)
        text = text_of[place]
        open_ = (most >= often) & (most * n * longest > limit * size)
        keep = open_[text]
        most = np.where(open_, _most(hashes[keep], text[keep], len(counts)), most)
        for k in np.flatnonzero(open_ & (most >= often) & (most * n * longest > limit * size)).tolist():
            if k in found:
                continue
            share = _top(words.spoken(int(words.first[k]), int(words.first[k + 1])), n, often)
            if share > limit:
                found[k] = (
                    f"the same {n} words in a row make up {share:.1%} of {{turn}}, more than {limit:.0%}"
                )
    return found


def _most(hashes: np.ndarray, text: np.ndarray, texts: int) -> np.ndarray:
    """How often the most frequent hash of each text occurs in it, or more: hashes are cut to 40 bits."""
    import numpy as np

    most = np.zeros(texts, np.int64)
    if len(hashes):
        tagged = text.astype(np.uint64) << np.uint64(40) | hashes >> np.uint64(24)
        tagged.sort()
        begin = np.flatnonzero(np.concatenate([[True], tagged[1:] != tagged[:-1]]))
        owner = (tagged[begin] >> np.uint64(40)).astype(np.int64)
        first = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        most[owner[first]] = np.maximum.reduceat(np.diff(np.append(begin, len(tagged))), first)
    return most


def _top(told: list[bytes], n: int, often: int) -> float:
    """The largest share that n words in a row make up which stand there often enough."""
    occur = Counter(zip(*(told[k:] for k in range(n)), strict=False))
    most = max((times * sum(map(len, gram)) for gram, times in occur.items() if times >= often), default=0)
    return min(1.0, most / sum(map(len, told)))


def _word_runs(words: Words, limit: int | None) -> dict[int, str]:
    import numpy as np

    found: dict[int, str] = {}
    if limit is None or len(words.hashes) <= limit:
        return found
    other = np.concatenate([[True], words.hashes[1:] != words.hashes[:-1]])
    other[words.first[:-1][words.counts() > 0]] = True
    begin = np.flatnonzero(other)
    lengths = np.diff(np.append(begin, len(other)))
    for k in np.flatnonzero(lengths > limit).tolist():
        start, n = int(begin[k]), int(lengths[k])
        text = int(np.searchsorted(words.first, start, "right")) - 1
        if len(set(words.spoken(start, start + n))) == 1:
            found.setdefault(text, f"one word stands {n} times in a row in {{turn}}, more than {limit}")
    return found


def _letter_runs(words: Words, limit: int | None) -> dict[int, str]:
    import re

    import numpy as np

    found: dict[int, str] = {}
    if limit is None:
        return found
    run = re.compile(rf"(.)\1{{{limit},}}", re.DOTALL)
    for k in np.flatnonzero(words.end - words.start > limit).tolist():
        text = int(np.searchsorted(words.first, k, "right")) - 1
        if hit := run.search(words.spoken(k, k + 1)[0].decode()):
            found.setdefault(
                text, f"one letter stands {len(hit[0])} times in a row in {{turn}}, more than {limit}"
            )
    return found


repetition = RowRule(
    "repetition", 2, Repetition, "Removes rows that say the same again and again.", _run,
    source="Rae et al. (2021), Gopher, table A1",
)  # fmt: skip
