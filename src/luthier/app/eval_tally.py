"""What the items of a run come to: counts, counts of each criterion, tokens of each model. Adds up in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.evaluation.graders.grading import Usage

USAGE = "luthier_usage"
"""In what is kept of an item: the tokens of each model, graders' too."""


@dataclass
class Tally:
    """`criteria`: in their order, name -> [passed, failed, errors, sum of scores]."""

    criteria: dict[str, list[float]]
    counts: dict[str, int] = field(
        default_factory=lambda: {"total": 0, "passed": 0, "failed": 0, "errored": 0}
    )
    usage: dict[str, Usage] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Sequence[str]) -> Tally:
        return cls({name: [0, 0, 0, 0.0] for name in names})

    def add(self, item: Mapping[str, Any]) -> None:
        self.counts["total"] += 1
        self.counts[{"pass": "passed", "fail": "failed"}.get(item["status"], "errored")] += 1
        for one in item["results"]:
            place = 0 if one["passed"] else 1
            self.criteria[one["name"]][place] += 1
            self.criteria[one["name"]][2] += bool(one.get("errors"))
            self.criteria[one["name"]][3] += one["score"]
        for model, numbers in item.get(USAGE, {}).items():
            self.usage[model] = self.usage.get(model, Usage()) + Usage(*numbers)

    def plain(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "criteria": {name: list(numbers) for name, numbers in self.criteria.items()},
            "usage": {
                model: [one.requests, one.tokens_in, one.tokens_out] for model, one in self.usage.items()
            },
        }


def per_model(usage: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Of `plain()["usage"]`, as OpenAI tells it."""
    return [
        {
            "model_name": model, "invocation_count": requests, "prompt_tokens": read, "completion_tokens": written,
            "cached_tokens": 0, "total_tokens": read + written,
        }
        for model, (requests, read, written) in usage.items()
    ]  # fmt: skip


def per_criterion(criteria: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Of `plain()["criteria"]`, as OpenAI tells it."""
    return [
        {"testing_criteria": name, "passed": int(numbers[0]), "failed": int(numbers[1])}
        for name, numbers in criteria.items()
    ]
