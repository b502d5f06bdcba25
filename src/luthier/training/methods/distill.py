"""Distillation: learn from a larger model, the teacher.

    token      at every supervised token, the whole distribution of the teacher instead of one right token
               (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; which way the
               divergence is taken: Agarwal et al. 2024, "On-Policy Distillation of Language Models", section 3.1);
               both models must have one vocabulary
    sequence   the teacher's own greedy answers take the place of the data's, and are learnt as in `sft`
               (Kim and Rush 2016, "Sequence-Level Knowledge Distillation", section 3.2); any teacher that can chat

At token level the teacher lies in memory and reads every micro-batch beside the student, so nothing is left out or
rounded as in a cache of its likeliest tokens. At sequence level it writes once, before the first step, and is then let go;
of a row only the question is known before that, so `train.longest`, rows.parquet and the proof speak of the question and
one token of answer.

Legend: S supervised tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from luthier.core.errors import DataError, ModelError, SpecError
from luthier.training.method import Example, Loss, Method, MethodSettings, Work
from luthier.training.rows import NAMED, Row, Tokens

from .classify import question_of
from .kept import PART_ROWS, Compute, kept
from .preference import last_answer

if TYPE_CHECKING:
    from luthier.models.shapes import Facts
    from luthier.models.template import Encoded, Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Rows

UNREAD: Mapping[str, tuple[str, ...]] = {
    "token": ("max_tokens",),
    "sequence": ("temperature", "direction", "labels"),
}
"""Settings that say nothing at a level."""


class DistillSettings(MethodSettings):
    """Of `distill`."""

    teacher: str = Field(min_length=1)
    """The model to learn from, named as a base is."""
    level: Literal["token", "sequence"] = "token"
    """Learn the teacher's probabilities of every token of the data, or the answers that it writes itself."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """At token level: more than 1 shows more of what the teacher thinks of unlikely tokens."""
    direction: Literal["forward", "reverse"] = "forward"
    """At token level: forward covers all that the teacher might say, reverse keeps to what it surely would."""
    labels: float = Field(default=0.0, ge=0, lt=1)
    """At token level: the share of the ordinary loss, on the data's own tokens."""
    max_tokens: int = Field(default=256, ge=1, le=100_000)
    """At sequence level: most tokens of the teacher's answer; of one that is longer the end is not learnt."""

    @model_validator(mode="after")
    def _only_what_is_read(self) -> DistillSettings:
        if unread := [name for name in UNREAD[self.level] if name in self.model_fields_set]:
            other = "sequence" if self.level == "token" else "token"
            raise ValueError(
                f"`{unread[0]}` is read at level: {other} alone; remove it, or set level: {other}"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Without what is not read: it would be refused when it is read back."""
        return {name: value for name, value in super().plain().items() if name not in UNREAD[self.level]}

    def models(self) -> Mapping[str, str]:
        return {"teacher": self.teacher}


class Distill(Method):
    """Learns from a larger model: `{distill: {teacher: NAME}}`. No row of the data is cut; an answer that the teacher writes is,
    at `max_tokens` or where the base's context is full, and its end is then not learnt."""

    spec = DistillSettings

    def __init__(self, settings: DistillSettings) -> None:
        self.settings = settings
        if settings.level == "token":
            self.figures = ("loss", "kl", "nll")
        self.teacher: Any = None
        self.width = 0
        self.written: Mapping[str, Tokens] = {}
        self.splits: Mapping[str, Rows] | None = None

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        if self.settings.level == "sequence":
            return question_of(record, template, "distill")
        text = record["text"]
        return Example([template.encode(record["messages"]) if text is None else template.encode_text(text)])

    def prepare(self, model: Any, splits: Mapping[str, Rows], work: Work) -> None:
        if splits is self.splits:
            return  # once more, of the student without its fused parts: the teacher is the same
        if self.settings.level == "sequence":
            self.written = written(splits, work, self.settings.max_tokens)
        else:
            self.width = shared_width(work)
            need_room(splits, work)
            self.teacher = called_in(work).requires_grad_(False)
        self.splits = splits

    def unfold(self, model: Any, rows: Sequence[Row], seed: int) -> Sequence[Row]:
        if self.settings.level == "token":
            return rows
        return [replace(row, sequences=(self.written[row.id],)) for row in rows]

    def grows(self) -> tuple[int, int]:
        return 1, self.settings.max_tokens if self.settings.level == "sequence" else 0

    def collate(self, rows: Sequence[Row]) -> Packed:
        from luthier.training.packing import pack_rows

        return pack_rows(rows, share=self.share)

    def loss(self, model: Any, batch: Packed) -> Loss:
        """Metrics at token level: the divergence from the teacher (`kl`, times T²) and the ordinary loss (`nll`), per token."""
        from luthier.models.divergence import Wish, weighted_divergence
        from luthier.models.losses import weighted_nll

        if self.settings.level == "sequence":
            plain = weighted_nll(model, batch.inputs, batch.keep, batch.targets, batch.weights)
            return Loss(plain.sum, batch.per_sequence(plain.losses_S * batch.weights))
        asked = self.settings
        wish = Wish(asked.temperature, asked.direction, asked.labels, self.width)
        told = weighted_divergence(
            model, self.teacher, batch.inputs, batch.keep, batch.targets, batch.weights, wish
        )
        apart_S, losses_S = told.divergences_S * batch.weights, told.losses_S * batch.weights
        by_row = batch.per_sequence((1 - asked.labels) * apart_S + asked.labels * losses_S)
        return Loss(told.sum, by_row, {"kl": float(apart_S.sum()), "nll": float(losses_S.sum())})

    def holds(self, facts: Facts, others: Mapping[str, Facts], tokens: int, width: int) -> Mapping[str, int]:
        """The teacher; at sequence level it is gone before the first step, but has been there."""
        if "teacher" not in others:
            return {}
        return {"teacher": others["teacher"].parameters * width}


def called_in(work: Work) -> Any:
    """The teacher, loaded. Raises ModelError."""
    from luthier.models.weights import load
    from luthier.training.machine import fits

    machine = work.machine
    with fits("the teacher", "Choose a smaller teacher, train.dtype: bf16, or a machine with more memory."):
        return load(work.folders["teacher"], dtype=machine.dtype, device=machine.device)


def refuse_long(found: Sequence[tuple[str, int]], total: int, context: int, remedy: str) -> None:
    """Rows, by origin and tokens, that the teacher's context has no room for. Raises DataError."""
    if not found:
        return
    named = ", ".join(f"{origin} ({tokens:,} tokens)" for origin, tokens in found[:NAMED])
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    raise DataError(
        f"the teacher's context is {context:,} tokens, and {len(found):,} of {total:,} rows have more for it to read: "
        f"{named}{more}. The teacher has not been asked anything.",
        remedy=remedy,
    )


# -- token level --------------------------------------------------------------------------------------------------------


def shared_width(work: Work) -> int:
    """How many tokens the vocabulary has that student and teacher share. Raises SpecError where they differ."""
    from luthier.models.weights import load_tokenizer

    ours = work.template.tokenizer.get_vocab()
    theirs = load_tokenizer(work.folders["teacher"]).get_vocab()
    if ours != theirs:
        differ = sorted(set(ours.items()) ^ set(theirs.items()))
        raise SpecError(
            f"the teacher's vocabulary ({len(theirs):,} tokens) is not the base's ({len(ours):,}); they differ in "
            f"{len({token for token, _ in differ}):,} tokens, {differ[0][0]!r} for one. Token by token only models of "
            "one vocabulary can be compared.",
            remedy="Set level: sequence, which works with any teacher, or choose a teacher of the base's family.",
        )
    return 1 + max(ours.values())


def need_room(splits: Mapping[str, Rows], work: Work) -> None:
    """The teacher reads what the student reads. Raises DataError naming rows that are too long for it."""
    from luthier.models.weights import describe

    context = describe(work.folders["teacher"]).context
    found = [
        (rows.origins[i], int(rows.tokens[i]))
        for rows in splits.values()
        for i in np.flatnonzero(rows.tokens > context).tolist()
    ]
    remedy = f"Choose a teacher that reads more, or set train.longest: {context} and train.too_long: skip."
    refuse_long(found, sum(map(len, splits.values())), context, remedy)


# -- sequence level -----------------------------------------------------------------------------------------------------


def written(splits: Mapping[str, Rows], work: Work, max_tokens: int) -> dict[str, Tokens]:
    """The rows' prompts with the teacher's greedy answers, by id: written, or read back where an earlier run of the same
    work has kept them. Tells how many answers were not finished."""
    import pyarrow as pa

    columns = {"id": pa.string(), "ids": pa.list_(pa.int32()), "supervised": pa.list_(pa.bool_())}
    schema = pa.schema({**columns, "whole": pa.bool_()})
    found: dict[str, Tokens] = {}
    writer = Writer(splits, work, max_tokens)
    for split, rows in splits.items():
        before, unfinished = writer.answered, 0
        for part in kept(split, rows, work, "teacher", "answers", schema, writer.begin):
            for line in part.to_pylist():
                ids, supervised = np.array(line["ids"], np.int32), np.array(line["supervised"], bool)
                found[line["id"]] = Tokens(ids, supervised)
                unfinished += not line["whole"]
        if writer.answered > before:
            work.at.emit("teacher.answered", split=split, rows=len(rows), unfinished=unfinished)
    return found


class Writer:
    """The teacher at its desk; called in when something is to be written, after every question has been looked at."""

    def __init__(self, splits: Mapping[str, Rows], work: Work, max_tokens: int) -> None:
        self.splits, self.work, self.max_tokens = splits, work, max_tokens
        self.answered = 0

    def begin(self) -> Compute:
        _ = self.questions, self.model
        return self.write

    def write(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Answer these rows: what the student learns of each, and whether that is the whole answer."""
        from luthier.models.sample import sample
        from luthier.training.machine import enough_to_write

        questions = [self.questions[row.id] for row in rows]
        prompts = [self.template.prompt(messages) for messages in questions]
        with enough_to_write(prompts, 1, self.max_tokens, "distill"), self.work.machine.precision(self.model):
            made = sample(self.model, self.template, prompts, 1, self.max_tokens)
        lines = []
        for row, messages, (one,) in zip(rows, questions, made, strict=True):
            text = self.template.decode(one.ids)
            told, whole = learnt_from(messages, text, one.finished, self.work.template)
            lines.append({"id": row.id, "ids": told.ids, "supervised": told.supervised, "whole": whole})
        self.answered += len(rows)
        return lines

    @cached_property
    def model(self) -> Any:
        return called_in(self.work)

    @cached_property
    def template(self) -> Template:
        from luthier.models.template import Template
        from luthier.models.weights import describe, load_tokenizer

        folder = self.work.folders["teacher"]
        return Template(load_tokenizer(folder), describe(folder).context)

    @cached_property
    def questions(self) -> dict[str, list[dict[str, str]]]:
        """The conversations before the last answer, by id, as the data holds them: the teacher has its own template.
        Raises DataError for those that it has no room for, ModelError for one that its template refuses."""
        from luthier.data.shards import Side
        from luthier.models.template import TooLong

        found: dict[str, list[dict[str, str]]] = {}
        long: list[tuple[str, int]] = []
        for split, rows in self.splits.items():
            wanted = set(rows.names)
            side = Side(self.work.folders["dataset"] / f"{split}.parquet")
            for batch in side.batches(["id", "origin", "messages"], PART_ROWS):
                self.work.at.check()
                there = [i for i, name in enumerate(batch["id"].to_pylist()) if name in wanted]
                for record in batch.take(there).to_pylist():
                    name, asked = record["origin"] or record["id"], record["messages"][:-1]
                    try:
                        self.template.prompt(asked)
                    except TooLong as error:
                        long.append((name, error.tokens))
                    except ModelError as error:
                        told = f"{name}, for the teacher: {error.message}"
                        raise ModelError(told, remedy=error.remedy) from error
                    found[record["id"]] = asked
        remedy = "Choose a teacher that reads more, or leave those rows out (the rule `length`, on: user)."
        refuse_long(long, len(found), self.template.context, remedy)
        return found


def learnt_from(
    messages: Sequence[Mapping[str, str]], text: str, finished: bool, template: Template
) -> tuple[Encoded, bool]:
    """A conversation with the teacher's answer as the student reads it, and whether the answer's end is learnt: not
    where the teacher did not come to it, nor where the student has no room for it."""
    from luthier.models.template import Encoded, Template

    unlimited = Template(template.tokenizer, 1 << 30)
    whole = last_answer([*messages, {"role": "assistant", "content": text}], unlimited)
    first = whole.supervised.index(True)
    last = len(whole.ids) - whole.supervised[::-1].index(True)
    cut = min(last if finished else last - 1, template.context)
    cut = max(cut, first + 1)  # an answer of no token but its end
    return Encoded(whole.ids[:cut], whole.supervised[:cut]), finished and cut == last
