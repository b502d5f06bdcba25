"""What is being made in a store's cache: whole or not there, and nothing of a killed process stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from luthier.serving.gguf_cache import making


def _names(cache: Path) -> list[str]:
    return sorted(one.name for one in cache.iterdir() if one.name != ".lock")


def test_what_is_being_made_is_gone_at_the_end_whatever_happens(tmp_path: Path):
    with making(tmp_path / "cache") as place:
        (place / "model.gguf").write_bytes(b"half")
        (place / "graph").mkdir()
    with pytest.raises(KeyError), making(tmp_path / "cache") as place:
        (place / "model.gguf").write_bytes(b"half")
        raise KeyError
    assert _names(tmp_path / "cache") == []


def test_what_a_killed_process_was_making_goes_and_what_others_make_stays(tmp_path: Path):
    killed = (
        "import os, sys; from pathlib import Path; from luthier.serving.gguf_cache import making\n"
        "with making(Path(sys.argv[1])) as place:\n"
        "    (place / 'graph').mkdir(); (place / 'graph' / 'weights').write_bytes(b'1'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False).returncode == -9
    left = _names(tmp_path)
    assert len(left) == 1
    (tmp_path / "of another kind").mkdir()
    with making(tmp_path) as one:
        (one / "model.gguf").write_bytes(b"half")
        assert _names(tmp_path) == sorted([one.name, "of another kind"])
        with making(tmp_path) as other:
            assert _names(tmp_path) == sorted([one.name, other.name, "of another kind"])
            assert (one / "model.gguf").read_bytes() == b"half"
    assert _names(tmp_path) == ["of another kind"]
