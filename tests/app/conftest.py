"""A workshop: a tiny random model, a few rows, a recipe, and the command line to try them with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from luthier.cli.main import main

RECIPE = """\
name: router
base: tiny
task: {kind: classify, instruction: "Route the message."}
data:
  sources:
    - {files: rows.jsonl, map: {user: text, label: queue}}
  rules: {quality: [normalize, drop_empty, deduplicate]}
  split: {validation: 0.15, test: 0.25}
train: {epochs: 1, learning_rate: 0.01, batch: {rows: 8, micro_tokens: 512}, dtype: fp32, adapter: {kind: lora, rank: 4}}
evaluate: {resamples: 200}
"""
WORDS = {
    "billing": ["invoice", "payment", "charged twice", "refund the bill"],
    "delivery": ["parcel", "tracking page", "courier", "late package"],
    "technical": ["error", "login fails", "app crashes", "timeout"],
}


def rows(n: int = 60) -> list[dict[str, Any]]:
    found = []
    for i in range(n):
        queue = sorted(WORDS)[i % 3]
        found.append(
            {
                "text": f"Message {i}: the {WORDS[queue][i % 4]} again, please help.",
                "queue": queue,
                "customer": f"c{i // 2}",
            }
        )
    return found


@dataclass
class Workshop:
    folder: Path
    home: Path
    done: dict[str, Any] = field(default_factory=dict)
    """What a run said that was there before the test (`ran`)."""

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def luthier(self, *words: Any) -> Result:
        return CliRunner().invoke(main, [str(w) for w in words])

    def run(self, *words: Any) -> dict[str, Any]:
        """`luthier run recipe.yaml --json`, which must succeed."""
        result = self.luthier("run", self.folder / "recipe.yaml", "--json", *words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def furnished(place: Path, tiny_base: Path) -> Workshop:
    folder = place / "shop"
    folder.mkdir()
    (folder / "tiny").symlink_to(tiny_base)
    shop = Workshop(folder, place / "home")
    shop.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows()))
    shop.write("recipe.yaml", RECIPE)
    return shop


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    return furnished(tmp_path, tiny_base)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Workshop:
    """A workshop after `luthier run recipe.yaml`, trained once a session. To be copied, never used itself."""
    shop = furnished(tmp_path_factory.mktemp("finished"), tiny_base)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LUTHIER_HOME", str(shop.home))
        shop.done = shop.run()
    return shop


@pytest.fixture
def ran(workshop: Workshop, finished: Workshop) -> Workshop:
    """The workshop as it is after its first run; its home is a copy."""
    shutil.copytree(finished.home, workshop.home, symlinks=True, dirs_exist_ok=True)
    workshop.done = finished.done
    return workshop
