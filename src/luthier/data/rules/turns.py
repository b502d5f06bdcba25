"""turns: a conversation must be one: system first, then user and assistant in turn, the assistant last.

Also gone: more turns than wanted, and turns that hold the marks of a chat template ("<|im_end|>"), which are
two turns that ran together, or somebody who wants a tokenizer to think so. The assistant may call tools, which
then answer, and may end with a call.

Only counted, because nobody can be sure: answers that seem cut off (a long text without an end of sentence,
or a fence of code that is never closed), and, unless they are to be dropped, answers that refuse. Refusals
are known by their usual words in the first characters of an answer, in six languages; a rejected answer may
refuse, that is what it is for.

The words follow the lists that open chats were cleaned with (Vicuna, Chiang et al. 2023, `optional_clean`;
WizardLM's unfiltered set), shortened to those that hardly occur otherwise."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.spec import Spec

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.opened import Opened
    from luthier.data.phrases import Phrases

NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "call"),
    "assistant": ("user", "tool", "call"),
    "call": ("call", "tool"),
    "tool": ("assistant", "tool", "call"),
}
"""Who may speak after whom; the first is nobody."""

MARKS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|begin_of_text|>", "<|end_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|end|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|channel|>", "<|return|>", "<｜User｜>", "<｜Assistant｜>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip

REFUSALS = (
    "as an ai language model", "as a large language model", "as an ai assistant, i can", "as an ai, i can", "as an ai, i do",
    "i'm just an ai", "i am just an ai", "i'm only an ai", "i'm sorry, but i can", "i am sorry, but i can",
    "i apologize, but i can", "i'm sorry, i can't", "i can't assist with", "i cannot assist with", "i can't help with that",
    "i cannot help with that", "i cannot fulfill", "i can't fulfill", "i'm unable to assist", "i am unable to assist",
    "i can't comply", "i cannot comply", "against my programming",
    "als ki-sprachmodell", "als ki-modell", "es tut mir leid, aber ich kann", "dabei kann ich nicht helfen",
    "dabei kann ich ihnen nicht helfen",
    "en tant que modèle de langage", "en tant qu'ia", "je suis désolé, mais je ne peux pas",
    "como modelo de lenguaje", "lo siento, pero no puedo",
    "como um modelo de linguagem", "como modelo de linguagem", "desculpe, mas não posso", "sinto muito, mas não posso",
    "in quanto modello linguistico", "come modello linguistico", "mi dispiace, ma non posso",
)  # fmt: skip
BEGINNING = 200
"""Characters of an answer that are searched for a refusal."""
LONG = 100
"""Characters from which on an answer is expected to end like a sentence."""
END = r"""[.!?…。！？।؟։:;)\]}>"'”’»」』`*_|~\p{So}]\s*$"""
PLAIN_END = b".!?:;)]}>\"'*_|~`"
"""Those of END that are one byte."""
INSIDE = r"[.!?。！？।؟]\s"


class Turns(Spec):
    order: bool = True
    """Whether system must be first, user and assistant alternate, and the assistant be last."""
    most: int | None = Field(default=None, ge=1)
    """The most turns a conversation may have, not counting the system message; none means no bound."""
    marks: Literal["drop", "keep"] = "drop"
    """What happens to a row whose texts hold a chat template's marks, such as <|im_end|>."""
    refusals: Literal["keep", "drop"] = "keep"
    """What happens to a row in which the assistant refuses ("As an AI language model .."); they are counted
    in any case."""


def _run(rows: Opened, settings: Turns) -> Said:
    import numpy as np

    why: dict[int, str] = {}
    if settings.order:
        _order(rows, why)
    if settings.most is not None:
        spoken = ~rows.says("system", "text", "rejected", "argument")
        turns = np.bincount(rows.row[spoken], minlength=len(rows))
        for row in np.flatnonzero(turns > settings.most).tolist():
            why.setdefault(row, f"{turns[row]} turns, more than {settings.most}")
    marked = _marked(rows)
    refusing = _refusing(rows)
    if settings.marks == "drop":
        for row, place in _firsts(rows, marked):
            text = rows.text[place]
            mark = min((mark for mark in MARKS if mark in text), key=text.index)
            why.setdefault(row, f"the {rows.role[place]} turn holds a chat template's mark, {mark}")
    if settings.refusals == "drop":
        for row, _ in _firsts(rows, refusing):
            why.setdefault(row, "the assistant refuses")
    unclosed, cut = _cut_off(rows)
    found = {"marks": marked, "refusals": refusing, "unclosed code": unclosed, "cut off": cut}
    return Said(
        removed=rows.reasons(why),
        counts={name: rows.per_row(mask).astype(np.int64) for name, mask in found.items()},
    )


