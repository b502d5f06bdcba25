"""What a person writes about models: which one, what moves in it, from which start, and in how many bits. Free of torch.

Each adapter's Spec also answers, from a model's facts alone, what a plan asks of it; so a plan names no kind:

    trained_parameters(facts)     how many numbers move
    weights_bytes(facts, dtype)   what the base's weights take, as they are held while training
    backward_blocks(facts)        how many transformer blocks the backward pass goes through, so keep activations
    moves_base                    whether the base's own weights move, which must then be fp32
    beside                        whether the result is an adapter beside the base (peft's layout) or a whole model
    default_learning_rate         where the recipe gives none
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.spec import Spec

from . import shapes
from .shapes import Bits, Facts

Dtype = shapes.Dtype
LARGEST_RANK = 1024
KEPT_BESIDE = ("lora", "ia3")
"""Kinds whose result is an adapter in peft's layout; all others give a whole model."""


class BaseSpec(Spec):
    base: str = Field(min_length=1, max_length=2000)
    """A known name, a local folder, a hub id (owner/name), or a URL (s3://, abfs://, hdfs://, ...)."""

    revision: str | None = Field(default=None, max_length=200)
    """Branch, tag or commit, for a hub id only; pin a commit for a result that stays the same."""


class LoraSpec(Spec):
    kind: Literal["lora"] = "lora"
    """Low-rank adapters beside the frozen weights (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1, le=LARGEST_RANK)
    """Rank of each update; the adapter's size grows in proportion."""

    alpha: float | None = Field(default=None, gt=0, le=65536)
    """Scale of the update, divided by the rank; twice the rank when not given (with rslora 8: the same scale at rank 16)."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's input dropped while training."""

    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers get an adapter: all of them except the output head, or a list of their names (q_proj, v_proj, ...)."""

    last_layers: int | None = Field(default=None, ge=1)
    """Adapters in so many of the topmost transformer blocks only; no gradient is computed below them. null: in all."""

    rslora: bool = False
    """Divide alpha by the square root of the rank, which keeps high ranks learning (Kalajdzievski 2023)."""

    dora: bool = False
    """Learn each output's magnitude apart from its direction (Liu et al. 2024); slower, for low ranks."""

    quantize: Bits | None = None
    """Hold the frozen base in 8 or 4 bits while training (4bit: NF4 as in QLoRA, Dettmers et al. 2023): less memory, slower.
    What is measured, served and merged is the base as it was, with the adapter."""

    moves_base: ClassVar[bool] = False
    beside: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 2e-4

    @field_validator("targets")
    @classmethod
    def _plain_names(cls, value: str | list[str]) -> str | list[str]:
        return _need_plain_names(value, "all-linear")

    @property
    def written_alpha(self) -> float:
        """peft's lora_alpha."""
        if self.alpha is not None:
            return self.alpha
        return 8.0 if self.rslora else 2.0 * self.rank

    @property
    def scale(self) -> float:
        """What the product B·A is multiplied by."""
        return self.written_alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def trained_parameters(self, facts: Facts) -> int:
        """rank·(in + out) for each adapted matrix, with dora one magnitude per output more."""
        names = list(shapes.matrices(facts)) if self.targets == "all-linear" else self.targets
        each = shapes.chosen(facts, names)
        one = sum(self.rank * (out + into) + (out if self.dora else 0) for out, into in each)
        return self.backward_blocks(facts) * one

    def weights_bytes(self, facts: Facts, dtype: Dtype) -> int:
        """The frozen base; the adapter is not in it."""
        return shapes.base_bytes(facts, dtype, self.quantize)

    def backward_blocks(self, facts: Facts) -> int:
        return min(self.last_layers or facts.layers, facts.layers)


class Ia3Spec(Spec):
    kind: Literal["ia3"] = "ia3"
    """One learnt factor per channel of keys, values and feed-forward (Liu et al. 2022): the smallest adapter there is."""

    targets: Literal["auto"] | list[str] = "auto"
    """Layers whose channels are scaled: keys, values and the feed-forward's last matrix (its inputs), or a list of names."""

    moves_base: ClassVar[bool] = False
    beside: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 3e-3  # the paper's, section 3.3

    @field_validator("targets")
    @classmethod
    def _plain_names(cls, value: str | list[str]) -> str | list[str]:
        return _need_plain_names(value, "auto")

    def names(self, known: list[str]) -> list[str]:
        """The layers among `known` (all of the model's) that are scaled; what was written, where names were."""
        if self.targets != "auto":
            return list(self.targets)
        keys_values = ["k_proj", "v_proj"] if "k_proj" in known else ["qkv_proj"]  # fused in the phi3 family
        return [*keys_values, FEEDFORWARD]

    def trained_parameters(self, facts: Facts) -> int:
        """One factor per output of each layer; of the feed-forward's last matrix one per input."""
        names = self.names(list(shapes.matrices(facts)))
        each = zip(names, shapes.chosen(facts, names), strict=True)
        return facts.layers * sum(into if is_feedforward(name) else out for name, (out, into) in each)

    def weights_bytes(self, facts: Facts, dtype: Dtype) -> int:
        return shapes.base_bytes(facts, dtype, None)

    def backward_blocks(self, facts: Facts) -> int:
        return facts.layers


