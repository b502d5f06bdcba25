"""What a person sees while something runs: bars on a terminal, plain lines elsewhere. All of it on standard error,
so that standard output carries the result alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from luthier.core.artifact import short
from luthier.core.event import Event
from luthier.core.units import show_bytes, show_count, show_seconds

QUIET_S = 5.0  # at least so long between two plain progress lines


class Lines:
    """core's Watch for pipes and logs: one line per fact worth a line."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._last_s = 0.0
        self._began: dict[
            str, tuple[float, float]
        ] = {}  # when it was first heard of, and how far it was then

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def event(self, event: Event) -> None:
        if text := describe(event):
            self.say(text)

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None:
        now = time.monotonic()
        began, start = self._began.setdefault(what, (now, done))
        if now - self._last_s < QUIET_S:
            return
        self._last_s = now
        self.say(f"  {what}: {_how_far(done, total, start, now - began)}")

    def close(self) -> None:
        pass


class Bars:
    """core's Watch for a terminal: one bar per piece of work, with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(TextColumn("  {task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
                              TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[facts]}"), console=self._console, transient=True)  # fmt: skip
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        if event.kind in ("stage.finished", "stage.started"):
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks.clear()
        if event.kind != "step" and (text := describe(event)):
            self.say(text)

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None:
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, facts=shown)
        self._bars.update(self._tasks[what], completed=done, total=total, facts=shown)

    def close(self) -> None:
        self._bars.stop()


def watch() -> Lines | Bars:
    return Bars() if sys.stderr.isatty() else Lines()


def _how_far(done: float, total: float | None, start: float, passed_s: float) -> str:
    if not total:
        return f"{done:,.0f}"
    left = ""
    if start < done < total and passed_s > 1:
        left = f", {show_seconds(passed_s * (total - done) / (done - start))} left"
    return f"{done:,.0f} of {total:,.0f} ({done / total:.0%}{left})"


def describe(event: Event) -> str | None:
    """One line for the facts a person wants to see go by, None for the rest."""
    d = event.data
    match event.kind:
        case "stage.started":
            return f"{d['step']}: working"
        case "stage.known":
            return f"{d['step']}: already there ({short(d['digest'])})"
        case "stage.finished":
            return f"{d['step']}: done in {show_seconds(d['seconds'])}, {show_bytes(d['peak_bytes'])} at most ({short(d['digest'])})"
        case "step":
            return _step_line(d)
        case "validation":
            return f"  validation at step {d['step']}: loss {d['loss']:.4f}"
        case "warning":
            return f"  note: {d['message']}"
        case "resumed":
            return f"  going on from step {d['step']}"
        case "training":
            return (
                f"  {d['rows']:,} rows, {d['steps']:,} steps; {show_count(d['trained_parameters'])} of "
                f"{show_count(d['parameters'])} parameters move; {d['device']}, {d['dtype']}, {d['threads']} threads"
            )
        case "proof":
            return _proof_line(d)
        case "rows.skipped":
            return f"  note: {d['rows']:,} of {d['of']:,} rows have more than {d['limit']:,} tokens (up to {d['longest']:,}) and are left out: {d['first']}"
        case "teacher.answered":
            open_ends = (
                f"; {d['unfinished']:,} came to no end, so no end of theirs is learnt"
                if d["unfinished"]
                else ""
            )
            return f"  the teacher answered {d['rows']:,} {d['split']} rows{open_ends}"
        case "fallback" | "not_exact" | "activation_checkpointing" | "tokens.damaged" | "tokens.removed":
            return f"  note: {d['reason']}"
        case "checkpoint.damaged":
            return f"  note: {d['name']} is damaged and is not used: {d['reason']}"
        case "diverged" | "not_finite":
            return (
                f"  stopped at step {d['step']}: {d['reason']} The weights of step {d['best_step']} are kept."
            )
        case "kept":
            steps = " and ".join(f"{step:,}" for step in d["steps"])
            return f"  kept: {d['how']}, step {steps}" + (f" ({d['why']})" if d["why"] else "")
    return None


def _proof_line(d: Mapping[str, Any]) -> str:
    told = [f"packed = alone to {d['packing']['gradient']:.0e}"]
    if (fused := d.get("fused")) and fused["used"]:
        left = f", left plain: {', '.join(fused['left'])}" if fused.get("left") else ""
        told.append(f"fused = plain to {fused['gradient']:.0e}{left}")
    told.append(f"memory fits by {d['memory']['by']}")
    return (
        f"  proven in {show_seconds(d['seconds'])}: template, {d['ends']['learnt']:,} answers' ends, "
        + ", ".join(told)
    )


def _step_line(d: Mapping[str, Any]) -> str:
    left = f"  left {show_seconds(d['left_s'])}" if d.get("left_s") is not None else ""
    return (
        f"  step {d['step']:>5}  loss {d['loss']:8.4f}  grad {d['gradient_norm']:8.3f}  "
        f"{d['tokens_per_s']:7.0f} tokens/s  {show_bytes(d['rss_bytes']):>8}{left}"
    )
