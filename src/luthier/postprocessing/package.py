"""The stage that packs a tuned model for a server, and for any other tool that reads Hugging Face folders.

    inputs: model (tuned), base, dataset, calibration where there is one
    out:    luthier.json   everything a server needs to know besides weights
            adapter/       peft's layout, with the base's tokenizer and chat template; plain peft loads it
            merged/        one whole model; plain transformers loads it
            (each with head.safetensors where training put a head on the model)
            parity.json    how far each form says what the trained model says (parity.py)

luthier.json: {"role": "package", "forms", "base_digest", "base_name", "model_digest", "task", and how answers are made (_said):
"constrain", "answering", "temperature", "isotonic", "abstain_below"}. `forms` lists the folders; without merged/ a server needs the
base artifact too. Schemas and lists stand in it whole; a local fallback is a parent, as the base is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage
from luthier.data.shards import Side
from luthier.data.tools import said
from luthier.models.spec import KEPT_BESIDE
from luthier.models.weights import describe

from . import parity
from .spec import PostprocessSpec

LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*")
HEAD = "head.safetensors"  # models/head.FILE, named here so that torch stays out
OURS_ALONE = ("luthier.json", "history.json", "rows.parquet")


def package(
    spec: PostprocessSpec,
    inputs: Mapping[str, Artifact],
    out: Path,
    scratch: Path,  # noqa: ARG001 - every stage has this signature
    at: Context,
) -> Output:
    """Fill `out`. Raises SpecError or ModelError before the first byte is written."""
    model, base = at.folder(inputs["model"]), at.folder(inputs["base"])
    tuned = json.loads((model / "luthier.json").read_text(encoding="utf-8"))
    if tuned["base_digest"] != inputs["base"].digest:
        raise ModelError(
            f"the model was tuned from base {short(tuned['base_digest'])}, and base {inputs['base']} was given.",
            remedy="Package it with the base that it was tuned from.",
        )
    said = _said(spec, tuned["task"], (model / HEAD).is_file(), inputs, at)
    forms = spec.forms(tuned["adapter"])
    for done, form in enumerate(forms):
        at.check()
        at.progress("package", done, len(forms), form=form)
        _fill(out / form, form, tuned["adapter"], model, base)
        if (model / HEAD).is_file():
            shutil.copyfile(model / HEAD, out / form / HEAD)
    at.progress("package", len(forms), len(forms), form="parity")
    folders: dict[str, Path] = {form: out / form for form in forms}
    rows = _conversations(at.folder(inputs["dataset"]))
    agreed = parity.check(model, base, folders, rows, describe(base).context)
    (out / "parity.json").write_text(json.dumps(agreed, indent=1) + "\n", encoding="utf-8")
    facts = {
        "role": "package",
        "forms": list(forms),
        "base_digest": tuned["base_digest"],
        "base_name": json.loads((base / "luthier.json").read_text(encoding="utf-8"))["name"],
        "model_digest": inputs["model"].digest,
        "task": tuned["task"],
        **said,
    }
    (out / "luthier.json").write_text(
        json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    size_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Output({"forms": list(forms), "constrain": said["constrain"], "size_bytes": size_bytes})


STAGE = Stage("package", 3, package)


def _conversations(dataset: Path) -> list[parity.Row]:
    """A few rows: of validation where there are such, else of train; the shortest of the first by id, so that it is quick."""
    for name in ("validation", "train"):
        head = next(Side(dataset / f"{name}.parquet").batches(["messages", "text", "tools"], 200), None)
        rows = [] if head is None else head.to_pylist()
        if rows:
            told = [said(row) if row["messages"] else row["text"] for row in rows]
            return sorted(told, key=lambda one: len(json.dumps(one)))[: parity.ROWS]
    return []


def _said(
    spec: PostprocessSpec,
    task: Mapping[str, Any],
    own_head: bool,
    inputs: Mapping[str, Artifact],
    at: Context,
) -> dict[str, Any]:
    """The keys of luthier.json that say how an answer is made of what the model says; serving/package reads them. `constrain` is
    what a reader without the steps can keep to."""
    answering = spec.answering(task["kind"], own_head).bound(task)
    answering.check()
    heat, knots, bar = _calibrated(spec, inputs, at)
    return {
        "constrain": "labels" if answering.constrain == "labels" else None,
        "answering": None if answering.plain_way else answering.plain(),
        "temperature": heat,
        "isotonic": knots,
        "abstain_below": bar,
    }


def _calibrated(
    spec: PostprocessSpec, inputs: Mapping[str, Artifact], at: Context
) -> tuple[float, list[list[float]] | None, float | None]:
    """(temperature of the labels' probabilities, isotonic knots, the confidence below which nothing is answered)."""
    if "calibration" not in inputs:
        return 1.0, None, spec.abstain_below
    found = json.loads((at.folder(inputs["calibration"]) / "calibration.json").read_text(encoding="utf-8"))
    bar, knots = spec.abstain_below, found.get("isotonic")
    if spec.abstain is not None:
        if found["threshold"] is None:
            raise ModelError(
                f"postprocess.abstain: {found['why']}.",
                remedy="Tolerate a larger risk, give more validation rows, or leave `abstain` out. The model and its report are kept.",
            )
        bar = found["threshold"]["at"]
    return found["temperature"], knots, bar


def _fill(folder: Path, form: str, adapter: str, model: Path, base: Path) -> None:
    if form == "adapter":
        from luthier.models.adapters import copy_tokenizer
        from luthier.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

        folder.mkdir()
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(model / name, folder / name)
        copy_tokenizer(base, folder)
        _copy(base, folder, ("generation_config.json", *LICENCE_FILES))
    elif adapter in KEPT_BESIDE:
        from luthier.models.merge import merge

        merge(base, model, folder)
        _copy(base, folder, LICENCE_FILES)
    else:
        shutil.copytree(
            model, folder, ignore=shutil.ignore_patterns(*OURS_ALONE), copy_function=shutil.copyfile
        )
        _copy(base, folder, LICENCE_FILES)


def _copy(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Copy the bytes of what matches; times and modes stay behind."""
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
