"""From runs to tables: medians over rounds, what the rules found, and which promises do not hold. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MB = 1e6
Run = Mapping[str, Any]
FASTEST = {"default": 18_000, "near_duplicates": 20_000, "decontaminate": 25_000, "redact": 20_000}
"""Rows per CPU-second from batches to batches that these promise, on 20,000 rows or more."""
RECALL = {"deduplicate": 1.0, "near_duplicates": 0.99, "decontaminate": 1.0}
EXACT = ("deduplicate", "near_duplicates", "decontaminate")
"""Rules whose every removal must be right."""
PRECISE = {"redact": 0.97}
CHECKED = ("card", "iban", "de_tax_id", "es_dni", "nl_bsn", "fr_nir", "pl_pesel", "br_cpf", "github_token")
MOST_BYTES = {2_000_000: 1.5e9}
LINEAR = 1.25
"""How much more a row may cost on the largest size than on the smallest."""


def median(runs: Sequence[Run], key: str) -> float:
    return statistics.median(one[key] for one in runs)


def of(runs: Sequence[Run], what: str, mode: str, rows: int) -> list[Run]:
    return [
        one
        for one in runs
        if (one["what"], one["mode"], one["rows"]) == (what, mode, rows) and not one["failed"]
    ]


def markdown(runs: Sequence[Run], scores: Sequence[Run], about: Mapping[str, Any]) -> str:
    """The whole result for a reader."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [f"Machine: {about['processor']}, {about['cores']} cores; {versions}. Medians of the rounds.\n"]
    for rows in dict.fromkeys(one["rows"] for one in runs):
        parts.append(f"### {rows:,} rows\n\n{_speeds(runs, rows)}\n")
        if any(one["rows"] == rows for one in scores):
            parts.append(f"{_found([one for one in scores if one['rows'] == rows])}\n")
    failed = [one for one in runs if one["failed"]]
    parts += [f"{one['what']}, {one['mode']}, {one['rows']:,} rows: {one['failed']}\n" for one in failed]
    for name, rules in about["lacking"].items():
        how = "measured without" if name in about["about"] else "not measured: there is no rule"
        parts.append(f"{name} was {how} {', '.join(rules)}\n")
    parts += [f"{name}: {told}\n" for name, told in about["about"].items() if told]
    return "\n".join(parts)


def _speeds(runs: Sequence[Run], rows: int) -> str:
    lines = [
        "| | rules: rows/CPU-s | least – most | us a row | rows/s | memory MB | stage: rows/CPU-s | rows/s | memory MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(one["what"] for one in runs):
        cells = []
        for mode in ("rules", "stage"):
            if not (some := of(runs, what, mode, rows)):
                cells += [""] * (5 if mode == "rules" else 3)
                continue
            cpu, wall, peak = (median(some, key) for key in ("cpu_s", "wall_s", "peak_bytes"))
            cells.append(f"{rows / cpu:,.0f}")
            if mode == "rules":
                speeds = [rows / one["cpu_s"] for one in some]
                cells += [f"{min(speeds):,.0f} – {max(speeds):,.0f}", f"{1e6 * cpu / rows:.1f}"]
            cells += [f"{rows / wall:,.0f}", f"{peak / MB:,.0f}"]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _found(scores: Sequence[Run]) -> str:
    lines = ["| run | rule | planted | recall | acted on | false | precision | by kind |", "|---" * 8 + "|"]
    for one in scores:
        recall, precision = (
            "" if one[name] is None else f"{one[name]:.4f}" for name in ("recall", "precision")
        )
        false = "" if one["false"] is None else f"{one['false']:,}"
        kinds = ", ".join(f"{kind} {found:,}/{there:,}" for kind, (there, found) in one["parts"].items())
        lines.append(
            f"| {one['what']} | {one['rule']} | {one['planted']:,} | {recall} | {one['acted']:,} | {false} | {precision} | {kinds} |"
        )
    return "\n".join(lines)


def curve(runs: Sequence[Run], about: Mapping[str, Any]) -> str:
    """Cost and memory over sizes."""
    lines = [
        f"Machine: {about['processor']}, {about['cores']} cores. The whole stage, one run each.\n",
        "| | rows | us a row (CPU) | rows/CPU-s | rows/s | minutes | memory MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in runs:
        if one["failed"]:
            lines.append(f"| {one['what']} | {one['rows']:,} | {one['failed']} | | | | |")
            continue
        lines.append(
            f"| {one['what']} | {one['rows']:,} | {1e6 * one['cpu_s'] / one['rows']:.1f} | {one['rows'] / one['cpu_s']:,.0f} "
            f"| {one['rows'] / one['wall_s']:,.0f} | {one['wall_s'] / 60:.1f} | {one['peak_bytes'] / MB:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def broken(runs: Sequence[Run], scores: Sequence[Run]) -> list[str]:
    """Which promises do not hold, in words."""
    told = [
        f"{one['what']}, {one['mode']}, {one['rows']:,} rows: {one['failed']}"
        for one in runs
        if one["failed"]
    ]
    keys = dict.fromkeys(
        (one["what"], one["rows"]) for one in runs if one["mode"] == "rules" and one["rows"] >= 20_000
    )
    for what, rows in keys:
        some = of(runs, what, "rules", rows)
        if some and what in FASTEST and (speed := rows / median(some, "cpu_s")) < FASTEST[what]:
            told.append(f"{what}: {speed:,.0f} rows/CPU-s on {rows:,} rows, below {FASTEST[what]:,}")
    for one in scores:
        rule, where = one["rule"], f"{one['rule']} in {one['what']}, {one['rows']:,} rows"
        if rule in RECALL and one["recall"] is not None and one["recall"] < RECALL[rule]:
            told.append(f"{where}: recall {one['recall']:.4f}, below {RECALL[rule]:g}")
        if rule in EXACT and one["false"]:
            told.append(f"{where}: {one['false']} false removals; {'; '.join(one['examples'][:2])}")
        if rule in PRECISE and one["precision"] is not None and one["precision"] < PRECISE[rule]:
            told.append(f"{where}: precision {one['precision']:.4f}, below {PRECISE[rule]:g}")
        if rule == "redact":
            missed = {
                k: there - found
                for k, (there, found) in one["parts"].items()
                if k in CHECKED and there > found
            }
            told += [
                f"{where}: {n} values of {kind} not found, though they have a check digit"
                for kind, n in missed.items()
            ]
    told += _grown(runs)
    return told


def _grown(runs: Sequence[Run]) -> list[str]:
    told = []
    for what in dict.fromkeys(one["what"] for one in runs):
        some = [one for one in runs if one["what"] == what and one["mode"] == "stage" and not one["failed"]]
        for one in some:
            most = MOST_BYTES.get(one["rows"])
            if most and one["peak_bytes"] > most:
                told.append(
                    f"{what}, {one['rows']:,} rows: {one['peak_bytes'] / MB:,.0f} MB, above {most / MB:,.0f}"
                )
        costs = {
            rows: median([o for o in some if o["rows"] == rows], "cpu_s") / rows
            for rows in {o["rows"] for o in some}
        }
        large = [rows for rows in costs if rows >= 200_000]
        if len(large) > 1 and costs[max(large)] > LINEAR * costs[min(large)]:
            told.append(
                f"{what}: a row costs {costs[max(large)] / costs[min(large)]:.2f} times as much at {max(large):,} rows as at {min(large):,}"
            )
    return told
