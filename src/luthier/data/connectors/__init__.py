"""Where rows come from. `protocol.py` says what a connector is; each is one file and one line in the plugin table.

Importing this package loads neither Arrow nor a file system; `fingerprints` is what the line asks before it decides
whether anything has to be read at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, cast

from luthier.core import plugin
from luthier.core.artifact import digest_of
from luthier.core.stage import Context
from luthier.data.contract import contract_of
from luthier.data.spec import DataSpec, SourceSpec

from .protocol import Connector, Moving, Secret


def connect(
    source: SourceSpec, base: Path, secret: Secret, pinned: Mapping[str, Any] | None = None
) -> Connector:
    """The connector of a source, at what was pinned when its fingerprint was taken. Touches nothing yet."""
    connector: Connector = plugin.load("connector", source.connector)(source, base, secret)
    if pinned is not None:
        cast("Moving", connector).pin(pinned)
    return connector


def fingerprints(
    data: DataSpec, base: Path, at: Context, cache: MutableMapping[str, str] | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each source, and each file that a rule reads, as written and a digest of what is there. `cache` remembers hashes of local
    files between runs. A source that moves is pinned here, once, and what is pinned stands beside what is written.

    Raises DataError when one is missing or cannot be read.
    """
    from luthier.data.spec import reads

    for source in data.sources:
        connector = connect(source, base, at.secret)
        mark = connector.fingerprint(cache)
        pinned = connector.pinned() if isinstance(connector, Moving) else None
        yield {**source.plain(), **({"pinned": pinned} if pinned else {})}, mark
    for source in data.sources:
        if isinstance(source.contract, str):
            promised = contract_of(source.contract, base)
            assert promised is not None
            yield {"contract": source.contract}, digest_of(promised.plain())
    for wish in data.rules.ordered:
        for name, files in reads(wish).items():
            read = SourceSpec.model_validate({"files": files})
            mark = connect(read, base, at.secret).fingerprint(cache)
            yield {"rule": wish.name, "reads": {name: files}}, mark
        told = getattr(plugin.load("rule", wish.name), "mark", None)
        if told is not None and (mark_of := told(wish.settings)):
            yield {"rule": wish.name, "settings": wish.settings.plain()}, mark_of
