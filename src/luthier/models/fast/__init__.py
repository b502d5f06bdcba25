"""The same model, faster: a loaded transformers model, with or without a LoRA adapter, whose layers compute the same
numbers in fewer and larger steps and keep less for the backward pass.

    quick = quicken(model)          modules' forwards are replaced; weights, names and files are as before
    quick.parts, quick.left         what is fused, and what is not and why
    with quick.off(): ...           the plain twin on the same weights
    quick.restore()                 for good: before merging, copying or saving whole weights

    layers that read one input, with their adapters     one product           group.py, functions.py
    norms, rotary positions, gated activations          one pass each         kernels.c, kernels.py
    the output head                                     models/losses.py, which `off` turns plain as well

Every part has proven itself on a few tokens before it is used (parts.py); a run compares loss and gradients of real
rows as well (training/agreement). Speaks CPU, and by the plain formulas CUDA (not measured there). Not here: attention
(models/attention.py), the optimizer, and any change of what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models import attention, losses

from . import kernels
from .parts import (
    AttentionPart,
    MlpPart,
    NormPart,
    NotUnderstood,
    Turns,
    is_attention,
    is_mlp,
    is_norm,
)

Part = AttentionPart | MlpPart | NormPart
# A few tokens at positions that are not simply 0, 1, 2.
_PROBE, _POSITIONS = (3, 4, 5, 6, 7), (0, 1, 5, 9, 30)


class Quick:
    """What `quicken` has done to a model."""

    def __init__(self, model: Any, parts: list[Part], left: Mapping[str, str]) -> None:
        self.model, self._parts, self.left = model, parts, left
        told = {name for part in parts for name in part.names}
        if "head" not in left:
            told.add("head")
        self.parts = tuple(sorted(told))
        # A module may already have a forward of its own, from whoever wrapped it before.
        self._before = [part.module.__dict__.get("forward") for part in parts]
        self._on = False

    def _put(self) -> None:
        for part in self._parts:
            part.module.forward = part.forward
        self._on = True

    def _take(self) -> None:
        if not self._on:
            return
        for part, before in zip(self._parts, self._before, strict=True):
            part.module.__dict__.pop("forward", None)
            if before is not None:
                part.module.forward = before
        self._on = False

    @contextmanager
    def off(self) -> Iterator[None]:
        """The plain model: losses and attention's softmax included. May be nested."""
        was_on = self._on
        self._take()
        try:
            with losses.plainly(), kernels.plainly():
                yield
        finally:
            if was_on:
                self._put()

    def restore(self) -> None:
        """Leave the model as it was, each weight in a storage of its own. Safe to repeat."""
        self._take()
        for part in self._parts:
            for group in part.groups:
                group.part()


class _Spy:
    """A layout (models/attention.py) that notes what each layer's attention is given, and gives back the queries."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor, float, int | None]] = {}

    def attend(
        self, layer: int, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float, window: int | None
    ) -> Tensor:
        self.seen[layer] = q_HTD, k_KTD, v_KTD, scale, window
        return q_HTD


def quicken(model: Any, kernel_folder: Path | None = None) -> Quick:
    """Replace what is understood of `model`, a transformers model or a peft model around one.

    `kernel_folder` keeps the compiled kernels; without it they are in the user's cache. Where they cannot be had, plain
    formulas are used and `left["kernels"]` says why. Never raises for a model that it does not understand.
    """
    left: dict[str, str] = {}
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    on_cpu = next(whole.parameters()).device.type == "cpu"
    if why := kernels.use(kernel_folder) if on_cpu else "compiled kernels are for the CPU":
        left["kernels"] = why
    candidates = _candidates(whole, left)
    parts = _proven(whole, candidates, left)
    if why := losses.why_plain(model):
        left["head"] = why
    for part in parts:
        for group in part.groups:
            group.join()
        if isinstance(part, MlpPart) and part.inner:
            left[_short(part, whole)] = part.inner
    quick = Quick(model, parts, left)
    quick._put()
    return quick


def _candidates(whole: Any, left: dict[str, str]) -> list[Part]:
    """A part for each module that looks like one. Reasons for the others go to `left`, the first of a kind only."""
    found: list[Part] = []
    turns = Turns()
    ours = getattr(whole.config, "_attn_implementation", None) == attention.NAME
    for name, module in whole.named_modules():
        try:
            if is_attention(module):
                if not ours:
                    raise NotUnderstood("its attention is not " + attention.NAME)
                found.append(AttentionPart(module, turns))
            elif is_mlp(module):
                found.append(MlpPart(module))
            elif is_norm(module):
                found.append(NormPart(module))
        except (NotUnderstood, AttributeError) as why:
            left.setdefault(_kind(name), str(why))
    return found


def _kind(name: str) -> str:
    """A module's name without its layer's number: model.layers.*.mlp"""
    return ".".join("*" if piece.isdigit() else piece for piece in name.split("."))


def _short(part: Part, whole: Any) -> str:
    return next(_kind(name) for name, module in whole.named_modules() if module is part.module)


def _proven(whole: Any, candidates: list[Part], left: dict[str, str]) -> list[Part]:
    """Those that give what their module gives, on a few tokens."""
    seen: dict[int, tuple[Any, Any, Any]] = {}
    spy = _Spy()

    def note(module: Any, arguments: Any, keywords: Any, out: Any) -> None:
        seen[id(module)] = arguments, keywords, out

    watches = [part.module.register_forward_hook(note, with_kwargs=True) for part in candidates]
    was_training = whole.training
    device = next(whole.parameters()).device
    whole.eval()
    proven = []
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            try:
                whole.get_decoder()(
                    input_ids=torch.tensor([_PROBE], device=device),
                    position_ids=torch.tensor([_POSITIONS], device=device),
                    attention_mask=attention.no_mask(device),
                    layout=spy,
                    use_cache=False,
                )
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
                left["layers"] = f"the model cannot be called on a few tokens: {error}"
                return []
            for watch in watches:
                watch.remove()
            for part in candidates:
                if why := _disagreement(part, seen.get(id(part.module))):
                    left.setdefault(_short(part, whole), why)
                else:
                    proven.append(part)
    finally:
        for watch in watches:
            watch.remove()
        whole.train(was_training)
    return proven


def _disagreement(part: Part, told: tuple[Any, Any, Any] | None) -> str:
    """Why a part may not stand for its module; empty if it may."""
    if told is None:
        return "it was not called"
    try:
        return "" if part.agrees(*told) else "it computes something else than its like"
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as why:
        return f"it is called or built otherwise than its like: {why}"


__all__ = ["Quick", "quicken"]
