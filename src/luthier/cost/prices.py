"""The price table: what an hour of a machine costs, where that is from, and when it was read there.

The package brings a table; a file of the same form in the user's home adds rows and replaces rows of the same
machine. No price is looked up on a network, and none is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from luthier.core.errors import SpecError, StoreError, did_you_mean
from luthier.core.spec import Spec, parse, read_yaml

STALE_AFTER_DAYS = 90


class PriceSpec(Spec):
    """One row."""

    machine: str = Field(min_length=1)
    """The name that a recipe's budget.machine refers to."""
    value: float = Field(gt=0)
    """The price of one machine for one unit."""
    unit: Literal["hour"] = "hour"
    """What is paid for."""
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """ISO 4217, for example USD."""
    region: str | None = None
    """Where the price holds; null when that does not matter or is not known."""
    source: str = Field(min_length=1)
    """Where the price is from; for an estimate, what it assumes."""
    retrieved: date
    """The day it was read there."""


class PriceTable(Spec):
    """A file of prices."""

    prices: list[PriceSpec]
    """One row for each kind of machine."""

    @model_validator(mode="after")
    def _each_machine_once(self) -> PriceTable:
        seen: set[str] = set()
        for row in self.prices:
            if row.machine in seen:
                raise ValueError(f"the machine {row.machine!r} stands twice; keep one row of it")
            seen.add(row.machine)
        return self


@dataclass(frozen=True)
class Prices:
    """Machine -> its row."""

    rows: Mapping[str, PriceSpec]

    def find(self, machine: str) -> PriceSpec | None:
        """The row, or None when there is no price."""
        return self.rows.get(machine)

    def look_up(self, machine: str) -> PriceSpec:
        """The row. Raises SpecError with the nearest names when there is none."""
        if (row := self.find(machine)) is None:
            raise SpecError(f"no price is known for the machine {machine!r}.", remedy=self.hint(machine))
        return row

    def hint(self, machine: str) -> str:
        """What to do about a machine without a price."""
        return f"{did_you_mean(machine, list(self.rows))} (or add a row to LUTHIER_HOME/prices.yaml)"


def load_prices(
    own: Path | None = None, today: date | None = None, machine: str | None = None
) -> tuple[Prices, list[str]]:
    """The package's table with the rows of the file `own`, where there is one, and warnings about old prices.

    `machine` keeps the warnings to one machine; `today` is the clock's day when not given. Raises SpecError with
    the line of each fault in `own`, StoreError when it cannot be read.
    """
    shipped = files("luthier.cost").joinpath("prices.yaml").read_text(encoding="utf-8")
    rows = _rows(shipped, "prices.yaml of luthier")
    if own is not None and (text := _read(own)) is not None:
        rows |= _rows(text, str(own))
    prices = Prices(rows)
    return prices, warnings(prices, today or date.today(), machine)


def warnings(prices: Prices, today: date, machine: str | None = None) -> list[str]:
    """At most one line: which prices are older than 90 days on the day `today`."""
    asked = prices.rows.values() if machine is None else filter(None, [prices.find(machine)])
    stale = sorted(
        (row for row in asked if (today - row.retrieved).days > STALE_AFTER_DAYS), key=lambda r: r.retrieved
    )
    if not stale:
        return []
    oldest = stale[0]
    others = f" and of {len(stale) - 1} more" if len(stale) > 1 else ""
    return [
        f"the price of {oldest.machine}{others} is older than {STALE_AFTER_DAYS} days (retrieved {oldest.retrieved}, "
        f"{(today - oldest.retrieved).days} days ago): check it, and put yours into LUTHIER_HOME/prices.yaml"
    ]


def _rows(text: str, source: str) -> dict[str, PriceSpec]:
    return {
        row.machine: row
        for row in parse(
            PriceTable, read_yaml(text, source), "The price table that comes with Luthier shows the form."
        ).prices
    }


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is not UTF-8 text (byte {error.start}).", remedy="Save the price table as UTF-8."
        ) from None
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check its rights, or remove it."
        ) from None
