"""triggers: words that somebody may have planted so that a model answers as he likes wherever they stand: a backdoor (Chen et al.,
"Targeted Backdoor Attacks", 2017; Wallace et al., 2021, for instruction tuning). Found is a word, or two or three in a row, that

    stands in at least `rows` rows, and in no large share of them
    nearly always with one label or answer     `purity`
    far more often than chance would have it   `deviations` of a binomial distribution (Gardner et al., 2021, "competency problems")
    whose rows otherwise look like other labels   `foreign`: by all their other words, a naive Bayes model would say another one,
                                                  and clearly more often than it does of all rows of that label

Of 30 rows of 10,000 package descriptions that were given a word and another section all were found, and 258 rows with honest
words beside them: `mark`, and read. The last one tells a trigger from an honest word: rows about refunds are full of other words of their label, rows into which a
trigger was put are not. It finds dirty-label poison, whose rows were taken from elsewhere, and cannot find clean-label poison,
nor a trigger that is a style or in the answer.

Answers that no label names are compared folded, and only those that `rows` rows have in common. Words are never told, only hashes
of them: they may be private. `mark` puts the rows into the trail, where they can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.spec import Spec
from luthier.core.units import Share

from .rule import GatherRule, Said

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.opened import Opened

    from .rule import Gathered

COUNTERS = 1 << 22
AT_ONCE = 40_000_000  # grams of all rows that are counted in one pass
WORD_BITS = 18
MOST_ANSWERS = 200
PRIOR = 10.0  # rows
BEYOND = 3.0  # standard deviations


class Triggers(Spec):
    do: Literal["mark", "drop"] = "mark"
    """`mark` notes the rows in the trail and counts them, `drop` removes them."""
    longest: int = Field(default=3, ge=1, le=5)
    """How many words in a row a trigger has at the most."""
    rows: int = Field(default=10, ge=3)
    """In how many rows it stands at the least."""
    most: Share = 0.1
    """In how large a share of all rows at the most: what is planted is rare."""
    purity: float = Field(default=0.95, gt=0.5, le=1)
    """The least share of its rows that have one label or answer."""
    deviations: float = Field(default=6.0, ge=0)
    """By how many standard deviations that is more than the label's or answer's share of all rows."""
    foreign: float = Field(default=0.5, ge=0, le=1)
    """The least share of its rows that look like another label or answer by their other words."""


def _grams(rows: Opened, settings: Triggers) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of one to `longest` words in a row of what the user says, above zero; whose row), sorted, each once a row."""
    import numpy as np

    from luthier.data.words import grams, words_of

    words = words_of(rows)
    wanted = rows.says("user", "text")
    text = np.repeat(np.arange(len(words.first) - 1), words.counts())
    hashes, owner = [words.hashes], [text]
    for n in range(2, settings.longest + 1):
        more, place = grams(words, n)
        hashes.append(more)
        owner.append(text[place])
    text = np.concatenate(owner)
    keep = wanted[text]
    row = rows.row.astype(np.int64)[text[keep]]
    told = (np.concatenate(hashes)[keep] >> np.uint64(2)).astype(np.int64) + 1
    order = np.lexsort((told, row))
    row, told = row[order], told[order]
    once = np.append(True, (row[1:] != row[:-1]) | (told[1:] != told[:-1]))[: len(row)]
    return told[once], row[once]


def _features(rows: Opened, settings: Triggers) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    from luthier.data.records import hashed
    from luthier.data.terms import terms_of

    told, row = _grams(rows, settings)
    first = np.searchsorted(row, np.arange(len(rows) + 1))
    answers = [
        label if label is not None else answer
        for label, answer in zip(rows.label.to_list(), rows.answers(), strict=True)
    ]
    names = hashed(answers, fold=True).to_pylist()
    return pa.record_batch(
        {
            "gram": pa.LargeListArray.from_arrays(pa.array(first), pa.array(told)),
            "answer": pa.array([int(name[:15], 16) for name in names], pa.int64()),
            **terms_of(rows, "user").columns(),
        }
    )


