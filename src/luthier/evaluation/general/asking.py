"""Base and tuned model are asked the same rows in the same way; a line for each answer.

{"id", "set", "skill", "model", "prompt", "reference", "said", "right", "loss_sum", "loss_tokens"}. `right` of a safety row says
whether it was declined. A row that does not fit the context, or that a model without a chat template cannot be asked, has a line
without an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.stage import Context
from luthier.store.files import write_atomic

from ..metrics import number_in, same_text
from ..texts import refuses
from .items import Item
from .rules import kept

SYSTEMS = ("tuned", "base")
AT_ONCE = 32


@dataclass(frozen=True)
class Beside:
    """The rows of one evaluation, and where answers are kept until all are there."""

    items: Sequence[Item]
    scratch: Path
    at: Context
    max_tokens: int

    def ask(self, system: str, model: Any, template: Any) -> None:
        """Ask what was not asked before an interruption."""
        path = self._path(system)
        if system in SYSTEMS and not path.exists():
            write_atomic(path, json.dumps(answers(self, system, model, template)).encode())

    def lines(self) -> list[dict[str, Any]]:
        """Of both systems, tuned first."""
        return [line for one in SYSTEMS for line in json.loads(self._path(one).read_text(encoding="utf-8"))]

    def _path(self, system: str) -> Path:
        return self.scratch / f"{system}.beside.json"


def answers(beside: Beside, system: str, model: Any, template: Any) -> list[dict[str, Any]]:
    """One line for each row that fits."""
    prompts = [(item, _prompt(item, template, beside.max_tokens)) for item in beside.items]
    asked = [(item, ids) for item, ids in prompts if ids is not None]
    said = _written(
        beside, model, template, [(item, ids) for item, ids in asked if item.prompt and not item.choices]
    )
    loss = _losses(model, template, [item for item, _ in asked])
    lines = []
    for item, ids in prompts:
        text = said.get(item.id)
        if item.choices and ids is not None:
            text = _chosen(model, template, ids, item.choices)
        total, tokens = loss.get(item.id, (None, None))
        lines.append(
            {
                "id": item.id, "set": item.set, "skill": item.skill, "model": system, "prompt": _shown(item),
                "reference": item.reference, "said": text, "right": None if text is None else right(item, text),
                "loss_sum": total, "loss_tokens": tokens,
            }
        )  # fmt: skip
    return lines


def right(item: Item, text: str) -> bool:
    """Whether an answer is right; of a safety row, whether it declines."""
    if item.should is not None:
        return refuses(text)
    if item.choices:
        return text == item.reference
    if item.number is not None:
        return number_in(text) == item.number
    if item.rules:
        return kept(text, item.rules)
    if item.exact is not None:
        return same_text(_bare(item.exact), _bare(text))
    return same_text(item.reference, text)


def _bare(text: str) -> str:
    """Without what politeness adds: quotes around the whole, and a full stop at its end.

    >>> _bare('"copper wire".')
    'copper wire'
    """
    return re.sub(r"^[\"'“]+|[\"'”.]+$", "", text.strip()).strip()


def _shown(item: Item) -> str | None:
    return None if item.prompt is None else "\n".join(message["content"] for message in item.prompt)


def _prompt(item: Item, template: Any, max_tokens: int) -> list[int] | None:
    """Token ids, empty for a plain text; None where it does not fit, or where the model has no chat template to ask with."""
    from luthier.models.template import TooLong

    try:
        if item.prompt is None:
            template.encode_text(item.reference)
            return []
        if not template.tokenizer.chat_template:
            return None
        ids: list[int] = template.prompt(list(item.prompt))
        if item.choices:
            room = max(len(template.answer(choice)) for choice in item.choices)
        elif _is_reference(item):
            answered = [*item.prompt, {"role": "assistant", "content": item.reference}]
            room = max(1, len(template.encode(answered).ids) - len(ids))
        else:
            room = min(item.tokens or max_tokens, 8)  # a short context cuts an answer, and cuts it for both
    except TooLong:
        return None
    return ids if len(ids) + room <= template.context else None


def _is_reference(item: Item) -> bool:
    """Whether the reference is an answer that a model might give, so that its loss says something: rows of files."""
    return (
        item.should is None
        and not item.choices
        and not item.rules
        and item.exact is None
        and item.number is None
    )


def _written(
    beside: Beside, model: Any, template: Any, asked: Sequence[tuple[Item, list[int]]]
) -> dict[str, str]:
    from luthier.models.generate import answer

    found: dict[str, str] = {}
    by_room: dict[int, list[tuple[Item, list[int]]]] = {}
    for item, ids in asked:
        by_room.setdefault(item.tokens or beside.max_tokens, []).append((item, ids))
    for room, piece in sorted(by_room.items()):
        for start in range(0, len(piece), AT_ONCE):
            beside.at.check()
            now = piece[start : start + AT_ONCE]
            texts = answer(model, template, [ids for _, ids in now], room)
            found |= {item.id: text for (item, _), text in zip(now, texts, strict=True)}
            beside.at.progress("asking beside the task", len(found), len(asked))
    return found


def _losses(model: Any, template: Any, items: Sequence[Item]) -> dict[str, tuple[float, int]]:
    """(sum in nats, tokens) of plain texts, and of the answers of files."""
    from luthier.models.generate import sequence_loss

    told = [item for item in items if item.prompt is None or _is_reference(item)]
    encoded = [
        template.encode_text(item.reference)
        if item.prompt is None
        else template.encode([*item.prompt, {"role": "assistant", "content": item.reference}])
        for item in told
    ]
    return {item.id: loss for item, loss in zip(told, sequence_loss(model, encoded), strict=True)}


def _chosen(model: Any, template: Any, ids: list[int], choices: Sequence[str]) -> str:
    """The choice that is likeliest as the whole answer, the end of the turn included; a head is not asked."""
    from luthier.models.likelihood import likelihoods

    scores: list[tuple[float, bool]] = likelihoods(model, [ids], [template.answer(one) for one in choices])[0]
    return choices[max(range(len(choices)), key=lambda i: scores[i][0])]


def by_id(lines: Sequence[Mapping[str, Any]], system: str) -> dict[str, Mapping[str, Any]]:
    return {line["id"]: line for line in lines if line["model"] == system}
