"""The page of a dataset, written where a run's report is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core.artifact import short
from luthier.store.files import write_atomic


def page_path(home: Path, digest: str) -> Path:
    return home / "reports" / f"dataset-{short(digest)}.html"


def show_page(home: Path, found: Mapping[str, Any]) -> Path:
    """Where it is now. Raises StoreError when it cannot be written."""
    from luthier.app.report.data_page import render

    path = page_path(home, found["dataset"])
    write_atomic(path, render(found).encode())
    return path
