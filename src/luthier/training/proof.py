"""What is proven before the first step of every run, and told: each law with its figure. One that is broken stops the run.

    text      what is learnt reads as the model's own chat template writes it          (a few rows)
    ends      every answer's end is learnt, so that the model will stop                (every row)
    mask      how much of the tokens is learnt; no row without any                     (every row)
    packing   a row's loss is the same packed with others and alone, and the gradient  (the shortest rows)
              of a step the same however it is cut
    memory    the largest micro-batch of the run fits: by the plan where that leaves half of the memory free, else by
              trying it, forward and backward, beside the optimizer's moments
    fused     the fused parts give what the plain model gives, or they are not used    (the shortest rows)

Nothing of the run changes: no weight, no gradient, no random state. Packing and fused parts: training/agreement. Not
here: what each method's loss must equal (tests).
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.stage import Context
from luthier.data.shards import Side
from luthier.models.fast import kernels

from . import agreement
from .assembly import Assembly
from .batches import pack, total_steps
from .loop import groups, seed_of
from .machine import enough_memory
from .mixing import order_of
from .rows import Row, Rows
from .spec import TrainSpec

if TYPE_CHECKING:
    from luthier.models.fast import Quick
    from luthier.models.template import Template

TEXTS = 8  # rows whose text is compared
NAMED = 5
WALKED_ROWS = 1_000_000  # rows looked at to find the largest micro-batch; a run is rarely longer
PLANNED_SHARE = 0.5


def prove(
    spec: TrainSpec,
    made: Assembly,
    splits: Mapping[str, Rows],
    template: Template,
    dataset: Path,
    planned_bytes: int,
    machine_bytes: int,
    at: Context,
    quick: Quick | None = None,
) -> dict[str, Any]:
    """Check every law and emit `proof`; returns the figures that follow from spec, rows and weights alone. `quick` is
    what has been fused of the model. Raises ModelError naming the law, the figure and the rows."""
    started = time.monotonic()
    at.progress("prove", 0, 4)
    told = {
        "text": text(dataset / "train.parquet", splits["train"], template),
        "ends": ends(splits, template),
        "mask": mask(splits),
    }
    at.progress("prove", 2, 4)
    try:
        sample = agreement.sample_of(spec, made, splits["train"])
        if quick is not None:
            told["fused"], together = agreement.fused(spec, made, quick, sample, at)
        else:
            together = agreement.together(spec, made, sample)
        with kernels.plainly() if dropped(told) else nullcontext():
            told["packing"] = agreement.packing(spec, made, sample, together, at)
            at.progress("prove", 3, 4)
            fits = memory(spec, made, splits["train"], planned_bytes, machine_bytes)
    finally:
        for _, p in made.parameters:
            p.grad = None
    at.emit("proof", **told, memory=fits, seconds=time.monotonic() - started)
    return told


def dropped(proven: Mapping[str, Any]) -> bool:
    """Whether the fused parts were taken out, so that the compiled kernels must be left too."""
    return not proven.get("fused", {}).get("used", True)


# -- text ---------------------------------------------------------------------------------------------------------------


def text(path: Path, rows: Rows, template: Template) -> dict[str, Any]:
    """The first few rows, rendered once more by the tokenizer alone, control tokens in contents included: shielding
    cuts those in two, which decodes to the same characters."""
    first = next(Side(path).batches(["id", "messages", "text", "tools"], TEXTS), None)
    compared = 0
    for record in first.to_pylist() if first is not None else []:
        at = bisect_left(rows.names, record["id"])
        if at == len(rows) or rows.names[at] != record["id"]:  # left out as too long
            continue
        ids = rows[at].sequences[0].ids.tolist()
        wanted, whole = _written(record, template)
        if not _begins(template.tokenizer, ids, wanted) or (whole and not _whole(record, template)):
            raise ModelError(
                f"the tokens of row {record['id']} do not read as the model's chat template writes it: "
                f"{_difference(template.tokenizer.decode(ids), wanted)}.",
                remedy="The loss would be of another text, so nothing is trained. Check chat_template and "
                "tokenizer.json in the model's folder.",
            )
        compared += 1
    return {"rows": compared}


def _written(record: Mapping[str, Any], template: Template) -> tuple[str, bool]:
    """What the first sequence must begin with, and whether the record is a whole conversation."""
    from luthier.data.tools import said

    messages, tools = said(record)
    if messages is None or not len(messages):
        return record["text"] or "", False
    answered = messages[-1]["role"] == "assistant"
    asked = messages[:-1] if answered else messages
    if not asked:
        return "", answered
    written = template.tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True, tools=tools
    )
    return written, answered


def _whole(record: Mapping[str, Any], template: Template) -> bool:
    """However long the row's own answer is: a method that learns from others has not looked at it."""
    from luthier.data.tools import said

    messages, tools = said(record)
    written = template.tokenizer.apply_chat_template(messages, tokenize=False, tools=tools)
    ids = type(template)(template.tokenizer, 1 << 30).encode(messages, tools).ids
    return _same(template.tokenizer, ids, written)


