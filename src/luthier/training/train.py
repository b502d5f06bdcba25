"""The stage: (base, dataset) -> model.

    inputs: base, dataset
    out:    adapter_model.safetensors + adapter_config.json   (lora)   or a whole Hugging Face folder   (full)
            luthier.json     role, adapter, base digest, task
            history.json     what was proven; figures of every step and validation, the unit of the loss; why it ended, what was kept
            rows.parquet     every row as it was tokenised: tokens, supervised tokens, how often it was seen, or why it was left out

`scratch` holds tokens and checkpoints. Files in `out` depend on spec, parents and machine alone.
Light at import: torch and transformers load when the stage runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, digest_of
from luthier.core.stage import Context, Output, Stage
from luthier.store.files import explained

from .memory import Lengths, limit_of, machine_bytes
from .method import Method
from .plan import forecast, refuse_impossible
from .spec import TrainSpec
from .stopping import refuse_unpriced, refuse_without_validation

if TYPE_CHECKING:
    from luthier.models.template import Template

    from .parallel import World
    from .rows import Rows

VERSION = 3
LINES_AT_ONCE = 50_000
TOKENS = Path("cache", "tokens")
"""Where under the home tokenised rows are kept, for all runs and trials; may be deleted at any time."""


def train(spec: TrainSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context) -> Output:
    from .launch import in_processes, launched, refuse_unshardable

    refuse_unpriced(spec.stop_at.money, at.hourly)
    if spec.parallel.kind != "none" and not launched():
        refuse_unshardable(spec)
        return in_processes(spec, inputs, out, scratch, at)
    from luthier.models.libraries import load_libraries

    load_libraries()
    from .parallel import joined

    with joined(spec) as world:
        return _train(spec, inputs, out, scratch, at, world)


def _train(
    spec: TrainSpec,
    inputs: Mapping[str, Artifact],
    out: Path,
    scratch: Path,
    at: Context,
    world: World,
) -> Output:
    from luthier.models.fast import kernels
    from luthier.models.weights import describe

    from .assembly import assemble
    from .checkpoint import Checkpoints
    from .loop import Loop
    from .parallel import Sharded, first_goes_ahead
    from .proof import dropped, prove
    from .rows import warn_of_unread

    base, dataset = at.folder(inputs["base"]), at.folder(inputs["dataset"])
    facts, about = describe(base), json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    parents = {role: artifact.digest for role, artifact in sorted(inputs.items())}
    method: Method = spec.method.load()(spec.method.settings)
    with first_goes_ahead(world):
        splits, template = tokenised(
            spec, method, base, dataset, facts.context, parents, at.home / TOKENS, at
        )

    identity = digest_of({"spec": spec.plain(), "parents": parents, "version": VERSION})
    folders = {role: at.folder(artifact) for role, artifact in inputs.items()}
    turn = partial(first_goes_ahead, world)
    made = assemble(spec, method, folders, splits, template, scratch, identity, at, turn)
    model, machine = made.model, made.machine
    if isinstance(world, Sharded):
        made = world.shard(made)
    loop = Loop(
        spec,
        model,
        made.parameters,
        method,
        splits["train"],
        splits["validation"],
        machine,
        Checkpoints(scratch / "checkpoints", identity, writes=world.rank == 0),
        at,
        world,
    )
    warn_of_unread(spec.method.name, method, dataset / "train.parquet", at)
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
    others = {role: describe(folders[role]) for role in spec.other_models}
    planned = forecast(
        made.spec, facts, Lengths.of(splits, made.spec), None, machine.dtype, others, device=machine.device
    ).peak_total_bytes
    proven = prove(
        spec, made, splits, template, dataset, planned, machine_bytes(machine.device), at, made.quick
    )
    if dropped(proven):
        loop.machine = replace(machine, kernels="plain", fused=False)
        with kernels.plainly():
            state = loop.run()
    else:
        state = loop.run()

    history = {**state.history(loop.watch), "unit": method.unit, "proof": proven}
    if isinstance(world, Sharded):
        made = world.unsharded(made, base)
    if world.rank != 0:
        return Output(_summary(history, trained))
    name = json.loads((base / "luthier.json").read_text(encoding="utf-8"))["name"]
    if made.quick is not None:
        made.quick.restore()
    with explained(out):
        method.save(made.model, out)
        made.adapter.save(made.model, out, name)
        told = {
            "role": "tuned",
            "adapter": spec.adapter.kind,
            "base_digest": parents["base"],
            "task": about["task"],
        }
        _write_json(out / "luthier.json", told)
        _write_json(out / "history.json", history)
        last_step = max(history["kept"]["steps"])
        _write_rows(out / "rows.parquet", spec, splits, last_step, limit_of(spec, facts.context))
    return Output(_summary(history, trained))


STAGE = Stage("model", VERSION, train)


def tokenised(
    spec: TrainSpec,
    method: Method,
    base: Path,
    dataset: Path,
    context: int,
    identity: Mapping[str, str],
    kept: Path,
    at: Context,
) -> tuple[dict[str, Rows], Template]:
    """The train and validation splits as tokens, checked, and the template that made them. `identity` names the
    dataset; the tokens stand in the folder `kept`. Raises SpecError, DataError, ModelError."""
    from luthier.models.spec import refuse_strange_layers
    from luthier.models.template import Template
    from luthier.models.weights import describe, load_tokenizer

    from .mixing import order_of
    from .rows import check_rows, read_split, settle_too_long

    counts = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["counts"]
    facts = describe(base)
    refuse_impossible(spec, context)
    refuse_strange_layers(spec.adapter, facts)
    refuse_without_validation(spec, counts["validation"])
    limit = limit_of(spec, context)
    template = Template(load_tokenizer(base), limit)
    told = {"dataset": identity.get("dataset"), "method": spec.method.plain()}
    splits = {
        split: read_split(dataset / f"{split}.parquet", method, template, told, kept, at)
        for split in ("train", "validation")
    }
    settle_too_long(splits, limit, context, spec.too_long, at)
    check_rows(splits, facts.vocabulary)
    method.check(splits)
    order_of(spec, splits["train"])  # refuses sources that are not there
    refuse_without_validation(spec, len(splits["validation"]))  # all of its rows may have been left out
    return splits, template


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
        encoding="utf-8",
    )


def _write_rows(path: Path, spec: TrainSpec, splits: Mapping[str, Rows], last_step: int, limit: int) -> None:
    """`seen` counts the steps that the kept weights went through: those up to the last one kept."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .mixing import order_of
    from .rows import ledger

    order = order_of(spec, splits["train"])
    seen = np.zeros(len(splits["train"]), np.int32)
    for step in range(1, last_step + 1):
        np.add.at(seen, order.step(step), 1)  # a row may stand twice in a step
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
    lines = ledger(splits, seen, limit)
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(lines, LINES_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _summary(history: Mapping[str, Any], trained: int) -> dict[str, Any]:
    steps, kept = history["steps"], history["kept"]
    return {
        "steps": len(steps),
        "best_step": history["best_step"],
        "stopped": history["stopped"],
        "kept": kept["how"],
        "loss": steps[-1]["loss"] if steps else None,
        "validation_loss": kept["loss"],
        "tokens": sum(one["tokens"] for one in steps),
        "trained_parameters": trained,
    }
