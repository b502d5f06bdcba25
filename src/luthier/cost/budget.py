"""Does a forecast keep to the limits a person wrote? Pure; whoever asks decides what to do with the answer.

A limit that cannot be checked is told like one that is broken: nobody wrote it in order to have it skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from luthier.core.units import Money, show_bytes, show_seconds

from .spec import BudgetSpec


def check(
    budget: BudgetSpec,
    seconds: float | None,
    peak_bytes: int | None,
    money: Money | None,
    remedy: str | Mapping[str, str] | None = None,
) -> list[str]:
    """What would break the budget, in words; empty when everything fits.

    `remedy`: the cheapest change that would fit, said of every limit that is broken; or of each by its name
    ("time", "memory", "money").

    >>> check(BudgetSpec(time="1 h"), 3000, None, None)
    []
    >>> check(BudgetSpec(time="30 min"), 3000, None, None, "train.epochs=1")
    ['time: forecast 50 min 00 s, budget 30 min 00 s (1.67 times as much); the cheapest change that would fit: train.epochs=1']
    """
    remedies = dict.fromkeys(("time", "memory", "money"), remedy) if isinstance(remedy, str) else remedy or {}
    found = [
        _over("time", seconds, budget.time, show_seconds, remedies),
        _over("memory", peak_bytes, budget.memory, show_bytes, remedies),
        _money(budget.money, money, remedies),
    ]
    return [line for line in found if line]


def _money(limit: Money | None, money: Money | None, remedies: Mapping[str, str | None]) -> str | None:
    if limit is None:
        return None
    if money is not None and money.currency != limit.currency:
        return (
            f"money: the forecast is {money} and the budget is in {limit.currency}, so they cannot be compared: "
            f"write the budget in {money.currency}, or the machine's price in {limit.currency} in LUTHIER_HOME/prices.yaml"
        )
    amount = money.amount if money else None
    return _over("money", amount, limit.amount, lambda x: str(Money(x, limit.currency)), remedies)


def _over(
    what: str,
    forecast: float | None,
    limit: float | None,
    show: Callable[[float], str],
    remedies: Mapping[str, str | None],
) -> str | None:
    if limit is None:
        return None
    if forecast is None:
        return f"{what}: the budget is {show(limit)} and the forecast is not known, so it cannot be promised"
    if forecast <= limit:
        return None
    times = f" ({forecast / limit:.3g} times as much)" if limit > 0 else ""
    remedy = remedies.get(what)
    tail = f"; the cheapest change that would fit: {remedy}" if remedy else ""
    return f"{what}: forecast {show(forecast)}, budget {show(limit)}{times}{tail}"
