"""A release's model as a plain folder in the field's own formats, for tools that know nothing of Luthier."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SpecError
from luthier.postprocessing.package import HEAD
from luthier.store import Store
from luthier.store.files import explained


def export(store: Store, artifact: Artifact, target: Path, form: str) -> list[str]:
    """Fill `target`, which must not be there yet, and return the names of its files. `form`: adapter (peft) or merged."""
    if target.exists():
        raise SpecError(f"{target} is already there.", remedy="Name a folder that does not exist yet.")
    model = _model_of(store, artifact)
    folder = store.folder(model)
    is_adapter = (folder / "adapter_config.json").exists()
    if form == "adapter" and not is_adapter:
        raise ModelError(
            f"{artifact} was trained whole: it has no adapter.", remedy="Export it with --form merged."
        )
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if form == "merged" and is_adapter:
                from luthier.models.merge import merge

                partial.mkdir()
                merge(store.folder(store.catalog.get(model.parents["base"])), folder, partial)
                if (folder / HEAD).is_file():
                    shutil.copyfile(folder / HEAD, partial / HEAD)
            else:
                shutil.copytree(
                    folder,
                    partial,
                    ignore=shutil.ignore_patterns("rows.parquet", "history.json"),
                    copy_function=shutil.copyfile,
                )
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())


def _model_of(store: Store, artifact: Artifact) -> Artifact:
    if artifact.kind in ("release", "package"):
        artifact = store.catalog.get(artifact.parents["model"])
    if artifact.kind != "model":
        raise ModelError(
            f"a {artifact.kind} has no weights to export.",
            remedy="Name a release or a model (`luthier list`).",
        )
    return artifact
