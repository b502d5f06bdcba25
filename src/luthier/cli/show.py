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
from luthier.training.state import own_figures

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
        case "trial.started":
            setting = (
                ", ".join(f"{path} {told}" for path, told in d["setting"].items()) or "the recipe as written"
            )
            return f"trial {d['number']}: {setting}"
        case "trial.finished":
            value = "" if d["value"] is None else f", {d['value']:.4g} on the validation rows"
            why = f": {d['why']}" if d["why"] else ""
            return f"trial {d['number']}: {d['state']}{value} in {show_seconds(d['seconds'])}{why}"
        case "stage.started":
            return f"{d['step']}: working"
        case "benchmarked":
            return f"  {d['rows']:,} rows of {', '.join(d['tasks'])} asked"
        case "stage.known":
            return f"{d['step']}: already there ({short(d['digest'])})"
        case "stage.finished":
            return f"{d['step']}: done in {show_seconds(d['seconds'])}, {show_bytes(d['peak_bytes'])} at most ({short(d['digest'])})"
        case "step":
            return _step_line(d)
        case "validation":
            return _validation_line(d)
        case "warning" | "note":
            return f"  note: {d['message']}"
        case "canaries":
            return f"  canaries: {d['secrets']:,} artificial secrets planted in {d['rows']:,} training rows"
        case "search.worker":
            return f"  another process takes trials ({d['pid']}); it tells of them in {d['log']}"
        case "parity":
            return (
                f"  {d['form']}: the likeliest token is that of the trained model in {d['top_1']:.1%} of {d['tokens']:,}, "
                f"{d['divergence']:.2g} nats apart"
            )
        case "resumed":
            return f"  going on from step {d['step']}"
        case "training":
            return (
                f"  {d['rows']:,} rows, {d['steps']:,} steps; {show_count(d['trained_parameters'])} of "
                f"{show_count(d['parameters'])} parameters move; {d['device']}, {d['dtype']}, {d['threads']} threads"
            )
        case "layout":
            return f"  {d['source']}: read as {d['layout']}, {_columns(d['map'])} ({d['reason']})"
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
        case (
            "fallback"
            | "not_exact"
            | "activation_checkpointing"
            | "tokens.damaged"
            | "tokens.removed"
            | "prepared.damaged"
        ):
            return f"  note: {d['reason']}"
        case "checkpoint.damaged":
            return f"  note: {d['name']} is damaged and is not used: {d['reason']}"
        case "diverged" | "not_finite":
            return (
                f"  stopped at step {d['step']}: {d['reason']} The weights of step {d['best_step']} are kept."
            )
        case "averaged":
            return _averaged_line(d)
        case "kept":
            steps = " and ".join(f"{step:,}" for step in d["steps"])
            return f"  kept: {d['how']}, step {steps}" + (f" ({d['why']})" if d["why"] else "")
    return None


def _columns(found: Mapping[str, Any]) -> str:
    """The parts of a map that name columns."""
    named = {part: column for part, column in found.items() if column is not None and part != "on_bad_row"}
    return ", ".join(
        f"{part}: {column if isinstance(column, str) else ' + '.join(column)}"
        for part, column in named.items()
    )


def _averaged_line(d: Mapping[str, Any]) -> str:
    told = f"  averages tried: {d['tried']}; "
    if len(d["steps"]) < 2:
        return told + "none validates as well as the best weights alone"
    return (
        told
        + f"that of {len(d['steps'])} weights validates at {d['value']:.4g}, the best alone at {d['best']:.4g}"
    )


def _proof_line(d: Mapping[str, Any]) -> str:
    told = [f"packed = alone{_apart(d['packing'])}"]
    if (fused := d.get("fused")) and fused["used"]:
        left = f", left plain: {', '.join(fused['left'])}" if fused.get("left") else ""
        told.append(f"fused = plain{_apart(fused)}{left}")
    told.append(f"memory fits by {d['memory']['by']}")
    return (
        f"  proven in {show_seconds(d['seconds'])}: template, {d['ends']['learnt']:,} answers' ends, "
        + ", ".join(told)
    )


def _apart(found: Mapping[str, Any]) -> str:
    """By how much two gradients differ; nothing where there was none to compare."""
    return "" if found["gradient"] is None else f" to {found['gradient']:.0e}"


def _step_line(d: Mapping[str, Any]) -> str:
    """The method's own figures stand beside the loss, which says little of some methods."""
    own = "".join(f"  {name} {value:8.4f}" for name, value in own_figures(d).items())
    return (
        f"  step {d['step']:>5}  loss {d['loss']:8.4f}{own}  grad {d['gradient_norm']:8.3f}  "
        f"{d['tokens_per_s']:7.0f} tokens/s  {show_bytes(d['rss_bytes']):>8}"
    )


def _validation_line(d: Mapping[str, Any]) -> str:
    told = {"loss": d["loss"], **own_figures(d)}
    line = f"  validation at step {d['step']}: " + ", ".join(
        f"{name} {value:.4f}" for name, value in told.items()
    )
    if groups := d.get("groups"):
        line += "; loss by source: " + ", ".join(f"{name} {loss:.4f}" for name, loss in groups.items())
    return line
