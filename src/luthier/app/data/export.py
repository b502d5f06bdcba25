"""A dataset as a plain folder: its Parquet files, what was done to make them, and with `croissant` metadata for loaders.

Rows that were removed and the trail of changes stay behind: they quote what was taken out.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, short
from luthier.core.errors import SpecError
from luthier.data.shards import excerpt, write_manifest
from luthier.store import Store
from luthier.store.files import explained

from .about import about_of
from .find import SPLITS, names_of, paths

CROISSANT = "croissant.json"


def export(store: Store, dataset: Artifact, target: Path, croissant: bool) -> dict[str, Any]:
    """Fill `target`, which must not be there yet. {"folder", "files", "dataset"}."""
    if target.exists():
        raise SpecError(f"{target} is already there.", remedy="Name a folder that does not exist yet.")
    folder = store.folder(dataset)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            for side in SPLITS:
                for path in paths(folder, side):
                    copy = partial / path.relative_to(folder)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
            shutil.copyfile(folder / "dataset.json", partial / "dataset.json")
            write_manifest(partial, excerpt(folder, SPLITS))
            if croissant:
                text = json.dumps(_metadata(store, dataset, folder), indent=2, ensure_ascii=False)
                (partial / CROISSANT).write_text(text + "\n", encoding="utf-8")
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    files = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    return {"folder": str(target), "files": files, "dataset": dataset.digest}


def _metadata(store: Store, dataset: Artifact, folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from .croissant import croissant

    known = {file.path: file for file in dataset.files}
    files, columns = [], []
    for side in SPLITS:
        for path in paths(folder, side):
            file, parquet = known[path.relative_to(folder).as_posix()], pq.ParquetFile(path)
            columns = parquet.schema_arrow.names
            files.append(
                {
                    "path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes,
                    "side": side, "rows": parquet.metadata.num_rows,
                }
            )  # fmt: skip
    names = names_of(store, dataset)
    name = names[-1].partition("@")[0] if names else f"dataset-{short(dataset.digest)}"
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    version = f"1.0.0+{short(dataset.digest)}"
    return croissant(
        name, version, dataset.created_s, files, columns, about_of(store, dataset.digest) or {}, facts["task"]
    )
