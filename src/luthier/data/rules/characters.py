"""characters: texts that are hardly words: symbols, digits, shouting, bytes that a decoder lost, lines
without end.

    letters         share of letters among the characters that are no blanks
    alphanumeric    share of letters and digits among them   Data-Juicer's alphanumeric_filter keeps 0.25 and more
    digits          share of digits among them
    upper           share of capitals among letters; scripts without capitals have none
    broken          share of control characters and U+FFFD among all characters
    run             the longest stretch without a blank      C4 drops lines with a word of more than 1,000 characters
    .._word         characters per word, on average          Gopher keeps 3 to 10
    lettered_words  share of words with a letter             Gopher keeps 0.8 and more

Each text is judged by itself, short ones not at all: "42" is a good answer. What is not set is not looked at.
ASCII texts are counted in their bytes, others in their code points. Marks of Indic and other scripts are letters. Scripts without blanks have no words: a stretch
ends at their characters, and texts that are mostly theirs have no mean word.

Raffel et al. 2020 (C4), section 2.2 and its code; Rae et al. 2021 (Gopher), section A1.1; Chen et al. 2024
(Data-Juicer). Those thresholds are for web pages. The defaults here are wide, because conversations are about
code and numbers too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec
from luthier.core.units import Share

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened
    from luthier.data.points import Points

ROLES = {
    "user": ("user", "text"),
    "assistant": ("assistant",),
    "rejected": ("rejected",),
    "all": ("system", "user", "assistant", "text", "rejected"),
}
NO_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\x{3000}-\x{303f}\x{30fc}\x{ff00}-\x{ffef}"
)
KINDS = {
    "letters": r"[\p{L}\p{M}]",
    "digits": r"\p{Nd}",
    "alphanumeric": r"[\p{L}\p{M}\p{Nd}]",
    "upper": r"\p{Lu}",
    "broken": r"[\p{Cc}\x{fffd}--\t\n\r]",
    "blank": r"\s",
    "no blanks": f"[{NO_BLANKS}]",
}
"""What a character is, by Rust's tables of Unicode; a kind is a bit, in this order, which texts.c knows."""
WORDS = {"words": r"\S+", "lettered": r"\S*[\p{L}\p{M}]\S*"}
STRETCH = rf"[\S--[{NO_BLANKS}]]+"


class Characters(Spec):
    letters: Share | None = None
    """The least share of letters among the characters that are no blanks."""
    alphanumeric: Share | None = 0.25
    """The least share of letters and digits among the characters that are no blanks."""
    digits: Share | None = None
    """The largest share of digits among the characters that are no blanks."""
    upper: Share | None = None
    """The largest share of capitals among letters."""
    broken: Share | None = 0.01
    """The largest share of control characters and U+FFFD (what a decoder could not read) among all
    characters."""
    run: int | None = Field(default=1000, ge=1)
    """The longest stretch without a blank, in characters."""
    shortest_word: float | None = Field(default=None, gt=0)
    """The least mean length of words; Gopher takes 3 for web pages."""
    longest_word: float | None = Field(default=None, gt=0)
    """The largest mean length of words; Gopher takes 10 for web pages."""
    lettered_words: Share | None = None
    """The least share of words with a letter; Gopher takes 0.8 for web pages."""
    from_chars: int = Field(default=40, ge=1)
    """Texts with fewer characters are not judged."""
    on: Literal["user", "assistant", "rejected", "all"] = "all"
    """Which texts are judged, each by itself; a plain text counts as user, and `all` takes every text of the
    row but calls and what functions answer: those are data."""

    @model_validator(mode="after")
    def _bounds(self) -> Characters:
        if self.shortest_word and self.longest_word and self.shortest_word > self.longest_word:
            raise ValueError(
                f"shortest_word {self.shortest_word:g} is larger than longest_word {self.longest_word:g}; "
                "no text could stay, exchange them"
            )
        return self


def _run(rows: Opened, settings: Characters) -> Said:
    import numpy as np

    counts = _Counts(rows, settings)
    found: dict[int, tuple[int, str]] = {}
    for name, values, limit, least in _measures(counts, settings):
        bad = values < limit if least else values > limit  # not a number, as 0 / 0, is neither
        for k in np.flatnonzero(bad & counts.enough).tolist():
            place = int(counts.places[k])
            row = int(rows.row[place])
            if row not in found or place < found[row][0]:
                than = "less" if least else "more"
                why = f"the {rows.role[place]} turn has {name} {values[k]:.4g}, {than} than {limit:g}"
                found[row] = place, why
    return Said(removed=rows.reasons({row: why for row, (_, why) in found.items()}))


def _measures(counts: _Counts, wish: Characters) -> Iterator[tuple[str, np.ndarray, float, bool]]:
    """(what, its values [J], the limit, whether less than that is bad) of what is set."""
    shares = counts.share
    for name, values, limit, least in (
        ("a share of letters of", partial(shares, "letters"), wish.letters, True),
        ("a share of letters and digits of", partial(shares, "alphanumeric"), wish.alphanumeric, True),
        ("a share of digits of", partial(shares, "digits"), wish.digits, False),
        ("a share of capitals of", partial(shares, "upper", of="letters"), wish.upper, False),
        ("a share of broken characters of", partial(shares, "broken", of="chars"), wish.broken, False),
        ("a longest stretch without a blank of", counts.stretch, wish.run, False),
        ("words with a mean length of", counts.mean_word, wish.shortest_word, True),
        ("words with a mean length of", counts.mean_word, wish.longest_word, False),
        ("a share of words with a letter of", counts.lettered, wish.lettered_words, True),
    ):
        if limit is not None:
            yield name, values(), limit, least


