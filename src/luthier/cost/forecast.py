"""Money from time: seconds × machines × the dated price of an hour. No clock, no look-up, and never a made-up zero."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.core.units import Money, show_seconds

from .prices import Prices, PriceSpec


@dataclass(frozen=True)
class CostForecast:
    """`money` is None when it cannot be known; `basis` says in words what the figure rests on, or why there is none."""

    money: Money | None
    basis: tuple[str, ...]


def forecast(seconds: float | None, machine: str, count: int, prices: Prices) -> CostForecast:
    """What `count` machines cost for so long.

    >>> from datetime import date
    >>> row = PriceSpec(machine="gpu", value=3.6, currency="USD", source="a page", retrieved=date(2026, 11, 9))
    >>> forecast(500, "gpu", 2, Prices({"gpu": row})).money        # 500 s × 2 × 3.6 USD / 3600 s
    Money(amount=1.0, currency='USD')
    >>> forecast(500, "gpuu", 2, Prices({"gpu": row}))
    CostForecast(money=None, basis=("the cost is not known: there is no price for the machine 'gpuu'; did you mean \
'gpu'? (or add a row to LUTHIER_HOME/prices.yaml)",))
    """
    if count < 1:
        raise ValueError(f"{count} machines cannot be priced; at least one does the work")
    row = prices.find(machine)
    if row is None:
        why = f"there is no price for the machine {machine!r}; {prices.hint(machine)}"
        return CostForecast(None, (f"the cost is not known: {why}",))
    if seconds is None:
        return CostForecast(
            None, ("the cost is not known: how long it takes is not known", *basis_of(row, count))
        )
    amount = seconds / 3600 * count * row.value
    return CostForecast(
        Money(amount, row.currency), (f"{show_seconds(seconds)} of machine time", *basis_of(row, count))
    )


def basis_of(row: PriceSpec, count: int) -> tuple[str, ...]:
    """Where the price of an hour is from, in words."""
    region = f" in {row.region}" if row.region else ""
    price = f"{row.value:g} {row.currency} per {row.unit}{region}"
    machines = f"{row.machine} at {price}" if count == 1 else f"{count} × {row.machine} at {price} each"
    return (machines, f"price: {row.source}; retrieved {row.retrieved}")
