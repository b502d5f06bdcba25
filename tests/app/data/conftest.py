"""A home with datasets that were made from a recipe, without any training: enough for what is asked of datasets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luthier.app.app import App
from luthier.app.context import RunContext
from luthier.app.line import Make, prepared
from luthier.core.artifact import Artifact

RECIPE = """\
name: router
base: tiny
task: {kind: classify, instruction: "Route the message."}
data:
  sources: [{files: rows.jsonl, map: {user: text, label: queue, group: customer}}]
  rules: {quality: [normalize, drop_empty, deduplicate]}
  split: {validation: 0.15, test: 0.25}
"""
QUEUES = ("billing", "delivery", "technical")


def some_rows(n: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "text": f"Message {i}: please help with {QUEUES[i % 3]}, thank you.",
            "queue": QUEUES[i % 3],
            "customer": f"c{i // 2}",
        }
        for i in range(n)
    ]


@dataclass
class Shop:
    """`folder` holds the recipe and its rows; `app` a home of its own."""

    folder: Path
    app: App

    def rows(self, rows: Iterable[dict[str, Any] | None], name: str = "rows.jsonl") -> Path:
        """None leaves an empty line, so that the others stay in their places."""
        path = self.folder / name
        lines = ["" if row is None else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    def write(self, text: str = RECIPE, name: str = "recipe.yaml") -> Path:
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name

    def context(self, *sets: str, name: str = "recipe.yaml") -> tuple[Any, RunContext]:
        wish = self.app.recipes.read(self.folder / name, sets)
        return wish, self.app.recipes.context(wish, None)

    def prepare(self, *sets: str, name: str = "recipe.yaml") -> Artifact:
        """The dataset of the recipe, made if it is not there."""
        wish, at = self.context(*sets, name=name)
        with closing(at):
            dataset = prepared(wish, at, Make(at))
        assert dataset is not None
        return dataset

    def file(self, dataset: Artifact, name: str) -> Path:
        return self.app.store.folder(dataset) / name

    def table(self, dataset: Artifact, name: str) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        return pq.read_table(self.file(dataset, f"{name}.parquet")).to_pylist()

    def every_row(self, dataset: Artifact) -> list[dict[str, Any]]:
        return [
            {**row, "side": side}
            for side in ("train", "validation", "test")
            for row in self.table(dataset, side)
        ]

    def aged(self, dataset: Artifact) -> Artifact:
        """The same dataset as an earlier version left it: no trail.parquet, no manifest.json, no counts in rules.json."""
        store, key = self.app.store, "0" * 63 + str(len(self.app.store.catalog.all("dataset")))
        with store.working(key) as (out, _):
            shutil.copytree(store.folder(dataset), out, dirs_exist_ok=True, copy_function=shutil.copyfile)
            (out / "trail.parquet").unlink()
            (out / "manifest.json").unlink()
            rules = json.loads((out / "rules.json").read_text())
            for rule in rules:
                rule.pop("counts")
                rule.pop("added")
            (out / "rules.json").write_text(json.dumps(rules))
            return store.commit("dataset", key, dataset.spec, 2, dataset.parents, out, dataset.summary)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder = tmp_path / "shop"
    folder.mkdir()
    made = Shop(folder, App(tmp_path / "home", {"HOME": str(tmp_path)}))
    made.rows(some_rows())
    made.write()
    return made


@pytest.fixture
def some() -> Callable[..., list[dict[str, Any]]]:
    return some_rows