def _same(tokenizer: Any, ids: Sequence[int], written: str) -> bool:
    """By its tokens or, where contents hold control tokens, by its characters; a tokenizer that folds characters
    (NFKC) is told by the first."""
    return list(ids) == tokenizer(written, add_special_tokens=False)["input_ids"] or (
        _decoded(tokenizer, ids) == written
    )


def _begins(tokenizer: Any, ids: Sequence[int], written: str) -> bool:
    expected = tokenizer(written, add_special_tokens=False)["input_ids"]
    begun = list(ids)
    if (
        begun[: len(expected)] == expected or begun[1 : 1 + len(expected)] == expected
    ):  # plain text may have a BOS
        return True
    return written in _decoded(tokenizer, ids)


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _difference(found: str, wanted: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
    return f"after {at} characters it has {found[at : at + 30]!r} for {wanted[at : at + 30]!r}"


# -- ends and mask ------------------------------------------------------------------------------------------------------


def ends(splits: Mapping[str, Rows], template: Template) -> dict[str, Any]:
    """Every stretch of supervised tokens ends with a token that ends an answer."""
    end_ids = np.array(sorted(template.end_ids))
    open_rows, stretches = [], 0
    for split, rows in splits.items():
        for row in rows:
            for one in row.sequences:
                told = np.append(one.supervised, False)
                last = one.ids[told[:-1] & ~told[1:]]
                stretches += len(last)
                if not np.isin(last, end_ids).all():
                    open_rows.append(f"{split} row {row.id}")
                    break
    if open_rows:
        more = f" and {len(open_rows) - NAMED} more" if len(open_rows) > NAMED else ""
        tokens = ", ".join(repr(template.tokenizer.decode([i])) for i in sorted(template.end_ids))
        raise ModelError(
            f"{len(open_rows):,} rows have an answer whose end ({tokens}) is not learnt: "
            f"{', '.join(open_rows[:NAMED])}{more}.",
            remedy="A model trained so does not know when to stop; check the method's masks and the chat template.",
        )
    return {"answers": stretches, "learnt": stretches}


def mask(splits: Mapping[str, Rows]) -> dict[str, Any]:
    """Shares of supervised tokens. `without` counts rows that have none; they have been refused before."""
    told = {}
    for split, rows in splits.items():
        if not len(rows):
            continue
        tokens, supervised = np.asarray(rows.tokens), np.asarray(rows.supervised_tokens)
        shares = supervised / tokens
        told[split] = {
            "rows": len(rows),
            "tokens": int(tokens.sum()),
            "supervised": int(supervised.sum()),
            "share": float(supervised.sum() / tokens.sum()),
            "least": float(shares.min()),
            "median": float(np.median(shares)),
            "without": int((supervised == 0).sum()),
        }
    return told


# -- memory -------------------------------------------------------------------------------------------------------------


def memory(
    spec: TrainSpec, made: Assembly, rows: Rows, planned_bytes: int, machine_bytes: int
) -> dict[str, Any]:
    """Raises ModelError when the largest micro-batch does not fit."""
    told = {"planned_bytes": planned_bytes, "machine_bytes": machine_bytes}
    if planned_bytes <= PLANNED_SHARE * machine_bytes:
        return {**told, "by": "plan"}
    part = largest(spec, rows)
    made.model.eval()
    unfolded = list(made.method.unfold(made.model, part, seed_of(spec.seed)))
    part = max(groups(unfolded, spec.batch.micro_tokens), key=lambda some: sum(row.tokens for row in some))
    # Every row whole: no micro-batch of the run computes more tokens than this one.
    share, made.method.share = made.method.share, False
    batch = made.method.collate(part)
    made.method.share = share
    with enough_memory(batch.tokens):
        # Ones and not zeros: memory that nobody has written to is not there yet.
        moments = [torch.ones_like(p) for _, p in made.parameters for _ in range(2)]
        made.model.train()
        found = agreement.loss_of(spec, made, batch)
        (found.sum / math.fsum(batch.row_weights)).backward()
        del moments
    return {**told, "by": "trial", "tokens": batch.tokens}


def largest(spec: TrainSpec, rows: Rows) -> list[Row]:
    """The largest micro-batch of the run, by tokens; of equals the one with the longest row, where attention needs
    most."""
    order = order_of(spec, rows)
    steps = total_steps(len(rows), spec.batch.rows, spec.epochs, spec.max_steps)
    tokens = np.asarray(rows.tokens).tolist()

    def size(part: Sequence[int]) -> tuple[int, int]:
        return sum(tokens[i] for i in part), max(tokens[i] for i in part)

    most: list[int] = []
    for step in range(1, min(steps, max(1, WALKED_ROWS // spec.batch.rows)) + 1):
        taken = order.step(step)
        parts = [
            [taken[k] for k in part] for part in pack([tokens[i] for i in taken], spec.batch.micro_tokens)
        ]
        most = max([most, *parts] if most else parts, key=size)
    return [rows[i] for i in most]
