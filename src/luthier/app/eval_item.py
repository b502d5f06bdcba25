"""One row of a run: asked where a model is to answer, graded by every criterion, and told as OpenAI's output item."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import SpecError
from luthier.evaluation.asking.question import Answer
from luthier.evaluation.graders.asking import Models, Sampling, Turns, role_of, turns_of
from luthier.evaluation.graders.grading import Grade, Usage, grade, sample_of
from luthier.evaluation.graders.spec import Criterion
from luthier.evaluation.graders.templates import LONGEST_RENDERED, as_text, looked_up

from .eval_models import Declined
from .eval_rows import Row
from .eval_spec import InputReference, InputTemplate, ModelSource

MOST_TURNS = 200
NO_ERROR = {"code": "", "message": ""}
"""What clients that hold answers to OpenAI's types read where nothing went wrong."""
LONGEST_SHOWN = 20_000


@dataclass(frozen=True)
class Asked:
    """What was asked of a model, and what it said; `error` where there is no answer to grade."""

    turns: Turns
    answer: Answer | None
    model: str
    seed: int = 0
    error: Mapping[str, str] | None = None


def item_id(run_id: str, number: int) -> str:
    """The same over all attempts.

    >>> item_id("evalrun_1", 0)
    'outputitem_88f313cef931993cec2a5700'
    """
    return f"outputitem_{hashlib.sha256(f'{run_id}:{number}'.encode()).hexdigest()[:24]}"


def made(
    run_id: str,
    eval_id: str,
    row: Row,
    criteria: Sequence[Criterion],
    wish: ModelSource | None,
    models: Models,
) -> tuple[dict[str, Any], dict[str, Usage]]:
    """(the output item, the tokens of each model). Raises what asking the model that is measured raises."""
    asked = _asked(run_id, row, wish, models)
    said = asked.answer.text if asked and asked.answer else None
    sample = sample_of(said, None if asked else row.sample)
    usage: dict[str, Usage] = {}
    if asked and asked.answer:
        usage[asked.model] = Usage(1, asked.answer.tokens_in, asked.answer.tokens_out)
    error = asked.error if asked else None
    grades = [] if error else [grade(one, row.item, sample, models) for one in criteria]
    for one in grades:
        for model, more in one.usage.items():
            usage[model] = usage.get(model, Usage()) + more
    wrong = error is not None or any(one.errors for one in grades)
    status = "error" if wrong else "pass" if all(one.passed for one in grades) else "fail"
    told = {
        "id": item_id(run_id, row.number),
        "object": "eval.run.output_item",
        "created_at": int(time.time()),
        "run_id": run_id,
        "eval_id": eval_id,
        "status": status,
        "datasource_item_id": row.number,
        "datasource_item": dict(row.item),
        "results": [result(one) for one in grades],
        "sample": _sample(asked, row, sample, wish),
    }
    return told, usage


def _asked(run_id: str, row: Row, wish: ModelSource | None, models: Models) -> Asked | None:
    """None: nothing is asked, the row brings its sample."""
    if wish is None or wish.model is None:
        return None
    sampling = wish.sampling_params
    seed = _seed(run_id, row.number) if sampling.seed is None else sampling.seed
    try:
        turns = _turns(wish, row)
    except SpecError as error:
        return Asked((), None, wish.model, seed, {"code": "invalid_input_messages", "message": error.message})
    how = Sampling(
        sampling.max_completion_tokens,
        sampling.temperature,
        1.0 if sampling.top_p is None else sampling.top_p,
        seed,
        schema=sampling.schema_wanted(),
    )
    try:
        answer = models.ask(wish.model, turns, how)
    except Declined as error:
        return Asked(turns, None, wish.model, seed, {"code": "invalid_request", "message": error.message})
    if answer.text is None:
        return Asked(turns, answer, wish.model, seed, {"code": "refusal", "message": answer.why})
    return Asked(turns, answer, wish.model, seed)


def _turns(wish: ModelSource, row: Row) -> Turns:
    """Raises SpecError."""
    names = {"item": row.item, "sample": row.sample or {}}
    if isinstance(wish.input_messages, InputTemplate):
        return turns_of(wish.input_messages.template, names)
    assert isinstance(wish.input_messages, InputReference)
    told = looked_up(wish.input_messages.item_reference, names)
    told = [{"role": "user", "content": told}] if isinstance(told, str) else told
    if not isinstance(told, list) or not 0 < len(told) <= MOST_TURNS:
        raise SpecError(f"{wish.input_messages.item_reference} is no list of up to {MOST_TURNS} messages.")
    turns = tuple(_turn(one) for one in told)
    if sum(len(content) for _, content in turns) > LONGEST_RENDERED:
        raise SpecError(f"the messages are longer than {LONGEST_RENDERED:,} characters.")
    return turns


def _turn(one: Any) -> tuple[str, str]:
    if not isinstance(one, dict) or not isinstance(one.get("role"), str):
        raise SpecError("a message is not an object with role and content.")
    content = one.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise SpecError("the content of a message is no text.")
    return role_of(one["role"]), content


def _seed(run_id: str, number: int) -> int:
    """So that a run that was interrupted asks the same again."""
    return int.from_bytes(hashlib.sha256(f"seed:{run_id}:{number}".encode()).digest()[:4], "big")


def result(one: Grade) -> dict[str, Any]:
    """As OpenAI's results; what went wrong stands beside it under `errors`."""
    told: dict[str, Any] = {
        "name": one.name,
        "type": one.type,
        "score": one.score,
        "passed": one.passed,
        "sample": None,
    }
    if one.model is not None:
        said = None if one.said is None else one.said[:LONGEST_SHOWN]
        told["sample"] = {"model": one.model, "output": [{"role": "assistant", "content": said}]}
    if one.label is not None:
        told["label"] = one.label
    if one.errors:
        told["errors"] = dict(one.errors)
    return told


def _sample(
    asked: Asked | None, row: Row, sample: Mapping[str, Any], wish: ModelSource | None
) -> dict[str, Any]:
    """Every field there, as clients' types want; zero and empty where nothing was asked."""
    params = wish.sampling_params if wish and asked else None
    read, written = (asked.answer.tokens_in, asked.answer.tokens_out) if asked and asked.answer else (0, 0)
    text = sample.get("output_text")
    before = row.item.get("input") if not asked and row.asked is not None else ()
    turns = asked.turns if asked else tuple((one["role"], one["content"]) for one in before or ())
    finish = ""
    if asked and asked.answer:
        finish = "stop" if asked.answer.finished else "length"
    return {
        "input": [{"role": role, "content": content} for role, content in turns],
        "output": [] if text is None else [{"role": "assistant", "content": as_text(text)}],
        "finish_reason": finish,
        "model": asked.model if asked else row.asked or "",
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "cached_tokens": 0,
            "total_tokens": read + written,
        },
        "error": dict(asked.error) if asked and asked.error else dict(NO_ERROR),
        "temperature": float((params and params.temperature) or 0.0),
        "top_p": float((params and params.top_p) or 1.0),
        "seed": asked.seed if asked else 0,
        "max_completion_tokens": int((params and params.max_completion_tokens) or 0),
    }
