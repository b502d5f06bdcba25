"""The stage: (base, dataset) -> model.

    inputs: base, dataset
    out:    adapter_model.safetensors + adapter_config.json   (lora)   or a whole Hugging Face folder   (full)
            luthier.json     role, adapter, base digest, task
            history.json     loss, learning rate, gradient norm of every step; validation losses; the best step
            rows.parquet     every row: tokens, supervised tokens, how often it was seen, or why it was left out

`scratch` holds tokens and checkpoints. Files in `out` depend on spec, parents and machine alone.
Light at import: torch and transformers load when the stage runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, digest_of
from luthier.core.stage import Context, Output, Stage
from luthier.store.files import explained

from .batches import Order
from .method import Method
from .plan import limit_of, refuse_impossible
from .spec import TrainSpec

if TYPE_CHECKING:
    from luthier.models.template import Template

    from .rows import Rows

VERSION = 2


def train(spec: TrainSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context) -> Output:
    from luthier.models.weights import describe

    from .assembly import assemble
    from .checkpoint import Checkpoints
    from .loop import Loop

    base, dataset = at.folder(inputs["base"]), at.folder(inputs["dataset"])
    facts, about = describe(base), json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    parents = {role: artifact.digest for role, artifact in sorted(inputs.items())}
    method: Method = spec.method.load()(spec.method.settings)
    splits, template = tokenised(spec, method, base, dataset, facts.context, parents, scratch, at)

    identity = digest_of({"spec": spec.plain(), "parents": parents, "version": VERSION})
    folders = {role: at.folder(artifact) for role, artifact in inputs.items()}
    made = assemble(spec, method, folders, splits, template, scratch, identity, at)
    model, machine = made.model, made.machine
    loop = Loop(
        spec,
        model,
        made.parameters,
        method,
        splits["train"],
        splits["validation"],
        machine,
        Checkpoints(scratch / "checkpoints", identity),
        at,
    )
    trained = sum(p.numel() for _, p in made.parameters)
    at.emit(
        "training",
        **machine.plain(),
        steps=loop.total,
        rows=len(splits["train"]),
        trained_parameters=trained,
        parameters=facts.parameters,
    )
    if machine.device == "cuda":
        at.emit(
            "not_exact",
            reason="on CUDA some gradients are added up in no fixed order; a second run may differ in the last bits",
        )
    state = loop.run()

    name = json.loads((base / "luthier.json").read_text(encoding="utf-8"))["name"]
    with explained(out):
        method.save(model, out)
        made.adapter.save(model, out, name)
        told = {
            "role": "tuned",
            "adapter": spec.adapter.kind,
            "base_digest": parents["base"],
            "task": about["task"],
        }
        _write_json(out / "luthier.json", told)
        _write_json(out / "history.json", history := state.history())
        _write_rows(out / "rows.parquet", spec, splits, history["best_step"], limit_of(spec, facts.context))
    return Output(_summary(history, trained))


STAGE = Stage("model", VERSION, train)


def tokenised(
    spec: TrainSpec,
    method: Method,
    base: Path,
    dataset: Path,
    context: int,
    identity: Mapping[str, str],
    scratch: Path,
    at: Context,
) -> tuple[dict[str, Rows], Template]:
    """The train and validation splits as tokens, checked, and the template that made them. `identity` names base and
    dataset; tokens are kept in `scratch` under it. Raises SpecError, DataError, ModelError."""
    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    from .rows import check_rows, read_split, settle_too_long

    counts = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["counts"]
    refuse_impossible(spec, context, counts["validation"])
    limit = limit_of(spec, context)
    template = Template(load_tokenizer(base), limit)
    told = {**identity, "method": spec.method.plain()}
    splits = {
        split: read_split(dataset / f"{split}.parquet", method, template, told, scratch, at)
        for split in ("train", "validation")
    }
    settle_too_long(splits, limit, context, spec.too_long, at)
    check_rows(splits)
    refuse_impossible(spec, context, len(splits["validation"]))  # all of its rows may have been left out
    return splits, template


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
        encoding="utf-8",
    )


def _write_rows(path: Path, spec: TrainSpec, splits: Mapping[str, Rows], last_step: int, limit: int) -> None:
    """`seen` counts the steps that the kept weights went through: those up to the best step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .rows import ledger

    names = splits["train"].names
    order = Order(names, spec.seed, spec.batch.rows)
    seen = Counter(names[i] for step in range(1, last_step + 1) for i in order.step(step))
    schema = pa.schema(
        {
            "id": pa.string(),
            "split": pa.string(),
            "tokens": pa.int32(),
            "supervised": pa.int32(),
            "seen": pa.int32(),
            "skipped": pa.string(),
        }
    )
    pq.write_table(pa.Table.from_pylist(list(ledger(splits, seen, limit)), schema), path)


def _summary(history: Mapping[str, Any], trained: int) -> dict[str, Any]:
    best, steps = history["best_step"], history["steps"]
    validation = {one["step"]: one["loss"] for one in history["validation"]}
    return {
        "steps": len(steps),
        "best_step": best,
        "stopped": history["stopped"],
        "loss": steps[-1]["loss"],
        "validation_loss": validation.get(best),
        "tokens": sum(one["tokens"] for one in steps),
        "trained_parameters": trained,
    }
