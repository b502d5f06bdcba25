"""What a run left behind, as plain values: the contents of its artifacts' JSON files and readings of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """Everything but the name may be absent; the page then says what is not there.

    forecast, actual   {"steps", "tokens", "peak_bytes", "seconds", "training_seconds": numbers, "money": [amount, currency],
                        "basis": [text]}, each of them or None; what else stands there is ignored
    lineage_nodes      {"digest", "kind", "names": [text]}
    lineage_edges      (child digest, role, parent digest)
    """

    name: str
    release: str | None = None  # name@version
    state: str | None = None  # "released", "stopped by the gate", ...
    reason: str | None = None  # why it stopped
    made_on: str | None = None  # a date, as it is to be shown
    base: str | None = None  # the base model's name
    dataset: Json | None = None  # dataset.json
    rules: Sequence[Json] | None = None  # rules.json
    history: Json | None = None  # history.json
    train: Json | None = None  # the training's spec, every default spelled out
    report: Json | None = None  # report.json
    verdicts: Sequence[Json] = ()  # {"metric", "rule", "passed", "reason", "waived"}
    waivers: Sequence[Json] = ()  # governance.waiver.WaiverSpec
    forecast: Json | None = None
    actual: Json | None = None
    lineage_nodes: Sequence[Json] = ()
    lineage_edges: Sequence[tuple[str, str, str]] = ()
    recipe: str | None = None
    overrides: Sequence[str] = ()  # --set a.b=c
    environment: Json | None = None
