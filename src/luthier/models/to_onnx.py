"""A whole model's folder becomes model.onnx with its weights beside it (model.onnx_data), for ONNX Runtime.

    inputs     input_ids [rows, tokens], attention_mask [rows, tokens] of zeros and ones; both int64, any number of each
    output     logits [rows, tokens, V] in fp32

No keys and values are handed over between calls: a call reads the whole text. That is what scoring, classifying and embedding need;
to write long answers, one of the other forms is faster. Weights are fp32, external, so no file format's 2 GB limit is met.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, missing_part

from .folder import read_config

FILE, DATA = "model.onnx", "model.onnx_data"
_OPSET = 18


def refuse(folder: Path) -> None:
    """Raises MissingPart where no exporter is installed, ModelError for a window that slides within the context."""
    from importlib.util import find_spec

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_part(package, "onnx", "an ONNX export")
    config = read_config(folder)
    kinds = config.get("layer_types") or ["full_attention"]
    slides = (
        config["model_type"] == "mistral" or "sliding_attention" in kinds or config.get("use_sliding_window")
    )
    window = config.get("sliding_window")
    if slides and window and window < config["max_position_embeddings"]:
        raise ModelError(
            f"this model attends through a window of {window:,} tokens, which the ONNX export does not write.",
            remedy="Export it as merged, int8 or int4.",
        )


def write(source: Path, out: Path) -> None:
    """Fill `out` with the two files. Raises MissingPart, ModelError."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    refuse(source)
    transformers_logging.disable_progress_bar()
    # Plain attention: the varlen kernels of this project are no part of ONNX.
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager", local_files_only=True, use_safetensors=True,
        trust_remote_code=False,
    ).eval()  # fmt: skip
    ids = torch.ones(2, 7, dtype=torch.int64)
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    names = {0: rows, 1: tokens}
    out.mkdir(parents=True, exist_ok=True)
    exporter = logging.getLogger("torch.onnx")  # it tells of every package that it could also use
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _whole(model), (ids, torch.ones_like(ids)), dynamo=True, opset_version=_OPSET, verbose=False,
                input_names=["input_ids", "attention_mask"], output_names=["logits"],
                dynamic_shapes={"input_ids": names, "attention_mask": names},
            )  # fmt: skip
            program.save(str(out / FILE), external_data=True)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"this model cannot be exported to ONNX: {str(error).strip().splitlines()[0][:200]}",
            remedy="Export it as merged, int8 or gguf.",
        ) from error
    finally:
        exporter.setLevel(level)
    _tidy(out)


def _whole(model: Any) -> Any:
    """(ids, mask) -> logits, with positions and the causal mask computed in the graph."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            tokens = input_ids.shape[1]
            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
            at = torch.arange(tokens)
            seen = (at[None, :] <= at[:, None])[None, None] & (attention_mask[:, None, None, :] > 0)
            mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
            return self.model(
                input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).logits

    return Whole().eval()


def _tidy(out: Path) -> None:
    """The weights' file gets the name that tools of the field look for; what the exporter noted of this machine (paths, stack
    traces) is taken out."""
    import onnx

    model = onnx.load(str(out / FILE), load_external_data=False)
    made = None
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        for entry in tensor.external_data:
            if entry.key == "location":
                made, entry.value = entry.value, DATA
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *(n for f in model.functions for n in f.node)):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, str(out / FILE))
    if made is not None and made != DATA:
        (out / made).rename(out / DATA)
