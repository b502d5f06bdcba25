"""Who races, at which setting and why. A table of data; nothing here runs anything.

Every contestant does the same work: the same rows in the same order, the same initial adapter (LoRA, rank 16, alpha 32,
on every linear layer), 16 rows per optimizer step, AdamW at a constant 2e-4, gradients clipped to a norm of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROWS_PER_STEP = 16
LEARNING_RATE = 2e-4
RANK, ALPHA = 16, 32


@dataclass(frozen=True)
class Contestant:
    """`peer` names an environment of peers.PEERS, None is the project's own; `script` lies beside this file."""

    name: str
    title: str
    peer: str | None
    script: str
    settings: Mapping[str, Any]
    why: str


# The settings of run_trl.py: how the weights are held, autocast, rows per forward pass, recomputation, and `sorted`:
# rows of one step from short to long, which changes no step and wastes less padding.
TRL_DEFAULT = {"weights": "float32", "bf16": True, "rows": 8, "checkpointing": True}
TRL_BEST = {"weights": "bfloat16", "bf16": True, "rows": 2, "checkpointing": False, "sorted": True}
TRL_EXACT = {"weights": "float32", "bf16": False, "rows": 2, "checkpointing": False, "sorted": True}
LLAMAFACTORY_DEFAULT = {"rows": 8, "checkpointing": True}
LLAMAFACTORY_BEST = {"rows": 2, "checkpointing": False, "sorted": True}

RACE = (
    Contestant(
        "trl-default",
        "TRL, default",
        "trl",
        "run_trl.py",
        TRL_DEFAULT,
        "what SFTConfig(use_cpu=True) does: fp32 weights, bf16 autocast, gradient checkpointing, 8 rows at once",
    ),
    Contestant(
        "llamafactory",
        "LLaMA-Factory, default",
        "llamafactory",
        "run_llamafactory.py",
        LLAMAFACTORY_DEFAULT,
        "bf16 as in its examples, gradient checkpointing, 8 rows at once",
    ),
    Contestant(
        "trl-best",
        "TRL, best found",
        "trl",
        "run_trl.py",
        TRL_BEST,
        "the fastest of benchmarks/race/sweep.py that takes the same steps",
    ),
    Contestant(
        "llamafactory-best",
        "LLaMA-Factory, best found",
        "llamafactory",
        "run_llamafactory.py",
        LLAMAFACTORY_BEST,
        "the fastest of benchmarks/race/sweep.py",
    ),
    Contestant(
        "luthier",
        "luthier, default",
        None,
        "run_luthier.py",
        {"dtype": "bf16"},
        "the training stage with its default settings",
    ),
)

EXACT = (
    Contestant("trl-fp32", "TRL, fp32", "trl", "run_trl.py", TRL_EXACT, "the reference for losses"),
    Contestant(
        "luthier-fp32", "luthier, fp32", None, "run_luthier.py", {"dtype": "fp32"}, "compared with it"
    ),
)
