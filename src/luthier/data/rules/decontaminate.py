"""decontaminate: what a model is measured by must not be what it has learnt. A row leaks if `ngram` words in a row of one of
its texts stand in a benchmark, or if a text of it is a whole text of a benchmark that has fewer words than that.

    files of benchmarks ─▶ every string in them ─▶ hashes of n words in a row, once per process
    rows                ─▶ hashes of n words in a row ─▶ sieve of bits ─▶ looked up ─▶ the words themselves compared

Case, punctuation, whitespace and Unicode variants do not count. Nothing is removed by a hash alone. The window of ten words
is between the 8 and 13 of Brown et al., "Language Models are Few-Shot Learners" (2020), appendix C.

Not here: leaks in other words or another language, and the rows that this dataset itself holds out (`held_out`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec

from .file_texts import stamps, texts_in
from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened

SIEVE_BITS = 22


class Decontaminate(Spec):
    against: str | Annotated[list[str], Field(min_length=1)]
    """Files of benchmarks: a path, glob or URL, or a list of them, in any format that sources have; every string in them
    counts."""
    ngram: int = Field(default=10, ge=2, le=100)
    """How many words in a row make a leak; fewer find more, also sayings that stand everywhere."""
    shortest: int = Field(default=5, ge=1)
    """A benchmark's text of fewer words is left out, because answers such as "yes" stand everywhere."""
    do: Literal["drop", "mark"] = "drop"
    """`drop` removes the rows that leak; `mark` leaves them, and the report counts them by file."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Decontaminate:
        if self.shortest > self.ngram:
            raise ValueError(
                f"shortest {self.shortest} is more than ngram {self.ngram}: texts between them would be left out and found; "
                f"write shortest: {self.ngram} or less"
            )
        return self

    @property
    def patterns(self) -> list[str]:
        return [self.against] if isinstance(self.against, str) else self.against


class Benchmark:
    """What rows must not say: windows of n words and whole short texts by their hashes, sorted, and where each stands."""

    def __init__(self, texts: list[str], origins: Sequence[Any], ngram: int, shortest: int) -> None:
        import numpy as np

        from luthier.data.words import grams, short_texts, words_in

        self.words = words_in(texts)
        self._origins = origins
        hashes, place = grams(self.words, ngram)
        short, text = short_texts(self.words, ngram)
        counts = self.words.counts()[text]
        keep = counts >= shortest
        hashes = np.concatenate([hashes, short[keep]])
        long = np.concatenate([np.full(len(place), ngram), counts[keep]])
        place = np.concatenate([place, self.words.first[text[keep]]])
        self._hashes, first = np.unique(hashes, return_index=True)
        self._place, self._long = place[first], long[first]
        self._sieve = np.zeros(1 << SIEVE_BITS, bool)
        self._sieve[(self._hashes >> np.uint64(64 - SIEVE_BITS)).astype(np.int64)] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(which of the hashes stand here, the first word of each here, and how many words it is of)."""
        import numpy as np

        maybe = np.flatnonzero(self._sieve[(hashes >> np.uint64(64 - SIEVE_BITS)).astype(np.int64)])
        at = np.minimum(np.searchsorted(self._hashes, hashes[maybe]), len(self._hashes) - 1)
        hit = self._hashes[at] == hashes[maybe]
        return maybe[hit], self._place[at[hit]], self._long[at[hit]]

    def origin(self, word: int) -> Any:
        """What the text of a word is from: of files, the file and the row, counted from 1."""
        import numpy as np

        return self._origins[int(np.searchsorted(self.words.first, word, "right")) - 1]


def _run(rows: Opened, settings: Decontaminate) -> Said:
    import numpy as np

    benchmark = _benchmark(settings)
    why: dict[int, str] = {}
    leaks: dict[str, Any] = {}
    for row, what, (file, number) in leaks_in(rows, benchmark, settings.ngram):
        why[row] = f"{what} in row {number} of {file}"
        leaks.setdefault(f"leaks of {file}", np.zeros(len(rows), np.int64))[row] = 1
    return Said(counts=leaks) if settings.do == "mark" else Said(removed=rows.reasons(why))


def leaks_in(
    rows: Opened, benchmark: Benchmark, ngram: int, judged: np.ndarray | None = None, share: float = 0.0
) -> Iterator[tuple[int, str, Any]]:
    """(row, what of it stands in the benchmark, the place there) for each row that says something of it; of texts that are
    `judged` [T], or of all. `share`: the least share of the row's windows of n words that must stand there."""
    import numpy as np

    from luthier.data.words import grams, short_texts, words_of

    words = words_of(rows)
    hashes, place = grams(words, ngram)
    short, text = short_texts(words, ngram)
    if len(text):
        hashes = np.concatenate([hashes, short])
        place = np.concatenate([place, words.first[text]])
    hits, there, long = benchmark.find(hashes)
    here = place[hits]
    text = np.searchsorted(words.first, here, "right") - 1
    alike = np.minimum(words.counts()[text], ngram) == long
    if judged is not None:
        alike &= judged[text]
    if share:
        all_of = np.searchsorted(words.first, place, "right") - 1
        counted = np.ones(len(all_of), bool) if judged is None else judged[all_of]
        windows = np.bincount(rows.row[all_of[counted]], minlength=len(rows))
        said = np.bincount(rows.row[text[alike]], minlength=len(rows))
        alike &= (said >= share * windows)[rows.row[text]]
    order = np.flatnonzero(alike)[np.lexsort((here[alike], rows.row[text[alike]]))]
    found: set[int] = set()
    for start, other, n, of in zip(
        *(told[order].tolist() for told in (here, there, long, text)), strict=True
    ):
        row = int(rows.row[of])
        if row in found or words.spoken(start, start + n) != benchmark.words.spoken(other, other + n):
            continue
        found.add(row)
        turn = f"the {rows.role[of]} turn"
        what = f"{n} words in a row of {turn} stand" if n == ngram else f"{turn} stands whole"
        yield row, what, benchmark.origin(other)


def _benchmark(settings: Decontaminate) -> Benchmark:
    """Made once per process, and again when a file has changed."""
    return _made(tuple(settings.patterns), settings.ngram, settings.shortest, stamps(settings.patterns))


@lru_cache(maxsize=8)
def _made(
    patterns: tuple[str, ...],
    ngram: int,
    shortest: int,
    stamps: tuple[tuple[str, int, int], ...],  # noqa: ARG001  a changed file is another benchmark
) -> Benchmark:
    from luthier.core.errors import DataError

    texts, origins = texts_in(patterns)
    made = Benchmark(texts, origins, ngram, shortest)
    if not len(made):
        raise DataError(
            f"decontaminate: the files of `against` were read, and no text there has {shortest} words or more.",
            remedy="Name the files that hold the benchmark's questions, or set shortest.",
        )
    return made


decontaminate = RowRule(
    "decontaminate", 1, Decontaminate, "Removes rows that say what a benchmark says.", _run,
    source="n-gram overlap after Brown et al. (2020), with comparison of the words", reads=("against",),
)  # fmt: skip
