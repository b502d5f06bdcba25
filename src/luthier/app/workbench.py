"""The rows of a recipe as tokens, kept where the run itself will find them, and all else that a training step needs.

For what looks at training before it runs: the plan's probe and the profile. Nothing is trained here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.artifact import key_of

from .context import RunContext
from .line import Results
from .recipe import Wish

if TYPE_CHECKING:
    from luthier.models.template import Template
    from luthier.models.weights import ModelFacts
    from luthier.training.method import Method
    from luthier.training.rows import Rows
    from luthier.training.spec import TrainSpec


@dataclass(frozen=True)
class Workbench:
    """`key` names the training that this belongs to; `others` are facts of the models that the method needs, by role."""

    key: str
    spec: TrainSpec
    method: Method
    folders: Mapping[str, Path]
    splits: Mapping[str, Rows]
    template: Template
    facts: ModelFacts
    others: Mapping[str, ModelFacts]
    tokenise_s: float  # little where an earlier run's tokens were found


def workbench(wish: Wish, at: RunContext, so_far: Results) -> Workbench:
    """From prepared rows and imported models. Raises what `train.tokenised` raises."""
    from luthier.models.weights import describe
    from luthier.training.train import STAGE, TOKENS, tokenised

    assert so_far.base is not None and so_far.dataset is not None
    inputs = {role: one for role, one in so_far.others.items() if one is not None}
    inputs |= {"base": so_far.base, "dataset": so_far.dataset}
    parents = {role: one.digest for role, one in sorted(inputs.items())}
    folders = {role: at.folder(one) for role, one in inputs.items()}
    spec, facts = wish.recipe.train, describe(folders["base"])
    method: Method = spec.method.load()(spec.method.settings)
    key = key_of(STAGE.kind, spec.plain(), STAGE.version, parents)
    begun = time.monotonic()
    splits, template = tokenised(
        spec, method, folders["base"], folders["dataset"], facts.context, parents, at.home / TOKENS, at
    )
    took_s = time.monotonic() - begun
    others = {role: describe(folders[role]) for role in spec.other_models}
    return Workbench(key, spec, method, folders, splits, template, facts, others, took_s)
