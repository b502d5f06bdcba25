"""Small data sets on disk and one call that runs the dataset stage on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.event import Event
from luthier.core.testing import FakeContext
from luthier.data.prepare import STAGE, PrepareSpec
from luthier.data.shards import Side


class Prepared:
    """What one run left behind."""

    def __init__(self, out: Path, at: FakeContext, summary: dict[str, Any]) -> None:
        self.out, self.at, self.summary = out, at, summary
        self.rules = json.loads((out / "rules.json").read_text())
        self.facts = json.loads((out / "dataset.json").read_text())

    def split(self, name: str) -> list[dict[str, Any]]:
        return Side(self.out / f"{name}.parquet").table().to_pylist()

    def rows(self) -> list[dict[str, Any]]:
        return [
            {**row, "split": name} for name in ("train", "validation", "test") for row in self.split(name)
        ]

    def removed(self) -> list[dict[str, Any]]:
        return self.split("removed")

    def rule(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.rules if entry["rule"] == name)

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.at.events if event.kind == kind]

    def bytes(self) -> dict[str, bytes]:
        paths = sorted(path for path in self.out.rglob("*") if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    count = 0

    def run(data: dict[str, Any], task: dict[str, Any] | None = None, **context: Any) -> Prepared:
        nonlocal count
        count += 1
        out, scratch = tmp_path / f"out-{count}", tmp_path / f"scratch-{count}"
        out.mkdir()
        scratch.mkdir()
        at = FakeContext(tmp_path, root=tmp_path, **context)
        spec = PrepareSpec.model_validate({"task": task or {}, "data": data})
        output = STAGE.function(spec, {}, out, scratch, at)
        assert list(scratch.iterdir()) == []
        return Prepared(out, at, dict(output.summary))

    return run


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows as JSON Lines and give the file's name."""

    def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        return name

    return write
