"""A GGUF file in its own engine, llama.cpp (models/llamacpp.py): how it reads a conversation, and what it says next.

ask(file, rows, conversations, context) -> Said     in a process of its own: native code that fails takes nothing down,
                                                    and its memory is gone afterwards
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.models.llamacpp import PACKAGE, Answered, Gone, Launch, Process, version

__all__ = ["PACKAGE", "Said", "ask", "version"]

TOP = 64
"""Likeliest tokens that are told of each position; the others are known by their sum."""


@dataclass(frozen=True)
class Said:
    """`tokens`: of each conversation, the prompt's as the engine renders and reads it, or None with `fault` where it could not.
    `top`: of each row, of each position asked, [(token, ln p)] likeliest first. `tokens_per_s`: reading and saying together."""

    tokens: list[list[int] | None]
    fault: str | None
    top: list[list[list[tuple[int, float]]]]
    tokens_per_s: float | None


def ask(
    file: Path,
    rows: Sequence[Mapping[str, Any]],
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    context: int,
) -> Said:
    """`rows`: {"ids": tokens, "at": positions whose next token is asked}. Raises ModelError."""
    longest = max((len(row["ids"]) for row in rows), default=0)
    try:
        with Process(Launch(file, min(context, max(512, longest + 64)))) as process:
            return _said(process, rows, conversations)
    except (Answered, Gone) as error:
        raise _fails(file, str(error)) from None
    except ModelError as error:
        raise _fails(file, error.message) from None


def _fails(file: Path, why: str) -> ModelError:
    return ModelError(
        f"llama.cpp does not load or run {file.name}: {why.rstrip('.')}.",
        remedy="Nothing was packed; the trained model is kept. Leave this form out, and report this.",
    )


def _said(
    process: Process, rows: Sequence[Mapping[str, Any]], conversations: Sequence[Sequence[Mapping[str, Any]]]
) -> Said:
    tokens: list[list[int] | None] = []
    fault = None
    for conversation in conversations:
        try:
            prompt = process.post("/apply-template", {"messages": list(conversation)})["prompt"]
            body = {"content": prompt, "add_special": True, "parse_special": True}
            tokens.append(process.post("/tokenize", body)["tokens"])
        except Answered as error:
            tokens.append(None)
            fault = fault or str(error)
    # A token that ends the turn, or is only part of a character, would come without probabilities. They are the model's own, from
    # before sampling, so whatever is sampled is pushed to one that is neither.
    letter = process.post("/tokenize", {"content": "a", "add_special": False})["tokens"][0]
    began, read = time.monotonic(), 0
    top = []
    for row in rows:
        places = []
        for at in row["at"]:
            body = {
                "prompt": row["ids"][: at + 1],
                "n_predict": 1,
                "n_probs": TOP,
                "temperature": 0,
                "cache_prompt": True,
                "logit_bias": [[letter, 1000.0]],
            }
            [told] = process.post("/completion", body)["completion_probabilities"]
            places.append([(int(one["id"]), float(one["logprob"])) for one in told["top_logprobs"]])
        read += len(row["ids"])
        top.append(places)
    seconds = time.monotonic() - began
    return Said(tokens, fault, top, read / seconds if read else None)
