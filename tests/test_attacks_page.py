"""docs/security.md says what there is: every test that it names exists, every attack on the platform has a test against the platform, and the
cases are as many as it says."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_found = importlib.util.spec_from_file_location("count_attacks", ROOT / "scripts" / "count_attacks.py")
count_attacks = importlib.util.module_from_spec(_found)
sys.modules["count_attacks"] = count_attacks
_found.loader.exec_module(count_attacks)
PAGE = count_attacks.PAGE.read_text(encoding="utf-8")
ROWS = list(count_attacks.attacks(PAGE))
OF_THE_PLATFORM = [f"A{n}" for n in range(1, 8)] + [f"P{n}" for n in range(1, 8)] + ["N1", "N2"] + [f"J{n}" for n in range(1, 7)] + [f"I{n}" for n in range(1, 5)]  # fmt: skip


def names_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_is_read_and_stands_there_once():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names)) == len(re.findall(r"^\| [A-Z]\d \|", PAGE, re.MULTILINE))
    assert set(OF_THE_PLATFORM) <= set(names)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_test_that_is_named_exists(row):
    assert row.tests and len(set(row.tests)) == len(row.tests)
    for test in row.tests:
        path, _, name = test.partition("::")
        assert (ROOT / "tests" / path).is_file(), test
        assert not name or name in names_in(ROOT / "tests" / path), test


@pytest.mark.parametrize("name", OF_THE_PLATFORM)
def test_the_platform_itself_is_attacked(name):
    row = next(row for row in ROWS if row.name == name)
    assert [test for test in row.tests if test.startswith(("server/platform/", "cli/test_server", "app/"))]


def test_no_attack_of_the_platform_is_left_out():
    """A test whose name begins with an attack's stands in that attack's row."""
    named = {test for row in ROWS for test in row.tests}
    missing = []
    for path in sorted((ROOT / "tests" / "server" / "platform").rglob("test_*.py")):
        relative = path.relative_to(ROOT / "tests").as_posix()
        for name in names_in(path):
            if re.match(r"test_[apnjiel]\d_", name) and relative not in named:
                missing += [f"{relative}::{name}"] if f"{relative}::{name}" not in named else []
    assert not missing


@pytest.mark.slow
def test_the_cases_are_as_many_as_it_says():
    pytest.importorskip("joserfc", reason="joserfc is not installed (pip install 'luthier[oidc]')")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "count_attacks.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
