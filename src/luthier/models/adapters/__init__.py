"""What moves while training. Layouts in and out are peft's and transformers'.

    lora   low-rank updates beside frozen weights       (rslora, dora, chosen layers, a base in 8 or 4 bits)
    ia3    one factor per channel beside frozen weights
    full   the weights themselves, all or the topmost blocks', from the base or from fresh ones
    head   the last norm and the output head alone

An adapter is a class of three methods; its Spec (models/spec.py) answers what a plan asks. The training loop knows
nothing else about it. A folder with an adapter of the first two kinds is read back by `saved`, and no further than it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from luthier.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

from .files import copy_tokenizer
from .full import Full
from .head import Head
from .ia3 import Ia3
from .layers import linear_layers
from .lora import Lora
from .saved import attach_saved, check_saved


class Adapter(Protocol):
    def attach(self, model: Any, spec: Any, seed: int) -> Any:
        """The model, changed so that `trainable` says what moves. Follows from its arguments. Raises ModelError."""

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        """(name, parameter) of all that moves, each once, in a stable order; nothing else requires a gradient."""

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        """Write files whose bytes depend on the weights only."""


__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "Adapter",
    "Full",
    "Head",
    "Ia3",
    "Lora",
    "attach_saved",
    "check_saved",
    "copy_tokenizer",
    "linear_layers",
]
