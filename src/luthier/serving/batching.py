"""Several sequences in one pass, again and again: continuous batching over a model that keeps keys and values in pages.

    batch = Batch(paged)          a thread of its own asks the model
    batch.enter(Writing(...))     waits its turn for pages, is read, and is told logits in that thread until it is done

What an answer may hold at most is set aside before it begins, so none is ever cut by another; they begin in the order in which they
came. A long prompt is read in pieces between the tokens of others. Full pages stay after an answer until their room is needed, and
whoever begins with the same tokens reads them no more.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.models.grammar import Held
from luthier.models.paged import Part
from luthier.serving.engine import Cancelled, Unavailable

logger = logging.getLogger("luthier.serving")

AT_ONCE = 512
"""Tokens of prompts in one pass: what the others wait for between two of theirs."""
LABELS_AT_ONCE = 16
_POLL_S = 0.1

Logits = NDArray[np.float32]
_Text = tuple[int | str, tuple[int, ...]]
"""The number of the page before, for the first one the salt; and the tokens of this one."""


class Model(Protocol):
    """models.paged.Paged, or what a test has in its place."""

    page: int
    pages: int

    def step(self, parts: Sequence[Part]) -> list[Logits]: ...

    def copy(self, page: int, to: int) -> None: ...


@dataclass
class Lane:
    """One sequence: `todo` is still to be read after `read` others. `every`: logits are wanted at each of them, else at the last."""

    todo: list[int]
    pages: list[int]
    read: int = 0
    every: bool = False


class Task:
    """What is entered. `ids` are read first, as one lane; then it hears their logits, and says what is read next. `ids` grow by what
    that lane reads."""

    def __init__(self, ids: Sequence[int], tokens: int, cache_salt: str = "") -> None:
        """`tokens`: the most that its lanes hold beyond `ids`."""
        self.ids = list(ids)
        self.cache_salt = cache_salt
        self.tokens = tokens
        self.lanes: list[Lane] = []
        self.unwanted = False
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def pages(self, model: Model) -> int:
        """How many it may take at most."""
        return -(-(len(self.ids) + self.tokens) // model.page)

    def hear(self, lane: Lane, logits: Logits, model: Model) -> bool:
        """[places, V]. Fills `todo` of lanes. False: it is done."""
        raise NotImplementedError

    def listen(self, unwanted: Callable[[], bool]) -> Generator[Any, None, None]:
        """What it tells, in the thread of whoever asked, until None. Closing it frees its pages. Raises Cancelled."""
        try:
            while True:
                if unwanted():
                    raise Cancelled
                try:
                    value = self.told.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if value is None:
                    return
                if isinstance(value, Exception):
                    raise value
                yield value
        finally:
            self.unwanted = True


@dataclass(frozen=True)
class Said:
    """One token. `logprob` is ln p before temperature and grammar; NaN where nobody asked."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Writing(Task):
    """Tells a Said for each token, to the one that ends the answer or the `most`-th."""

    def __init__(
        self,
        ids: Sequence[int],
        most: int,
        ends: frozenset[int],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
        held: Held | None = None,
        cache_salt: str = "",
    ) -> None:
        super().__init__(ids, most, cache_salt)
        self._most, self._ends, self._logprobs, self._held = most, ends, logprobs, held
        self._temperature, self._top_p, self._draw = (
            temperature,
            top_p,
            np.random.default_rng(None if seed is None else seed % 2**64),
        )
        self._made = 0

    def hear(self, lane: Lane, logits: Logits, model: Model) -> bool:
        [own] = logits
        may = own
        if self._held is not None:
            may = np.where(self._held.bits(len(own)), own, -np.inf)
        token = chosen(may, self._temperature, self._top_p, self._draw)
        if self._held is not None:
            self._held.take(token)
        self._made += 1
        self.told.put(Said(token, *_likely(own, token, self._logprobs)))
        if token in self._ends or self._made == self._most:
            self.told.put(None)
            return False
        self.ids.append(token)
        lane.todo = [token]
        return True


