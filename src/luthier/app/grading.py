"""Graders by themselves: is one valid, and what does it say of one sample. Nothing is kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Busy, SpecError
from luthier.evaluation.graders.grading import ERRORS, Grade, Usage, comparing, grade, sample_of
from luthier.evaluation.graders.spec import Grader, models_of

from .eval_models import EvalModels

if TYPE_CHECKING:
    from .site import Caller, Site

WAIT_S = 30.0
MOST_COMPARED = 10**8
"""Characters times characters of one request, which takes about a tenth of a second of the process that answers everybody."""
_one_at_a_time = threading.Lock()


def graded(
    site: Site, caller: Caller, grader: Grader, sample: str, item: Mapping[str, Any]
) -> dict[str, Any]:
    """OpenAI's answer to running a grader. Models are opened for this and closed again, one request's at a time: raises Busy where
    another's take long, SpecError for more to compare than MOST_COMPARED."""
    answer = sample_of(sample)
    if (work := comparing(grader, item, answer)) > MOST_COMPARED:
        raise SpecError(
            f"its text_similarity graders compare {work:,} pairs of characters, and at most {MOST_COMPARED:,} are compared at once.",
            remedy="Compare shorter texts, or fewer, or make an eval, which is a job.",
        )
    models = EvalModels(lambda name: site.models.open(site.models.find(caller, name))[0].engine)
    asks = any(models_of([grader]))
    if asks and not _one_at_a_time.acquire(timeout=WAIT_S):
        raise Busy("another grader is being run with its model.", remedy="Try again soon, or make an eval.")
    try:
        for model in models_of([grader]):
            models.open(model)
        return told(grade(grader, item, answer, models))
    finally:
        models.close()
        if asks:
            _one_at_a_time.release()


def told(one: Grade) -> dict[str, Any]:
    total = sum((usage for usage in one.usage.values()), Usage())
    return {
        "reward": one.score,
        "sub_rewards": {name: part.score for name, part in one.parts.items()},
        "model_grader_token_usage_per_model": {
            model: usage.tokens_in + usage.tokens_out for model, usage in one.usage.items()
        },
        "metadata": {
            "name": one.name,
            "type": one.type,
            "errors": {**ERRORS, **one.errors},
            "execution_time": one.seconds,
            "scores": one.scores,
            "token_usage": total.tokens_in + total.tokens_out if one.usage else None,
            "sampled_model_name": one.model,
        },
    }
