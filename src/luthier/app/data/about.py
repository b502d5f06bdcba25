"""What people say of a dataset (owner, licence, purpose, retention, tags): events on its digest, the newest counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.event import Event
from luthier.store import Store

if TYPE_CHECKING:
    from luthier.data.spec import AboutSpec

KIND = "described"


def about_of(store: Store, digest: str) -> Mapping[str, Any] | None:
    event = store.ledger.last(kind=KIND, subject=digest)
    return event.data if event else None


def describe(store: Store, digest: str, about: AboutSpec | None) -> None:
    """Record what the recipe says, where it says anything and something else than before."""
    if about is None:
        return
    told = {name: value for name, value in about.plain().items() if value}
    if told and told != about_of(store, digest):
        store.ledger.append(Event(KIND, digest, told))
