"""How long one answer takes: some rows asked once more, each alone, as a person waits for it.

Rows that are measured together share the reading of the weights and what their prompts begin with, so their time says nothing of
one answer. What was found is remembered by model, machine and rows: it is no other result when the same is measured again.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.models.place import place
from luthier.store.answers import ANSWERS, Answers, key_of

from .questions import Asked

if TYPE_CHECKING:
    from .prompted import Bench
    from .spec import EvaluateSpec

VERSION = 1


def counter(model: Any, template: Any) -> Callable[[str], int]:
    """Tokens of an answer, its end included; none where a head answers."""
    from luthier.models.head import head_of

    if head_of(model) is not None:
        return lambda _: 0
    tokenizer = template.tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


def alone(bench: Bench, system: str, model: Any, template: Any, sheet: Sequence[Asked]) -> dict[str, float]:
    """Row id -> seconds, of the first rows (evaluate.timed_rows) that have a question: the whole way to an answer, every sample of a
    vote and the steps, but for another model that is asked."""
    rows = [one for one in sheet if one.question.prompt is not None][: bench.spec.timed]

    way = bench.refined.get(system)

    def ask(one: Asked) -> None:
        ((answer, said),) = bench.said(system, model, template, [one], with_loss=False, with_text=True)
        bench.told(system, answer, said, one.question)

    def measure() -> dict[str, float]:
        ask(rows[0])  # the first of all finds nothing warm, and is not counted
        found = {}
        for one in rows:
            bench.at.check()
            start_s = time.perf_counter()
            ask(one)
            found[one.question.id] = round(time.perf_counter() - start_s, 6)
        return found

    where = place(bench.spec.device, bench.spec.dtype, "evaluate")
    about = {
        "max_tokens": bench.spec.max_tokens,
        "where": [where.device, where.dtype],
        "examples": system == "base_3shot",
        "answering": None if way is None else way.spec.plain(),
    }
    return remembered(bench, _models(bench, system), [one.question.id for one in rows], about, measure)


def remembered(
    bench: Bench,
    models: Sequence[str],
    rows: Sequence[str],
    about: Mapping[str, Any],
    measure: Callable[[], dict[str, float]],
) -> dict[str, float]:
    """What was measured of these models (digests), or is now; nothing is remembered of models without a digest."""
    if not rows:
        return {}
    if not models:
        return measure()
    machine = [platform.node(), platform.machine(), *_threads()]
    asked = {
        "for": "seconds",
        "version": VERSION,
        "models": list(models),
        "task": dict(bench.task),
        "rows": list(rows),
    }
    key = key_of({**asked, **about, "machine": machine})
    with Answers(bench.at.home / ANSWERS) as answers:
        if known := answers.find([key]):
            return {str(one): float(seconds) for one, seconds in known[key].items()}
        found = measure()
        answers.keep([(key, "", found)])
    return found


def machine(spec: EvaluateSpec) -> str:
    """What the seconds are of, in words and without the machine's name.

    >>> from luthier.evaluation.spec import EvaluateSpec
    >>> machine(EvaluateSpec(device="cpu", dtype="fp32")).endswith("in fp32")
    True
    """
    import torch

    where = place(spec.device, spec.dtype, "evaluate")
    if where.device == "cuda":
        return f"{torch.cuda.get_device_name()} in {where.dtype}"
    threads = torch.get_num_threads()
    return f"{platform.machine()}, {threads} thread{'s' if threads > 1 else ''}, in {where.dtype}"


def _threads() -> list[int]:
    import torch

    return [torch.get_num_threads()]


def _models(bench: Bench, system: str) -> list[str]:
    if not bench.digests:
        return []
    if system in bench.others:
        return list(bench.others[system].digests)
    return [bench.digests["base"], *([bench.digests["model"]] if system == "tuned" else [])]
