"""Is what is packed what was trained? The same conversations through the model as training left it and through every packed
form: first their tokens, then what is said after each.

    trained model ─┐                    tokens differ     the tokenizer or the chat template of the form
                   ├─ same rows ─▶      answers differ    its weights: scaling, merging, a lost tensor
    packed form  ──┘

Nothing is packed that does not agree. Not here: the door in front of the model (tests hold the engine to the same prompts).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    import torch

Row = str | tuple[Sequence[Mapping[str, Any]], Any]
"""A plain text, or (messages, tools or None)."""
ROWS = 8
TOKENS = 2_000
"""Most supervised tokens that are compared, over all rows."""
TOP_1, DIVERGENCE = 0.98, 0.02
"""The least share of positions with the same likeliest token, and the largest mean KL divergence in nats: rounding a merged
model's weights to bf16 moves SmolLM2-135M by a thousandth of a nat, a halved LoRA scale by much more."""
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Parity:
    """`top_1`: share of `tokens` where both call the same token likeliest; `divergence`: mean KL(trained ‖ form), nats."""

    rows: int
    tokens: int
    top_1: float
    divergence: float
    worst: float


def check(
    model: Path, base: Path, forms: Mapping[str, Path], conversations: Sequence[Row], context: int
) -> dict[str, dict[str, Any]]:
    """Form -> Parity as plain values. Raises ModelError naming the form and the cause. One model is held at a time."""
    from luthier.models import weights

    rows = _encoded(base, conversations, context)
    for form, folder in forms.items():
        _same_tokens(form, folder, base, conversations, rows, context)
    trained = _said(weights.load(model, base_folder=base), rows)
    found = {}
    for form, folder in forms.items():
        gc.collect()
        parity = _compare(trained, _said(weights.load(folder, base_folder=base), rows), len(rows))
        if parity.top_1 < TOP_1 or parity.divergence > DIVERGENCE:
            raise ModelError(
                f"the packed form {form!r} does not say what the trained model says: over {parity.tokens:,} tokens of "
                f"{parity.rows} rows the likeliest is the same in {parity.top_1:.1%}, and the mean divergence is "
                f"{parity.divergence:.3g} nats (at most {DIVERGENCE:g}). {_cause(model, folder)}",
                remedy="Nothing was packed; the trained model is kept. Package it again, and report this if it stays.",
            )
        found[form] = asdict(parity)
    return found


def _template(folder: Path, context: int) -> Any:
    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    return Template(load_tokenizer(folder), context)


def _encoded(folder: Path, conversations: Sequence[Row], context: int) -> list[Any]:
    template = _template(folder, context)
    return [
        template.encode_text(one) if isinstance(one, str) else template.encode(*one) for one in conversations
    ]


def _same_tokens(
    form: str, folder: Path, base: Path, conversations: Sequence[Row], rows: Sequence[Any], context: int
) -> None:
    try:
        packed = _encoded(folder, conversations, context)
    except ModelError as error:
        raise ModelError(
            f"the packed form {form!r} cannot render what the model was trained on: {error.message}",
            remedy="Nothing was packed; the trained model is kept.",
        ) from None
    for n, (one, other) in enumerate(zip(rows, packed, strict=True)):
        if list(one.ids) != list(other.ids):
            told = conversations[n]
            plain = told if isinstance(told, str) else "\n".join(turn["content"] or "" for turn in told[0])
            texts = [_template(place, context).tokenizer(plain)["input_ids"] for place in (base, folder)]
            cause = "tokenizer" if texts[0] != texts[1] else "chat template"
            at = next(
                (i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b),
                min(len(one.ids), len(other.ids)),
            )
            raise ModelError(
                f"the packed form {form!r} reads a conversation as other tokens than training did, from token {at} on: its "
                f"{cause} is another one.",
                remedy="Nothing was packed; the trained model is kept. Package it again with the base that it was tuned from.",
            )


def _said(model: Any, rows: Sequence[Any]) -> list[torch.Tensor]:
    """Log-probabilities [tokens, vocabulary] after every supervised position's prefix, row by row."""
    import torch

    told, left = [], TOKENS
    with torch.inference_mode():
        for row in rows:
            on = [i - 1 for i, wanted in enumerate(row.supervised) if wanted][:left]
            left -= len(on)
            if on:
                logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0]
                told.append(torch.log_softmax(logits[on].float(), -1))
    return told


def _compare(trained: Sequence[torch.Tensor], packed: Sequence[torch.Tensor], rows: int) -> Parity:
    import torch

    one, other = torch.cat(list(trained)), torch.cat(list(packed))
    apart = (one.exp() * (one - other)).sum(-1)
    same = (one.argmax(-1) == other.argmax(-1)).float().mean()
    return Parity(rows, len(one), float(same), float(apart.mean()), float(apart.max()))


def _cause(model: Path, folder: Path) -> str:
    """What can be told without weights."""
    if (model / CONFIG).is_file() and (folder / CONFIG).is_file():
        mine, theirs = (json.loads((place / CONFIG).read_text(encoding="utf-8")) for place in (model, folder))
        odd = [
            name
            for name in ("lora_alpha", "r", "use_rslora", "use_dora", "target_modules")
            if mine.get(name) != theirs.get(name)
        ]
        if odd:
            return f"Its adapter is scaled or placed otherwise: {', '.join(f'{n} is {theirs.get(n)} and was {mine.get(n)}' for n in odd)}."
    return "Its tokens are the same, so its weights are others."
