"""What a million tokens cost at a server: a wish of whoever asks one."""

from __future__ import annotations

from pydantic import model_validator

from luthier.core.spec import Spec
from luthier.core.units import Money, MoneyField

MILLION = 1_000_000


class PriceSpec(Spec):
    input: MoneyField
    """What a million tokens cost that the model reads, for example `0.15 USD`."""
    output: MoneyField
    """What a million tokens cost that the model writes."""

    @model_validator(mode="after")
    def _of_one_currency(self) -> PriceSpec:
        if self.input.currency != self.output.currency:
            raise ValueError("input and output are prices in one currency")
        return self

    def of(self, tokens_in: int, tokens_out: int) -> Money:
        """What so many tokens cost."""
        amount = (tokens_in * self.input.amount + tokens_out * self.output.amount) / MILLION
        return Money(amount, self.input.currency)