def _order(rows: Opened, why: dict[int, str]) -> None:
    import numpy as np

    turns = np.flatnonzero(~rows.says("text", "rejected", "argument"))  # of messages alone, row after row
    names = list(NEXT)
    codes = rows.roles(names)[turns]
    row = rows.row[turns]
    first = np.ones(len(turns), bool)
    first[1:] = row[1:] != row[:-1]
    before = np.where(first, 0, np.roll(codes, 1))
    allowed = np.zeros((len(names), len(names) + 1), bool)  # the last column: a role that is none of these
    for name, after in NEXT.items():
        allowed[names.index(name), [names.index(role) for role in after]] = True
    for k in np.flatnonzero(~allowed[before, codes])[::-1].tolist():
        role = rows.role[int(turns[k])]
        if before[k]:
            why[int(row[k])] = (
                f"{role} speaks after {names[before[k]] if before[k] > 0 else 'an unknown role'}"
            )
        else:
            why[int(row[k])] = f"{role} speaks first"
    last = np.ones(len(turns), bool)
    last[:-1] = first[1:]
    ends = (names.index("assistant"), names.index("call"))
    for k in np.flatnonzero(last & ~np.isin(codes, ends)).tolist():
        why.setdefault(int(row[k]), f"{rows.role[int(turns[k])]} speaks last, not the assistant")


def _firsts(rows: Opened, mask: np.ndarray) -> list[tuple[int, int]]:
    """(row, its first text for which `mask` [T] holds) of rows that have one."""
    return [(row, place) for row, place in enumerate(rows.first(mask).tolist()) if place >= 0]


def _marked(rows: Opened) -> np.ndarray:
    """Texts that hold a template's mark, [T]; each begins with `<` or `[`."""
    import numpy as np

    from luthier.data.opened import BRACKET, TAG, strings

    found = rows.have(TAG, BRACKET)
    places = np.flatnonzero(found)
    found[places] = [any(mark in text for mark in MARKS) for text in strings(rows.text, places)]
    return found


def _refusing(rows: Opened) -> np.ndarray:
    """Answers that refuse, [T]."""
    import numpy as np

    found = rows.says("assistant")
    places = np.flatnonzero(found)
    found[places] = _refusals().within(rows, places)
    return found


@cache
def _refusals() -> Phrases:
    from luthier.data.phrases import Phrases

    return Phrases(REFUSALS, BEGINNING)


def _cut_off(rows: Opened) -> tuple[np.ndarray, np.ndarray]:
    """(answers with code that is never closed, answers that end in the middle of a sentence), [T] each."""
    import numpy as np
    import polars as pl

    from luthier.data.opened import FENCE

    told, edges = rows.bytes
    spoken = rows.says("assistant")
    unclosed = spoken & rows.have(FENCE)
    if len(places := np.flatnonzero(unclosed)):
        fences = rows.some(places).str.count_matches(r"(?m)^ {0,3}(?:```|~~~)").to_numpy()
        unclosed[places] = fences % 2 == 1
    cut = spoken & ~unclosed & (np.diff(edges) >= LONG)  # a character has one byte or more
    places = np.flatnonzero(cut)
    plain = np.zeros(256, bool)
    plain[list(PLAIN_END)] = True
    places = places[~plain[told[edges[1:][places] - 1]]]
    cut[:] = False
    if len(places):
        text = pl.col("text")
        long, ended = text.str.len_chars() >= LONG, text.str.tail(40).str.contains(END)
        texts = pl.DataFrame({"text": rows.some(places)})
        cut[places] = texts.select(long & ~ended & text.str.contains(INSIDE)).to_series().to_numpy()
    return unclosed, cut


turns = RowRule(
    "turns",
    1,
    Turns,
    "Removes conversations that are none, and on demand refusals.",
    _run,
    source="ours; refusals after Vicuna's cleaning (Chiang 2023)",
)
