"""A release's model as a plain folder in the field's own formats, for tools that know nothing of Luthier.

What the release's package holds is copied; another form is packed now, through the same gate, and kept for the next time.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SpecError, did_you_mean
from luthier.postprocessing import sums
from luthier.postprocessing.spec import FORMS, PostprocessSpec
from luthier.store.files import explained

from .context import RunContext
from .line import Make
from .packing import PACKAGE

BESIDE = ("luthier.json", "parity.json")
"""What of a package goes along with each of its forms."""


@dataclass(frozen=True)
class Exported:
    """`files`: their paths in the folder."""

    folder: str
    form: str
    files: list[str]
    size_bytes: int


def export(at: RunContext, artifact: Artifact, target: Path, form: str) -> Exported:
    """Fill `target`, which must not be there yet, with one form of a model: weights and what belongs beside them, facts, what
    was checked, and SHA256SUMS."""
    check_form(form)
    if target.exists():
        raise SpecError(f"{target} is already there.", remedy="Name a folder that does not exist yet.")
    package = _package_with(at, artifact, form)
    folder = at.store.folder(package)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(folder / form, partial, copy_function=shutil.copyfile)
            for name in BESIDE:
                shutil.copyfile(folder / name, partial / name)
            sums.write(partial)
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    found = sorted(path for path in target.rglob("*") if path.is_file())
    names = [path.relative_to(target).as_posix() for path in found]
    return Exported(str(target), form, names, sum(path.stat().st_size for path in found))


def check_form(form: str) -> None:
    """Raises SpecError for none."""
    if form not in FORMS:
        raise SpecError(f"there is no form {form!r}.", remedy=did_you_mean(form, FORMS))


def _package_with(at: RunContext, artifact: Artifact, form: str) -> Artifact:
    """The artifact's own package where it holds the form; else one with that form alone, made or found."""
    store = at.store
    if artifact.kind == "release":
        artifact = store.catalog.get(artifact.parents["package"])
    if artifact.kind == "package" and form in artifact.summary["forms"]:
        return artifact
    model = store.catalog.get(artifact.parents["model"]) if artifact.kind == "package" else artifact
    if model.kind != "model":
        raise ModelError(
            f"a {model.kind} has no weights to export.",
            remedy="Name a release or a model (`luthier list`).",
        )
    if "base" not in model.parents:
        raise ModelError(
            f"{model} is a base as it was imported, and nothing of it was tuned here.",
            remedy="Name a release or a tuned model; the base itself is wherever it came from.",
        )
    if artifact.kind == "package":
        wished, roles = dict(artifact.spec), artifact.parents
    else:
        wished, roles = {}, model.parents
    if form == "adapter" and not (store.folder(model) / "adapter_config.json").exists():
        raise ModelError(
            f"{artifact} was trained whole: it has no adapter.", remedy="Export it with --form merged."
        )
    parents: dict[str, Artifact | None] = {"model": model}
    for role in ("base", "dataset", "calibration", "fallback", "fallback_base"):
        if role in roles:
            parents[role] = store.catalog.get(roles[role])
    return Make(at)("package", PACKAGE, PostprocessSpec.model_validate({**wished, "export": [form]}), parents)
