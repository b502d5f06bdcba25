"""The systems that are language models: each is asked the same questions in its own way.

With an adapter beside it the base is the tuned model with that switched off, which runs the very same operations as the
base alone, so one set of weights is loaded; with full fine-tuning the two are loaded one after the other. So it is with other
models (others.py): adapters on the same base are put on in turn, and all else is loaded after what was before it. What a
system has answered is kept in `scratch`, so an interrupted evaluation goes on with the next system.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.stage import Context
from luthier.models.place import Place, place
from luthier.models.spec import KEPT_BESIDE
from luthier.outputs.answering import Sample
from luthier.store.files import write_atomic

from . import timing
from .baselines import three_examples
from .general.asking import Beside
from .others import Other, same_base, swapped, unfit
from .predictions import line
from .questions import Asked, Question, Skipped, asked, records
from .refining import Refining
from .spec import METRICS, EvaluateSpec
from .tasks import Answer, Task

PROMPTED = ("tuned", "base", "base_3shot")
ROWS_AT_ONCE = 64
LOSSES = frozenset({"perplexity", "preferred", "reward_accuracy"})
"""Metrics of what a model makes of known answers, for which it need not write any."""


@dataclass(frozen=True)
class Bench:
    """What every system of one evaluation shares. `slices`: the parts that each row belongs to, by id. `folders`: model,
    base, dataset, and `digests` of the same. `others`: further models, by the name of the system. `beside`: the rows that are not of
    the task."""

    spec: EvaluateSpec
    task: Mapping[str, Any]
    part: Task
    questions: Sequence[Question]
    slices: Mapping[str, Sequence[tuple[str, str]]]
    folders: Mapping[str, Path]
    scratch: Path
    at: Context
    others: Mapping[str, Other] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    beside: Beside | None = None
    refined: Mapping[str, Refining] = field(default_factory=dict)
    """By system, the way from what it says to what is served of it; without one what it says counts."""

    def told(self, system: str, answer: Answer, said: Sequence[Sample], question: Question) -> Answer:
        """As it is or will be served: through its steps, probabilities calibrated."""
        mine = self.refined.get(system)
        return answer if mine is None else mine.told(answer, said, question)

    def said(
        self, system: str, model: Any, template: Any, sheet: Sequence[Asked], with_loss: bool, with_text: bool
    ) -> list[tuple[Answer, tuple[Sample, ...]]]:
        """What a system says of each question, and every sample of it where several are drawn."""
        if (mine := self.refined.get(system)) is not None:
            return mine.ask(model, template, sheet, self.part, with_loss, with_text)
        return [(one, ()) for one in self.part.ask(model, template, sheet, with_loss, with_text)]

    def cost(self, one: Asked) -> int:
        """Tokens of work, near enough for the time left."""
        return len(one.encoded.ids) + (
            self.spec.max_tokens if self.task["kind"] in ("chat", "extract") else 0
        )


def answer_all(bench: Bench, adapter: str) -> tuple[list[dict[str, Any]], dict[str, list[Skipped]]]:
    """Every line of predictions of these systems, and the rows that each could not be asked."""
    from luthier.models.template import Template
    from luthier.models.weights import describe, load_tokenizer

    systems = [
        system
        for system in bench.spec.systems(bench.task["kind"])
        if system in PROMPTED or (system in bench.others and not unfit(bench.others[system], bench.task))
    ]
    base = Template(load_tokenizer(bench.folders["base"]), describe(bench.folders["base"]).context)
    templates = dict.fromkeys(systems, base)
    for system in systems:
        if system in bench.others and (folder := bench.others[system].speaks) != bench.folders["base"]:
            templates[system] = Template(load_tokenizer(folder), describe(folder).context)
    sheets, skipped = _sheets(bench, templates, systems)
    kept = {system: _kept(bench, system) for system in systems}
    missing = [system for system in systems if kept[system] is None]
    progress = _Progress(bench.at, sum(bench.cost(ask) for system in missing for ask in sheets[system]))
    where = place(bench.spec.device, bench.spec.dtype, "evaluate")
    for system, model in weights(bench, missing, adapter, where):
        start_s = time.monotonic()
        if bench.beside is not None:
            # first, so that a system whose answers are kept has been asked these too
            bench.beside.ask(system, model, templates[system])
        kept[system] = _answers(bench, system, model, templates[system], sheets[system], progress)
        write_atomic(_path(bench, system), json.dumps(kept[system]).encode())
        seconds = time.monotonic() - start_s
        bench.at.emit(
            "evaluated",
            system=system,
            rows=len(sheets[system]),
            seconds=seconds,
            device=where.device,
            dtype=where.dtype,
        )
    return [line for system in systems for line in kept[system] or ()], skipped


def _sheets(
    bench: Bench, templates: Mapping[str, Any], systems: Sequence[str]
) -> tuple[dict[str, list[Asked]], dict[str, list[Skipped]]]:
    """System -> what it is asked, and system -> what does not fit."""
    sheets, skipped = {}, {}
    for system in systems:
        template = templates[system]
        room = bench.part.room(template)
        examples = (
            three_examples(records(bench.folders["dataset"] / "train.parquet"), bench.spec.seed)
            if system == "base_3shot"
            else []
        )
        found = (
            list(asked(template, bench.questions, examples, room))
            if examples or system != "base_3shot"
            else []
        )
        sheets[system] = [one for one in found if isinstance(one, Asked)]
        skipped[system] = [one for one in found if isinstance(one, Skipped)]
        if system == "tuned" and not sheets[system]:
            raise ModelError(
                f"none of the {len(bench.questions)} test rows fits the model's context of {template.context} tokens.",
                remedy="Shorten the rows with the rule `length`, or choose a base with a longer context.",
            )
    return sheets, skipped


def weights(bench: Bench, systems: Sequence[str], adapter: str, where: Place) -> Iterator[tuple[str, Any]]:
    """(system, model) for each, with one set of base weights in memory at a time."""
    from luthier.models.head import without
    from luthier.models.weights import load

    others = [system for system in systems if system in bench.others]
    here = same_base(bench.others, others, bench.digests["base"]) if others else []
    plain = [system for system in systems if system in PROMPTED and system != "tuned"]
    model = None
    if adapter in KEPT_BESIDE and (plain or here or "tuned" in systems):
        model = load(
            bench.folders["model"], base_folder=bench.folders["base"], dtype=where.dtype, device=where.device
        )
        if "tuned" in systems:
            yield "tuned", model
        with model.disable_adapter(), without(model):
            for system in plain:
                yield system, model
        for system in here:
            model = swapped(model, bench.others[system].folder)
            yield system, model
    elif systems:
        here = []
        if "tuned" in systems:
            yield "tuned", load(bench.folders["model"], dtype=where.dtype, device=where.device)
        model = load(bench.folders["base"], dtype=where.dtype, device=where.device) if plain else None
        for system in plain:
            yield system, model
    for system in (system for system in others if system not in here):
        model = None  # what was before is let go first
        one = bench.others[system]
        base = one.base if one.adapter else None
        model = load(one.folder, base_folder=base, dtype=where.dtype, device=where.device)
        yield system, model


def _answers(
    bench: Bench,
    system: str,
    model: Any,
    template: Any,
    sheet: Sequence[Asked],
    progress: _Progress,
) -> list[dict[str, Any]]:
    """Ask in pieces, so that progress is seen and a stop is heeded."""
    measured = bench.spec.of_test_rows(bench.task["kind"])
    with_loss = (
        not LOSSES.isdisjoint(measured) and bench.spec.kind_of(system) in METRICS["perplexity"].systems
    )
    count = timing.counter(model, template)
    lines = []
    for start in range(0, len(sheet), ROWS_AT_ONCE):
        bench.at.check()
        piece = sheet[start : start + ROWS_AT_ONCE]
        with_text = not LOSSES.issuperset(measured)
        answers = bench.said(system, model, template, piece, with_loss, with_text)
        for one, (answer, said) in zip(piece, answers, strict=True):
            written = None if answer.text is None else count(answer.text)
            if len(said) > 1:  # all that were voted on were written
                written = sum(sample.tokens for sample in said)
            answer = replace(answer, tokens_in=len(one.prompt_ids), tokens_out=written)
            told, parts = bench.told(system, answer, said, one.question), bench.slices[one.question.id]
            lines.append(line(one.question, system, told, bench.part, parts))
        progress(sum(bench.cost(one) for one in piece), system)
    seconds = timing.alone(bench, system, model, template, sheet)
    return [{**one, "seconds": seconds.get(one["id"])} for one in lines]


def _kept(bench: Bench, system: str) -> list[dict[str, Any]] | None:
    path = _path(bench, system)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _path(bench: Bench, system: str) -> Path:
    """A recipe may give a system any name, such as `other` or `tuned.beside`, which are files of other parts of an evaluation."""
    return bench.scratch / f"answers of {system}.json"


class _Progress:
    """Adds up work over all systems, so that the time left is of the whole evaluation."""

    def __init__(self, at: Context, total: int) -> None:
        self.at, self.total, self.done = at, total, 0

    def __call__(self, done: int, system: str) -> None:
        self.done += done
        self.at.progress("evaluate", self.done, self.total, system=system)
