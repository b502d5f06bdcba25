"""Linear layers that read the same input, as one matrix product, with their low-rank adapters beside it.

    y = x·Wᵀ + b + (x·Aᵀ)·Bᵀ        W [N, K] is the layers' weights one below the other, A [R, K] their adapters' first
                                    halves, B [N, R] block-diagonal with the second halves times their scale

so a group of three layers is two thin products and one large, not nine. The layers' own parameters become views of W:
nothing is held twice, names and objects stay, and an optimizer that writes into them writes into W.

LoRA (Hu et al. 2021), rsLoRA (another scale) and plain trained weights are understood; anything else is not, and
`explain` says why. Not here: autograd (functions.py).

Legend: T tokens, K inputs, N outputs of all layers, R ranks of all adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Adapter:
    """One layer's low-rank update: scale · up_NR · down_RK."""

    down: torch.nn.Parameter
    up: torch.nn.Parameter
    scale: float


def explain(module: Any) -> str:
    """Why a layer is left as it is; empty if it is understood."""
    kind = type(module)
    if hooked(module):
        return "somebody has hooked it"
    if kind is torch.nn.Linear:
        return ""
    if not (kind.__module__.startswith("peft.tuners.lora") and kind.__name__ == "Linear"):
        return f"{kind.__module__}.{kind.__name__} is not a plain or LoRA linear layer"
    if type(module.base_layer) is not torch.nn.Linear:
        return f"its base is a {type(module.base_layer).__name__}"
    if module.lora_variant:
        return f"{type(next(iter(module.lora_variant.values()))).__name__} is more than a low-rank product"
    if any(not isinstance(drop, torch.nn.Identity) for drop in module.lora_dropout.values()):
        return "its adapter drops inputs at random"
    layers = [module.base_layer, *module.lora_A.values(), *module.lora_B.values()]
    if any(map(hooked, layers)):
        return "somebody has hooked a layer of it"
    if len(module.lora_A) != 1 or any(module.lora_bias.values()) or getattr(module, "fan_in_fan_out", False):
        return "only a single adapter without a bias is understood"
    return ""


def hooked(module: Any) -> bool:
    """Whether calling the module does more than its forward."""
    return any(getattr(module, name) for name in _HOOKS)


def base_of(module: Any) -> torch.nn.Linear:
    """The plain layer itself, or below its adapter."""
    layer: torch.nn.Linear = module if type(module) is torch.nn.Linear else module.base_layer
    return layer


def adapter_of(module: Any) -> Adapter | None:
    """The adapter as it counts now: none when it is switched off or already merged into the weight."""
    if type(module) is torch.nn.Linear or module.disable_adapters or module.merged:
        return None
    active = [name for name in module.active_adapters if name in module.lora_A]
    if not active:
        return None
    name = active[0]
    return Adapter(module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name]))


class Group:
    """Layers with one input and one weight matrix. Raises ValueError when they do not go together."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = list(modules)
        self.layers = [base_of(module) for module in self.modules]
        first = self.layers[0].weight
        for layer in self.layers:
            if layer.weight.shape[1] != first.shape[1] or layer.weight.dtype != first.dtype:
                raise ValueError("layers of a group read the same input in the same number format")
            if not layer.weight.is_floating_point() or layer.weight.requires_grad != first.requires_grad:
                raise ValueError("layers of a group all move or all stay")
        self.sizes = [layer.weight.shape[0] for layer in self.layers]
        self.edges = [sum(self.sizes[:i]) for i in range(len(self.sizes) + 1)]
        self._joined: Tensor | None = None

    def join(self) -> None:
        """Make the layers' weights views of one matrix. Their old storage is given back."""
        if len(self.layers) > 1:
            self._joined = torch.cat([layer.weight.detach() for layer in self.layers])
            for layer, rows in zip(self.layers, self._joined.split(self.sizes), strict=True):
                layer.weight.data = rows

    def part(self) -> None:
        """Give each layer a storage of its own again."""
        if self._joined is not None:
            self._joined = None
            for layer in self.layers:
                layer.weight.data = layer.weight.detach().clone()

    def weight(self) -> Tensor:
        """W. If somebody has moved a layer's weight elsewhere, it is put together anew."""
        if len(self.layers) == 1:
            return self.layers[0].weight.detach()
        joined = self._joined
        if joined is not None:
            row = joined.stride(0) * joined.element_size()
            at = joined.data_ptr()
            if all(
                layer.weight.data_ptr() == at + edge * row and layer.weight.dtype == joined.dtype
                for layer, edge in zip(self.layers, self.edges, strict=False)
            ):
                return joined
        return torch.cat([layer.weight.detach() for layer in self.layers])

    def operands(self, dtype: torch.dtype) -> Operands:
        """What one pass needs, in the format it computes in."""
        adapters = [adapter_of(module) for module in self.modules]
        weights = [layer.weight for layer in self.layers]
        biases = [layer.bias for layer in self.layers]
        bias = None
        if any(one is not None for one in biases):
            bias = torch.cat(
                [
                    one.detach() if one is not None else torch.zeros(n, device=weights[0].device)
                    for one, n in zip(biases, self.sizes, strict=True)
                ]
            ).to(dtype)
        return Operands(self.weight().to(dtype), bias, self.edges, weights, biases, adapters, dtype)


