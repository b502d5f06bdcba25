"""Which modules of a transformers model are understood, and what runs in their place.

A part is made from what a module looks like (its layers' names), then has to prove itself: on a few tokens it must give
what the module gives (`agrees`). So a family that does something more is left alone and not got wrong. A part replaces
the module's `forward` and nothing else: parameters, names and hooks stay.

    NormPart         RMSNorm, with or without 1 + w
    MlpPart          gate, up, activation, down
    AttentionPart    q, k, v in one product, norms of q and k, rotary positions; attention itself is not here

Legend: T tokens of the packed line, D hidden size, H query heads, K key/value heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from . import functions
from .functions import Turn, compute_dtype, source_of
from .group import Group, base_of, explain, hooked
from .kernels import Activation

# Relative to the norm of what the module gives: rounding differs a little, mistakes differ a lot.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


class NotUnderstood(Exception):
    """Says why a module is left as it is."""


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two results are the same up to rounding in the format of the second."""
    limit = TOLERANCE.get(theirs.dtype, TOLERANCE[torch.bfloat16])
    wide = theirs.float()
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    return bool((ours.float() - wide).norm() <= limit * wide.norm() + 1e-6)


def _together(modules: Sequence[Any], what: str) -> Group:
    for module in modules:
        if why := explain(module):
            raise NotUnderstood(f"{what}: {why}")
    try:
        return Group(modules)
    except ValueError as why:
        raise NotUnderstood(f"{what}: {why}") from None


class NormPart:
    """RMS normalisation; whether weights count from one is found out by trying."""

    names = ("norms",)

    def __init__(self, module: Any) -> None:
        weight = getattr(module, "weight", None)
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if (
            weight is None
            or weight.dim() != 1
            or not isinstance(eps, float)
            or getattr(module, "bias", None) is not None
        ):
            raise NotUnderstood("norm: it is not a scale and an epsilon")
        self.module, self.eps, self.offset = module, eps, 0.0

    groups: Sequence[Group] = ()

    def forward(self, hidden_states: Tensor) -> Tensor:
        shape, size = hidden_states.shape, hidden_states.shape[-1]
        # Three dimensions mean heads only where the first is not the one row of a packed line.
        x = hidden_states.reshape(-1, size) if shape[0] == 1 or hidden_states.dim() != 3 else hidden_states
        weight = self.module.weight
        y = functions.norm(x, weight, self.offset, self.eps, self._dtype(x, weight)).view(shape)
        return functions.remember(y, x, weight, self.offset, self.eps) if x.dim() == 2 else y

    @staticmethod
    def _dtype(x: Tensor, weight: Tensor) -> torch.dtype:
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)  # who reads it would round it at once
        return torch.promote_types(x.dtype, weight.dtype)

    def agrees(self, arguments: Sequence[Any], keywords: Mapping[str, Any], theirs: Any) -> bool:
        # With weights far from one, both may be near in bf16: the nearer one is it.
        found = []
        for self.offset in (0.0, 1.0):
            ours = self.forward(*arguments, **keywords)
            apart = float((ours.float() - theirs.float()).norm()) if ours.shape == theirs.shape else math.inf
            found.append((apart, self.offset, near(ours, theirs)))
        _, self.offset, agreed = min(found)
        return agreed


