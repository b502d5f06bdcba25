"""A classification head: one linear layer from the prompt's last hidden state to a score per label, trained with
cross-entropy together with whatever the adapter moves (Devlin et al. 2019, section 4.1, with the last token of a
causal model in place of [CLS]).

One pass over the prompt gives every label's probability, whatever the labels' texts; the model cannot say anything
else. `sft` on the same task keeps a language model and scores the labels as its answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, SpecError
from luthier.training.method import Example, Loss, Method, NoSettings, Work

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.template import Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Row, Rows


def question_of(record: Mapping[str, Any], template: Template, method: str) -> Example:
    """The prompt before the last answer, with one token after it to hang the head's place on."""
    from luthier.models.template import Encoded

    messages = record["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(
            f"`{method}` learns from a question and its answer, and this row is a plain text.",
            remedy="Map `user` and the answer's column.",
        )
    ids = template.prompt(messages[:-1])
    end = template.tokenizer.eos_token_id
    return Example([Encoded([*ids, end], [False] * len(ids) + [True])])


@dataclass(frozen=True)
class Asked:
    """Prompts whose last positions the head looks at, and what it must give there."""

    packed: Packed
    targets_R: Tensor
    weights_R: Tensor

    @property
    def tokens(self) -> int:
        return self.packed.tokens

    @property
    def supervised(self) -> int:
        return len(self.targets_R)

    @property
    def row_weights(self) -> Sequence[float]:
        return self.packed.row_weights

    def to(self, device: Any) -> Asked:
        return Asked(self.packed.to(device), self.targets_R.to(device), self.weights_R.to(device))


class Classify(Method):
    """Cross-entropy of a head's label scores, each row times its weight; needs `task: {kind: classify}`."""

    spec = NoSettings
    through_vocabulary = False
    task = "classify"
    figures = ("loss", "accuracy")
    unit = "nats per row"

    def __init__(self, settings: NoSettings) -> None:
        self.settings = settings
        self.places: dict[str, int] = {}

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        return replace(question_of(record, template, "classify"), answer=record["label"])

    def attach(self, model: Any, splits: Mapping[str, Rows], work: Work, seed: int) -> None:
        from luthier.models.head import Labels, attach

        told = json.loads((work.folders["dataset"] / "dataset.json").read_text(encoding="utf-8"))["task"]
        if told["kind"] != "classify":
            raise SpecError(
                f"train.method classify needs labels, and the task is {told['kind']}.",
                remedy="Set task: {kind: classify}, or choose another method.",
            )
        labels = tuple(told["labels"])
        self.places = {label: i for i, label in enumerate(labels)}
        attach(model, Labels(labels), seed)

    def collate(self, rows: Sequence[Row]) -> Asked:
        import torch

        from luthier.training.packing import pack_rows

        targets_R = torch.tensor([self.places[str(row.answer)] for row in rows])
        return Asked(pack_rows(rows, share=self.share), targets_R, torch.tensor([row.weight for row in rows]))

    def loss(self, model: Any, batch: Asked) -> Loss:
        from torch.nn.functional import cross_entropy

        from luthier.models.head import head_of, hidden_at

        head = head_of(model)
        assert head is not None
        scores_RL = head(hidden_at(model, batch.packed.inputs, batch.packed.keep))
        losses_R = cross_entropy(scores_RL, batch.targets_R, reduction="none") * batch.weights_R
        right_R = (scores_RL.argmax(-1) == batch.targets_R) * batch.weights_R
        return Loss(losses_R.sum(), losses_R.detach(), {"accuracy": float(right_R.sum())})

    def save(self, model: Any, folder: Path) -> None:
        from luthier.models.head import save, take_off

        save(model, folder)
        take_off(model)