class Operands:
    """One pass of a group: the product forward, and the two halves of its backward."""

    def __init__(
        self,
        weight_NK: Tensor,
        bias_N: Tensor | None,
        edges: Sequence[int],
        weights: Sequence[torch.nn.Parameter],
        biases: Sequence[torch.nn.Parameter | None],
        adapters: Sequence[Adapter | None],
        dtype: torch.dtype,
    ) -> None:
        self.weight_NK, self.bias_N, self.edges, self.dtype = weight_NK, bias_N, edges, dtype
        self.adapters = adapters
        ranks = [one.down.shape[0] if one else 0 for one in adapters]
        self.ranks = [sum(ranks[:i]) for i in range(len(ranks) + 1)]
        # In this order functions take parameters and give gradients back.
        self.parameters = [
            *weights,
            *(one for one in biases if one is not None),
            *(one.down for one in adapters if one),
            *(one.up for one in adapters if one),
        ]
        self._biased = [i for i, one in enumerate(biases) if one is not None]
        self.down_RK: Tensor | None = None
        self.up_NR: Tensor | None = None
        if self.ranks[-1]:
            self._lay_out_adapters()

    def _lay_out_adapters(self) -> None:
        down = self.weight_NK.new_empty(self.ranks[-1], self.weight_NK.shape[1])
        up = self.weight_NK.new_zeros(self.weight_NK.shape[0], self.ranks[-1])
        for i, one in enumerate(self.adapters):
            if one:
                ranks = slice(self.ranks[i], self.ranks[i + 1])
                down[ranks] = one.down.detach()
                # Scaled before it is rounded: scales are powers of two nearly always, which cost no digit.
                up[self.edges[i] : self.edges[i + 1], ranks] = one.up.detach() * one.scale
        self.down_RK, self.up_NR = down, up

    @property
    def moves(self) -> bool:
        """Whether anything in it is trained."""
        return any(p.requires_grad for p in self.parameters)

    @property
    def weight_moves(self) -> bool:
        return self.parameters[0].requires_grad

    def forward(self, x_TK: Tensor) -> tuple[Tensor, Tensor | None]:
        """(y [T, N], x·Aᵀ [T, R] for the backward)."""
        y_TN = linear(x_TK, self.weight_NK, self.bias_N)
        if self.down_RK is None or self.up_NR is None:
            return y_TN, None
        low_TR = x_TK @ self.down_RK.t()
        return y_TN.addmm_(low_TR, self.up_NR.t()), low_TR

    def back(self, grad_TN: Tensor, *, needs_input: bool) -> tuple[Tensor | None, Tensor | None]:
        """(gradient of x, gradient at the adapters' waist [T, R])."""
        grad_TR = None if self.up_NR is None else grad_TN @ self.up_NR
        if not needs_input:
            return None, grad_TR
        grad_TK = grad_TN @ self.weight_NK
        if grad_TR is not None and self.down_RK is not None:
            grad_TK.addmm_(grad_TR, self.down_RK)
        return grad_TK, grad_TR

    def parameter_grads(
        self, grad_TN: Tensor, grad_TR: Tensor | None, x_TK: Tensor | None, low_TR: Tensor | None
    ) -> list[Tensor | None]:
        """Gradients in the order of `parameters`, None for what stays; x is needed if a weight or an adapter moves."""
        grads: list[Tensor | None] = []
        pieces = list(zip(self.edges, self.edges[1:], strict=False))
        if self.weight_moves and x_TK is not None:
            whole = grad_TN.t() @ x_TK
            grads += [whole[a:b].to(self.parameters[0].dtype) for a, b in pieces]
        else:
            grads += [None] * len(pieces)
        for i in self._biased:
            bias = self.parameters[len(grads)]
            a, b = pieces[i]
            grads.append(
                grad_TN[:, a:b].sum(0, dtype=torch.float32).to(bias.dtype) if bias.requires_grad else None
            )
        if grad_TR is None or low_TR is None or x_TK is None:
            return grads + [None] * (len(self.parameters) - len(grads))
        down = (grad_TR.t() @ x_TK).float()
        ups = [one for one in enumerate(self.adapters) if one[1]]
        for i, _ in ups:
            grads.append(down[self.ranks[i] : self.ranks[i + 1]])
        for i, one in ups:
            a, b = pieces[i]
            up = grad_TN[:, a:b].t() @ low_TR[:, self.ranks[i] : self.ranks[i + 1]]
            assert one is not None
            grads.append(up.float().mul_(one.scale))
        return [
            g.to(p.dtype) if g is not None and p.requires_grad else None
            for g, p in zip(grads, self.parameters, strict=True)
        ]
