"""Step lines from transformers' Trainer, which TRL and LLaMA-Factory are built on. It changes nothing of the training:
`training_step` is wrapped to add up what it returns, and a callback writes the sums when the optimizer has stepped.
"""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback
from watch import Lines


class Sums(TrainerCallback):
    """Losses come back from `training_step` already divided by the whole step's supervised tokens, so they add up."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.loss, self.tokens, self.supervised = 0.0, 0, 0
        plain = Trainer.training_step

        def training_step(trainer: Any, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            flat = mask is None or mask.dim() != 2
            self.tokens += inputs["input_ids"].numel() if flat else int(mask.sum())
            self.supervised += int((inputs["labels"][:, 1:] != -100).sum())
            loss = plain(trainer, model, inputs, *others, **named)
            self.loss += float(loss)
            return loss

        Trainer.training_step = training_step

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.lines.step(state.global_step, self.loss, self.tokens, self.supervised)
        self.loss, self.tokens, self.supervised = 0.0, 0, 0
