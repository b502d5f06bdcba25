"""From runs to a table: medians over rounds, ratios, and how far losses lie apart. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contestants import EXACT, RACE
from runs import Run

OURS, TRL_BF16, TRL_FP32 = "luthier", "trl-default", "trl-fp32"
EXACT_TOLERANCE, BF16_TOLERANCE = 1e-4, 1e-2
MB = 1e6


@dataclass(frozen=True)
class Line:
    """A contestant on a track: medians of the rounds that did not fail."""

    contestant: str
    rounds: int
    tokens_per_s: float
    least_tokens_per_s: float
    most_tokens_per_s: float
    peak_bytes: float
    first_step_s: float
    coldest_first_step_s: float
    losses: list[float]


def lines(runs: Sequence[Run], track: str) -> dict[str, Line]:
    """By contestant, in the order of the race; one that failed in every round has none."""
    found = {}
    for contestant in (*RACE, *EXACT):
        own = [
            one
            for one in runs
            if (one.track, one.contestant) == (track, contestant.name) and one.tokens_per_s is not None
        ]
        if not own:
            continue
        speeds = [one.tokens_per_s for one in own if one.tokens_per_s is not None]
        firsts = [one.ended_s[0] for one in own]
        found[contestant.name] = Line(
            contestant.name,
            len(own),
            statistics.median(speeds),
            min(speeds),
            max(speeds),
            statistics.median(one.peak_bytes for one in own),
            statistics.median(firsts),
            firsts[0],
            own[0].losses,
        )
    return found


def apart(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest relative difference of any step.

    >>> round(apart([1.0, 2.02], [1.0, 2.0, 3.0]), 6)
    0.01
    """
    return max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=False))


def markdown(runs: Sequence[Run], steps: Mapping[str, int], told: Mapping[str, Any]) -> str:
    """The whole result for a reader."""
    titles = {one.name: one.title for one in (*RACE, *EXACT)}
    machine = f"{told['processor']}, {told['threads']} threads, torch {told['torch']}"
    parts = [f"Machine: {machine}. Medians of the rounds, least and most in brackets.\n"]
    for track in dict.fromkeys(one.track for one in runs):
        found = lines(runs, track)
        parts.append(f"### {track}\n\n{told['tracks'][track]}; {steps[track]} optimizer steps.\n")
        parts.append(_speeds(found, titles))
        parts.append(_losses(found, titles))
        failed = [one for one in runs if one.track == track and one.failed]
        parts += [f"{titles[one.contestant]}, round {one.round}: {one.failed}\n" for one in failed]
    return "\n".join(parts)


def _speeds(found: Mapping[str, Line], titles: Mapping[str, str]) -> str:
    ours = found.get(OURS)
    if not any(one.name in found for one in RACE):
        return ""
    rows = [
        "| | tokens/s | luthier is | peak memory MB | luthier needs | first step after s | cold s | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in RACE:
        if (line := found.get(one.name)) is None:
            continue
        faster = f"{ours.tokens_per_s / line.tokens_per_s:.2f}×" if ours and one.name != OURS else ""
        leaner = f"{ours.peak_bytes / line.peak_bytes:.0%}" if ours and one.name != OURS else ""
        spread = f"({line.least_tokens_per_s:.0f} – {line.most_tokens_per_s:.0f})"
        rows.append(
            f"| {titles[one.name]} | {line.tokens_per_s:.0f} {spread} | {faster} | {line.peak_bytes / MB:,.0f} "
            f"| {leaner} | {line.first_step_s:.1f} | {line.coldest_first_step_s:.1f} | {line.rounds} |"
        )
    return "\n".join(rows) + "\n"


def _losses(found: Mapping[str, Line], titles: Mapping[str, str]) -> str:
    """Each against TRL in its own number format: bf16 rounds gradients, and AdamW's first steps follow their signs, so
    that every computation in bf16 drifts from fp32 the same way and by more than they lie apart."""
    longest = max((len(line.losses) for line in found.values()), default=0)
    references = [name for name in (TRL_BF16, TRL_FP32) if name in found]
    heads = [f"step {k + 1}" for k in range(longest)] + [f"from {titles[name]}" for name in references]
    rows = ["| losses | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, line in found.items():
        cells = [f"{loss:.5f}" for loss in line.losses] + [""] * (longest - len(line.losses))
        cells += ["" if name == to else f"{apart(line.losses, found[to].losses):.1e}" for to in references]
        rows.append(f"| {titles[name]} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def broken(runs: Sequence[Run]) -> list[str]:
    """Which promises do not hold, in words: that luthier runs through, and that its losses agree."""
    told = []
    for track in dict.fromkeys(one.track for one in runs):
        found = lines(runs, track)
        told += [
            f"{track}: {one.contestant} failed: {one.failed}"
            for one in runs
            if one.track == track and one.failed and one.contestant.startswith(OURS)
        ]
        for name, to, tolerance in (
            ("luthier-fp32", TRL_FP32, EXACT_TOLERANCE),
            (OURS, TRL_BF16, BF16_TOLERANCE),
        ):
            if name in found and to in found:
                far = apart(found[name].losses, found[to].losses)
                if far > tolerance:
                    told.append(
                        f"{track}: losses of {name} are {far:.1e} from those of {to}, over {tolerance:g}"
                    )
    return told
