"""generate: more rows by a language model, here or behind an endpoint. Made rows stand in train alone, with what they were made of.

    paraphrase      the user's words in other words; the answer stays
    back_translate  into another language and back; the answer stays               Sennrich et al. 2016, arXiv 1511.06709
    counterfactual  another case of the same answer: a detail changes               Kaushik et al. 2020, arXiv 1909.12434
    new             a new message after examples; of the same label, or answered by the model
                                                                                    Self-Instruct, arXiv 2212.10560
A sentence around what is said needs no model: augment {ways: [template]}.

Whether it helps is for the evaluation to say. Not here: how a model is asked (asking/), what is asked (prompts), what is kept
of the answers (made_text), and how rows are drawn and put together (making).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from luthier.core.spec import Spec
from luthier.core.units import Share
from luthier.data.rules.rule import Lent, MakeRule

from ..asking.endpoint import EndpointSpec
from ..asking.purse import AskBudgetSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.rules.rule import Rows

VERSION = 1
Way = Literal["paraphrase", "back_translate", "counterfactual", "new"]
LIKENESS: dict[Way, tuple[float, float]] = {
    "paraphrase": (0.1, 0.9),
    "back_translate": (0.1, 0.9),
    "counterfactual": (0.3, 0.95),
    "new": (0.0, 0.7),
}
"""How like the source a made text must at least and may at most be."""


class Generate(Spec):
    way: Way = "paraphrase"
    """How rows are made: `paraphrase`, `back_translate`, `counterfactual` (another case of the same answer), `new`."""
    model: str | None = None
    """The base model that writes, as in `base`; or an `endpoint`."""
    endpoint: EndpointSpec | None = None
    """The server that writes, in place of `model`."""
    n: int | None = Field(default=None, ge=1)
    """How many rows are asked for, at most."""
    share: Share | None = None
    """About which share of the rows is made anew, in place of `n`."""
    copies: int = Field(default=1, ge=1, le=20)
    """How many rows are asked for of each row that is drawn."""
    labels: list[str] = Field(default_factory=list)
    """Only of rows with these labels, such as those of which there are few; empty means all."""
    pivot: str = "German"
    """The language that back_translate goes through, in English."""
    examples: int = Field(default=4, ge=1, le=16)
    """How many messages `new` shows, of the same label where there are labels."""
    likeness: tuple[Share, Share] | None = None
    """How many of its words a made text must at least and may at most share with its source (Jaccard index); by default [0.1, 0.9], for counterfactual [0.3, 0.95], for new [0, 0.7]."""
    length: tuple[float, float] = (0.5, 2.0)
    """How long a made text may be, against its source; new may be as long as it likes up to the second."""
    keep: list[str] = Field(default_factory=list)
    """Words that must stay where the source has them. Its label, numbers (but for counterfactual and new) and masks always must."""
    max_tokens: int = Field(default=256, ge=8, le=8192)
    """The longest answer; of a short text less is asked for."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """How freely the model writes; 0 always takes the likeliest."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """What a made row counts in training, against the row it was made of."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed draws other rows."""
    budget: AskBudgetSpec = Field(default=AskBudgetSpec(), exclude=True)
    """What asking may cost. No part of the dataset's identity, as is everything that only says how fast and how dear it is."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """The number format that `model` computes in."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where `model` computes."""

    @model_validator(mode="after")
    def _fits(self) -> Generate:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError(
                "somebody has to write: give either model: smollm2-135m-instruct or endpoint: {url: ..., model: ...}"
            )
        if (self.n is None) == (self.share is None):
            raise ValueError("say how many rows are to be made: either n: 200 or share: 0.1")
        if self.share == 0:
            raise ValueError("share: 0 makes no row; leave the rule out")
        if self.budget.money is not None and (self.endpoint is None or self.endpoint.price is None):
            raise ValueError(
                "a budget of money needs a price: endpoint: {price: {input: 0.15 USD, output: 0.60 USD}}"
            )
        if self.budget.money is not None and self.endpoint is not None and self.endpoint.price is not None:
            other = self.endpoint.price.input.currency
            if other != self.budget.money.currency:
                raise ValueError(
                    f"the budget is in {self.budget.money.currency} and the price in {other}; write one currency"
                )
        if self.likeness is not None and self.likeness[0] >= self.likeness[1]:
            raise ValueError(
                f"likeness {list(self.likeness)} leaves nothing; the first must be below the second"
            )
        if not 0 <= self.length[0] < self.length[1]:
            raise ValueError(f"length {list(self.length)} leaves nothing; the first must be below the second")
        if self.copies > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 every copy is the same; raise it, or ask for one copy")
        for name, ways in (
            ("pivot", ["back_translate"]),
            ("examples", ["new"]),
            ("keep", [one for one in LIKENESS if one != "new"]),
        ):
            if self._differs(name) and self.way not in ways:
                raise ValueError(
                    f"{name} is for {' and '.join(ways)}, and the way is {self.way}; leave it out"
                )
        for name in ("dtype", "device"):
            if self._differs(name) and self.endpoint is not None:
                raise ValueError(
                    f"{name} is for model, which computes here; the endpoint has its own; leave it out"
                )
        if self.labels and self.way == "new" and any(not label.strip() for label in self.labels):
            raise ValueError("a label of labels is blank")
        return self

    def _differs(self, name: str) -> bool:
        """From what it is where nobody writes it: a spec that is read back has all of them."""
        return bool(
            getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        )

    @property
    def bounds(self) -> tuple[float, float]:
        return self.likeness or LIKENESS[self.way]


def _make(rows: Rows, held: Rows, given: Lent, note: Callable[[str], None]) -> Iterator[pa.RecordBatch]:
    from .making import make

    return make(rows, held, given, note)


def _sends(settings: Generate) -> str | None:
    return settings.endpoint.host if settings.endpoint is not None and settings.endpoint.away else None


generate = MakeRule(
    "generate", VERSION, Generate, "Has a language model write more rows.", _make, _sends,
    source="Wang et al. 2023 (Self-Instruct); Kaushik et al. 2020; Sennrich et al. 2016",
)  # fmt: skip