class Scoring(Task):
    """Tells one list: ln p of each answer's tokens after `ids`, added up. The prompt is read once; answers share its pages, and each has
    a copy of the last one, which it writes on."""

    def __init__(self, ids: Sequence[int], answers: Sequence[Sequence[int]], cache_salt: str = "") -> None:
        longest = max(map(len, answers)) - 1  # an answer's last token is told, and never read
        super().__init__(ids, longest, cache_salt)
        self._answers = [list(one) for one in answers]
        self._longest = longest
        self._left = [n for n, one in enumerate(self._answers) if len(one) > 1]
        self._totals = [0.0] * len(self._answers)
        self._under_way: dict[int, tuple[int, Lane]] = {}
        self._at_once = 0

    def pages(self, model: Model) -> int:
        """Room for one answer beside the prompt it has; for more where that many are there at all."""
        prompt, own = -(-len(self.ids) // model.page), self._own(model)
        self._at_once = max(1, min(LABELS_AT_ONCE, len(self._left), (model.pages - prompt) // own))
        return prompt + self._at_once * own

    def _own(self, model: Model) -> int:
        return -(-(len(self.ids) % model.page + self._longest) // model.page) or 1

    def hear(self, lane: Lane, logits: Logits, model: Model) -> bool:
        prompt = self.lanes[0]
        if lane is prompt:
            first = _logprobs(logits[-1])
            self._totals = [float(first[one[0]]) for one in self._answers]
        else:
            n, _ = self._under_way[id(lane)]
            begin = lane.read - len(self.ids) - len(logits) + 1  # what is told after a token is of the next
            for place, token in zip(logits, self._answers[n][begin : begin + len(logits)], strict=True):
                self._totals[n] += float(_logprobs(place)[token])
            if not lane.todo:
                del self._under_way[id(lane)]
        if not self._under_way and self._left:
            self._begin(prompt, model)
        if self._under_way:
            return True
        self.told.put(self._totals)
        self.told.put(None)
        return False

    def _begin(self, prompt: Lane, model: Model) -> None:
        """The next answers, in the pages that those before them had."""
        whole, own = len(self.ids) // model.page, self._own(model)
        spare = prompt.pages[-(-len(self.ids) // model.page) :]
        now, self._left = self._left[: self._at_once], self._left[self._at_once :]
        for place, n in enumerate(now):
            pages = spare[place * own : (place + 1) * own]
            if len(self.ids) % model.page:
                model.copy(prompt.pages[whole], pages[0])
            lane = Lane(
                self._answers[n][:-1], [*prompt.pages[:whole], *pages], read=len(self.ids), every=True
            )
            self._under_way[id(lane)] = (n, lane)
        self.lanes = [prompt, *(lane for _, lane in self._under_way.values())]


class Batch:
    """`slots`: how many may be under way at once."""

    def __init__(self, model: Model, slots: int) -> None:
        self._model, self._slots = model, slots
        self._pages = Pages(model.page, model.pages)
        self._line: deque[Task] = deque()
        self._active: list[Task] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="batching")
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def enter(self, task: Task) -> None:
        """Raises Unavailable once it is closed. A task that never fits is refused by whoever knows the context."""
        with self._changed:
            if self._closing:
                raise Unavailable("The model is not loaded.", remedy="Load it, or wait until it is ready.")
            self._line.append(task)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._ready():
                self._pass()
        finally:  # whatever ended it, nobody waits for it any more
            self._closing = True
            self._lose(Unavailable("The engine was closed.", remedy="Ask again."))

    def _pass(self) -> None:
        together = self._together()
        try:
            found = self._model.step([part for _, _, part in together])
        except Exception as error:  # of native code: these are lost, and the next may fare better
            logger.exception("a pass failed")
            self._lose(Unavailable(f"The engine failed: {error}.", remedy="Ask again."))
            return
        for (task, lane, part), logits in zip(together, found, strict=True):
            lane.read += len(part.ids)
            lane.todo = lane.todo[len(part.ids) :]
            if len(logits) and task in self._active:
                self._tell(task, lane, logits)

    def _tell(self, task: Task, lane: Lane, logits: Logits) -> None:
        try:
            goes_on = task.hear(lane, logits, self._model)
        except Exception as error:  # of a grammar that proves too large, say: this one's alone
            task.told.put(error)
            goes_on = False
        if not goes_on:
            self._end(task)

    def _ready(self) -> bool:
        """Waits until there is something to read. False: closed."""
        with self._changed:
            while True:
                for task in [one for one in self._active if one.unwanted]:
                    self._end(task)
                if any(one.unwanted for one in self._line):
                    self._line = deque(one for one in self._line if not one.unwanted)
                while self._line and self._begun(self._line[0]):
                    self._line.popleft()
                if self._closing or self._active:
                    return not self._closing
                self._changed.wait()

    def _begun(self, task: Task) -> bool:
        """Whether there was room for it."""
        if len(self._active) >= self._slots:
            return False
        known = self._pages.known(task.ids, task.cache_salt)
        fresh = self._pages.take(task.pages(self._model) - len(known))
        if fresh is None:
            self._pages.give(known)
            return False
        read = len(known) * self._model.page
        task.lanes = [Lane(task.ids[read:], [*known, *fresh], read)]
        self._active.append(task)
        return True

    def _together(self) -> list[tuple[Task, Lane, Part]]:
        """Those that need one token first; prompts and long labels, piece by piece, in what is left."""
        waiting = [(task, lane) for task in self._active for lane in task.lanes if lane.todo]
        waiting.sort(key=lambda one: len(one[1].todo) > 1)  # stable: prompts in the order in which they came
        together: list[tuple[Task, Lane, Part]] = []
        left = AT_ONCE
        for task, lane in waiting:
            whole = many = len(lane.todo)
            if whole > 1:
                if not left:
                    continue
                many = min(whole, left)
                left -= many
            places = range(many) if lane.every else range(many - 1, many) if many == whole else ()
            together.append((task, lane, Part(lane.todo[:many], lane.read, lane.pages, list(places))))
        return together

    def _end(self, task: Task) -> None:
        self._active.remove(task)
        [prompt, *_] = task.lanes
        self._pages.keep(task.ids[: prompt.read], prompt.pages, task.cache_salt)
        self._pages.give(prompt.pages)

    def _lose(self, error: Unavailable) -> None:
        with self._changed:
            lost = list(self._active)
            if self._closing:
                lost += self._line
                self._line.clear()
            for task in self._active:
                self._pages.give(task.lanes[0].pages)
            self._active.clear()
        for task in lost:
            task.told.put(error)


class Pages:
    """Which are free, and what lies in those that nobody writes on any more. A full page is known by its tokens and the page before it,
    the first one by its salt: who has another does not find it."""

    def __init__(self, page: int, pages: int) -> None:
        self._page = page
        self._free = list(range(pages))
        self._users: dict[int, int] = {}
        self._known: dict[_Text, tuple[int, int]] = {}  # -> page, number
        self._text_of: dict[int, _Text] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # known, and used by nobody, the oldest first
        self._numbers = count(1)  # never given twice, so that nothing follows on a page that was written over

    @property
    def room(self) -> int:
        return len(self._free) + len(self._idle)

    def known(self, ids: Sequence[int], cache_salt: str = "") -> list[int]:
        """The pages that hold how `ids` begin, now used once more. At least one token is left to be read."""
        found: list[int] = []
        before: int | str = cache_salt
        for text in self._cut(ids[:-1]):
            page, before = self._known.get((before, text), (-1, 0))
            if page < 0:
                break
            self._users[page] = self._users.get(page, 0) + 1
            self._idle.pop(page, None)
            found.append(page)
        return found

    def take(self, many: int) -> list[int] | None:
        """None where so many are not there."""
        if many > self.room:
            return None
        found = []
        for _ in range(many):
            if self._free:
                page = self._free.pop()
            else:
                page, _ = self._idle.popitem(last=False)
                del self._known[self._text_of.pop(page)]
            self._users[page] = 1
            found.append(page)
        return found

    def keep(self, ids: Sequence[int], pages: Sequence[int], cache_salt: str = "") -> None:
        """`pages` hold `ids`: from now on the full ones are known."""
        before: int | str = cache_salt
        for text, page in zip(self._cut(ids), pages, strict=False):
            key = (before, text)
            if key not in self._known and page not in self._text_of:
                self._known[key] = page, next(self._numbers)
                self._text_of[page] = key
            _, before = self._known.get(key, (page, 0))
            if not before:
                return

    def give(self, pages: Sequence[int]) -> None:
        """No longer used. Later pages go first, since they are of no use without those before them."""
        for page in reversed(pages):
            self._users[page] -= 1
            if not self._users[page]:
                del self._users[page]
                if page in self._text_of:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def _cut(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        ends = range(self._page, len(ids) + 1, self._page)
        return [tuple(ids[end - self._page : end]) for end in ends]


def chosen(logits: Logits, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """The likeliest at temperature 0; else drawn, as models.generate draws, from the fewest likeliest that hold `top_p`.

    >>> chosen(np.array([0.0, 3.0, 1.0], np.float32), 0.0, 1.0, np.random.default_rng(0))
    1
    """
    if temperature == 0:
        return int(logits.argmax())
    told = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # by a very small temperature, which leaves the likeliest alone
        shares = np.exp((told - told.max()) / temperature)
    shares /= shares.sum()
    if top_p < 1:
        order = np.argsort(-shares, kind="stable")
        before = np.cumsum(shares[order]) - shares[order]
        shares[order[before >= top_p]] = 0
    ends = np.cumsum(shares)
    return int(np.searchsorted(ends, draw.random() * ends[-1], side="right"))


def _logprobs(logits: Logits) -> NDArray[np.float64]:
    told = logits.astype(np.float64)
    told -= told.max()
    result: NDArray[np.float64] = told - math.log(np.exp(told).sum())
    return result


def _likely(logits: Logits, token: int, count: int | None) -> tuple[float, tuple[tuple[int, float], ...]]:
    if count is None:
        return math.nan, ()
    told = _logprobs(logits)
    if not count:
        return float(told[token]), ()
    best = np.argpartition(-told, min(count, len(told)) - 1)[:count]
    best = best[np.argsort(-told[best], kind="stable")]
    return float(told[token]), tuple((int(one), float(told[one])) for one in best)
