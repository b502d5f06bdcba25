"""Which artifacts of a list are wanted, by what people say of datasets (`data.about`): of those themselves, and of what was made
from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.store import Store

from .data.about import about_of

WITHOUT = ("source", "run")
"""Kinds that no dataset stands behind: a source is before it, and a run may have made several."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None is anything. `tags` must all be there. In any case: an owner and a tag are meant whole, a purpose
    is a sentence, in which the words must occur.

    >>> Wanted(tags=("PII",), purpose="route").fits({"tags": ["pii", "eu"], "purpose": "To route tickets"})
    True
    >>> Wanted(owner="support").fits({"owner": "support-eu"}), Wanted().fits({})
    (False, True)
    """

    tags: tuple[str, ...] = ()
    owner: str | None = None
    purpose: str | None = None

    @property
    def anything(self) -> bool:
        return not self.tags and self.owner is None and self.purpose is None

    def fits(self, about: Mapping[str, Any]) -> bool:
        there = {str(tag).casefold() for tag in about.get("tags") or ()}
        return (
            {tag.casefold() for tag in self.tags} <= there
            and (self.owner is None or self.owner.casefold() == str(about.get("owner") or "").casefold())
            and (
                self.purpose is None or self.purpose.casefold() in str(about.get("purpose") or "").casefold()
            )
        )

    def refuse(self, kind: str | None) -> None:
        """Raises SpecError for a kind of which nothing is said."""
        if kind in WITHOUT and not self.anything:
            raise SpecError(
                f"tags, owners and purposes are said of datasets, and a {kind} has none of its own.",
                remedy="Use them with dataset, model, report, package, release, or without a kind.",
            )

    def has(self, store: Store, artifact: Artifact) -> bool:
        """Whether it, or a dataset that it was made from, is wanted."""
        if self.anything:
            return True
        behind = [artifact, *store.catalog.ancestors(artifact.digest)]
        datasets = {one.digest for one in behind if one.kind == "dataset"}
        return any(self.fits(about_of(store, digest) or {}) for digest in datasets)
