"""Of two answers to one question, does the model think the better one likelier?

preferred         ln p(chosen) / its tokens  >  ln p(rejected) / its tokens
reward_accuracy   ln p(chosen) - ln p(rejected) has grown over the base's: the accuracy of the reward that preference tuning
                  learns (Rafailov et al. 2023, section 4), whatever its factor; of whole answers, as there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .compare import Statistics, of_mean, together
from .predictions import Answers


def gains(lines: Sequence[dict[str, Any]]) -> None:
    """Set `gain` of the tuned model's lines of predictions, where the base was asked the same pair."""
    base = {
        line["id"]: line for line in lines if line["model"] == "base" and line["rejected_sum"] is not None
    }
    for line in lines:
        other = base.get(line["id"])
        if line["model"] == "tuned" and other is not None and line["rejected_sum"] is not None:
            line["gain"] = _apart(line) - _apart(other)


def _apart(line: dict[str, Any]) -> float:
    """ln p(chosen) - ln p(rejected), of the whole answers; what is kept are losses."""
    return float(line["rejected_sum"] - line["loss_sum"])


def statistics(answers: Answers) -> Statistics:
    """compare.Statistics of the two, over the pairs; a metric that no row has is not there."""
    parts = []
    rejected_N, tokens_N = answers.numbers("rejected_sum"), answers.numbers("rejected_tokens")
    with np.errstate(invalid="ignore", divide="ignore"):
        chosen_N = answers.loss_sum_N / answers.loss_tokens_N
        apart_N = rejected_N / tokens_N - chosen_N
    for name, value_N in (("preferred", apart_N), ("reward_accuracy", answers.numbers("gain"))):
        if np.isfinite(value_N).any():
            parts.append(of_mean(name, np.where(np.isfinite(value_N), value_N > 0, np.nan)))
    return together(parts)