class _Counts:
    """How many characters of each kind the judged texts have, [J] each; made when asked for, and kept."""

    def __init__(self, rows: Opened, settings: Characters) -> None:
        import numpy as np

        self._rows, self._longest = rows, settings.run or 0
        long_enough = np.diff(rows.bytes[1]) >= settings.from_chars  # a character has one byte or more
        self.places = np.flatnonzero(rows.says(*ROLES[settings.on]) & long_enough)
        """[J] of texts"""
        self._counts = _counted(rows, self.places)
        self.enough = self["chars"] >= settings.from_chars

    def __getitem__(self, kind: str) -> np.ndarray:
        import numpy as np

        if kind not in self._counts:
            texts = self._rows.some(self.places)
            self._counts[kind] = texts.str.count_matches(WORDS[kind]).to_numpy().astype(np.int64)
        return self._counts[kind]

    def share(self, kind: str, of: str = "filled") -> np.ndarray:
        """Not a number where there is nothing to divide."""
        return _divided(self[kind], self[of])

    def mean_word(self) -> np.ndarray:
        """Not a number for a text that is mostly of a script without blanks."""
        import numpy as np

        mostly = 2 * self["no blanks"] > self["filled"]
        return _divided(self["filled"], np.where(mostly, 0, self["words"]))

    def lettered(self) -> np.ndarray:
        return _divided(self["lettered"], self["words"])

    def stretch(self) -> np.ndarray:
        """The longest, where it is longer than allowed; else 0. It has as many bytes or more without a
        blank."""
        import numpy as np

        longest = np.zeros(len(self.places), np.int64)
        for k in np.flatnonzero(_long_stretches(self._rows, self.places, self._longest)).tolist():
            runs = self._rows.text.gather([self.places[k]]).str.extract_all(STRETCH).explode()
            longest[k] = max((len(run) for run in runs.drop_nulls()), default=0)
        return longest


def _long_stretches(rows: Opened, places: np.ndarray, longest: int) -> np.ndarray:
    """Texts with more bytes side by side of which none is a blank of ASCII, and perhaps others, [J]."""
    import numpy as np

    from luthier.data import compiled

    told, edges = rows.bytes
    if (library := compiled.library()) is not None:
        found = np.zeros(len(places), np.uint8)
        compiled.call(library.luthier_stretches, told, edges, places, len(places), longest, found)
        return found != 0
    if np.diff(edges).max(initial=0) <= longest:
        return np.zeros(len(places), bool)
    ends = np.append(_in_ascii("blank")[told], 1)
    ends[edges] = 1
    ends = np.flatnonzero(ends)
    begins = ends[:-1][np.diff(ends) > longest]
    return np.isin(places, np.searchsorted(edges, begins, side="right") - 1)


def _counted(rows: Opened, places: np.ndarray) -> dict[str, np.ndarray]:
    """How many characters each of these texts has, and of each kind, [J]."""
    import numpy as np

    from luthier.data import compiled
    from luthier.data.opened import NOT_ASCII

    names = ["chars", *KINDS]
    wide = rows.have(NOT_ASCII)
    other = np.flatnonzero(wide[places])  # those that are not ASCII, [O] of J
    if (library := compiled.library()) is not None:
        told, edges = rows.bytes
        counts = np.empty((len(places), len(names) + 1), np.int64)
        table, wide = _points().table, wide.view(np.uint8)
        compiled.call(library.luthier_counts, told, edges, places, len(places), table, wide, counts)
        found = {name: counts[:, k].copy() for k, name in enumerate(names)}
        other = other[counts[other, -1] > 0]  # with characters that nobody has met before
    else:
        found = _counted_in_bytes(rows, places)
    if len(other):
        texts = rows.text.gather(places[other])
        edges = np.concatenate([[0], np.cumsum(texts.str.len_chars().to_numpy(), dtype=np.int64)])
        kinds = _points().table[_points().codes(texts)]
        found["chars"][other] = np.diff(edges)
        for k, name in enumerate(KINDS):
            found[name][other] = np.add.reduceat(kinds >> k & 1, edges[:-1], dtype=np.int64)
    found["filled"] = found["chars"] - found["blank"]
    return found


def _counted_in_bytes(rows: Opened, places: np.ndarray) -> dict[str, np.ndarray]:
    """For texts of ASCII, whose characters are bytes."""
    import numpy as np

    told, edges = rows.bytes
    found = {"chars": np.diff(edges)[places]}
    full = np.flatnonzero(np.diff(edges))  # reduceat takes an empty stretch for its neighbour
    for kind in KINDS:
        counts = np.zeros(len(edges) - 1, np.int64)
        if len(full):
            counts[full] = np.add.reduceat(_in_ascii(kind)[told], edges[:-1][full], dtype=np.int64)
        found[kind] = counts[places]
    return found


@cache
def _points() -> Points:
    from luthier.data.points import Points

    return Points(KINDS)


@cache
def _in_ascii(kind: str) -> np.ndarray:
    """Which bytes are ASCII characters of a kind, uint8 [256]."""
    import numpy as np

    table = np.zeros(256, np.uint8)
    table[:128] = _points().table[:128] >> list(KINDS).index(kind) & 1
    return table


def _divided(count: np.ndarray, of: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.divide(count, of, out=np.full(len(of), np.nan), where=of > 0)


characters = RowRule(
    "characters",
    1,
    Characters,
    "Removes rows with a text that is hardly words.",
    _run,
    source="C4 (Raffel 2020), Gopher (Rae 2021), Data-Juicer (Chen 2024); defaults ours",
)
