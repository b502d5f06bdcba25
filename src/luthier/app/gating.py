"""What the gate will ask, and what it costs to measure it: told by the plan, before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.units import show_count, show_seconds
from luthier.evaluation.memorisation.spec import REMEMBERED, work_tokens
from luthier.evaluation.spec import FIGURES
from luthier.governance.policy import written

if TYPE_CHECKING:
    from .recipe import Wish

USUAL = "from the answers that are measured anyway"


def rules_and_costs(
    wish: Wish, tokens: float | None = None, seconds_per_token: float | None = None, *, there: bool = False
) -> list[tuple[str, str]]:
    """(rule, what measuring it costs), in the gate's order. `tokens`: what measuring memorisation reads (`remembering`); `there`:
    the report is there already."""
    if there:
        return [
            (f"{m} {rule}", "nothing: the report is there") for m, rule in written(wish.recipe.evaluate.gate)
        ]
    told = []
    for metric, rule in written(wish.recipe.evaluate.gate):
        cost = USUAL
        if metric in REMEMBERED:
            cost = _remembering(tokens, seconds_per_token)
        elif metric in FIGURES:
            rows = wish.recipe.evaluate.measuring().timed
            cost = f"{rows} rows asked once more by every system that runs here, each alone"
        elif metric == "perplexity":
            cost = "one more reading of each row by the tuned model and the base"
        told.append((f"{metric} {rule}", cost))
    return told


def remembering(wish: Wish, counts: dict[str, Any], row_tokens: float) -> float:
    """Tokens that are read to measure memorisation; 0 where it is not measured."""
    measuring = wish.recipe.evaluate.measuring()
    if measuring.memorisation is None:
        return 0.0
    canaries = wish.recipe.data.canaries
    secrets = measuring.memorisation.found + (2 * canaries.count if canaries else 0)
    held = counts["validation"] + counts["test"]
    return work_tokens(measuring.memorisation, row_tokens, counts["train"], held, secrets)


def _remembering(tokens: float | None, seconds_per_token: float | None) -> str:
    if tokens is None:
        return "training rows, held-out rows and secrets are read by the tuned model and the base"
    told = f"about {show_count(tokens)} tokens read by the tuned model and the base"
    if seconds_per_token is not None:
        told += f", {show_seconds(tokens * seconds_per_token)}"
    return told + "; all of memorisation is measured at once"
