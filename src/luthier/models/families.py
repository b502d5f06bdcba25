"""Model families, one row each: transformers' `model_type` of decoders whose packed, shared-prefix and tree attention
is proven equal to plain attention by tests/models/test_families.py. Adding a family is adding its row.
"""

from __future__ import annotations

FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "granite",
    "olmo2",
    "phi3",
    "gemma",
    "gemma3_text",
)
