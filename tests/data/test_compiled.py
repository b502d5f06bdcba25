"""Without a compiler rules do the same; what compiled functions give is compared in test_words, test_sketch, test_near_duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.app import doctor
from luthier.core import native
from luthier.data import compiled
from luthier.data.words import words_in


def test_without_a_compiler_there_is_a_reason_and_words_are_cut_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_found", None)
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    assert compiled.use(tmp_path) == "no C compiler was found (cc, gcc or clang)"
    assert compiled.library() is None
    found = words_in(["Don't panic"])
    assert found.spoken(0, 3) == [b"don", b"t", b"panic"]
    told = next(one for one in doctor.examine(tmp_path, None, None, {}) if one.what == "compiled words")
    assert told.state == "missing" and told.detail.startswith("no C compiler") and "gcc" in str(told.remedy)


def test_it_is_compiled_once_in_a_process_and_left_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_found", None)
    if compiled.use(tmp_path):
        pytest.skip("no C compiler here")
    assert compiled.use(tmp_path / "elsewhere") == "" and not (tmp_path / "elsewhere").exists()
    with compiled.plainly():
        assert compiled.library() is None
    assert compiled.library() is not None


def test_an_array_with_gaps_is_not_given_away() -> None:
    with pytest.raises(AssertionError):
        compiled.call(None, np.arange(6)[::2])
