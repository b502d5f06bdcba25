"""Connectors made as a recipe makes them, and the PostgreSQL of the store's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.spec import resolve
from luthier.data.connectors import connect
from luthier.data.spec import SourceSpec


def rows_of(connector: Any, *columns: str) -> list[dict[str, Any]]:
    found = []
    for block in connector.blocks(columns):
        cells = {name: c if isinstance(c, list) else c.to_pylist() for name, c in block.columns.items()}
        found += [{name: cells[name][i] for name in cells} for i in range(len(block))]
    return found


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Any]:
    """A connector from a source as written; variables by keyword."""

    def made(written: dict[str, Any], **environ: str) -> Any:
        return connect(SourceSpec.model_validate(written), tmp_path, lambda text: resolve(text, environ))

    return made


@pytest.fixture(name="rows_of")
def rows_of_() -> Callable[..., list[dict[str, Any]]]:
    return rows_of
