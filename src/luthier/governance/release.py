"""The stage that makes a release: what a name will point at. It binds package, report, model, dataset and base by
digest and writes the model card from their own files, so that the card cannot say more than the records do.

    inputs: package, report, model, dataset, base
    out:    release.json, MODEL_CARD.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.spec import Spec
from luthier.core.stage import Context, Output, Stage
from luthier.data.prepare import source_names
from luthier.data.spec import SourceSpec
from luthier.evaluation.spec import GateSpec

from .card import card, kept_weights
from .policy import judge, permit
from .waiver import WaiverSpec, covers, honest, told


class ReleaseSpec(Spec):
    """What is published, and the gate it passed."""

    name: str
    """The name whose next version this is."""
    gate: GateSpec = Field(default_factory=dict)
    """The rules that the report was judged by."""
    waivers: list[WaiverSpec] = Field(default_factory=list)
    """Rules that it breaks and that a person let pass."""


def publish(
    spec: ReleaseSpec,
    inputs: Mapping[str, Artifact],
    out: Path,
    scratch: Path,  # noqa: ARG001 - every stage has this signature
    at: Context,
) -> Output:
    """Fill `out`. The gate is judged again here, and waivers are held to it, so nothing is published that did not pass and was
    not let pass. Raises GateFailed."""
    report = _json(at.folder(inputs["report"]) / "report.json")
    verdicts = judge(spec.gate, report)
    honest(spec.waivers, verdicts, inputs["report"].digest)
    permit(verdicts, lambda verdict: covers(spec.waivers, verdict))
    verdicts = [replace(one, waived=covers(spec.waivers, one)) for one in verdicts]
    (out / "MODEL_CARD.md").write_text(card(_facts(spec, inputs, report, verdicts, at)), encoding="utf-8")
    bound: dict[str, Any] = {
        "name": spec.name,
        **{f"{role}_digest": a.digest for role, a in sorted(inputs.items())},
    }
    bound |= {"gate": [asdict(one) for one in verdicts], "waivers": told(spec.waivers)}
    (out / "release.json").write_text(json.dumps(bound, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    metrics = report["systems"]["tuned"]["metrics"]
    return Output(
        {
            "name": spec.name,
            "rows": report["rows"],
            **(
                {"waived": ", ".join(dict.fromkeys(one.metric for one in spec.waivers))}
                if spec.waivers
                else {}
            ),
            **{k: v for k, v in metrics.items() if isinstance(v, int | float)},
        }
    )


STAGE = Stage("release", 3, publish)


def _facts(
    spec: ReleaseSpec, inputs: Mapping[str, Artifact], report: Any, verdicts: Any, at: Context
) -> dict[str, Any]:
    model, dataset = at.folder(inputs["model"]), at.folder(inputs["dataset"])
    data, tuned = _json(dataset / "dataset.json"), _json(model / "luthier.json")
    history, base = _json(model / "history.json"), _json(at.folder(inputs["base"]) / "luthier.json")
    wished = dict(inputs["model"].spec)
    ((method, settings),) = wished.pop("method").items()
    last = history["steps"][-1] if history["steps"] else {}
    return {
        "name": spec.name,
        "base": {"name": base["name"], "license": base.get("license"), "parameters": base.get("parameters")},
        "task": data["task"],
        "data": {
            "sources": [{"name": name} for name in _sources(inputs["dataset"].spec["data"]["sources"])],
            "counts": data["counts"], "labels": data.get("labels"), "rules": _json(dataset / "rules.json"),
        },
        "training": {
            "method": method, "adapter": tuned["adapter"], "steps": last.get("step"),
            "tokens": sum(s["tokens"] for s in history["steps"]), "supervised": sum(s["supervised"] for s in history["steps"]),
            "stopped": history["stopped"], "kept": kept_weights(history), "hyperparameters": {**settings, **wished},
        },
        "report": report,
        "gate": [{"metric": v.metric, "rule": v.rule, "passed": v.passed, "reason": v.reason, "waived": v.waived} for v in verdicts],
        "waivers": told(spec.waivers), "canaries": data.get("canaries"),
        "lineage": {role: a.digest for role, a in sorted(inputs.items())},
    }  # fmt: skip


def _sources(written: Sequence[Mapping[str, Any]]) -> list[str]:
    """What records of each are called: a card leaves the company, and paths, buckets and hosts should not."""
    return source_names([SourceSpec.model_validate(one) for one in written])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
