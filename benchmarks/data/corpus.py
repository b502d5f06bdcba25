"""A corpus of chats in which everything that rules look for has been planted, and a list of where.

    python benchmarks/data/corpus.py --rows 200000 [--seed 0] [--into .bench/corpus]

    ROWS/corpus.jsonl      one chat a line, about 1.1 KB: {"topic": ..., "messages": [{"role": ..., "content": ...}, ...]}
    ROWS/pairs.jsonl       the first question of each chat and its topic: {"text": ..., "topic": ...}
    ROWS/benchmark.jsonl   500 questions with answers, which no row has but those that leak
    ROWS/truth.parquet     a line for every row in which something was planted
    ROWS/corpus.json       how many of each kind, and what it was made from

What a row is follows from the seed and its number alone: rows are made in any order, in constant memory, and a copy is
made by making its original again. Originals of copies are always earlier rows without anything planted.

    kind          share   what the truth says
    exact          8 %    `of`: the line it copies; `detail`: verbatim, or folded (other case or blanks)
    near           8 %    `of`, and `jaccard`: the exact one of both rows' word 3-shingles, system
                          messages left out
    personal       6 %    `spans`: turn, start and end in characters, kind and class of each value (values.py)
    decoy         10 %    `spans` of what only looks like it: there are about ten of these to one real value
    junk           4 %    the kind is mojibake, html, control, repetition, symbols, language, empty or
                          order (damage.py)
    leak           1 %    `detail`: the item, and how many consecutive words (ten or more) of it
    disagreement   1 %    `of`: a row that is asked the same and has another answer and topic; `jaccard`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from damage import (
    JUNK,
    Messages,
    Turn,
    boundaries,
    consecutive,
    edited,
    folded,
    jaccard,
    place,
    plain,
    spelled,
)
from sentences import LEAKED, Sentences, read
from values import DECOYS, GOLDEN, VALUES, Dice

ENCODE = json.JSONEncoder(ensure_ascii=False).encode
ROOT = Path(__file__).resolve().parents[2]
VERSION = 2
SHARES = (
    ("exact", 80),
    ("near", 80),
    ("personal", 60),
    ("junk", 40),
    ("leak", 10),
    ("disagreement", 10),
    ("decoy", 100),
)
COPIES = ("exact", "near", "disagreement")
EVERY = 1000  # the shares are of this many
LANES, AT_ONCE, PLANTED_AT_ONCE = 48, 1000, 10_000
SYSTEM = (
    "You are a patient assistant. Answer in a few plain sentences.",
    "You answer questions of readers of an encyclopedia. Say so when you do not know.",
    "You are the help desk of a library. Be brief and polite, and never guess.",
    "Answer as an expert would who speaks to a beginner.",
)  # fmt: skip
EXCHANGES = (1,) * 11 + (2,) * 4 + (3,)
ANSWERED = (2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 9)  # sentences


@dataclass(frozen=True)
class Span:
    turn: int
    start: int
    end: int
    kind: str
    sure: str


@dataclass(frozen=True)
class Row:
    """`messages` as they are written; `clean` as they were before they were damaged, where they were."""

    line: int
    kind: str
    topic: str
    messages: Messages
    detail: str | None = None
    of: int | None = None
    jaccard: float | None = None
    spans: tuple[Span, ...] = ()
    clean: Messages | None = field(default=None, repr=False)

    def told(self) -> str:
        messages = [{"role": role, "content": text} for role, text in self.messages]
        return ENCODE({"topic": self.topic, "messages": messages}) + "\n"

    def pair(self) -> str:
        """What is asked first, and the topic."""
        asked = next((text for role, text in self.messages if role == "user"), "")
        return ENCODE({"text": asked, "topic": self.topic}) + "\n"


class Corpus:
    """Rows by number, from 0; in files and in the truth lines count from 1."""

    def __init__(self, pool: Sentences, seed: int = 0) -> None:
        self.pool, self.seed = pool, seed

    def rows(self, numbers: np.ndarray) -> Iterator[Row]:
        """In the order of `numbers`, whatever it is."""
        draws = self._draws(numbers)
        kinds = self._kinds(numbers, draws)
        originals = self._originals(numbers, kinds, draws)
        copied = originals >= 0
        theirs = iter(self._draws(originals[copied]).tolist())
        for number, kind, of, own in zip(numbers.tolist(), kinds.tolist(), originals.tolist(), draws.tolist(), strict=True):  # fmt: skip
            if of >= 0:
                yield self._copy(number, kind, of, own, next(theirs))
            else:
                yield self._row(number, kind, own)

    def every(self, rows: int) -> Iterator[Row]:
        for start in range(0, rows, AT_ONCE):
            yield from self.rows(np.arange(start, min(rows, start + AT_ONCE)))

    def _draws(self, numbers: np.ndarray) -> np.ndarray:
        """uint64 [N, LANES], by SplitMix64 over seed, row and lane."""
        with np.errstate(over="ignore"):
            start = _mix(
                np.uint64(self.seed * GOLDEN % 2**64) + numbers.astype(np.uint64) * np.uint64(GOLDEN)
            )
            lanes = np.arange(1, LANES + 1, dtype=np.uint64) * np.uint64(GOLDEN)
            return _mix(start[:, None] + lanes[None, :])

    def _kinds(self, numbers: np.ndarray, draws: np.ndarray) -> np.ndarray:
        place = draws[:, 0] % np.uint64(EVERY)
        kinds = np.full(len(numbers), "plain", dtype=object)
        for low, high, name in boundaries(SHARES):
            kinds[(place >= low) & (place < high) & (numbers > 0)] = name
        return kinds

    def _originals(self, numbers: np.ndarray, kinds: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """An earlier plain row for each copy, -1 for the others. Row 0 is always plain."""
        found = np.full(len(numbers), -1, np.int64)
        open_ = np.flatnonzero(np.isin(kinds, COPIES))
        guess = (draws[open_, 1] % np.maximum(1, numbers[open_]).astype(np.uint64)).astype(np.int64)
        while len(open_):
            fits = self._kinds(guess, self._draws(guess)) == "plain"
            found[open_[fits]] = guess[fits]
            open_, guess = open_[~fits], guess[~fits] - 1
        return found

    def _turns(self, draws: Sequence[int]) -> tuple[list[Turn], str]:
        """A good chat and its topic."""
        pool, at = self.pool, 4
        turns: list[Turn] = [("system", [SYSTEM[draws[3] % len(SYSTEM)]])] if draws[3] % 7 == 0 else []
        topic = ""
        for exchange in range(EXCHANGES[draws[2] % len(EXCHANGES)]):
            asked = 3 + draws[at] % 3 if exchange == 0 else 1 + draws[at] % 2
            answered = ANSWERED[draws[at + 1] % 16] if exchange == 0 else 1 + draws[at + 1] % 5
            at += 2
            turns.append(("user", [pool.chat[d % len(pool.chat)] for d in draws[at : at + asked]]))
            at += asked
            places = [d % len(pool.english) for d in draws[at : at + answered]]
            turns.append(("assistant", [pool.english[place] for place in places]))
            topic = topic or pool.topics[places[0]]
            at += answered
        return turns, topic

    def _copy(self, number: int, kind: str, of: int, own: list[int], theirs: list[int]) -> Row:
        dice = Dice(self.seed, number)
        turns, topic = self._turns(theirs)
        original = plain(turns)
        line = number + 1
        if kind == "exact":
            same = dice.below(2) == 0
            messages = original if same else folded(original, dice)
            return Row(line, kind, topic, messages, "verbatim" if same else "folded", of + 1, 1.0)
        if kind == "near":
            messages = original
            while messages == original:
                messages = edited(original, self.pool.words, dice)
            return Row(line, kind, topic, messages, of=of + 1, jaccard=jaccard(original, messages))
        answers, _ = self._turns(own)
        given = next(texts for role, texts in reversed(answers) if role == "assistant")
        messages = [*original[:-1], ("assistant", " ".join(given))]
        topics = sorted(set(self.pool.topics) - {topic})
        other = dice.choice(topics) if topics else topic
        return Row(line, kind, other, messages, of=of + 1, jaccard=jaccard(original, messages))

    def _row(self, number: int, kind: str, draws: list[int]) -> Row:
        turns, topic = self._turns(draws)
        line, dice = number + 1, Dice(self.seed, number)
        if kind == "junk":
            kind = dice.choice(list(JUNK))
            clean = plain(turns)
            if kind == "mojibake":
                clean = spelled(clean)
            return Row(line, kind, topic, JUNK[kind](turns, self.pool, dice), clean=clean)
        if kind == "leak":
            item = dice.below(len(self.pool.items))
            words = consecutive(dice.choice(self.pool.items[item]), LEAKED, dice)
            _, texts = turns[-1 - dice.below(2)]
            place(texts, words, dice)
            detail = f"item {item + 1}, {len(words.split())} words"
            return Row(line, kind, topic, plain(turns), detail)
        spans: tuple[Span, ...] = ()
        if kind == "personal":
            spans = tuple(self._values(turns, VALUES, dice.choice((1, 1, 2)), dice))
        elif kind == "decoy":
            spans = tuple(self._values(turns, DECOYS, dice.between(6, 10), dice))
        return Row(line, kind, topic, plain(turns), spans=spans)

    def _values(self, turns: list[Turn], kinds: Mapping[str, Any], n: int, dice: Dice) -> Iterator[Span]:
        """Put sentences with values into one turn; where the values then are, in order."""
        turn = len(turns) - 1 - dice.below(2)
        texts = turns[turn][1]
        told: list[tuple[str, str, str, str, str]] = []
        for _ in range(n):
            kind = dice.choice(list(kinds))
            *sure, make, sayings = kinds[kind]
            before, _, after = dice.choice(sayings).partition("{}")
            value = make(dice)
            sentence = before + value + after
            if sentence not in texts:
                place(texts, sentence, dice)
                told.append((kind, sure[0] if sure else "decoy", before, value, sentence))
        at = 0
        by_sentence = {one[-1]: one for one in told}
        for text in texts:
            if text in by_sentence:
                kind, sure_, before, value, _ = by_sentence[text]
                start = at + len(before)
                yield Span(turn, start, start + len(value), kind, sure_)
            at += len(text) + 1


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def write(corpus: Corpus, rows: int, folder: Path) -> dict[str, Any]:
    """All files of the corpus; what stands in corpus.json."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        [
            ("line", pa.int64()), ("kind", pa.string()), ("detail", pa.string()), ("of", pa.int64()), ("jaccard", pa.float64()),
            ("spans", pa.list_(pa.struct([("turn", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string()), ("sure", pa.string())]))),
        ]
    )  # fmt: skip
    items = [{"question": question, "answer": answer} for question, answer in corpus.pool.items]
    told = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (folder / "benchmark.jsonl").write_text(told, encoding="utf-8")
    counts: Counter[str] = Counter()
    size_bytes = 0
    with (
        (folder / "corpus.jsonl").open("w", encoding="utf-8") as lines,
        (folder / "pairs.jsonl").open("w", encoding="utf-8") as pairs,
        pq.ParquetWriter(folder / "truth.parquet", schema, compression="zstd") as truth,
    ):
        planted: list[dict[str, Any]] = []
        for row in corpus.every(rows):
            line = row.told()
            lines.write(line)
            size_bytes += len(line.encode())
            pairs.write(row.pair())
            counts[row.kind] += 1
            if row.kind != "plain":
                one = {name: getattr(row, name) for name in schema.names[:-1]}
                planted.append(one | {"spans": [vars(span) for span in row.spans]})
            if len(planted) >= PLANTED_AT_ONCE or row.line == rows:
                truth.write_table(pa.Table.from_pylist(planted, schema))
                planted = []
    about = {
        "version": VERSION,
        "rows": rows,
        "seed": corpus.seed,
        "bytes": size_bytes,
        "kinds": dict(sorted(counts.items())),
        "sentences": corpus.pool.digest,
        "sources": corpus.pool.sources,
    }
    (folder / "corpus.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def there(rows: int, seed: int, into: Path) -> Path:
    """The folder of a corpus, made if it is not there or was made otherwise."""
    folder = into / f"{rows}"
    about = folder / "corpus.json"
    if about.exists():
        told = json.loads(about.read_text())
        if (told["version"], told["seed"]) == (VERSION, seed):
            return folder
        about.unlink()
    print(f"writing a corpus of {rows:,} rows into {folder}", file=sys.stderr, flush=True)
    write(Corpus(read(into / "sources"), seed), rows, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, default=ROOT / ".bench" / "corpus")
    given = parser.parse_args()
    folder = there(given.rows, given.seed, given.into)
    print((folder / "corpus.json").read_text(), end="")


if __name__ == "__main__":
    main()
