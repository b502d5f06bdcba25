"""The stage that makes one model of several that were tuned from one base: adapters, whole models, or both.

    inputs: base; model.0, model.1, .. (tuned, in the order of the weights); dataset where the first of them has one
    out:    a whole Hugging Face folder, as full fine-tuning leaves one: it is measured, packed and served like any other
            luthier.json   as a tuned model's, with `merged`: the law and the models; the task is the first model's
            history.json   no steps: nothing was trained

Works on the files: at any moment the memory holds one tensor of the base, of each model, and the result, in fp32
(docs/packages.md has what was measured). The laws: models/combine.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage
from luthier.models.folder import read_json
from luthier.models.weights import ADAPTER_CONFIG

from .merge_spec import MergeSpec

HEAD = "head.safetensors"  # models/head.FILE, named here so that torch stays out
_ONE_TOKENIZER = (
    "Merge models that read text as the same tokens; each keeps its base's tokenizer when tuned here."
)


def merge_models(
    spec: MergeSpec,
    inputs: Mapping[str, Artifact],
    out: Path,
    scratch: Path,  # noqa: ARG001 - every stage has this signature
    at: Context,
) -> Output:
    """Fill `out`. Raises ModelError, naming the model and what of it does not fit, before the first byte is written."""
    base = at.folder(inputs["base"])
    given = [inputs[role] for role in model_roles(inputs)]
    folders = [at.folder(one) for one in given]
    told = [read_json(folder / "luthier.json") for folder in folders]
    for artifact, folder, facts in zip(given, folders, told, strict=True):
        refuse_strangers(artifact, folder, facts, inputs["base"], base)
    sources = [_reader(base, folder, artifact) for artifact, folder in zip(given, folders, strict=True)]
    tensors = _write(spec, base, sources, out, at)
    merged = {
        "method": spec.method.plain(),
        "models": [
            {"digest": one.digest, "weight": weight} for one, weight in zip(given, spec.weights, strict=True)
        ],
    }
    facts = {
        "role": "tuned",
        "adapter": "full",
        "base_digest": inputs["base"].digest,
        "task": told[0]["task"],
        "merged": merged,
    }
    _write_json(out / "luthier.json", facts)
    _write_json(
        out / "history.json",
        {"steps": [], "validation": [], "stopped": "merged, not trained", "merged": merged},
    )
    return Output({"method": spec.method.kind, "models": len(given), "tensors": tensors})


# version 1: the first.
STAGE = Stage("model", 1, merge_models)


def model_roles(inputs: Mapping[str, Any]) -> list[str]:
    """`model.0`, `model.1`, .. in the order of their numbers."""
    return sorted(
        (role for role in inputs if role.startswith("model.")), key=lambda r: int(r.partition(".")[2])
    )


def refuse_strangers(
    artifact: Artifact, folder: Path, facts: Mapping[str, Any], base: Artifact, base_folder: Path
) -> None:
    """Raises ModelError for a model of another base, with a head of its own, or with another tokenizer or template."""
    if facts.get("role") != "tuned":
        raise ModelError(f"{artifact} is not a tuned model.", remedy="Name releases or tuned models.")
    if facts["base_digest"] != base.digest:
        raise ModelError(
            f"{artifact} was tuned from base {short(facts['base_digest'])}, and the first model from {short(base.digest)}.",
            remedy="Only models of one base can be merged: what they learnt is counted from it.",
        )
    if (folder / HEAD).is_file():
        raise ModelError(
            f"{artifact} has a head of its own, and heads of different trainings cannot be merged.",
            remedy="Merge models that were trained by sft or a preference method.",
        )
    if (folder / ADAPTER_CONFIG).is_file():
        return
    for name, what in (("tokenizer.json", "tokenizer"), ("chat_template.jinja", "chat template")):
        mine, its = (place / name for place in (base_folder, folder))
        if (mine.is_file(), its.is_file()) == (False, False):
            continue
        if mine.is_file() != its.is_file() or mine.read_bytes() != its.read_bytes():
            raise ModelError(f"{artifact} has another {what} than its base.", remedy=_ONE_TOKENIZER)


def _reader(base: Path, folder: Path, artifact: Artifact) -> Callable[[str], Any]:
    """Tensor name -> fp32 tensor of this model. Its names and shapes are checked here, before anything is written."""
    from luthier.models.merge import changes_of
    from luthier.models.tensor_file import Tensors

    below = Tensors(base)
    if (folder / ADAPTER_CONFIG).is_file():
        changes = changes_of(folder, below.stored)

        def adapted(name: str) -> Any:
            weight = below.read(name).float()
            return changes[name](weight) if name in changes else weight

        return adapted
    own = Tensors(folder)
    if odd := sorted(set(own.stored) ^ set(below.stored)):
        has = "lacks" if odd[0] in below.stored else "has, beyond its base,"
        raise ModelError(
            f"{artifact} {has} the tensor {odd[0]!r}.", remedy="Merge models of one base and one build."
        )
    for name, tensor in own.stored.items():
        if tensor.shape != below.stored[name].shape:
            raise ModelError(
                f"{artifact}: the tensor {name!r} has the shape {tensor.shape}, and in the base {below.stored[name].shape}.",
                remedy="Merge models of one base.",
            )
    return lambda name: own.read(name).float()


def _write(
    spec: MergeSpec, base: Path, sources: Sequence[Callable[[str], Any]], out: Path, at: Context
) -> int:
    import torch

    from luthier.models.merge import write_settings
    from luthier.models.tensor_file import Tensors, TensorWriter, dtype_of

    below = Tensors(base)
    stored_as = {"fp32": "F32", "bf16": "BF16", None: None}[spec.dtype]
    done = 0
    for file in sorted({tensor.file for tensor in below.stored.values()}):
        plan = {
            name: (stored_as or tensor.dtype, tensor.shape)
            for name, tensor in sorted(below.stored.items())
            if tensor.file == file
        }
        with TensorWriter(out / file.name, plan) as writer:
            for name, (form, _) in plan.items():
                at.check()
                at.progress("merge", done, len(below.stored))
                one = _combined(spec, name, below, sources)
                if not torch.isfinite(one).all():
                    raise ModelError(
                        f"the merged tensor {name!r} is not finite.",
                        remedy="Lower the weights, or look for a broken model among those that are merged.",
                    )
                writer.write(name, one.to(dtype_of(form)))
                done += 1
    write_settings(base, out, spec.dtype)
    return done


def _combined(spec: MergeSpec, name: str, below: Any, sources: Sequence[Callable[[str], Any]]) -> Any:
    from luthier.models import combine

    law, weights = spec.method, spec.weights
    models = [source(name) for source in sources]
    if law.kind == "linear":
        return combine.linear(models, weights)
    if law.kind == "slerp":
        return combine.slerp(models[0], models[1], law.t)
    base = below.read(name).float()
    if law.kind == "task_arithmetic":
        return combine.task_arithmetic(base, models, weights)
    if law.kind == "ties":
        return combine.ties(base, models, weights, law.density)
    return combine.dare(base, models, weights, law.density, law.seed, name, elect=law.then == "ties")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
