"""The budget that a person writes. Light: imports core only."""

from __future__ import annotations

from pydantic import Field

from luthier.core.spec import Spec
from luthier.core.units import Bytes, MoneyField, Seconds


class BudgetSpec(Spec):
    """Limits that stop a run before anything is spent, and the machine whose price counts."""

    money: MoneyField | None = None
    """The most that training and evaluation may cost, for example `5 USD`; without it no limit."""
    time: Seconds | None = None
    """The longest that training and evaluation may take, for example `1 h`; without it no limit."""
    memory: Bytes | None = None
    """The most memory that training may need, for example `16 GB`; without it what this machine has."""
    machine: str = "local-cpu"
    """The kind of machine that is paid for: a `machine` of the price table (`local-cpu`, `aws-g6.xlarge`, ...)."""
    machines: int = Field(default=1, ge=1)
    """How many of them."""