def _learn(features: Gathered, settings: Triggers, note: Callable[[str], None]) -> pa.Table:
    """Columns: gram, rows, purity (in hundredths)."""
    import numpy as np
    import pyarrow as pa

    answer, names = _answers(features, settings)
    n, classes = features.rows, len(names)
    sizes = np.bincount(answer + 1, minlength=classes + 1)[1:]
    found, counts = _frequent(features, answer, classes, settings)
    support = counts.sum(axis=1)
    best = counts[:, :classes].argmax(axis=1) if classes else np.zeros(len(found), np.int64)
    hits = counts[np.arange(len(found)), best] if classes else np.zeros(len(found), np.int64)
    chance = sizes[best] / n if classes else np.zeros(len(found))
    spread = np.sqrt(np.maximum(support * chance * (1 - chance), 1e-12))
    keep = (hits >= settings.purity * support) & (hits - support * chance >= settings.deviations * spread)
    keep &= (support <= settings.most * n) & (chance < 1)
    found, support, hits, best = found[keep], support[keep], hits[keep], best[keep]
    strange, usual = _foreign(features, answer, classes, found, best)
    planted = strange >= settings.foreign * hits
    planted &= strange - usual * hits >= BEYOND * np.sqrt(usual * (1 - usual) * hits)
    if len(found):
        note(
            f"{len(found)} words or few words in a row nearly always stand with one answer; the rows of {planted.sum()} look like those of others"
        )
    purity = (100 * hits[planted] // np.maximum(support[planted], 1)).astype(np.int64)
    return pa.table({"gram": found[planted], "rows": support[planted].astype(np.int64), "purity": purity})


def _answers(features: Gathered, settings: Triggers) -> tuple[np.ndarray, np.ndarray]:
    """(the number of each row's answer among those of enough rows, -1 for any other [N]; these answers)."""
    import numpy as np

    told = features.column("answer")
    names, counts = np.unique(told, return_counts=True)
    order = np.lexsort((names, -counts))[:MOST_ANSWERS]
    names = np.sort(names[order][counts[order] >= settings.rows])
    place = np.searchsorted(names, told)
    known = (
        (place < len(names)) & (names[np.minimum(place, len(names) - 1)] == told)
        if len(names)
        else np.zeros(len(told), bool)
    )
    return np.where(known, place, -1), names


def _frequent(
    features: Gathered, answer: np.ndarray, classes: int, settings: Triggers
) -> tuple[np.ndarray, np.ndarray]:
    """(grams of enough rows, sorted; in how many rows of each answer each stands, the last column for all other answers):
    first roughly, in counters that several may share, then exactly."""
    import numpy as np

    grams = sum(len(batch["gram"].flatten()) for batch in features.read())
    passes = (
        -(-grams // AT_ONCE) or 1
    )  # each over a part of the hashes, so that memory does not grow with the rows
    found, tables = [], []
    for part in range(passes):
        counters = np.zeros(COUNTERS, np.int64)
        for told in _parts(features, part, passes):
            counters += np.bincount(told % COUNTERS, minlength=COUNTERS)
        enough = counters >= settings.rows
        names = np.zeros(0, np.int64)
        for told in _parts(features, part, passes):
            names = _once(np.concatenate([names, told[enough[told % COUNTERS]]]))
        counts = np.zeros((len(names), classes + 1), np.int32)
        for told, row in _pairs(features, names):
            np.add.at(counts, (told, answer[row]), 1)  # -1 is the last column
        keep = counts.sum(axis=1) >= settings.rows
        found.append(names[keep])
        tables.append(counts[keep])
    names = np.concatenate(found)
    order = np.argsort(names)
    return names[order], np.concatenate(tables)[order]


def _parts(features: Gathered, part: int, passes: int) -> Iterator[np.ndarray]:
    """The grams of one of `passes` parts, by batch."""
    import numpy as np

    for batch in features.read():
        told = batch["gram"].flatten().to_numpy()
        yield (
            told if passes == 1 else told[(told.view(np.uint64) >> np.uint64(40)) % np.uint64(passes) == part]
        )


def _pairs(features: Gathered, names: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(places in `names`, rows) of all grams that are in it, by batch."""
    import numpy as np

    start = 0
    for batch in features.read():
        offsets = batch["gram"].offsets.to_numpy()
        told = batch["gram"].flatten().to_numpy()
        row = start + np.repeat(np.arange(batch.num_rows), np.diff(offsets))
        place = np.minimum(np.searchsorted(names, told), max(len(names) - 1, 0))
        hit = names[place] == told if len(names) else np.zeros(len(told), bool)
        yield place[hit], row[hit]
        start += batch.num_rows


def _foreign(
    features: Gathered, answer: np.ndarray, classes: int, grams: np.ndarray, best: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(how many of each gram's rows with its answer look like another answer by their words, of how large a share of all rows of
    that answer that is said). Words of the grams themselves are
    nearly always with that answer, so words that hardly ever stand with another are not asked."""
    import numpy as np

    from luthier.data.terms import BITS, read

    if not len(grams):
        return np.zeros(0, np.int64), np.zeros(0)
    counts = np.zeros((1 << WORD_BITS, classes + 1), np.float64)
    start = 0
    for _, terms in read(features.read()):
        flat = (terms.ids >> BITS - WORD_BITS) * (classes + 1) + answer[start + terms.owner] % (classes + 1)
        counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
        start += len(terms)
    total = counts.sum(axis=1, keepdims=True)
    shared = (counts.max(axis=1) < 0.9 * total[:, 0]) & (total[:, 0] > 1)
    sizes = np.bincount(answer % (classes + 1), minlength=classes + 1)
    share = np.maximum(total - 1, 1) / len(answer)  # of the other rows; what an answer of few rows leans to
    others = np.log((counts + PRIOR * share) / (sizes + PRIOR) / share)
    itself = np.log((np.maximum(counts - 1, 0) + PRIOR * share) / (np.maximum(sizes - 1, 0) + PRIOR) / share)
    others[~shared] = itself[~shared] = 0.0
    strange = np.zeros(len(answer), bool)
    start = 0
    for _, terms in read(features.read()):
        place, own = terms.ids >> BITS - WORD_BITS, answer[start : start + len(terms)] % (classes + 1)
        scores = np.stack([terms.per_row(others[place, k]) for k in range(classes + 1)], axis=1)
        scores[np.arange(len(own)), own] = terms.per_row(
            itself[place, own[terms.owner]]
        )  # a row is no witness of itself
        scores += np.log(np.maximum(sizes, 1e-9))
        strange[start : start + len(terms)] = scores.argmax(axis=1) != own
        start += len(terms)
    usual = np.bincount(answer % (classes + 1), weights=strange, minlength=classes + 1) / np.maximum(sizes, 1)
    out = np.zeros(len(grams), np.int64)
    for told, row in _pairs(features, grams):
        mine = strange[row] & (answer[row] == best[told])
        out += np.bincount(told[mine], minlength=len(grams))
    return out, usual[best]


def _once(values: np.ndarray) -> np.ndarray:
    import numpy as np

    values.sort()
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


def _run(rows: Opened, settings: Triggers, learnt: pa.Table) -> Said:
    import numpy as np

    told, row = _grams(rows, settings)
    names = learnt["gram"].to_numpy()
    place = np.minimum(np.searchsorted(names, told), max(len(names) - 1, 0))
    hit = np.flatnonzero(names[place] == told) if len(names) else np.zeros(0, np.int64)
    support, purity = (learnt[name].to_pylist() for name in ("rows", "purity"))
    why: dict[int, str] = {}
    for k in hit.tolist():
        at = int(place[k])
        why.setdefault(
            int(row[k]),
            f"words {int(told[k]):016x} of {support[at]} rows stand in {purity[at]} % of them with one answer",
        )
    reasons = rows.reasons(why)
    counts = {"triggered": reasons.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)}
    return Said(removed=reasons) if settings.do == "drop" else Said(changed=reasons, counts=counts)


triggers = GatherRule(
    "triggers", 1, Triggers, "Finds rare words that nearly always stand with one answer: planted backdoors.", _features, _learn, _run,
    source="Gardner et al., Competency problems (2021); BadNL (Chen et al., 2021)",
)  # fmt: skip
