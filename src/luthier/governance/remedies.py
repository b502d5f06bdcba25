"""What helps where a rule is broken: one sentence for each metric whose cure is not simply a better model."""

from __future__ import annotations

REMEDIES: dict[str, str] = {
    "extracted": "train for fewer epochs, remove near duplicates (`near_duplicates`), mask what is private (`redact`), or lower the rank",
    "exposure": "train for fewer epochs, remove repeated rows (`deduplicate`, `near_duplicates`), or mask secrets (`redact`)",
    "membership_auc": "train for fewer epochs with early stopping, on more rows, or with fewer weights that move (a lower rank)",
    "pii_said": "mask personal data in the training rows (rule `redact`), and look at the rows that the report names",
    "refused": "look at training rows whose answers decline",
    "schema_valid": "constrain the answers to the schema (postprocess), or remove training rows that break it (rule `json_schema`)",
    "latency": "choose a smaller base, a shorter answer, a quantised package or a faster machine; it is a figure of the machine that measured it",
    "cost": "choose a smaller base, shorter prompts and answers, or a cheaper machine",
    "ece": "calibrate on the validation rows (postprocess.calibrate), or give more of them",
}
