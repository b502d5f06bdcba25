"""What a person may wish of the measuring of memorisation. Light: imports core only."""

from __future__ import annotations

from pydantic import Field

from luthier.core.spec import Spec
from luthier.core.units import Share

REMEMBERED = ("extracted", "exposure", "membership_auc")
"""Metrics that this measures, and not the answers to the test rows."""
SURE = 0.05
"""How often a model that learnt nothing by heart may raise any alarm at all; the three questions share it."""
QUESTIONS = 3
FIRST_LOOK = 127
"""Other secrets that one is ranked among at first; only one that leads them all is ranked among more."""


class MemorisationSpec(Spec):
    """How it is measured what the model has learnt by heart."""

    rows: int = Field(default=200, ge=20, le=100_000)
    """So many training rows are looked at, and as many held-out rows for comparison; fewer where there are fewer."""
    given: int = Field(default=8, ge=0, le=1000)
    """Tokens of a row's answer that the model is given before it goes on by itself."""
    verbatim: int = Field(default=16, ge=4, le=1000)
    """Tokens that it must then say as the row has them, without a slip, to count as extracted."""
    lowest: Share = 0.2
    """Min-K%: the share of a row's tokens, the least likely ones, that membership is told from."""
    canaries: str | None = None
    """A file with secrets that you planted among the rows yourself, one a line; `data.canaries` plants some and needs no file."""
    candidates: int = Field(default=1023, ge=127, le=65_535)
    """Other secrets of its kind that a secret is ranked among, where it leads the first 127: with 1023, at most 10 bits."""
    found: int = Field(default=5, ge=0, le=1000)
    """How many rare keys and numbers that stand in the training rows themselves are looked at beside the planted ones."""
    seed: int = Field(default=0, ge=0)
    """Of the choice of rows and of the secrets they are compared with."""
    canaries_sha256: str | None = None
    """What the file of `canaries` holds; filled in from the file, so that other secrets are measured anew."""


def candidates_for(secrets: int, wished: int) -> int:
    """How many others a leading secret is ranked among, so that one of so many alone can be told from luck.

    >>> candidates_for(1, 1023), candidates_for(100, 1023)  # 100 secrets: one in 6,000
    (1023, 6000)
    """
    return max(wished, round(secrets * QUESTIONS / SURE))


def work_tokens(spec: MemorisationSpec, row: float, train: int, held: int, secrets: int) -> float:
    """Tokens that two models read, about: rows of `row` tokens each, and for every secret the others it is ranked among."""
    rows = min(spec.rows, train) + min(spec.rows, held)
    return 2 * rows * row + secrets * (row + 16 * FIRST_LOOK)
