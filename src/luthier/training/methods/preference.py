"""What methods that learn from pairs share: a chosen and a rejected answer to one prompt become two sequences of one
row, and a micro-batch of rows the log-probabilities of both answers. Not a method: each brings its formula.

    record["messages"]   a conversation that ends with the chosen answer, which may be calls of tools
    record["rejected"]   the other answer to the same prompt

Only the last answer is compared; earlier assistant turns are part of the prompt. A row counts as its weight, however
long its answers are.

Legend: R rows (pairs), S supervised tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.core.errors import DataError
from luthier.training.method import Example, Loss, Method, MethodSettings, Work

from .reference import Sums, reference_logprobs, reference_of

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.template import Encoded, Template, Tools
    from luthier.training.packing import Packed
    from luthier.training.rows import Row, Rows


def last_answer(messages: Sequence[Mapping[str, Any]], template: Template, tools: Tools = None) -> Encoded:
    """The conversation with its last assistant turn supervised and no other."""
    from luthier.models.template import Encoded

    whole = template.encode(messages, tools)
    end = len(whole.supervised)
    while not whole.supervised[end - 1]:
        end -= 1
    begin = end
    while whole.supervised[begin - 1]:
        begin -= 1
    told = [begin <= i < end for i in range(len(whole.ids))]
    return Encoded(whole.ids, told)


def need_answer(record: Mapping[str, Any], method: str) -> Sequence[Mapping[str, Any]]:
    """The record's messages, which must end with an answer. Raises DataError."""
    messages = record["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(
            f"`{method}` learns from questions and answers, and this row is a plain text.",
            remedy="Map `user` and the answer's column, or train on plain text with `sft`.",
        )
    return list(messages)


def pair(record: Mapping[str, Any], template: Template, method: str) -> Example:
    """(chosen, rejected) as two sequences. Raises DataError, ModelError and its kinds."""
    from luthier.data.tools import said

    spoken, tools = said(record)
    messages, rejected = need_answer({"messages": spoken}, method), record.get("rejected")
    if not rejected:
        raise DataError(
            f"`{method}` compares a chosen answer with a rejected one, and this row has no rejected answer.",
            remedy="Map its column (map.rejected), or choose a method for single answers: sft, kto.",
        )
    if rejected == messages[-1]["content"] and not messages[-1].get("tool_calls"):
        raise DataError(
            f"the rejected answer is the chosen one ({rejected[:60]!r}), so `{method}` has nothing to compare.",
            remedy="Remove such rows, or check which columns map.chosen and map.rejected name.",
        )
    worse = [*messages[:-1], {"role": "assistant", "content": rejected}]
    return Example([last_answer(messages, template, tools), last_answer(worse, template, tools)])


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected sequences in turn. `reference_R2` is there for methods that need it."""

    packed: Packed
    reference_R2: Tensor | None
    weights_R: Tensor

    @property
    def tokens(self) -> int:
        return self.packed.tokens

    @property
    def supervised(self) -> int:
        return self.packed.supervised

    @property
    def row_weights(self) -> Sequence[float]:
        return self.packed.row_weights

    def to(self, device: Any) -> Pairs:
        reference = None if self.reference_R2 is None else self.reference_R2.to(device)
        return Pairs(self.packed.to(device), reference, self.weights_R.to(device))


@dataclass(frozen=True)
class Compared:
    """[R, 2] each, chosen first: Σ ln p of the answers, their tokens, and Σ ln p under the reference."""

    logprobs_R2: Tensor
    tokens_R2: Tensor
    reference_R2: Tensor | None

    @property
    def each(self) -> tuple[Tensor, Tensor]:
        """Σ ln p of (chosen, rejected), [R]."""
        return self.logprobs_R2[:, 0], self.logprobs_R2[:, 1]

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """The same per token of the answer."""
        means_R2 = self.logprobs_R2 / self.tokens_R2
        return means_R2[:, 0], means_R2[:, 1]

    @property
    def reference(self) -> tuple[Tensor, Tensor]:
        """What the model before its first step made of (chosen, rejected), [R]."""
        assert self.reference_R2 is not None
        return self.reference_R2[:, 0], self.reference_R2[:, 1]


class Preference(Method):
    """A method over pairs; `judge` is its formula."""

    reads = ("rejected", "tools")
    figures = ("loss", "accuracy", "margin")
    unit = "nats per pair"
    name: ClassVar[str]
    with_reference: ClassVar[bool] = False

    def __init__(self, settings: MethodSettings) -> None:
        self.settings: Any = settings
        self.sums: Sums = {}

    @abstractmethod
    def judge(self, told: Compared) -> tuple[Tensor, Tensor]:
        """(losses, margins), [R] each. A margin above zero means that the chosen answer is preferred."""

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        return pair(record, template, self.name)

    def prepare(self, model: Any, splits: Mapping[str, Rows], work: Work) -> None:
        if self.with_reference:
            self.sums = reference_logprobs(model, splits, work, lambda row: row.sequences, "pairs")

    def collate(self, rows: Sequence[Row]) -> Pairs:
        import torch

        from luthier.training.packing import pack_sequences

        weights = [row.weight for row in rows]
        sequences = [one for row in rows for one in row.sequences]
        packed = pack_sequences(sequences, [w for w in weights for _ in range(2)], weights, share=self.share)
        reference = torch.from_numpy(reference_of(self.sums, rows)) if self.with_reference else None
        return Pairs(packed, reference, torch.tensor(weights))

    def loss(self, model: Any, batch: Pairs) -> Loss:
        """Metrics: how often the chosen answer is preferred (`accuracy`), and by how much (`margin`)."""
        import torch

        from luthier.models.losses import token_logprobs

        packed = batch.packed
        logprobs_S = token_logprobs(model, packed.inputs, packed.keep, packed.targets)
        logprobs_R2 = packed.per_sequence(logprobs_S).view(-1, 2)
        tokens_R2 = packed.per_sequence(torch.ones_like(logprobs_S)).view(-1, 2)
        losses_R, margins_R = self.judge(Compared(logprobs_R2, tokens_R2, batch.reference_R2))
        losses_R, margins_R = losses_R * batch.weights_R, margins_R.detach() * batch.weights_R
        metrics = {
            "accuracy": float(((margins_R > 0) * batch.weights_R).sum()),
            "margin": float(margins_R.sum()),
        }
        return Loss(losses_R.sum(), losses_R.detach(), metrics)
