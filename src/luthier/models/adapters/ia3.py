"""One learnt factor per channel, beside frozen weights, through peft (IA3; Liu et al. 2022, section 3.3).

Keys and values are multiplied after their matrix, the feed-forward's inner activations before its last one. All factors
begin at one, so nothing depends on the seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.models.spec import Ia3Spec, is_feedforward

from .files import save_beside
from .layers import linear_layers, need_layers, requiring_gradients


class Ia3:
    """The base may be bf16; the factors are always fp32."""

    def attach(self, model: Any, spec: Ia3Spec, seed: int) -> Any:
        from peft import IA3Config, get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        targets = spec.names(linear_layers(model))
        need_layers(model, targets)
        config = IA3Config(
            target_modules=targets,
            feedforward_modules=[name for name in targets if is_feedforward(name)],
            task_type="CAUSAL_LM",
        )
        tuned = get_peft_model(model, config, autocast_adapter_dtype=True)
        for module in tuned.modules():
            if isinstance(module, BaseTunerLayer):
                # peft's disable_input_dtype_casting asks every layer for it, and gives it to LoRA's alone.
                module.cast_input_dtype_enabled = True
        return tuned

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        return requiring_gradients(model)

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        save_beside(model, folder, base_name)
