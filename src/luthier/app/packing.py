"""Packing with the serving engine in its gate: postprocessing and serving do not know each other, so they meet here.

PACKAGE    the line's stage: what `postprocessing.package` makes, once our own engine says the same from it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.postprocessing.forms import SERVED
from luthier.postprocessing.package import stage
from luthier.postprocessing.parity import Step


def served_folder(package: Path) -> tuple[Path, bool]:
    """The folder of a package that our engine answers from, and whether it needs the base beside it."""
    form = next(one for one in SERVED if (package / one).is_dir())
    return package / form, form == "adapter"


def ask(
    package: Path, base: Path, prompts: Sequence[Sequence[Mapping[str, Any]]], tokens: int, alternatives: int
) -> list[list[Step]]:
    """Each prompt's likeliest answer as the server's engine gives it: no instruction is added to prompts that have theirs, and
    the answer is free text, as the model says it. Its way to an answer (steps, vote, abstention) is left out: what a step makes of a
    text says nothing of the weights."""
    from luthier.core.plugin import load
    from luthier.outputs.spec import AnsweringSpec
    from luthier.serving.engine import Message, Request
    from luthier.serving.package import read_facts

    folder, beside = served_folder(package)
    engine = load("engine", "transformers")(
        base if beside else folder,
        folder if beside else None,
        facts=replace(read_facts(package), answering=AnsweringSpec(), isotonic=None, abstain_below=None),
        longest_answer=tokens,
    )
    engine.load()
    try:
        told = []
        for prompt in prompts:
            messages = tuple(Message(turn["role"], turn["content"]) for turn in prompt)
            request = Request(
                messages,
                max_tokens=tokens,
                temperature=0.0,
                top_logprobs=alternatives,
                constrain=(),
                instruct=False,
            )
            steps = []
            for chunk in engine.generate(request):
                if chunk.tokens:
                    for token in chunk.tokens:
                        steps.append(
                            Step(token.chosen.text, tuple((one.text, one.logprob) for one in token.top))
                        )
                elif chunk.finish == "stop":
                    steps.append(Step(None, ()))
            told.append(steps)
        return told
    finally:
        engine.close()


PACKAGE = stage(ask)
