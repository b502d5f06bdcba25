"""What rules found of what was planted: recall, precision and false removals of each rule of a finished dataset.

    python benchmarks/data/truth.py DATASET CORPUS [--json]

DATASET is the folder that the stage wrote (train, validation, test and removed.parquet, rules.json), CORPUS that of
corpus.py. Rows are told apart by their line in corpus.jsonl. A row that an earlier rule (or reading) took away is not
counted for a later one. What is counted, by rule:

    deduplicate       a planted pair of equal rows is found when not both are left. A removal is false when the text of the
                      row that is named as its equal is another one (case, blanks and Unicode variants aside).
    near_duplicates   the same for planted pairs whose Jaccard index, over word 3-shingles, is at least the rule's own; a
                      removal is false when the index with the row that is named is lower. Pairs by index, too.
    decontaminate     a planted leak is found when its row is gone; a removal is false when the row has no run of words as
                      long as the rule's with any item of the benchmark.
    redact            a planted value is found when four fifths of its characters are masked (or its row is gone); a mask
                      is false when it covers no planted value.
    drop_empty turns repetition characters language
                      a planted row is found when it is gone; a removal is false when nothing of that kind (nor of a kind
                      beside it, see MAY) was planted in the row.
    mojibake html normalize
                      a planted row is found when its text is right again: what it was before, case and blanks aside; for
                      normalize, when no invisible character is left. An edit is false when nothing was planted that
                      the rule should mend (not told for normalize, which also evens out blanks anywhere, nor where several
                      rules edited: nobody could say which of them did).
    agree             a planted disagreement is found when not both of its rows are left.

The arithmetic is plain and slow on purpose: strings and sets, nothing of the rules' own code.
"""

from __future__ import annotations

import argparse
import json
import mmap
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Corpus
from damage import Messages, jaccard
from sentences import read, words

from luthier.data.shards import Side

SIDES = ("train", "validation", "test")
ID = re.compile(r"[0-9a-f]{32}(?:-\d+)?")
MASK = re.compile(r"\[[A-Z][A-Z_]*(?:_\d+|:[0-9a-f]+)\]")
INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u2060\ufeff\u202a-\u202e]")
COVERED = 0.8
EDITING = {"mojibake", "html", "normalize", "redact"}
MUST = {
    "drop_empty": ("empty",),
    "turns": ("order",),
    "repetition": ("repetition",),
    "characters": ("symbols",),
    "language": ("language",),
    "mojibake": ("mojibake",),
    "html": ("html",),
    "normalize": ("control",),
}
MAY = {
    "turns": ("empty",),
    "characters": ("repetition", "mojibake", "control"),
    "repetition": ("symbols",),
    "language": ("symbols", "repetition", "mojibake"),
}
"""What a rule need not find, and makes no mistake in finding."""


@dataclass(frozen=True)
class Score:
    """Of one rule. `acted` is how many rows it removed, or edited, or how many masks it set; `false` how many of these
    were wrong; `planted` how much of what it should find was there for it; `parts` are the same by kind."""

    rule: str
    planted: int
    found: int
    acted: int
    false: int | None
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float | None:
        return self.found / self.planted if self.planted else None

    @property
    def precision(self) -> float | None:
        return 1 - self.false / self.acted if self.acted and self.false is not None else None

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "recall": self.recall, "precision": self.precision}


