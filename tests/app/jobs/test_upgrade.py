"""What was submitted before an upgrade of the code finishes after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import luthier

SOURCE = Path(luthier.__file__).parent


def code(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of the program with some lines changed."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, folder / "luthier", ignore=skip)
    for path, old, new in changes:
        text = (folder / "luthier" / path).read_text()
        assert old in text
        (folder / "luthier" / path).write_text(text.replace(old, new))
    return folder


@pytest.mark.slow
def test_jobs_of_before_an_upgrade_finish_after_it(yard, tmp_path):
    kind = "app/jobs/kinds/scripted.py"
    before = code(
        tmp_path / "before", (kind, '"attempt": at.job.attempts,', '"attempt": at.job.attempts, "by": 1,')
    )
    after = code(
        tmp_path / "after",
        (kind, '"attempt": at.job.attempts,', '"attempt": at.job.attempts, "by": 2,'),
        ("store/jobs.py", "FORMAT = 1\n", "FORMAT = 2\n"),
    )
    (yard.site.top.home / "queue.yaml").write_text("capacity: {cores: 1}\nat_once: 1\n")
    runs = yard.submit({"steps": 8, "step_s": 1.0})
    waits = yard.submit({"steps": 1})

    def serve(where: Path) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **yard.site.environ, "PYTHONPATH": str(where)}
        return subprocess.Popen([sys.executable, "-m", "luthier", "job", "work"], env=environ)

    old = serve(before)
    try:
        yard.until(lambda: "Finished step 1" in yard.messages(runs))
    finally:
        old.kill()
        old.wait()
    new = serve(after)
    try:
        yard.until(lambda: yard.get(waits).state == "succeeded", seconds=180.0)
    finally:
        new.terminate()
        new.wait()
    runs, waits = yard.get(runs), yard.get(waits)
    assert (runs.state, runs.attempts, runs.result["by"]) == (
        "succeeded",
        1,
        1,
    )  # the old trainer, taken over
    assert (waits.attempts, waits.result["by"], waits.format) == (1, 2, 1)


def test_a_job_of_a_newer_program_is_refused_in_words(yard):
    job = yard.submit()
    with yard.site.store.database.transaction() as connection:
        connection.exec_driver_sql("update jobs set format = 99")
    (job,) = yard.finish(job, by=[yard.reconciler()])
    assert (job.state, job.attempts, job.error["code"]) == ("failed", 1, "invalid_value")
    assert "written by a newer Luthier (format 99" in job.error["message"]
