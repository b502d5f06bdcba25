"""What an answer takes: seconds, tokens, money. Arithmetic over predictions and prices.

A system that runs here costs the machine's price for the seconds that an answer takes alone: many asked at once cost less. A system
behind an endpoint costs its price for the tokens that the server says it has read and written. What is not known is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.units import Money
from luthier.outputs.price import MILLION

from .spec import EvaluateSpec
from .systems import EndpointSystem

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.outputs.spec import FallbackSpec


def of(
    predictions: pa.Table,
    spec: EvaluateSpec,
    hourly: Money | None,
    machine: str | None = None,
    fallback: FallbackSpec | None = None,
) -> dict[str, dict[str, Any]]:
    """System -> {"latency", "tokens", "cost"}, each None where it is not known. Times are rounded to the microsecond. `machine`: what
    the systems ran on that are no servers; `fallback`: whom the tuned model asks where it is not sure."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in sorted(predictions.to_pylist(), key=lambda line: line["id"]):
        lines.setdefault(line["model"], []).append(line)
    found = {name: _one(mine, spec.named.get(name), hourly, machine) for name, mine in lines.items()}
    if fallback is not None and "tuned" in found:
        found["tuned"]["cost"] = _with_other(found["tuned"]["cost"], lines["tuned"], fallback)
    return found


def _with_other(
    cost: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]], fallback: FallbackSpec
) -> Mapping[str, Any] | None:
    """With what the answers cost that another model gave; None where that is not known."""
    asked = [one for one in lines if one.get("asked_for")]
    if cost is None or not asked:
        return cost
    price = None if fallback.endpoint is None else fallback.endpoint.price
    if price is None or price.input.currency != cost["currency"]:
        return None
    counts = [[one[name] for one in asked] for name in ("other_tokens_in", "other_tokens_out")]
    if any(n is None for some in counts for n in some):
        return None
    rows = sum(one["prediction"] is not None for one in lines)
    per_1000 = cost["per_1000"] + 1000 / rows * price.of(*map(sum, counts)).amount
    basis = f"{cost['basis']}; {len(asked):,} of {rows:,} answers asked of {fallback.name} at {price.input} and {price.output} a million"
    return {**cost, "per_1000": per_1000, "basis": basis}


def _one(
    lines: Sequence[Mapping[str, Any]], entry: Any, hourly: Money | None, machine: str | None
) -> dict[str, Any]:
    seconds = [one["seconds"] for one in lines if one.get("seconds") is not None]
    read, written = (
        [one[name] for one in lines if one.get(name) is not None] for name in ("tokens_in", "tokens_out")
    )
    latency: dict[str, Any] | None = None
    if seconds:
        latency = {
            "median_s": round(float(np.median(seconds)), 6),
            "p95_s": round(float(np.quantile(seconds, 0.95)), 6),
            "mean_s": round(float(np.mean(seconds)), 6),
            "rows": len(seconds),
        }
        if machine is not None and not isinstance(entry, EndpointSystem):
            latency["machine"] = machine
    tokens = {"in": float(np.mean(read)), "out": float(np.mean(written))} if read and written else None
    return {"latency": latency, "tokens": tokens, "cost": _cost(latency, tokens, entry, hourly)}


def _cost(
    latency: Mapping[str, Any] | None, tokens: Mapping[str, float] | None, entry: Any, hourly: Money | None
) -> dict[str, Any] | None:
    if isinstance(entry, EndpointSystem):
        if entry.price is None or tokens is None:
            return None
        price = entry.price
        amount = 1000 * (tokens["in"] * price.input.amount + tokens["out"] * price.output.amount) / MILLION
        basis = f"{tokens['in']:.0f} tokens read at {price.input} and {tokens['out']:.0f} written at {price.output} for a million"
        return {"per_1000": amount, "currency": price.input.currency, "basis": basis}
    if hourly is None or latency is None:
        return None
    amount = 1000 * latency["mean_s"] / 3600 * hourly.amount
    basis = f"{latency['mean_s']:.3g} s of a machine at {hourly} an hour, one answer at a time"
    return {"per_1000": amount, "currency": hourly.currency, "basis": basis}
