"""What a contestant's process tells the race: one line of JSON at the end of each optimizer step. Standard library only,
because it runs in every contestant's environment.

Time is wall-clock time, so that the race, which started the process, can subtract. Peak memory is not told here: the
race reads it from the operating system when the process has ended.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class Lines:
    """`SCRIPT JOB LINES`: the job is read from one file, the steps are written to the other."""

    def __init__(self) -> None:
        job, lines = map(Path, sys.argv[1:3])
        self.job: dict[str, Any] = json.loads(job.read_text())
        self._file = lines.open("w")

    def step(self, step: int, loss: float, tokens: int, supervised: int) -> None:
        """A step ended now. `tokens` are those of its rows, without padding; `loss` is their mean supervised loss."""
        told = {"step": step, "ended": time.time(), "loss": loss, "tokens": tokens, "supervised": supervised}
        self._file.write(json.dumps(told) + "\n")
        self._file.flush()


def rows_of(job: dict[str, Any], arranged: bool = False) -> list[dict[str, list[int]]]:
    """The rows of all steps in order, as `input_ids` and `labels` (-100: not supervised). `arranged`: from short to long
    within each step."""
    steps = json.loads((Path(job["track"]) / "rows.json").read_text())[: job["steps"]]
    return [
        {
            "input_ids": row["ids"],
            "labels": [t if told else -100 for t, told in zip(row["ids"], row["supervised"], strict=True)],
        }
        for rows in steps
        for row in (sorted(rows, key=lambda row: len(row["ids"])) if arranged else rows)
    ]
