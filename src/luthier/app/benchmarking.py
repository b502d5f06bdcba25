"""Tasks of lm-evaluation-harness on one of our models, kept as an artifact of kind `benchmark`: its parents are the model and
the base that it stands on, so lineage leads to it, and the same question is not asked twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError

from .answering import as_measured
from .context import RunContext
from .line import Make, import_base


def run_tasks(
    at: RunContext, reference: str, tasks: Sequence[str], *, include: bool, limit: int | None, shots: int | None, chat: bool,
    network: bool,
) -> dict[str, Any]:  # fmt: skip
    """{"benchmark": digest, "made", "model", "release" and what benchmark.json holds}. Where `include`, `at.root` is the folder."""
    from luthier.evaluation.harness.safely import fingerprint, version
    from luthier.evaluation.harness.spec import HarnessSpec
    from luthier.evaluation.harness.stage import STAGE

    installed = version()
    folder = fingerprint(at.root) if include else None
    asked = _artifact(at, reference)
    where = as_measured(at, asked)
    spec = HarnessSpec(
        tasks=list(tasks), include=folder, limit=limit, shots=shots, chat=chat, version=installed, dtype=where.dtype,
        device=where.device, network=network,
    )  # fmt: skip
    parents = _parents(at, asked)
    make = Make(at)
    made = make("benchmark", STAGE, spec, parents)
    found = json.loads((at.folder(made) / "benchmark.json").read_text(encoding="utf-8"))
    return {
        "benchmark": made.digest,
        "made": bool(make.made),
        "model": parents["model"].digest,
        "release": str(names[-1]) if (names := at.store.catalog.names_of(asked.digest)) else None,
        **found,
    }


def _artifact(at: RunContext, reference: str) -> Artifact:
    from luthier.models.known import KNOWN

    if reference in KNOWN and not at.store.catalog.history(reference):
        return import_base(reference, at)
    return at.store.catalog.get(reference)


def _parents(at: RunContext, asked: Artifact) -> dict[str, Artifact]:
    """The model that a reference means, and its base where the model is an adapter. A package says what its model says: it was
    compared with it when it was packed."""
    catalog = at.store.catalog
    model = catalog.get(asked.parents["model"]) if asked.kind in ("release", "package") else asked
    if model.kind != "model":
        raise ModelError(
            f"a {model.kind} cannot be asked anything.",
            remedy="Name a release, a package, a model or a known base (`luthier list model`).",
        )
    if not any(file.path == "adapter_config.json" for file in model.files):
        return {"model": model}
    return {"model": model, "base": catalog.get(model.parents["base"])}