class MlpPart:
    """down(act(gate(x))·up(x)). `inner` is why the products stay as they are, if they do."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.one = hasattr(module, "gate_up_proj")
        names = ("gate_up_proj",) if self.one else ("gate_proj", "up_proj")
        self.inputs = [getattr(module, name) for name in names]
        self.down = module.down_proj
        act = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
        if isinstance(act, torch.nn.Module) and hooked(act):
            raise NotUnderstood("activation: somebody has hooked it")
        self.act = _activation(act)
        self.groups: Sequence[Group] = ()
        self.inner = ""
        try:
            self.groups = [_together(self.inputs, "/".join(names)), _together([self.down], "down_proj")]
        except NotUnderstood as why:
            self.inner = str(why)
        self.names = ("gated",) if self.inner else ("gated", "projections")

    def forward(self, x: Tensor) -> Tensor:
        if not self.groups:
            together = self.inputs[0](x).chunk(2, -1) if self.one else [layer(x) for layer in self.inputs]
            gate, up = (part.reshape(-1, part.shape[-1]) for part in together)
            return self.down(functions.gate(gate, up, self.act).view(*x.shape[:-1], -1))
        first, second = (group.operands(compute_dtype(group.layers[0].weight)) for group in self.groups)
        flat = x.reshape(-1, x.shape[-1])
        return functions.gated_mlp(flat, first, second, self.act, source_of(x)).view(*x.shape[:-1], -1)

    def agrees(self, arguments: Sequence[Any], keywords: Mapping[str, Any], theirs: Any) -> bool:
        return near(self.forward(*arguments, **keywords), theirs)


def _activation(act: Any) -> Activation:
    at = torch.linspace(-4, 4, 65)
    try:
        told = act(at)
    except Exception as why:
        raise NotUnderstood(f"activation: {why}") from None
    if torch.equal(told, silu(at)):
        return "silu"
    if torch.allclose(told, gelu(at, approximate="tanh"), atol=1e-6):
        return "gelu_tanh"
    raise NotUnderstood(f"activation: {type(act).__name__} is neither SiLU nor the tanh form of GELU")


class Turns:
    """Rotary tables in the form the functions want, made once a pass and not once a layer."""

    def __init__(self) -> None:
        self._last: list[tuple[Tensor, Tensor, Turn]] = []

    def of(self, cos: Tensor, sin: Tensor) -> Turn:
        for seen_cos, seen_sin, turn in self._last:
            if seen_cos is cos and seen_sin is sin:
                return turn
        turn = Turn(cos[0].float().contiguous(), sin[0].float().contiguous())
        # Two, because some models turn local and global layers differently.
        self._last = [*self._last[-1:], (cos, sin, turn)]
        return turn


class AttentionPart:
    """What stands around attention. The attention function itself is called as the model would call it."""

    def __init__(self, module: Any, turns: Turns) -> None:
        self.module, self.turns, self.plain = module, turns, module.forward
        self.window: int | None = None
        self.size = int(module.head_dim)
        if hasattr(module, "qkv_proj"):
            config = module.config
            self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
            inputs = [module.qkv_proj]
        else:
            inputs = [module.q_proj, module.k_proj, module.v_proj]
            sizes = [base_of_any(layer).weight.shape[0] for layer in inputs]
            self.heads, self.kv_heads = sizes[0] // self.size, sizes[1] // self.size
        self.qkv = _together(inputs, "q/k/v")
        if self.qkv.edges[-1] != (self.heads + 2 * self.kv_heads) * self.size:
            raise NotUnderstood("q/k/v: heads of different sizes")
        self.out = None if explain(module.o_proj) else _together([module.o_proj], "o_proj")
        self.norms = self._find_norms()
        self.turned = bool(getattr(module, "use_rope", True))
        self.groups: Sequence[Group] = [self.qkv] if self.out is None else [self.qkv, self.out]
        self.names = ("projections", "rotary")

    def _find_norms(self) -> tuple[NormPart, NormPart] | None:
        q, k = getattr(self.module, "q_norm", None), getattr(self.module, "k_norm", None)
        if q is None and k is None:
            return None
        if hooked(q) or hooked(k):
            raise NotUnderstood("q/k/v: somebody has hooked a norm of them")
        return NormPart(q), NormPart(k)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        cached = any(others.get(name) is not None for name in ("cache", "past_key_values", "past_key_value"))
        if cached or hidden_states.shape[0] != 1 or position_embeddings is None:
            kept: tuple[Tensor, None] = self.plain(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                **others,
            )
            return kept
        q, k, v = (x.transpose(0, 1)[None] for x in self._heads(hidden_states, *position_embeddings))
        module = self.module
        interface = attention_of(module)
        given = {} if self.window is None else {"sliding_window": self.window}
        dropout = module.attention_dropout if module.training else 0.0
        out, _ = interface(
            module, q, k, v, attention_mask, dropout=dropout, scaling=module.scaling, **given, **others
        )
        flat = out.reshape(hidden_states.shape[1], -1)
        if self.out is None:
            return module.o_proj(flat[None]), None
        return functions.project(flat, self.out.operands(compute_dtype(self.out.layers[0].weight)))[
            None
        ], None

    def _heads(self, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [T, H, size], k and v [T, K, size], with positions in q and k."""
        turn = self.turns.of(cos, sin) if self.turned else Turn(None, None)
        operands = self.qkv.operands(compute_dtype(self.qkv.layers[0].weight))
        flat, source = hidden_states[0], source_of(hidden_states)
        if self.norms is None:
            shape = self.heads, self.kv_heads, self.size
            return functions.project_rotate(flat, operands, source, turn, shape)
        joined = functions.project(flat, operands, source)
        edges = [n * self.size for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = joined.split(edges, 1)
        q, k = (self._normed(norm, x) for norm, x in zip(self.norms, (q, k), strict=True))
        return (
            functions.rotate(q, turn) if self.turned else q,
            functions.rotate(k, turn) if self.turned else k,
            v.unflatten(1, (self.kv_heads, self.size)),
        )

    def _normed(self, norm: NormPart, x: Tensor) -> Tensor:
        """Each head by itself or all of them as one, as wide as the norm's weight is."""
        weight = norm.module.weight
        heads = x.unflatten(1, (-1, self.size))
        if weight.shape[0] == self.size:
            x = heads
        dtype = NormPart._dtype(x, weight)
        return functions.norm(x, weight, norm.offset, norm.eps, dtype).view(heads.shape)

    def agrees(self, arguments: Sequence[Any], keywords: Mapping[str, Any], theirs: Any) -> bool:
        """Called with a `layout` that has recorded what the module's own forward gave it."""
        spy = keywords["layout"]
        q, k, v, scale, self.window = spy.seen[self.module.layer_idx]
        if abs(scale - self.module.scaling) > 1e-6 * abs(scale):
            return False
        offsets = [(0.0, 0.0)] if self.norms is None else [(0.0, 0.0), (1.0, 1.0)]
        found = []
        for offset in offsets:  # the nearest, as in NormPart
            if self.norms is not None:
                self.norms[0].offset, self.norms[1].offset = offset
            ours = self.forward(*arguments, **keywords)[0]
            own = spy.seen[self.module.layer_idx]
            pairs = [*zip(own[:3], (q, k, v), strict=True), (ours, theirs[0])]
            good = all(near(a, b) for a, b in pairs) and own[4] == self.window
            apart = sum(float((a.float() - b.float()).norm()) for a, b in pairs if a.shape == b.shape)
            found.append((not good, apart, offset))
            spy.seen[self.module.layer_idx] = (q, k, v, scale, self.window)
        wrong, _, offset = min(found)
        if self.norms is not None:
            self.norms[0].offset, self.norms[1].offset = offset
        return not wrong


def attention_of(module: Any) -> Any:
    """The attention function that the model's config names."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]


def base_of_any(module: Any) -> Any:
    """A linear layer below whatever adapter; raises NotUnderstood."""
    if why := explain(module):
        raise NotUnderstood(f"q/k/v: {why}")
    return base_of(module)


def is_norm(module: Any) -> bool:
    return type(module).__name__.endswith("RMSNorm")


def is_mlp(module: Any) -> bool:
    inputs = hasattr(module, "gate_up_proj") or (hasattr(module, "gate_proj") and hasattr(module, "up_proj"))
    return inputs and hasattr(module, "down_proj")


def is_attention(module: Any) -> bool:
    inputs = hasattr(module, "qkv_proj") or all(hasattr(module, f"{x}_proj") for x in "qkv")
    return (
        inputs and hasattr(module, "o_proj") and hasattr(module, "layer_idx") and hasattr(module, "scaling")
    )