class Lines:
    """A JSON Lines file by line number, from 1, without reading all of it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = [0]
        while (end := self._bytes.find(b"\n", self._starts[-1])) >= 0:
            self._starts.append(end + 1)

    def __getitem__(self, line: int) -> dict[str, Any]:
        return json.loads(self._bytes[self._starts[line - 1] : self._starts[line]])


class Dataset:
    """What the stage left, beside what it was given."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        import pyarrow.parquet as pq

        self.folder, self.corpus = folder, corpus
        self.rules: list[dict[str, Any]] = json.loads((folder / "rules.json").read_text())
        self.lines = Lines(corpus / "corpus.jsonl")
        columns = ["line", "kind", "detail", "of", "jaccard", "spans"]
        self.planted = {
            one["line"]: one for one in pq.read_table(corpus / "truth.parquet", columns=columns).to_pylist()
        }
        gone = Side(folder / "removed.parquet").table(["id", "origin", "rule", "reason"])
        self.gone = {_line(one["origin"]): one for one in gone.to_pylist()}
        self._line_of = {one["id"]: line for line, one in self.gone.items()}
        for side in SIDES:
            kept = Side(folder / f"{side}.parquet").table(["id", "origin"])
            for name, origin in zip(kept["id"].to_pylist(), kept["origin"].to_pylist(), strict=True):
                self._line_of[name] = _line(origin)

    @cached_property
    def order(self) -> dict[str, int]:
        """The place of each rule; reading comes first."""
        return {entry["rule"]: place for place, entry in enumerate(self.rules)}

    def kept(self) -> Iterator[tuple[int, Messages]]:
        """(line, messages) of every row that is left."""
        for side in SIDES:
            for batch in Side(self.folder / f"{side}.parquet").batches(["origin", "messages"], 2_000):
                for one in batch.to_pylist():
                    yield _line(one["origin"]), [(m["role"], m["content"]) for m in one["messages"]]

    def original(self, line: int) -> Messages:
        return [(m["role"], m["content"]) for m in self.lines[line]["messages"]]

    def earlier(self, line: int, rule: str) -> bool:
        """Whether the row was gone before the rule could see it."""
        one = self.gone.get(line)
        return one is not None and self.order.get(one["rule"], len(self.rules)) < self.order[rule]

    def removed_by(self, rule: str) -> Iterator[tuple[int, str]]:
        """(line, reason)"""
        return ((line, one["reason"]) for line, one in self.gone.items() if one["rule"] == rule)

    def named(self, reason: str) -> int | None:
        """The line of the row that a reason names."""
        found = ID.search(reason)
        return self._line_of.get(found.group()) if found else None

    def settings(self, rule: str) -> dict[str, Any]:
        return next(entry["spec"] for entry in self.rules if entry["rule"] == rule)


def _line(origin: str) -> int:
    return int(origin.rpartition(":")[2])


def fold(text: str) -> str:
    """Text that only case, blanks and Unicode variants tell apart is equal.

    >>> fold(" A\\n b")
    'a b'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# Rules that compare rows


def pairs(
    made: Dataset, rule: str, planted: dict[str, list[int]], wrong: Callable[[int, int], bool]
) -> Score:
    """`planted` are copies by part; a copy's original is in the truth. `wrong` judges a removed row and the one named."""
    parts = {}
    for part, lines in planted.items():
        there = [
            line
            for line in lines
            if not made.earlier(line, rule) and not made.earlier(made.planted[line]["of"], rule)
        ]
        found = [line for line in there if line in made.gone or made.planted[line]["of"] in made.gone]
        parts[part] = (len(there), len(found))
    acted, false, examples = 0, 0, []
    for line, reason in made.removed_by(rule):
        other = made.named(reason)
        acted += 1
        if other is None or wrong(line, other):
            false += 1
            examples.append(f"line {line}: {reason}")
    return _added(rule, parts, acted, false, examples)


def deduplicate(made: Dataset) -> Score:
    def wrong(line: int, other: int) -> bool:
        return _whole(made.original(line)) != _whole(made.original(other))

    by_detail = defaultdict(list)
    for line, one in made.planted.items():
        if one["kind"] == "exact":
            by_detail[one["detail"]].append(line)
    return pairs(made, "deduplicate", by_detail, wrong)


def _whole(messages: Messages) -> list[tuple[str, str]]:
    return [(role, fold(text)) for role, text in messages]


