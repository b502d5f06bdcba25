"""How many numbers lie where in a model: counts that follow from shapes alone. Pure, and free of torch.

Legend: h hidden, q = heads·head_size, k = kv_heads·head_size, i intermediate, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

from luthier.core.errors import ModelError, did_you_mean

Shape = tuple[int, ...]
Dtype = Literal["fp32", "bf16"]
WIDTH_BYTES: Mapping[Dtype, int] = {"fp32": 4, "bf16": 2}


class Facts(Protocol):
    """What of weights.ModelFacts is read here."""

    @property
    def parameters(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def tied(self) -> bool: ...
    @property
    def block(self) -> tuple[tuple[str, Shape], ...]:
        """The tensors of one transformer block, (name within the block, shape); empty if it was not looked at."""


def block(facts: Facts) -> dict[str, Shape]:
    """Name within the block -> shape, as stored; those of a Llama block where nobody looked."""
    if facts.block:
        return dict(facts.block)
    h, i = facts.hidden, facts.intermediate
    q, k = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    return {
        "self_attn.q_proj.weight": (q, h),
        "self_attn.k_proj.weight": (k, h),
        "self_attn.v_proj.weight": (k, h),
        "self_attn.o_proj.weight": (h, q),
        "mlp.gate_proj.weight": (i, h),
        "mlp.up_proj.weight": (i, h),
        "mlp.down_proj.weight": (h, i),
        "input_layernorm.weight": (h,),
        "post_attention_layernorm.weight": (h,),
    }


def block_parameters(facts: Facts) -> int:
    """All parameters of one transformer block."""
    return sum(math.prod(shape) for shape in block(facts).values())


def matrices(facts: Facts) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear layer of one block, by its last name: q_proj, down_proj, ..."""
    return {
        name.removesuffix(".weight").rpartition(".")[2]: (shape[0], shape[1])
        for name, shape in block(facts).items()
        if len(shape) == 2 and name.endswith(".weight")
    }


def chosen(facts: Facts, names: list[str]) -> list[tuple[int, int]]:
    """(out, in) of the layers with these names in one block. A name that the block does not have counts as its largest
    matrix: the adapter itself will refuse it, and a plan should not be too small until then."""
    known = matrices(facts)
    largest = max(known.values(), key=math.prod)
    return [known.get(name.rpartition(".")[2], largest) for name in names]


def need_names(names: list[str], known: list[str]) -> None:
    """Raises ModelError for a name that none of a model's linear layers has."""
    for name in names:
        if name.rpartition(".")[2] not in known:
            raise ModelError(f"the model has no linear layer {name!r}.", remedy=did_you_mean(name, known))


def need_blocks(n: int, there: int) -> None:
    """Raises ModelError where a model has fewer transformer blocks than `n`."""
    if n > there:
        raise ModelError(
            f"train.adapter.last_layers is {n}, and the model has {there} transformer blocks.",
            remedy=f"Lower it to at most {there}, or leave it out for all of them.",
        )


def embedding_parameters(facts: Facts) -> int:
    """V·h: the embeddings, and an output head of its own as well."""
    return facts.vocabulary * facts.hidden


# -- bits ---------------------------------------------------------------------------------------------------------------

Bits = Literal["8bit", "4bit"]
BLOCK = 64
"""Weights that share one scale in 4 bits (Dettmers et al. 2023, section 3)."""


def quantised_bytes(out: int, into: int, bits: Bits) -> int:
    """Bytes that models/quantised keeps of an [out, in] matrix: one per weight and an fp32 scale per row (8bit), or
    half a byte per weight and an fp32 scale per block of 64 (4bit).

    >>> quantised_bytes(576, 1536, "8bit"), quantised_bytes(576, 1536, "4bit")
    (887040, 497664)
    """
    if bits == "8bit":
        return out * into + 4 * out
    blocks = -(-out * into // BLOCK)
    return blocks * (BLOCK // 2 + 4)


def base_bytes(facts: Facts, dtype: Dtype, bits: Bits | None) -> int:
    """Bytes of the frozen base: its blocks' matrices in `bits`, all else in `dtype`."""
    width = WIDTH_BYTES[dtype]
    if bits is None:
        return width * facts.parameters
    each = list(matrices(facts).values())
    linear = facts.layers * sum(math.prod(shape) for shape in each)
    packed = facts.layers * sum(quantised_bytes(out, into, bits) for out, into in each)
    return packed + width * (facts.parameters - linear)
