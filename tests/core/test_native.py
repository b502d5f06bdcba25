"""A file of C is compiled once, and what cannot be trusted or compiled is a reason. More of it: tests/models/test_fast_kernels.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core import native

FLAGS = ("-O1", "-fPIC", "-shared")


def source(folder: Path, told: str) -> Path:
    path = folder / "sums.c"
    path.write_text(told)
    return path


def test_another_source_is_another_library(tmp_path: Path) -> None:
    told = []
    for one in ("int of(int a) { return a + 1; }", "int of(int a) { return a + 2; }"):
        found = native.load(source(tmp_path, one), FLAGS, tmp_path / "kept")
        if found.library is None:
            pytest.skip(found.reason)
        told.append(found.library.of(40))
    assert told == [41, 42]
    assert sorted(path.name[:5] for path in (tmp_path / "kept").iterdir()) == ["sums-", "sums-"]


def test_c_that_does_not_compile_is_a_reason_and_leaves_nothing(tmp_path: Path) -> None:
    found = native.load(source(tmp_path, "int of("), FLAGS, tmp_path / "kept")
    assert found.library is None and ("failed: " in found.reason or "no C compiler" in found.reason)
    assert list((tmp_path / "kept").iterdir()) == []