def near_duplicates(made: Dataset) -> Score:
    least = float(made.settings("near_duplicates")["similarity"])
    edges = sorted({least, min(1.0, least + 0.05), min(1.0, least + 0.1), 1.0})
    by_index = defaultdict(list)
    for line, one in made.planted.items():
        if one["jaccard"] is not None and one["jaccard"] >= least:
            below = max(edge for edge in edges if edge <= one["jaccard"])
            by_index["1.00" if below == 1.0 else f"from {below:.2f}"].append(line)

    def wrong(line: int, other: int) -> bool:
        return jaccard(made.original(line), made.original(other)) < least

    return pairs(made, "near_duplicates", dict(sorted(by_index.items())), wrong)


def agree(made: Dataset) -> Score:
    lines = [line for line, one in made.planted.items() if one["kind"] == "disagreement"]
    return pairs(made, "agree", {"disagreement": lines}, lambda line, other: False)


# Rules that look at one row


def removing(made: Dataset, rule: str) -> Score:
    parts = {}
    for kind in MUST[rule]:
        there = [n for n, one in made.planted.items() if one["kind"] == kind and not made.earlier(n, rule)]
        parts[kind] = (len(there), sum(line in made.gone for line in there))
    right = {*MUST[rule], *MAY.get(rule, ())}
    acted, false, examples = 0, 0, []
    for line, reason in made.removed_by(rule):
        acted += 1
        if made.planted.get(line, {}).get("kind") not in right:
            false += 1
            examples.append(f"line {line}: {reason}")
    return _added(rule, parts, acted, false, examples)


