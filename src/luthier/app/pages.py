"""Where the pages for people stand, by what a person calls them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import NotFound, did_you_mean

if TYPE_CHECKING:
    from luthier.store import Store


def page_of(store: Store, folder: Path, reference: str) -> Path:
    """A release's newest page by its name, one of its versions, a search's (NAME-search), or a run's that the gate stopped.
    Raises NotFound with the nearest that there is."""
    stems = {path.stem: path for path in folder.glob("*.html")}
    newest = [str(version) for version in store.catalog.history(reference)] if "@" not in reference else []
    for wanted in (reference, *reversed(newest)):
        if wanted in stems:
            return stems[wanted]
    raise NotFound(
        f"there is no page of {reference!r}.",
        remedy=did_you_mean(reference, sorted(stems)) if stems else "`luthier run RECIPE` writes one.",
    )
