"""The stage that packs a tuned model for a server, and for the tools of the field.

    inputs: model (tuned), base, dataset, calibration where there is one
    out:    luthier.json     everything a server needs to know besides weights
            FORM/            one folder for each form that is wished (forms.py): weights, tokenizer, chat template, generation
                             settings, licence and a card of its own (complete.py)
            parity.json      how far each form, and the server, say what the trained model says (parity.py)
            SHA256SUMS       of every file (sums.py)

A head that training put on the model goes along as head.safetensors in the forms that our own engine serves.

luthier.json: {"role": "package", "forms", "base_digest", "base_name", "model_digest", "task", "vllm", and how answers are made (_said):
"constrain", "answering", "temperature", "isotonic", "abstain_below"}. `forms` lists the folders; without whole weights a server needs
the base artifact too. Schemas and lists stand in it whole; a local fallback is a parent, as the base is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import ModelError
from luthier.core.stage import Context, Output, Stage
from luthier.data.shards import Side
from luthier.data.tools import said
from luthier.models.spec import KEPT_BESIDE
from luthier.models.weights import describe

from . import forms as kinds
from . import parity, reading, sums
from .complete import GENERATION, complete, licence_of, vllm_ready
from .spec import Form, PostprocessSpec

HEAD = "head.safetensors"  # models/head.FILE, named here so that torch stays out
OURS_ALONE = ("luthier.json", "history.json", "rows.parquet")


def package(
    spec: PostprocessSpec,
    inputs: Mapping[str, Artifact],
    out: Path,
    scratch: Path,
    at: Context,
    *,
    serve: parity.Serve | None = None,
) -> Output:
    """Fill `out`. Raises SpecError or ModelError before the first byte is written, ModelError where a form is not the model."""
    model, base = at.folder(inputs["model"]), at.folder(inputs["base"])
    tuned = json.loads((model / "luthier.json").read_text(encoding="utf-8"))
    if tuned["base_digest"] != inputs["base"].digest:
        raise ModelError(
            f"the model was tuned from base {short(tuned['base_digest'])}, and base {inputs['base']} was given.",
            remedy="Package it with the base that it was tuned from.",
        )
    own_head = (model / HEAD).is_file()
    said = _said(spec, tuned["task"], own_head, inputs, at)
    forms = spec.forms(tuned["adapter"])
    kinds.refuse(forms, base, own_head=own_head)
    facts: dict[str, Any] = {
        "role": "package",
        "forms": list(forms),
        "base_digest": tuned["base_digest"],
        "base_name": json.loads((base / "luthier.json").read_text(encoding="utf-8"))["name"],
        "model_digest": inputs["model"].digest,
        "task": tuned["task"],
        "vllm": None,
        **said,
    }
    whole = _fill_all(forms, tuned["adapter"], model, base, out, scratch, facts, at)
    (out / "luthier.json").write_text(
        json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    at.progress("package", len(forms), len(forms), form="parity")
    rows = rows_to_compare(at.folder(inputs["dataset"])) if "dataset" in inputs else []
    if not rows:
        raise ModelError(
            "there is no row to hold the packed forms against the trained model with.",
            remedy="Package a model that came from a dataset, or merge models of which the first does.",
        )
    agreed = parity.check(
        model,
        base,
        {form: out / form for form in forms},
        rows,
        describe(base).context,
        scratch / "parity",
        whole=whole,
        tell=lambda form, one: at.emit("parity", form=form, **asdict(one)),
        serve=(serve, out) if serve and not own_head and any(f in kinds.SERVED for f in forms) else None,
    )
    (out / "parity.json").write_text(json.dumps(agreed, indent=1) + "\n", encoding="utf-8")
    sums.write(out)
    size_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    ready = facts["vllm"] and facts["vllm"]["ready"]
    return Output(
        {
            "forms": list(forms),
            "constrain": said["constrain"],
            "size_bytes": size_bytes,
            **({"vllm": ready} if ready is not None else {}),
        }
    )


def stage(serve: parity.Serve | None = None) -> Stage:
    """With the serving engine in the gate, where whoever knows one gives it."""
    # version 3: quantised, GGUF and ONNX forms; cards, licences and hashes in every form; weights written tensor by tensor; how
    # answers are made.
    return Stage("package", 3, partial(package, serve=serve) if serve else package)


STAGE = stage()


def _fill_all(
    forms: Sequence[Form],
    adapter: str,
    model: Path,
    base: Path,
    out: Path,
    scratch: Path,
    facts: dict[str, Any],
    at: Context,
) -> Path | None:
    """Every form's folder. Returns where the whole weights lie that forms were made from; merged ones that nobody wished stay in
    scratch."""
    whole = None
    if any(kinds.KINDS[form].whole for form in forms):
        whole = out / "merged" if "merged" in forms else scratch / "merged"
        shutil.rmtree(whole, ignore_errors=True)
        whole.parent.mkdir(parents=True, exist_ok=True)
        at.progress("package", 0, len(forms), form="merged")
        _fill(whole, "merged", adapter, model, base)
    for done, form in enumerate(forms):
        at.check()
        at.progress("package", done, len(forms), form=form)
        if form != "merged":
            source = base if whole is None or not kinds.KINDS[form].whole else whole
            _fill(out / form, form, adapter, model, source, facts)
        if (model / HEAD).is_file():
            shutil.copyfile(model / HEAD, out / form / HEAD)
        if form == "adapter":
            facts["vllm"] = vllm_ready(out / form)
        complete(out / form, form, base, facts)
    return whole


def rows_to_compare(dataset: Path) -> list[parity.Row]:
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


def _fill(
    folder: Path, form: Form, adapter: str, model: Path, source: Path, facts: Mapping[str, Any] | None = None
) -> None:
    """A form's weights with tokenizer and template. `source`: the base for adapter and merged, whole weights for others."""
    from luthier.models.adapters import copy_tokenizer

    if form == "merged":
        _fill_whole(folder, adapter, model, source)
        return
    folder.mkdir()
    if form == "adapter":
        from luthier.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS

        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(model / name, folder / name)
        copy_tokenizer(source, folder)
    elif form in ("int8", "int4"):
        from luthier.models.compressed import pack_folder

        pack_folder(source, folder, form)
        copy_tokenizer(source, folder)
    elif form == "onnx":
        from luthier.models import to_onnx

        to_onnx.write(source, folder)
        copy_tokenizer(source, folder)
        shutil.copyfile(source / "config.json", folder / "config.json")
    else:
        from luthier.models import to_gguf

        assert facts is not None
        to_gguf.write(source, folder / reading.GGUF, form, _about(facts, source))
    if (source / GENERATION).is_file():
        shutil.copyfile(source / GENERATION, folder / GENERATION)


def _fill_whole(folder: Path, adapter: str, model: Path, base: Path) -> None:
    if adapter in KEPT_BESIDE:
        from luthier.models.merge import merge

        merge(base, model, folder)
    else:
        shutil.copytree(
            model, folder, ignore=shutil.ignore_patterns(*OURS_ALONE), copy_function=shutil.copyfile
        )


def _about(facts: Mapping[str, Any], source: Path) -> dict[str, str | None]:
    """What a GGUF file says of itself, beside tensors and tokenizer."""
    return {
        "general.name": f"{facts['base_name'].rpartition('/')[2]}-tuned",
        "general.basename": facts["base_name"],
        "general.license": (licence_of(facts["base_name"], source) or "").lower() or None,
        "general.finetune": facts["task"]["kind"],
        "luthier.base_digest": facts["base_digest"],
        "luthier.model_digest": facts["model_digest"],
    }
