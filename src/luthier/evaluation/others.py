"""Other language models that are measured beside the tuned one: the release in use, candidates, other bases.

Each is a folder with what it was tuned from and, of a release or a package, the way that it is served: it is asked through its own
template, and what it says goes through its own steps, its own calibration and its own vote (refining.Refining.as_served).
Where it is an adapter on the very base that is in memory, those weights are used once more: one adapter is taken off and the
next put on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.stage import Context

from .spec import EvaluateSpec

NO_RELEASE = "nothing has been released under this name that is another model, so there was none in use to compare with"


@dataclass(frozen=True)
class Other:
    """`folder` holds the model; `base` what it was tuned from, None where it is a base itself. `digests`: of both. `served`: the
    luthier.json of its package; nothing where it was never packed."""

    folder: Path
    base: Path | None
    digests: tuple[str, ...]
    served: Mapping[str, Any] = field(default_factory=dict)

    @property
    def adapter(self) -> bool:
        return self.base is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def speaks(self) -> Path:
        """Where its tokenizer and its facts are."""
        return self.base if self.base is not None and self.adapter else self.folder


def roles(name: str) -> dict[str, str]:
    """What each part of a system is called among the parents of a report.

    >>> roles("production")["model"]
    'production/model'
    """
    return {part: f"{name}/{part}" for part in ("release", "package", "model", "base")}


def found(spec: EvaluateSpec, inputs: Mapping[str, Artifact], at: Context) -> dict[str, Other]:
    """Of the systems that the spec names, those that the stage was given."""
    given = {}
    for name in (name for name in spec.named if spec.kind_of(name) == "model"):
        role = roles(name)
        if role["model"] not in inputs:
            continue
        model, base = inputs[role["model"]], inputs.get(role["base"])
        digests = (model.digest, base.digest) if base else (model.digest,)
        package = inputs.get(role["package"])
        served = {} if package is None else _read(at.folder(package) / "luthier.json")
        given[name] = Other(at.folder(model), at.folder(base) if base else None, digests, served)
    return given


def unfit(other: Other, task: Mapping[str, Any]) -> str | None:
    """Why a model cannot be asked these rows, if it cannot."""
    facts = _read(other.folder / "luthier.json")
    theirs = facts.get("task") or {}
    if theirs and theirs.get("kind") != task["kind"]:
        return f"it was tuned for a {theirs.get('kind')} task, and this is a {task['kind']} task"
    if (other.folder / "head.safetensors").is_file() and theirs.get("labels") != task["labels"]:
        return "it answers with a head of its own, whose labels are others than those of these rows"
    return None


def same_base(others: Mapping[str, Other], names: Iterable[str], base_digest: str) -> list[str]:
    """Those that are adapters on this base: their weights need not be loaded again."""
    return [name for name in names if others[name].adapter and others[name].digests[1] == base_digest]


def swapped(model: Any, folder: Path) -> Any:
    """The adapter of a folder, with its head, in the place of that which the model has; the base's weights stay where they are."""
    from luthier.models.adapters import attach_saved
    from luthier.models.head import load as load_head

    plain = model.unload()
    if hasattr(plain, "peft_config"):
        del plain.peft_config  # else peft takes it for a model that is changed twice
    other = attach_saved(plain, folder).eval()
    load_head(other, folder)
    return other


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told
