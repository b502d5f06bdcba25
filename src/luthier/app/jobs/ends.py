"""What becomes of a job when an attempt at it has ended: pure, so that every case can be read and tried here.

its last word     asked to stop     then
succeeded         -                 succeeded, whatever was asked meanwhile
failed, final     -                 failed: the same would happen again (recipe, data, gate)
failed, dead      cancel            cancelled
stopped           cancel / pause    cancelled / paused
stopped           by a rule         paused or failed, as the rule says
stopped           otherwise         queued, and the attempt does not count
failed, dead      -                 queued after a while, or failed when all attempts are used up
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import (
    DataError,
    GateFailed,
    LuthierError,
    MissingPart,
    ModelError,
    NotAllowed,
    NotFound,
    SpecError,
)
from luthier.store.attempts import AttemptRow, Change
from luthier.store.audit import Act
from luthier.store.jobs import Job

from .observing import Halt

FINAL: Mapping[type[LuthierError], str] = {
    SpecError: "invalid_value",
    DataError: "invalid_data",
    ModelError: "invalid_model",
    MissingPart: "missing_part",
    GateFailed: "gate_failed",
    NotFound: "not_found",
    NotAllowed: "not_allowed",
}
"""What would fail again in the same way, and the code that the job's error has then."""
LONGEST_MESSAGE = 4_000


def failure(error: BaseException) -> dict[str, Any]:
    """The last word of an attempt that raised this."""
    final = next((code for kind, code in FINAL.items() if isinstance(error, kind)), None)
    if isinstance(error, LuthierError):
        message = f"{error.message}\n{error.remedy}" if error.remedy else error.message
        code = final or "failed"
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        message, code = "memory ran out.", "out_of_memory"
    else:
        message, code = (
            f"an unexpected error ({type(error).__name__}); the job's log has it.",
            "internal_error",
        )
    told = {"code": code, "message": message[:LONGEST_MESSAGE], "param": getattr(error, "param", None)}
    return {"state": "failed", "error": told, "final": final is not None}


def after(
    job: Job, attempt: AttemptRow, end: Mapping[str, Any] | None, why: str | None, failed_before: int, halt: Halt | None,
    now_s: float, first_wait_s: float, longest_wait_s: float,
) -> Change:  # fmt: skip
    """`end` is the attempt's last word, `why` what the system says where there is none."""
    number = attempt.number
    if end is not None and end["state"] == "succeeded":
        return Change(
            "succeeded",
            None,
            "succeeded",
            "Job succeeded",
            result=end["result"],
            act=_act(job, "succeeded", number),
        )
    if end is not None and end["state"] == "failed" and end["final"]:
        message = end["error"]["message"]
        return Change(
            "failed", message, "failed", f"Job failed: {message}", "error", error=end["error"], act=_act(job, "failed", number)
        )  # fmt: skip
    stopped = attempt.state == "stopping" or (end is not None and end["state"] == "stopped")
    reason = attempt.reason if stopped else None
    if job.wanted == "cancel":
        return Change(
            "stopped", reason or "cancelled", "cancelled", "Job cancelled", act=_act(job, "cancelled", number)
        )
    if stopped and job.wanted == "pause":
        return Change("stopped", reason or "paused", "paused", "Job paused")
    if stopped and halt is not None:
        return halted(job, halt)
    if stopped:
        return Change(
            "stopped",
            reason or "asked to stop",
            "queued",
            f"Attempt {number} has stopped; the job goes on later",
        )
    return _again(job, attempt, end, why, failed_before, now_s, first_wait_s, longest_wait_s)


def halted(job: Job, halt: Halt) -> Change:
    number = job.attempts
    if halt.then == "paused":
        return Change("stopped", halt.message, "paused", f"Job paused: {halt.message}", "warn")
    error = {"code": halt.code, "message": halt.message, "param": None}
    return Change(
        "stopped", halt.message, "failed", f"Job failed: {halt.message}", "error", error=error, act=_act(job, "failed", number)
    )  # fmt: skip


def _again(
    job: Job, attempt: AttemptRow, end: Mapping[str, Any] | None, why: str | None, failed_before: int, now_s: float,
    first_wait_s: float, longest_wait_s: float,
) -> Change:  # fmt: skip
    number, failed = attempt.number, failed_before + 1
    error = dict(end["error"]) if end is not None else {"code": "killed", "message": f"{why}.", "param": None}
    state, reason = ("failed" if end is not None else "lost"), str(error["message"])
    if job.wanted == "pause":
        return Change(state, reason, "paused", f"Attempt {number} failed: {reason} Job paused", "warn")  # type: ignore[arg-type]
    if failed >= job.most_attempts:
        count = f"{failed} attempts failed" if failed > 1 else "the attempt failed"
        told = {**error, "message": f"{count}; the last one: {reason}"}
        return Change(
            state, reason, "failed", f"Job failed: {told['message']}", "error", error=told, act=_act(job, "failed", number)  # type: ignore[arg-type]
        )  # fmt: skip
    wait_s = min(longest_wait_s, first_wait_s * 2 ** (failed - 1))
    message = f"Attempt {number} failed: {reason} The next one begins in {wait_s:g} s ({failed} of {job.most_attempts} used)"
    return Change(state, reason, "queued", message, "warn", not_before_s=now_s + wait_s)  # type: ignore[arg-type]


def _act(job: Job, how: str, number: int) -> Act:
    return Act("server", f"job.{how}", job.id, {"project": job.project, "kind": job.kind, "attempt": number})
