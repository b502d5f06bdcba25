"""kill -9 of servers and trainers while two servers work; benchmarks/job_kills.py with fewer kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).parents[3] / "benchmarks" / "job_kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_lost_or_doubled(request, database):
    where = ["--database", request.getfixturevalue("postgres_url")] if database == "postgresql" else []
    command = [sys.executable, str(STORM), "--kills", "15", "--jobs", "8", "--seconds", "60", *where]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "lost or doubled: 0" in found.stdout and not found.stdout.startswith("0 kills")
