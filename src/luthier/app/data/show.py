"""The page of a dataset or of a source, written where a run's report is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.artifact import short
from luthier.store.files import write_atomic


def page_path(home: Path, digest: str) -> Path:
    return home / "reports" / f"dataset-{short(digest)}.html"


def source_page_path(home: Path, written: str) -> Path:
    """One page for each way to write a source."""
    return home / "reports" / f"source-{hashlib.sha256(written.encode()).hexdigest()[:12]}.html"


def show_page(home: Path, found: Mapping[str, Any]) -> Path:
    """Where it is now. Raises StoreError when it cannot be written."""
    from luthier.app.report import data_page, source_page

    if "dataset" in found:
        path, text = page_path(home, found["dataset"]), data_page.render(found)
    else:
        path, text = source_page_path(home, found["file"]), source_page.render(found)
    write_atomic(path, text.encode())
    return path
