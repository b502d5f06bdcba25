"""What pages claim about tests: every test that a page names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["docs/pains.md", "ARCHITECTURE.md", "docs/techniques.md"])
def test_every_named_test_is_there(page):
    missing, found = [], 0
    for row in (ROOT / page).read_text().splitlines():
        file = None
        for path, name in NAMED.findall(row):
            file = path or file
            if path and not (ROOT / path).is_file():
                missing.append(path)
            elif name and (not file or f"def {name}(" not in (ROOT / file).read_text()):
                missing.append(f"{file}::{name}")
            found += bool(path)
    assert not missing and found
