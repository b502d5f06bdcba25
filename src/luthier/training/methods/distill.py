"""Distillation: learn from a larger model, the teacher.

    token      at every supervised token, the whole distribution of the teacher instead of one right token
               (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; which way the
               divergence is taken: Agarwal et al. 2024, "On-Policy Distillation of Language Models", section 3.1);
               both models must have one vocabulary
    sequence   the teacher's own greedy answers take the place of the data's, and are learnt as in `sft`
               (Kim and Rush 2016, "Sequence-Level Knowledge Distillation", section 3.2); any teacher that can chat

At token level the teacher lies in memory and reads every micro-batch beside the student, so nothing is left out or
rounded as in a cache of its likeliest tokens. At sequence level it writes once, before the first step, and is then let go.

Legend: S supervised tokens.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.artifact import digest_of
from luthier.core.errors import SpecError
from luthier.training.method import Example, Loss, Method, MethodSettings, Work
from luthier.training.rows import Row, Tokens

from .preference import last_answer, need_answer

if TYPE_CHECKING:
    from luthier.models.shapes import Facts
    from luthier.models.template import Encoded, Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Rows

ROWS_AT_ONCE = 64  # prompts whose answers are written between two chances to stop


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

    def models(self) -> Mapping[str, str]:
        return {"teacher": self.teacher}


class Distill(Method):
    """Learns from a larger model: `{distill: {teacher: NAME}}`."""

    spec = DistillSettings

    def __init__(self, settings: DistillSettings) -> None:
        self.settings = settings
        self.teacher: Any = None
        self.width = 0
        self.written: Mapping[str, Tokens] = {}

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        text = record["text"]
        if self.settings.level == "sequence":
            return Example([last_answer(need_answer(record, "distill"), template)])
        return Example([template.encode(record["messages"]) if text is None else template.encode_text(text)])

    def prepare(self, model: Any, splits: Mapping[str, Rows], work: Work) -> None:
        from luthier.models.weights import load

        if self.settings.level == "sequence":
            self.written = written(splits, work, self.settings.max_tokens)
            return
        self.width = shared_width(work)
        machine = work.machine
        teacher = load(work.folders["teacher"], dtype=machine.dtype, device=machine.device)
        self.teacher = teacher.requires_grad_(False)

    def unfold(self, model: Any, rows: Sequence[Row], seed: int) -> Sequence[Row]:
        if self.settings.level == "token":
            return rows
        return [replace(row, sequences=(self.written[row.id],)) for row in rows]

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


# -- sequence level -----------------------------------------------------------------------------------------------------


def written(splits: Mapping[str, Rows], work: Work, max_tokens: int) -> dict[str, Tokens]:
    """The rows' prompts with the teacher's greedy answers, by id: written, or read back where an earlier run of the same
    work has kept them. The teacher is loaded only if something is to be written, and let go at the end."""
    import pyarrow.parquet as pq

    found: dict[str, Tokens] = {}
    writer: Writer | None = None
    for split, rows in splits.items():
        told = {"work": work.identity, "split": split, "what": "teacher's answers", "rows": len(rows)}
        path = work.scratch / f"teacher-{digest_of(told)[:16]}.parquet"
        if not path.exists():
            writer = writer or Writer(work, max_tokens)
            writer.write(split, rows, path)
        table = pq.read_table(path).to_pydict()
        for name, ids, supervised in zip(table["id"], table["ids"], table["supervised"], strict=True):
            found[name] = Tokens(np.array(ids, np.int32), np.array(supervised, bool))
    return found


class Writer:
    """The teacher at its desk."""

    def __init__(self, work: Work, max_tokens: int) -> None:
        from luthier.models.template import Template
        from luthier.models.weights import describe, load, load_tokenizer

        folder, machine = work.folders["teacher"], work.machine
        self.work, self.max_tokens = work, max_tokens
        self.template = Template(load_tokenizer(folder), describe(folder).context)
        self.model = load(folder, dtype=machine.dtype, device=machine.device)

    def write(self, split: str, rows: Rows, path: Any) -> None:
        """Answer every row of a split and keep the result. Tells how many answers were not finished."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from luthier.store.files import write_atomic

        work, unfinished = self.work, 0
        lines: list[dict[str, Any]] = []
        wanted = set(rows.names)
        asked = self._prompts(split, wanted)
        for begin in range(0, len(asked), ROWS_AT_ONCE):
            work.at.check()
            work.at.progress(f"teacher answers {split}", begin, len(asked))
            some = asked[begin : begin + ROWS_AT_ONCE]
            for (name, messages), (text, finished) in zip(some, self._answers(some), strict=True):
                one, whole = learnt_from(messages, text, finished, work.template)
                unfinished += not whole
                lines.append({"id": name, "ids": one.ids, "supervised": one.supervised})
        schema = pa.schema(
            {"id": pa.string(), "ids": pa.list_(pa.int32()), "supervised": pa.list_(pa.bool_())}
        )
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(lines, schema), buffer)
        write_atomic(path, buffer.getvalue())
        work.at.emit("teacher.answered", split=split, rows=len(lines), unfinished=unfinished)

    def _prompts(self, split: str, wanted: set[str]) -> list[tuple[str, list[dict[str, str]]]]:
        """The conversations before the last answer, by id, as the data holds them: the teacher has its own template."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.work.folders["dataset"] / f"{split}.parquet")
        return [
            (record["id"], record["messages"][:-1])
            for batch in file.iter_batches(columns=["id", "messages"])
            for record in batch.to_pylist()
            if record["id"] in wanted
        ]

    def _answers(self, some: Sequence[tuple[str, list[dict[str, str]]]]) -> list[tuple[str, bool]]:
        from luthier.models.sample import sample

        prompts = [self.template.prompt(messages) for _, messages in some]
        with self.work.machine.precision(self.model):
            made = sample(self.model, self.template, prompts, 1, self.max_tokens)
        return [(self.template.decode(one.ids), one.finished) for (one,) in made]


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
