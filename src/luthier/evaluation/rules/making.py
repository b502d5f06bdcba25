"""How `generate` makes rows: draws its sources, says what asking costs, asks, keeps what is good, and puts rows together.

    all rows of train ─▶ sources, drawn by the hash of their ids ─▶ questions ─▶ forecast, held against the budget
        ─▶ answers, kept as they come ─▶ made texts without faults, none of them there already ─▶ rows

Which rows are drawn and what is kept of the answers follows from the rows and the answers alone, in whatever order they come.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from luthier.core.artifact import digest_of
from luthier.data.digests import fold
from luthier.data.draws import Draw
from luthier.data.forgotten import stem
from luthier.data.languages import detect, name
from luthier.data.opened import Opened
from luthier.data.records import made_ids
from luthier.data.records import replace as with_columns
from luthier.data.rules.rule import Lent, WouldAsk
from luthier.store.answers import Answers

from ..asking.purse import Bill, Purse
from ..asking.question import Answer, Asker, Question, tokens_of
from . import prompts
from .generate import VERSION, Generate
from .made_text import MASK, NUMBER, bare, fault
from .prompts import Source

Rows = Callable[[], Iterator[pa.RecordBatch]]
POOL = 64
"""Messages of each label that `new` draws its examples from."""


@dataclass(order=True)
class Drawn:
    """A row that something is made of, in the order of the draw. `at` is the text that is said anew, of its texts."""

    rank: int
    id: str
    at: int = field(compare=False)
    source: Source = field(compare=False)


@dataclass
class Made:
    """One row in the making: its questions so far are answered by `said`; `why` says what became of it, if nothing did."""

    drawn: Drawn
    copy: int
    said: list[str] = field(default_factory=list)
    why: str | None = None


def make(rows: Rows, held: Rows, given: Lent, note: Callable[[str], None]) -> Iterator[pa.RecordBatch]:
    """rule.MakeRule. Raises DataError, ModelError, WouldAsk."""
    wish: Generate = given.settings
    drawn = _drawn(rows, wish)
    wanted = [Made(one, copy) for one in drawn for copy in range(wish.copies)]
    if wish.n is not None:
        wanted = wanted[: wish.n]
    with Answers(Path(given.answers)) as answers:
        purse = Purse(wish.budget, wish.endpoint.price if wish.endpoint else None)
        asker = _asker(given, answers, purse)
        _ask(wanted, given, answers, asker, purse)
    kept = _kept(wanted, wish, _inputs(rows), _inputs(held))
    _tell(wanted, kept, drawn, given, note)
    yield from _rows(rows, kept, wish)


def _asker(given: Lent, answers: Answers, purse: Purse) -> Asker:
    wish: Generate = given.settings
    if wish.endpoint is not None:
        from ..asking.endpoint import EndpointAsker

        return EndpointAsker(wish.endpoint, given, answers, purse)
    from ..asking.local import LocalAsker

    return LocalAsker(given, answers, purse)


# -- sources


def _drawn(rows: Rows, wish: Generate) -> list[Drawn]:
    """Sorted by rank. Memory holds as many texts as are drawn, and the pool of examples."""
    most = None if wish.n is None else -(-wish.n // wish.copies)
    found: list[tuple[int, str, Drawn]] = []  # a heap of the lowest ranks, the highest of them first
    pool: dict[str | None, list[tuple[int, str, str]]] = {}
    for batch in rows():
        for one in _eligible(Opened(batch), wish):
            if wish.way == "new":
                rank = Draw("example", wish.seed, one.id).bits()
                _push(pool.setdefault(one.source.label, []), (-rank, one.id, one.source.text), POOL)
            if most is not None:
                _push(found, (-one.rank, one.id, one), most)
            elif one.rank < (wish.share or 0.0) * 2.0**64:
                found.append((-one.rank, one.id, one))
    drawn = sorted(one for _, _, one in found)
    if wish.way != "new":
        return drawn
    return [replace(one, source=_with_examples(one, pool[one.source.label], wish)) for one in drawn]


def _push(heap: list[Any], one: Any, most: int) -> None:
    heapq.heappush(heap, one) if len(heap) < most else heapq.heappushpop(heap, one)


def _eligible(opened: Opened, wish: Generate) -> Iterator[Drawn]:
    """Rows that can be said anew: those in which a user says something last, or that are plain text."""
    says, texts = opened.says("user", "text"), opened.text.to_list()
    ids, labels = opened.column("id").to_pylist(), opened.label.to_list()
    answers = opened.says("assistant")
    for row in range(len(opened)):
        places = opened.places(row).tolist()
        own = [at for at, place in enumerate(places) if says[place]]
        if not own or not texts[places[own[-1]]].strip() or (wish.labels and labels[row] not in wish.labels):
            continue
        answer = texts[places[-1]] if answers[places[-1]] else None
        if wish.way == "counterfactual" and answer is None:
            continue
        if wish.way == "new" and (len(own) > 1 or len(places) != own[-1] + 1 + (answer is not None)):
            continue
        text = texts[places[own[-1]]]
        rank = Draw("generate", wish.way, wish.seed, ids[row]).bits()
        yield Drawn(rank, ids[row], own[-1], Source(text, labels[row], answer, None))


def _with_examples(one: Drawn, pool: Sequence[tuple[int, str, str]], wish: Generate) -> Source:
    draw = Draw("examples", wish.seed, one.id)
    others = sorted(text for _, name_, text in pool if name_ != one.id)
    chosen = draw.places(len(others), min(wish.examples - 1, len(others)))
    return replace(one.source, examples=(one.source.text, *(others[at] for at in chosen)))


# -- asking


def _ask(wanted: Sequence[Made], given: Lent, answers: Answers, asker: Asker, purse: Purse) -> None:
    """Round after round: what is known already is looked up, the rest is asked. Fills in `said` and `why`."""
    wish: Generate = given.settings
    if wish.way == "back_translate":
        _find_languages(wanted)
    identity = {"rule": "generate", "version": VERSION, "prompts": prompts.VERSION, **asker.identity}
    first = True
    while True:
        going = _advance(wanted, wish, identity, answers)
        if not going:
            return
        if first:
            _permit(going, wish, given, purse)
            first = False
        try:
            asker.ask(list({key: (key, question) for key, question, _ in going}.values()))
        finally:
            given.emit("asked", rule="generate", by=_by(given), **purse.since_told())


def _find_languages(wanted: Sequence[Made]) -> None:
    known: dict[str, str | None] = {}
    for one in wanted:
        text = one.drawn.source.text
        if text not in known:
            code = detect(text)
            known[text] = name(code) if code else None
        one.drawn = replace(one.drawn, source=replace(one.drawn.source, language=known[text]))
        if known[text] is None:
            one.why = "its language is not clear"


def _advance(
    wanted: Sequence[Made], wish: Generate, identity: dict[str, Any], answers: Answers
) -> list[tuple[str, Question, Made]]:
    """Go on with every row as far as known answers lead; (key, question, row) where they end."""
    going = [
        one
        for one in wanted
        if one.why is None and len(one.said) < prompts.rounds(wish.way, one.drawn.source)
    ]
    missing: list[tuple[str, Question, Made]] = []
    while going:
        asked = [
            (question.key(identity), question, one) for one in going for question in [_question(one, wish)]
        ]
        known = answers.find([key for key, _, _ in asked])
        missing += [(key, question, one) for key, question, one in asked if key not in known]
        going = []
        for key, _, one in asked:
            if key in known and _hear(one, Answer.of(known[key]), wish):
                going.append(one)
    return missing


def _hear(one: Made, answer: Answer, wish: Generate) -> bool:
    """Whether there is a next question."""
    source = one.drawn.source
    if answer.text is None:
        one.why = "declined"
    elif not answer.finished:
        one.why = "cut off"
    elif not (text := bare(answer.text, source.text)):
        one.why = "empty"
    else:
        one.said.append(text)
    return one.why is None and len(one.said) < prompts.rounds(wish.way, source)


def _question(one: Made, wish: Generate) -> Question:
    source = one.drawn.source
    messages = prompts.ask(wish.way, source, one.said, wish.pivot)
    answers_it = wish.way == "new" and bool(one.said)
    longest = max(len(text) for text in (source.text, *source.examples)) if not answers_it else 0
    bound = int(wish.length[1] * tokens_of("x" * longest)) + 16
    most = wish.max_tokens if answers_it else min(wish.max_tokens, max(bound, tokens_of(source.text) + 16))
    return Question(stem(one.drawn.id), messages, most, wish.temperature, one.copy)


def _permit(going: Sequence[tuple[str, Question, Made]], wish: Generate, given: Lent, purse: Purse) -> None:
    """Raises DataError where all that is still to be asked goes over the budget, WouldAsk where nothing may be asked."""
    asked = {key: (question, one) for key, question, one in going}
    bill = Bill.forecast([question for question, _ in asked.values()])
    for question, one in asked.values():
        if left := prompts.rounds(wish.way, one.drawn.source) - len(one.said) - 1:
            # what the next question holds is what this one may answer at most
            bill += Bill(left, left * (question.tokens_in + question.max_tokens), left * wish.max_tokens)
    price = wish.endpoint.price if wish.endpoint else None
    if not given.ask:
        sentences = [f"generate would ask {_by(given)}: at most {bill.words(price)}"]
        if wish.endpoint and wish.endpoint.away:
            sentences.append(f"rows of train would be sent to {wish.endpoint.host}")
        if broken := bill.over(wish.budget, price):
            sentences.append(f"that is over its budget: {broken}")
        raise WouldAsk(sentences, {"by": _by(given), **bill.plain(price)})
    purse.permit(bill)
    given.emit("forecast", rule="generate", by=_by(given), **bill.plain(price))


def _by(given: Lent) -> str:
    wish: Generate = given.settings
    return f"{wish.endpoint.model} at {wish.endpoint.host}" if wish.endpoint else str(wish.model)


# -- what is kept


def _inputs(rows: Rows) -> np.ndarray:
    """Hashes of what a user says last in every row, sorted."""
    found: list[int] = []
    for batch in rows():
        opened = Opened(batch)
        last = opened.last(opened.says("user", "text"))
        found += [_hash(text) for text in opened.text.gather(last[last >= 0]).to_list()]
    return np.unique(np.array(found, np.uint64))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(fold(text).encode(), digest_size=8).digest(), "big")


def _kept(
    wanted: Sequence[Made], wish: Generate, train: np.ndarray, held: np.ndarray
) -> dict[str, list[Made]]:
    """Row id -> what was made of it, which stands on no side yet. Of two that say the same the one of the lower id and copy is
    kept."""
    kept: dict[str, list[Made]] = {}
    seen: set[int] = set()
    for one in sorted(wanted, key=lambda one: (one.drawn.id, one.copy)):
        if one.why is None:
            one.why = _fault(one, wish)
        if one.why is not None:
            continue
        hashed = _hash(_new_text(one, wish))
        if _holds(held, hashed):
            one.why = "what a row that is held out says"
        elif hashed in seen or _holds(train, hashed):
            one.why = "there already"
        if one.why is not None:
            continue
        seen.add(hashed)
        kept.setdefault(one.drawn.id, []).append(one)
    return kept


def _holds(hashes: np.ndarray, one: int) -> bool:
    at = int(np.searchsorted(hashes, np.uint64(one)))
    return at < len(hashes) and int(hashes[at]) == one


def _new_text(one: Made, wish: Generate) -> str:
    """What the user says in the made row."""
    return one.said[0] if wish.way == "new" else one.said[-1]


def _fault(one: Made, wish: Generate) -> str | None:
    source, text = one.drawn.source, _new_text(one, wish)
    words = (*wish.keep, *([source.label] if source.label else []))
    if wish.way != "new":
        exact = (MASK,) if wish.way == "counterfactual" else (MASK, NUMBER)
        return fault(text, source.text, bounds=wish.bounds, length=wish.length, words=words, exact=exact)
    longest = max(len(example) for example in source.examples)
    for example in source.examples:
        limits = (0.0, wish.length[1] * longest / max(len(example), 1))
        if why := fault(text, example, bounds=wish.bounds, length=limits, exact=()):
            return why
    return None


def _tell(
    wanted: Sequence[Made],
    kept: dict[str, list[Made]],
    drawn: Sequence[Drawn],
    given: Lent,
    note: Callable[[str], None],
) -> None:
    """The report's sentences: they follow from the answers, not from when those were given."""
    wish: Generate = given.settings
    made = sum(map(len, kept.values()))
    by = f"{_by(given)} ({given.digests['model'][:12]})" if wish.model else _by(given)
    note(
        f"{wish.way} by {by}, prompts {prompts.VERSION}: {made} rows of {len(wanted)} that were asked for, from {len(drawn)} rows"
    )
    if wish.endpoint and wish.endpoint.away:
        note(f"rows of train were sent to {wish.endpoint.host}, which the recipe allows")
    faults = Counter(one.why for one in wanted if one.why)
    if faults:
        told = ", ".join(
            f"{n} {why}" for why, n in sorted(faults.items(), key=lambda pair: (-pair[1], pair[0]))
        )
        note(f"{sum(faults.values())} were not kept: {told}")
    if not drawn:
        note(
            "no row could be drawn: it must have words of a user, a label of `labels`, and for counterfactual an answer"
        )


# -- rows


def _rows(rows: Rows, kept: dict[str, list[Made]], wish: Generate) -> Iterator[pa.RecordBatch]:
    mark = digest_of(wish.plain())[:16]
    for batch in rows():
        ids = batch["id"].to_pylist()
        made = [(row, one) for row, id_ in enumerate(ids) for one in kept.get(id_, ())]
        if not made:
            continue
        taken = batch.take(pa.array([row for row, _ in made], pa.int64()))
        opened = Opened(taken)
        texts = opened.text.to_list()
        for k, (_, one) in enumerate(made):
            places = opened.places(k).tolist()
            texts[places[one.drawn.at]] = _new_text(one, wish)
            if wish.way == "new" and len(one.said) > 1:
                texts[places[-1]] = one.said[1]
        opened.edit(pl.Series(texts, dtype=pl.String))
        weights = taken["weight"].to_numpy(zero_copy_only=False) * wish.weight
        yield with_columns(
            opened.close(),
            id=made_ids(taken["id"], f"generate:{mark}", [one.copy for _, one in made]),
            weight=pa.array(weights.astype(np.float32)),
            made_from=taken["id"],
            made_by=pa.repeat("generate", len(made)).cast(pa.string()),
        )
