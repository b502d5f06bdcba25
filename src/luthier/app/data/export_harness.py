"""A dataset's test rows leave as a task of lm-evaluation-harness: one YAML file for each task, and the rows beside it.

The same rules as for every export: never into what is there, read back, recorded. Train and validation rows stay behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.app.lineage import EXPORTED
from luthier.core.artifact import Artifact, short
from luthier.core.errors import SpecError
from luthier.core.spec import resolve
from luthier.evaluation import questions
from luthier.evaluation.harness.tasks import configs, lines, yaml_of
from luthier.evaluation.spec import EvaluateSpec
from luthier.store import Store

from . import export_files as files
from .find import SPLITS, Looking, names_of, row_count

ROWS = "test.jsonl"


def write(
    store: Store, dataset: Artifact, folder: Path, to: str, look: Looking, environ: Mapping[str, str]
) -> dict[str, Any]:
    """{"format", "rows" by side, "files", "tasks", "left_out"}. Raises SpecError for a URL: the harness reads local files."""
    written = resolve(to, environ)
    if "://" in written:
        raise SpecError(
            f"{to} is a URL, and the harness reads its rows from this machine.",
            remedy="Name a folder that does not exist yet.",
        )
    task = json.loads((folder / files.LAST).read_text(encoding="utf-8"))["task"]
    asked = questions.read(folder / "test.parquet")
    rows, left = lines(asked, task["labels"] if task["kind"] == "classify" else None)
    found = configs(
        _name(store, dataset),
        task,
        str(Path(written).expanduser().absolute() / ROWS),
        _longest(store, dataset),
    )
    into = files.folder_at(to, environ)

    def alive() -> None:
        look.progress("reading back", len(rows), len(rows))

    made = []
    with into.filling():
        made.append(files.write(into, ROWS, ("".join(f"{line}\n" for line in rows).encode(),), alive))
        for name, config in found.items():
            made.append(files.write(into, f"{name}.yaml", (yaml_of(config),), alive))
        made.append(files.write(into, files.LAST, files.bytes_of(folder / files.LAST), alive))
    return {
        "format": "lm-eval",
        "rows": {side: len(rows) if side == "test" else 0 for side in SPLITS},
        "files": sorted(one["path"] for one in made),
        "tasks": list(found),
        "left_out": left + row_count(folder, "test") - len(asked),  # what nobody is to answer is not asked
    }


def _name(store: Store, dataset: Artifact) -> str:
    """What the harness calls the task: letters, digits and underscores, of the newest release's name."""
    named = names_of(store, dataset)
    name = named[-1].partition("@")[0] if named else f"dataset_{short(dataset.digest)}"
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").lower()


def _longest(store: Store, dataset: Artifact) -> int:
    """The longest answer that our own evaluation of these rows allowed; its default where there was none."""
    reports = [one for one in store.catalog.descendants(dataset.digest, but=EXPORTED) if one.kind == "report"]
    told = [int(one.spec["max_tokens"]) for one in reports if "max_tokens" in one.spec]
    return told[-1] if told else EvaluateSpec().max_tokens
