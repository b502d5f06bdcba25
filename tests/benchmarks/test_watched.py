"""What benchmarks/data/watched.py says that a command took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
BURN = "import time\nwhile time.process_time() < 0.5: pass"
WATCH = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from watched import watch
print(json.dumps(asdict(watch(sys.argv[2:], Path(sys.argv[1]), os.environ))))
"""


def _watched(tmp_path: Path, *command: str) -> dict[str, float]:
    """In a process of its own, since whoever watches waits for all its children."""
    asked = [sys.executable, "-c", WATCH, str(tmp_path / "log"), *command]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=DATA)
    return json.loads(done.stdout)


def test_the_seconds_of_children_count_those_too_that_are_left_behind(tmp_path: Path):
    waits = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"
    leaves = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN!r}])"
    for code in (BURN, waits, leaves):
        seen = _watched(tmp_path, sys.executable, "-c", code)
        assert seen["failed"] is None
        assert seen["cpu_s"] >= 0.5


def test_a_failure_is_told_with_the_last_line_it_said(tmp_path: Path):
    seen = _watched(tmp_path, sys.executable, "-c", "import sys\nprint('too bad')\nsys.exit(3)")
    assert seen["failed"] == "exit status 3: too bad"
