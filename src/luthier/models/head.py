"""A head of one's own on a language model: a linear layer from the last prompt token's hidden state to the labels'
scores, or to one number. What the model says is then not read token by token: one pass gives the answer.

    attach(model, Labels([...]), seed)    before the adapter says what moves: the head is trained along
    save(model, folder)                   head.safetensors, which `weights.load` puts back
    with without(model): ...              the language model alone, as it was

Legend: S kept positions, h hidden size, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError

FILE = "head.safetensors"
_NAME = "luthier_head"
_SPREAD = 0.02  # the initializer_range of the Llama, Qwen and Gemma families


@dataclass(frozen=True)
class Labels:
    """One score per label."""

    labels: tuple[str, ...]

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def plain(self) -> dict[str, Any]:
        return {"kind": "labels", "labels": list(self.labels)}


@dataclass(frozen=True)
class Number:
    """One number: output · scale + mean, so that the layer learns a value of ordinary size."""

    mean: float
    scale: float

    outputs = 1

    def plain(self) -> dict[str, Any]:
        return {"kind": "number", "mean": self.mean, "scale": self.scale}


class Head(torch.nn.Module):
    """`score` is [outputs, h], fp32 whatever the model's number format."""

    def __init__(self, gives: Labels | Number, hidden: int) -> None:
        super().__init__()
        self.gives = gives
        self.score = torch.nn.Linear(hidden, gives.outputs, bias=False, dtype=torch.float32)
        self.on = True

    def forward(self, hidden_Sh: Tensor) -> Tensor:
        """[S, outputs] in fp32."""
        with torch.autocast(hidden_Sh.device.type, enabled=False):
            return self.score(hidden_Sh.float())


def attach(model: Any, gives: Labels | Number, seed: int) -> Head:
    """A new head on `model`; its weights follow from the seed."""
    head = Head(gives, model.config.hidden_size)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.score.weight.normal_(0.0, _SPREAD, generator=draw)
    model.add_module(_NAME, head.to(next(model.parameters()).device))
    return head


def head_of(model: Any) -> Head | None:
    """The head, if the model has one and it is not switched off."""
    head = getattr(model, _NAME, None)
    return head if isinstance(head, Head) and head.on else None


@contextmanager
def without(model: Any) -> Iterator[None]:
    """The language model without its head."""
    head = head_of(model)
    if head is None:
        yield
        return
    head.on = False
    try:
        yield
    finally:
        head.on = True


def take_off(model: Any) -> None:
    """Remove the head, so that what is saved of the model is the language model alone."""
    if isinstance(getattr(model, _NAME, None), Head):
        delattr(model, _NAME)


def hidden_at(model: Any, inputs: Mapping[str, Any], keep_S: Tensor) -> Tensor:
    """[S, h]: hidden states after the last norm at these positions of a packed line."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.get_decoder()(**inputs, use_cache=False).last_hidden_state[0, keep_S]


def save(model: Any, folder: Path) -> None:
    """Write head.safetensors. Does nothing for a model without a head."""
    from safetensors.torch import save_file

    if (head := head_of(model)) is not None:
        weights = {"score.weight": head.score.weight.detach().cpu().contiguous()}
        # One key only: safetensors writes several in no fixed order, and a file's bytes name its artifact.
        told = json.dumps(head.gives.plain(), sort_keys=True, ensure_ascii=False)
        save_file(weights, folder / FILE, metadata={"gives": told})


def load(model: Any, folder: Path) -> None:
    """Put the head of `folder` on, if there is one. Raises ModelError when it does not fit."""
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        return
    with safe_open(path, "pt") as file:
        gives = _gives((file.metadata() or {}).get("gives", ""))
        names, weight = list(file.keys()), None
        if names == ["score.weight"]:
            weight = file.get_tensor("score.weight")
    wanted = (gives.outputs, model.config.hidden_size)
    if weight is None or tuple(weight.shape) != wanted:
        raise ModelError(
            f"{FILE} should hold score.weight of {wanted[0]}×{wanted[1]} and nothing else.",
            remedy="Train again; the head belongs to another model.",
        )
    head = attach(model, gives, 0)
    with torch.no_grad():
        head.score.weight.copy_(weight)


def _gives(written: str) -> Labels | Number:
    try:
        told = json.loads(written)
        if told["kind"] == "labels":
            labels = told["labels"]
            if isinstance(labels, list) and labels and all(isinstance(one, str) for one in labels):
                return Labels(tuple(labels))
        if told["kind"] == "number":
            return Number(float(told["mean"]), float(told["scale"]))
    except (KeyError, TypeError, ValueError):
        pass
    raise ModelError(f"{FILE} does not say what its outputs are.", remedy="Train again.")


def numbers(
    model: Any, template: Any, prompts: Sequence[Sequence[int]], token_budget: int = 2048
) -> list[float]:
    """What a number head gives for each prompt."""
    from .forward import last_hidden

    head = head_of(model)
    assert head is not None
    if not isinstance(head.gives, Number):
        raise ModelError("this model gives labels, not a number.", remedy="Ask it with labels.")
    mean, scale = head.gives.mean, head.gives.scale
    result = [0.0] * len(prompts)
    for batch, hidden_Rh in last_hidden(model, template, prompts, token_budget):
        for i, value in zip(batch, head(hidden_Rh)[:, 0].detach().tolist(), strict=True):
            result[i] = value * scale + mean
    return result


def label_scores(head: Head, hidden_Sh: Tensor, choices: Sequence[str]) -> Tensor:
    """[S, choices]: ln p of each label among all the head knows. Raises ModelError for a label it does not know."""
    if not isinstance(head.gives, Labels):
        raise ModelError("this model gives a number, not labels.", remedy="Ask it without labels.")
    place = {label: i for i, label in enumerate(head.gives.labels)}
    if strange := [one for one in choices if one not in place]:
        raise ModelError(
            f"the model's head does not know the label {strange[0]!r}.",
            remedy=f"It knows {', '.join(map(repr, head.gives.labels[:20]))}.",
        )
    return head(hidden_Sh).log_softmax(-1)[:, [place[one] for one in choices]]