class FullSpec(Spec):
    kind: Literal["full"] = "full"
    """Every weight moves, or the topmost blocks; needs fp32 and about sixteen bytes of memory per parameter that moves."""

    last_layers: int | None = Field(default=None, ge=1)
    """Only so many of the topmost transformer blocks move, with the last norm and an output head that is not tied to the
    embeddings; no gradient is computed below them. null: all."""

    embeddings: bool | None = None
    """Whether the token embeddings move, with the head where it is tied to them. null: they do unless last_layers is given."""

    init: Literal["base", "random"] = "base"
    """What training starts from: the base's weights, or fresh ones drawn from train.seed for the base's shape and tokenizer
    (retraining from scratch)."""

    moves_base: ClassVar[bool] = True
    beside: ClassVar[bool] = False

    @model_validator(mode="after")
    def _random_is_whole(self) -> FullSpec:
        if self.init == "random" and (self.last_layers is not None or self.embeddings is False):
            raise ValueError(
                "init: random needs every weight to move; leave last_layers and embeddings out, or keep init: base"
            )
        return self

    @property
    def moves_embeddings(self) -> bool:
        return self.last_layers is None if self.embeddings is None else self.embeddings

    @property
    def default_learning_rate(self) -> float:
        """Fresh weights stand far from anything good (Brown et al. 2020, table 2.1, its smallest model)."""
        return 6e-4 if self.init == "random" else 2e-5

    def trained_parameters(self, facts: Facts) -> int:
        """All; or the chosen blocks, the last norm, a head of its own, and the embeddings if they move."""
        embeddings = shapes.embedding_parameters(facts)
        if self.last_layers is None:
            return facts.parameters - (0 if self.moves_embeddings else embeddings)
        blocks = min(self.last_layers, facts.layers) * shapes.block_parameters(facts)
        head = 0 if facts.tied else embeddings
        return blocks + facts.hidden + head + (embeddings if self.moves_embeddings else 0)

    def weights_bytes(self, facts: Facts, dtype: Dtype) -> int:
        """fp32, and with bf16 the copy that autocast makes for the pass of what moves."""
        return _masters_bytes(facts, dtype, self.trained_parameters(facts))

    def backward_blocks(self, facts: Facts) -> int:
        if self.moves_embeddings or self.last_layers is None:
            return facts.layers
        return min(self.last_layers, facts.layers)


class HeadSpec(Spec):
    kind: Literal["head"] = "head"
    """Only the last norm and the output head move, or a classification or regression head in its place; a head that is
    tied to the embeddings becomes one of its own. The cheapest pass there is, for a base that already knows."""

    moves_base: ClassVar[bool] = True
    beside: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 1e-3

    def trained_parameters(self, facts: Facts) -> int:
        """V·h + h. With a method that brings a head of its own instead, fewer: an upper bound."""
        return shapes.embedding_parameters(facts) + facts.hidden

    def weights_bytes(self, facts: Facts, dtype: Dtype) -> int:
        """fp32, with the head that was tied before as a second matrix."""
        untied = 4 * shapes.embedding_parameters(facts) if facts.tied else 0
        return untied + _masters_bytes(facts, dtype, self.trained_parameters(facts))

    def backward_blocks(self, facts: Facts) -> int:
        return 0


AdapterSpec = Annotated[LoraSpec | Ia3Spec | FullSpec | HeadSpec, Field(discriminator="kind")]

FEEDFORWARD = "down_proj"
"""The feed-forward's last matrix, in every supported family."""


def refuse_strange_layers(adapter: AdapterSpec, facts: Facts) -> None:
    """Layers or blocks that the adapter names and the model does not have. Raises ModelError."""
    if isinstance(adapter, LoraSpec | FullSpec) and adapter.last_layers is not None:
        shapes.need_blocks(adapter.last_layers, facts.layers)
    if isinstance(adapter, LoraSpec | Ia3Spec) and isinstance(adapter.targets, list):
        shapes.need_names(adapter.targets, sorted(shapes.matrices(facts)))


def is_feedforward(name: str) -> bool:
    """Whether IA3 scales this layer's inputs: the paper scales the feed-forward's inner activations."""
    return name.rpartition(".")[2] == FEEDFORWARD


def _masters_bytes(facts: Facts, dtype: Dtype, trained: int) -> int:
    return 4 * facts.parameters + (2 * trained if dtype == "bf16" else 0)


def _need_plain_names(value: str | list[str], otherwise: str) -> str | list[str]:
    if isinstance(value, list):
        if not value:
            raise ValueError(f"name at least one layer, or write {otherwise}")
        for name in value:
            # A name is matched as a suffix; anything else could be read as a pattern.
            if not name.replace("_", "").replace(".", "").isalnum():
                raise ValueError(f"{name!r} is not a layer's name; write for example q_proj")
    return value
