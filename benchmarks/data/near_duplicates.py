"""near_duplicates on rows with planted copies, against the plain truth: recall, false removals, rows per CPU-second.

    python benchmarks/data/near_duplicates.py [--rows 20000] [--similarity 0.85]

Rows are chats of about 1.1 KB in a made-up language with Zipf's frequencies; some are copied as they are, some with 3 to
10 % of their words edited (replaced, dropped or said twice). The truth of a planted pair is its Jaccard index over word
3-shingles, by Python sets of strings. What is timed: rows in memory to rows out, spool, keys, verification and all, in one
process; POLARS_MAX_THREADS=1 is set here.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"

import pyarrow as pa

from luthier.core import plugin
from luthier.data.engines.local import LocalEngine
from luthier.data.engines.protocol import At, LocalEngineSpec
from luthier.data.plan import Group, Step
from luthier.data.records import RECORD, TURNS, content_ids
from luthier.data.words import fold

BATCH = 1_750  # rows of 2 MB
Chat = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--similarity", type=float, default=0.85)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    wish = parser.parse_args()
    chats, planted = corpus(wish.rows, random.Random(wish.seed))  # noqa: S311  made-up rows
    batches = list(records(chats))
    for _ in range(wish.repeat):
        start = time.process_time()
        reasons, notes, steps = run(batches, wish.similarity)
        seconds = time.process_time() - start
        told = ", ".join(f"{name} {1e6 * spent / wish.rows:.1f}" for name, spent in steps.items())
        print(f"{wish.rows / seconds:,.0f} rows/CPU-s ({1e6 * seconds / wish.rows:.1f} us a row: {told})")
    judge(chats, planted, batches, reasons, wish.similarity)
    print("; ".join(notes), f"; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def corpus(n: int, draw: random.Random) -> tuple[list[Chat], list[tuple[int, int]]]:
    """(chats, planted pairs of row numbers)."""
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(30_000)]
    weights = list(itertools.accumulate(1 / (k + 5) for k in range(len(words))))

    def turn(low: int, high: int) -> str:
        said = draw.choices(words, cum_weights=weights, k=draw.randint(low, high))
        marks = [",", ".", "", "", "", "", "", ""]
        return " ".join(word + draw.choice(marks) for word in said).capitalize()

    def edited(text: str, share: float) -> str:
        said = text.split(" ")
        for place in sorted(draw.sample(range(len(said)), max(1, round(share * len(said)))), reverse=True):
            what = draw.randrange(3)
            if what == 0:
                said[place] = draw.choices(words, cum_weights=weights)[0]
            elif what == 1:
                del said[place]
            else:
                said.insert(place, said[place])
        return " ".join(said)

    chats: list[Chat] = []
    planted = []
    while len(chats) < n:
        kind = draw.random()
        if kind < 0.84 or len(chats) < 10:
            chats.append((turn(40, 140), turn(30, 110)))
            continue
        origin = draw.randrange(len(chats))
        ask, answer = chats[origin]
        if kind > 0.92:
            share = draw.uniform(0.03, 0.10)
            ask, answer = edited(ask, share), edited(answer, share)
        planted.append((origin, len(chats)))
        chats.append((ask, answer))
    return chats, planted


def records(chats: list[Chat]) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(chats), BATCH):
        some = chats[start : start + BATCH]
        messages = pa.array(
            [
                [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
                for ask, answer in some
            ],
            TURNS,
        )
        none = pa.nulls(len(some), pa.string())
        columns = {
            "id": pa.array(
                [f"{told}-{start + k}" for k, told in enumerate(content_ids(messages, none).to_pylist())]
            ),
            "messages": messages,
            "source": pa.repeat("made", len(some)).cast(pa.string()),
            "origin": pa.array([f"made:{start + k}" for k in range(len(some))]),
            "weight": pa.repeat(pa.scalar(1.0, pa.float32()), len(some)),
        }
        yield pa.record_batch(
            [columns.get(f.name, pa.nulls(len(some), f.type)) for f in RECORD], schema=RECORD
        )


class Nothing:
    """local.Look that looks away."""

    def at_group(self, group: object, batch: object) -> None: ...

    def settle(self, ask: object, rows: object) -> None: ...


def run(
    batches: list[pa.RecordBatch], similarity: float
) -> tuple[dict[int, str], list[str], dict[str, float]]:
    """(row number to reason, notes of the report, seconds of the rule's own work)."""
    rule = plugin.load("rule", "near_duplicates")
    group = Group(keyed=(Step(rule, rule.spec(similarity=similarity)),))
    accounts = [step.account() for step in group.steps]
    gone: dict[int, str] = {}

    def discard(lines: pa.RecordBatch) -> None:
        for origin, reason in zip(lines["origin"].to_pylist(), lines["reason"].to_pylist(), strict=True):
            gone[int(origin.split(":")[1])] = reason

    with tempfile.TemporaryDirectory() as folder:
        engine = LocalEngine(LocalEngineSpec(), At(Path(folder), discard, lambda: None, str))
        left = sum(batch.num_rows for batch in engine.run(group, iter(batches), accounts, Nothing()))
    assert left + len(gone) == sum(batch.num_rows for batch in batches)
    return gone, accounts[0].notes, {"rule": accounts[0].seconds}


def plain_shingles(chat: Chat) -> set[str]:
    found = set()
    for text in chat:
        said = "".join(c if c.isalnum() else " " for c in fold(text)).split()
        found |= {" ".join(said[k : k + 3]) for k in range(max(1, len(said) - 2))}
    return found


def judge(
    chats: list[Chat],
    planted: list[tuple[int, int]],
    batches: list[pa.RecordBatch],
    reasons: dict[int, str],
    least: float,
) -> None:
    def index(a: int, b: int) -> float:
        one, other = plain_shingles(chats[a]), plain_shingles(chats[b])
        return len(one & other) / len(one | other)

    row_of = {name: k for k, name in enumerate(name for batch in batches for name in batch["id"].to_pylist())}
    for what, wanted in (("copies", lambda j: j == 1), ("near copies", lambda j: least <= j < 1)):
        pairs = [pair for pair in planted if wanted(index(*pair))]
        found = sum(a in reasons or b in reasons for a, b in pairs)
        print(f"{what}: {found} of {len(pairs)} planted pairs found, recall {found / max(len(pairs), 1):.4f}")
    false = [row for row, why in reasons.items() if index(row, row_of[why.split(" like ")[1]]) < least]
    chained = [row for row, why in reasons.items() if row_of[why.split(" like ")[1]] in reasons]
    print(
        f"{len(reasons)} rows removed, {len(false)} of them falsely, {len(chained)} for a row that went too"
    )


if __name__ == "__main__":
    main()
