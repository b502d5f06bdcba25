"""The forms a model is packed in, one row each: who reads it, how far its answers may be from the trained model's, what it
takes, and which models it cannot be made of.

Tolerances hold over the rows of the gate (parity.py). 16 bits round and nothing else; 8 bits move answers a little and 4 bits
visibly, more so in small models: docs/log.md has what was measured on SmolLM2-135M, the smallest model that is used here, and sets
those limits. They catch a form that is broken; whether one that is only coarse is good enough, its evaluation says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import SpecError
from luthier.models.shapes import Facts
from luthier.outputs.other import ANSWERING_FORMS

from .spec import Form


@dataclass(frozen=True)
class Kind:
    """`top_1`: the least share of tokens where form and trained model call the same one likeliest; `divergence`: the most mean
    KL(trained ‖ form), nats. `whole`: made from whole weights, which are merged first. `ours`: our own engine serves it."""

    what: str
    top_1: float
    divergence: float
    whole: bool = True
    ours: bool = True


KINDS: dict[Form, Kind] = {
    "adapter": Kind("adapter in peft's layout", 0.98, 0.02, whole=False),
    "merged": Kind("whole weights, transformers", 0.98, 0.02),
    "int8": Kind("8 bits per weight, compressed-tensors", 0.95, 0.03),
    "int4": Kind("4 bits per weight in groups of 32, compressed-tensors", 0.5, 0.8),
    "gguf": Kind("GGUF in 16 bits, llama.cpp", 0.98, 0.02, ours=False),
    "gguf-q8": Kind("GGUF Q8_0, llama.cpp", 0.95, 0.03, ours=False),
    "gguf-q4": Kind("GGUF Q4_1, llama.cpp", 0.5, 0.8, ours=False),
    "onnx": Kind("ONNX in fp32, ONNX Runtime", 0.98, 0.02, ours=False),
}
SERVED: tuple[Form, ...] = ANSWERING_FORMS
"""Which form our engine answers from, where a package has several: the first of these."""


def refuse(forms: Sequence[Form], base: Path, *, own_head: bool = False) -> None:
    """Raises SpecError, ModelError or MissingPart for a form that cannot be made of a model tuned from this base. Reads settings
    and headers only, so it is asked before training."""
    refuse_heads(forms, own_head)
    for form in forms:
        if form in ("int8", "int4"):
            from luthier.models.compressed import refuse_shapes
            from luthier.models.folder import stored_tensors

            refuse_shapes(stored_tensors(base), form)
        elif form.startswith("gguf"):
            from luthier.models import to_gguf

            to_gguf.refuse(base)
        elif form == "onnx":
            from luthier.models import to_onnx

            to_onnx.refuse(base)


def refuse_heads(forms: Sequence[Form], own_head: bool) -> None:
    """Raises SpecError where a model with a head of its own is wished for an engine that knows none."""
    for form in forms:
        if own_head and not KINDS[form].ours:
            raise SpecError(
                f"postprocess.export: {form} was asked, and its engine knows no head of a model's own.",
                remedy="Export it as adapter, merged, int8 or int4, or train with method: sft.",
            )


def size_bytes(form: Form, base: Path, facts: Facts, adapter_parameters: int) -> int:
    """What the form's weights will take on disk, of shapes and number formats alone."""
    from luthier.models.folder import stored_tensors

    stored = stored_tensors(base)
    if form == "adapter":
        return adapter_parameters * 4
    if form == "merged":
        return sum(tensor.end - tensor.start for tensor in stored.values())
    if form == "onnx":
        return facts.parameters * 4
    if form in ("int8", "int4"):
        from luthier.models.compressed import packed_bytes

        return packed_bytes(stored, form)
    from luthier.models import to_gguf

    return to_gguf.size_bytes(stored, form)