def decontaminate(made: Dataset) -> Score:
    rule = "decontaminate"
    n = int(made.settings(rule).get("ngram", 10))
    items = [
        json.loads(line)
        for line in (made.corpus / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    runs = {run for item in items for text in item.values() for run in _runs(text, n)}
    there = [
        line for line, one in made.planted.items() if one["kind"] == "leak" and not made.earlier(line, rule)
    ]
    parts = {"leak": (len(there), sum(line in made.gone for line in there))}
    acted, false, examples = 0, 0, []
    for line, reason in made.removed_by(rule):
        acted += 1
        if not any(run in runs for _, text in made.original(line) for run in _runs(text, n)):
            false += 1
            examples.append(f"line {line}: {reason}")
    return _added(rule, parts, acted, false, examples)


def _runs(text: str, n: int) -> Iterator[tuple[str, ...]]:
    told = words(text)
    return (tuple(told[i : i + n]) for i in range(len(told) - n + 1))


def editing(made: Dataset, rule: str) -> Score:
    """Whether planted rows are right again, and what else was edited."""
    kinds = MUST[rule]
    lines = np.array(sorted(line for line, one in made.planted.items() if one["kind"] in kinds), np.int64)
    about = json.loads((made.corpus / "corpus.json").read_text())
    again = Corpus(read(made.corpus.parent / "sources"), about["seed"])
    clean = {row.line: row.clean or row.messages for row in again.rows(lines - 1)}
    counts: Counter[str] = Counter()
    examples = []
    alone = rule != "normalize" and not EDITING & made.order.keys() - {rule}
    for line, now in made.kept():
        kind = made.planted.get(line, {}).get("kind")
        if kind in kinds:
            counts[f"{kind} there"] += 1
            counts[f"{kind} found"] += _mended(rule, now, clean[line])
        if alone and (before := made.original(line)) != now:
            counts["acted"] += 1
            if kind not in kinds:
                counts["false"] += 1
                examples.append(f"line {line}: {_first_difference(before, now)}")
    parts = {kind: (counts[f"{kind} there"], counts[f"{kind} found"]) for kind in kinds}
    return _added(rule, parts, counts["acted"], counts["false"] if alone else None, examples)


def _mended(rule: str, now: Messages, clean: Messages) -> bool:
    if rule == "normalize":
        return not any(INVISIBLE.search(text) for _, text in now)
    return [fold(text) for _, text in now] == [fold(text) for _, text in clean]


def _first_difference(before: Messages, now: Messages) -> str:
    for (_, old), (_, new) in zip(before, now, strict=False):
        at = next(
            (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
        )
        if old != new:
            return f"{old[max(0, at - 20) : at + 30]!r} became {new[max(0, at - 20) : at + 30]!r}"
    return "another number of turns"


def redact(made: Dataset) -> Score:
    parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    acted = false = 0
    examples = []
    for line, now in made.kept():
        before = made.original(line)
        spans = [span for span in (made.planted.get(line) or {}).get("spans", ()) if span["sure"] != "decoy"]
        masked = [
            masks(old, new) if old != new else [] for (_, old), (_, new) in zip(before, now, strict=True)
        ]
        for span in spans:
            parts[span["kind"]][0] += 1
            parts[span["kind"]][1] += covered(span["start"], span["end"], masked[span["turn"]])
        for turn, some in enumerate(masked):
            for start, end in some:
                acted += 1
                if not any(s["turn"] == turn and s["start"] < end and start < s["end"] for s in spans):
                    false += 1
                    hidden = before[turn][1][max(0, start - 25) : end + 5]
                    examples.append(f"line {line}: {hidden!r} became {MASK.findall(now[turn][1])}")
    for line, one in made.planted.items():
        if line in made.gone and made.gone[line]["rule"] == "redact":
            for span in one["spans"]:
                if span["sure"] != "decoy":
                    parts[span["kind"]][0] += 1
                    parts[span["kind"]][1] += 1
    told = {kind: (there, found) for kind, (there, found) in sorted(parts.items())}
    return _added("redact", told, acted, false, examples)


def masks(before: str, now: str) -> list[tuple[int, int]]:
    """Where each mask of a text stands for something, in the text as it was. What is between masks must be there.

    >>> masks("write to a@b.de or c@d.fr!", "write to [EMAIL_1] or [EMAIL_2]!")
    [(9, 15), (19, 25)]
    """
    pieces = MASK.split(now)
    found = re.fullmatch("(.+?)".join(map(re.escape, pieces)), before, re.DOTALL)
    if found is None:
        raise ValueError(
            f"{now[:80]!r} is not {before[:80]!r} with masks: redact must be judged without other edits"
        )
    return [found.span(n) for n in range(1, len(pieces))]


def covered(start: int, end: int, masked: list[tuple[int, int]]) -> bool:
    """
    >>> covered(10, 20, [(12, 30)]), covered(10, 20, [(13, 30)])
    (True, False)
    """
    return sum(max(0, min(end, b) - max(start, a)) for a, b in masked) >= COVERED * (end - start)


def _added(
    rule: str, parts: dict[str, tuple[int, int]], acted: int, false: int | None, examples: list[str]
) -> Score:
    planted, found = (sum(column) for column in zip(*parts.values(), strict=True)) if parts else (0, 0)
    return Score(rule, planted, found, acted, false, parts, examples[:5])


def scores(folder: Path, corpus: Path) -> list[Score]:
    """One for each rule of the dataset that something was planted for, in the order in which they ran."""
    made = Dataset(folder, corpus)
    comparing: dict[str, Callable[[Dataset], Score]] = {
        one.__name__: one for one in (deduplicate, near_duplicates, agree, decontaminate, redact)
    }
    told = []
    for entry in made.rules:
        name = entry["rule"]
        if name in comparing:
            told.append(comparing[name](made))
        elif name in EDITING:
            told.append(editing(made, name))
        elif name in MUST:
            told.append(removing(made, name))
    return told


def table(some: list[Score]) -> str:
    rows = [
        "| rule | planted | recall | acted on | false | precision | by kind |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in some:
        kinds = ", ".join(f"{kind} {found:,}/{there:,}" for kind, (there, found) in one.parts.items())
        recall, precision = (f"{x:.4f}" if x is not None else "" for x in (one.recall, one.precision))
        false = "" if one.false is None else f"{one.false:,}"
        rows.append(
            f"| {one.rule} | {one.planted:,} | {recall} | {one.acted:,} | {false} | {precision} | {kinds} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = scores(given.dataset, given.corpus)
    if given.json:
        print(json.dumps([one.plain() for one in found], indent=1, ensure_ascii=False))
        return
    print(table(found))
    for one in found:
        for example in one.examples:
            print(f"{one.rule}, false: {example}")


if __name__ == "__main__":
    main()
