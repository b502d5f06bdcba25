"""Low-rank adapters through peft: W + scale·B·A with W frozen (Hu et al. 2021).

rslora      scale = alpha / √rank in place of alpha / rank                        (Kalajdzievski 2023, section 3)
dora        m · (W + scale·B·A) / ‖W + scale·B·A‖ by row, m learnt too            (Liu et al. 2024, equation 5)
quantize    W in 8 or 4 bits while training (models/quantised); what is saved is the adapter alone, and serving,
            measuring and merging take the base as it was
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.models.spec import LoraSpec

from .files import save_beside
from .layers import last_blocks, linear_layers, need_layers, requiring_gradients


class Lora:
    """The base may be bf16 or quantised; the adapter itself is always fp32."""

    def attach(self, model: Any, spec: LoraSpec, seed: int) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        targets = linear_layers(model) if spec.targets == "all-linear" else list(spec.targets)
        need_layers(model, targets)
        blocks = last_blocks(model, spec.last_layers)
        if spec.quantize:
            from luthier.models.quantised import quantise_blocks

            quantise_blocks(model, spec.quantize)
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.written_alpha,
            lora_dropout=spec.dropout,
            target_modules=targets,
            layers_to_transform=blocks,
            use_rslora=spec.rslora,
            use_dora=spec.dora,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(model, config, autocast_adapter_dtype=True)

    def trainable(self, model: Any) -> list[tuple[str, Any]]:
        return requiring_gradients(model)

    def save(self, model: Any, folder: Path, base_name: str) -> None:
        save_beside(model, folder, base_name)
