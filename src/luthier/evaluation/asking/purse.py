"""What asking may cost, and what it has: refused before the first question where the forecast is above the budget, and stopped
in the middle where the bills turn out higher. A request counts when it is sent, answered or not; money counts what the server
says it has read and written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError
from luthier.core.spec import Spec
from luthier.core.units import Count, Money, MoneyField, Seconds, show_seconds
from luthier.outputs.price import PriceSpec

from .question import Answer, Question


class AskBudgetSpec(Spec):
    requests: Count | None = None
    """The most requests that a run may send."""
    tokens: Count | None = None
    """The most tokens that a run may have read and written."""
    money: MoneyField | None = None
    """The most that a run may cost, for example `2 USD`; needs a price."""
    time: Seconds | None = None
    """The longest that a run may go on asking, for example `10 min`; what was answered until then is kept."""


@dataclass(frozen=True)
class Bill:
    """What some questions cost, or would at most."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @classmethod
    def forecast(cls, questions: Sequence[Question]) -> Bill:
        """With answers as long as they may be, and every request answered at the first try."""
        return cls(
            len(questions), sum(one.tokens_in for one in questions), sum(one.max_tokens for one in questions)
        )

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )

    def money(self, price: PriceSpec | None) -> Money | None:
        return None if price is None else price.of(self.tokens_in, self.tokens_out)

    def words(self, price: PriceSpec | None) -> str:
        money = self.money(price)
        told = f"{self.requests:,} requests, {self.tokens_in:,} tokens read and {self.tokens_out:,} written"
        return told if money is None else f"{told}, {money}"

    def plain(self, price: PriceSpec | None) -> dict[str, Any]:
        money = self.money(price)
        told = {"requests": self.requests, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out}
        return {**told, "money": list(money) if money else None}

    def over(self, budget: AskBudgetSpec, price: PriceSpec | None) -> str | None:
        """Which limit it breaks, with the numbers."""
        tokens, money = self.tokens_in + self.tokens_out, self.money(price)
        if budget.requests is not None and self.requests > budget.requests:
            return f"{self.requests:,} requests, and the budget is {budget.requests:,}"
        if budget.tokens is not None and tokens > budget.tokens:
            return f"{tokens:,} tokens, and the budget is {budget.tokens:,}"
        if budget.money is not None and money is not None and money.amount > budget.money.amount:
            return f"{money}, and the budget is {budget.money}"
        return None


class Purse:
    """Thread-safe. `spent` is what is sure, `open` what requests under way may yet cost. Time runs from the first request."""

    def __init__(
        self,
        budget: AskBudgetSpec,
        price: PriceSpec | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._price, self._clock = budget, price, clock
        self._began_s: float | None = None
        self._lock = threading.Lock()
        self.spent = Bill()
        self._told = Bill()
        self._open = Bill()

    @property
    def price(self) -> PriceSpec | None:
        return self._price

    def since_told(self) -> dict[str, Any]:
        """What was spent since this was last asked for, in plain form: what is told of one purse adds up."""
        with self._lock:
            new = self.spent + Bill(-self._told.requests, -self._told.tokens_in, -self._told.tokens_out)
            self._told = self.spent
        return new.plain(self._price)

    def permit(self, forecast: Bill) -> None:
        """Raises DataError with the numbers."""
        if broken := forecast.over(self._budget, self._price):
            raise DataError(
                f"this may take {broken}; {'nothing' if not self.spent.requests else 'no more'} was sent.",
                remedy="Raise the budget, or ask less.",
            )

    def take(self, question: Question) -> None:
        """Before each request. Raises DataError where it might go over the budget."""
        cost = Bill.forecast([question])
        with self._lock:
            self._began_s = self._clock() if self._began_s is None else self._began_s
            gone_s = self._clock() - self._began_s
            if self._budget.time is not None and gone_s > self._budget.time:
                raise DataError(
                    f"asking has gone on for {show_seconds(gone_s)}, and the budget is {show_seconds(self._budget.time)}.",
                    remedy="Raise the budget and run again: what was answered is kept and not asked again.",
                )
            if broken := (self.spent + self._open + cost).over(self._budget, self._price):
                raise DataError(
                    f"the budget is used up: the next request may make it {broken}.",
                    remedy="Raise the budget and run again: what was answered is kept and not paid for again.",
                )
            self._open += cost

    def paid(self, question: Question, answer: Answer | None) -> None:
        """After each request. None: it failed, which costs the request and no tokens."""
        cost = Bill.forecast([question])
        with self._lock:
            self._open += Bill(-cost.requests, -cost.tokens_in, -cost.tokens_out)
            self.spent += Bill(1, answer.tokens_in, answer.tokens_out) if answer else Bill(1)
