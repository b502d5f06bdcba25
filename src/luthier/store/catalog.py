"""The catalog: which artifacts exist, what each came from, and which names point at which digest.

A reference is what a person types: a name (`ticket-router`), a name and version (`ticket-router@3`), or the first
eight or more digits of a digest. Versions count 1, 2, 3 … and are never reused or moved.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthier.core.artifact import Artifact, File
from luthier.core.errors import NotFound, SpecError, did_you_mean

from .audit import Act, Audit
from .database import Database, insert_once
from .tables import artifacts, files, names, parents

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """A name is lower-case letters, digits, dot, dash, underscore: no two names differ only by case or accent."""
    if not NAME.fullmatch(name) or ".." in name:
        raise SpecError(
            f"{name[:100]!r} cannot be a name.",
            remedy="Use lower-case letters, digits, '-', '_' and '.', at most 100, e.g. ticket-router",
        )
    return name


@dataclass(frozen=True)
class Version:
    """One entry of a name's history."""

    name: str
    version: int
    digest: str
    created_s: float

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Catalog:
    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    # -- artifacts --------------------------------------------------------------------------------------------------

    def record(self, artifact: Artifact) -> Artifact:
        """Make an artifact known, in one transaction. Its blobs must be durable already. Recording it twice is harmless."""
        digest = artifact.digest
        head = {"digest": digest, "kind": artifact.kind, "key": artifact.key, "spec": dict(artifact.spec),
                "version": artifact.version, "summary": dict(artifact.summary), "created_s": artifact.created_s or time.time()}  # fmt: skip
        own = [
            {"digest": digest, "path": f.path, "sha256": f.sha256, "size_bytes": f.size_bytes}
            for f in artifact.files
        ]
        up = [{"child": digest, "role": r, "parent": p} for r, p in artifact.parents.items()]
        with self._database.reading() as connection:
            if connection.execute(sa.select(artifacts.c.digest).where(artifacts.c.digest == digest)).first():
                return artifact
        with self._database.transaction() as connection:
            for table, rows in ((artifacts, [head]), (files, own), (parents, up)):
                if rows:
                    connection.execute(insert_once(connection, table), rows)
        return artifact

    def find(self, key: str) -> Artifact | None:
        """The newest artifact made for this key, if any."""
        query = (
            sa.select(artifacts)
            .where(artifacts.c.key == key)
            .order_by(artifacts.c.created_s.desc(), artifacts.c.digest)
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            return self._whole(connection, row) if row else None

    def get(self, reference: str) -> Artifact:
        """The artifact a reference means. Raises NotFound (with near names) or SpecError (ambiguous)."""
        name, at, number = reference.partition("@")
        with self._database.reading() as connection:
            if version := self._version(connection, name, number if at else None):
                reference = version.digest
            elif at:
                known = sorted({v.name for v in self._history(connection, None)})
                raise NotFound(
                    f"there is no {reference!r}.",
                    remedy=self._versions_hint(connection, name) or did_you_mean(name, known),
                )
            rows: Sequence[sa.Row] = []
            if re.fullmatch(r"[0-9a-f]{8,64}", reference):
                rows = connection.execute(
                    sa.select(artifacts).where(artifacts.c.digest.startswith(reference)).limit(2)
                ).all()
            if len(rows) > 1:
                raise SpecError(
                    f"{reference!r} fits several artifacts.", remedy="Give more digits of the digest."
                )
            if not rows:
                known = sorted({v.name for v in self._history(connection, None)})
                raise NotFound(f"nothing here is called {reference!r}.",
                               remedy=(did_you_mean(reference, known) if known else "nothing has been released yet") + " (`luthier list` shows all)")  # fmt: skip
            return self._whole(connection, rows[0])

    def all(self, kind: str | None = None) -> list[Artifact]:
        """Every artifact, newest first."""
        query = sa.select(artifacts).order_by(artifacts.c.created_s.desc(), artifacts.c.digest)
        if kind:
            query = query.where(artifacts.c.kind == kind)
        with self._database.reading() as connection:
            return [self._whole(connection, row) for row in connection.execute(query).all()]

    def _whole(self, connection: sa.Connection, row: sa.Row) -> Artifact:
        own = connection.execute(
            sa.select(files).where(files.c.digest == row.digest).order_by(files.c.path)
        ).all()
        up = connection.execute(
            sa.select(parents).where(parents.c.child == row.digest).order_by(parents.c.role)
        ).all()
        return Artifact(row.kind, row.key, row.spec, row.version, {p.role: p.parent for p in up},
                        tuple(File(f.path, f.sha256, f.size_bytes) for f in own), row.summary, row.created_s)  # fmt: skip

    # -- lineage ----------------------------------------------------------------------------------------------------

    def ancestors(self, digest: str) -> list[Artifact]:
        """The artifact and everything it came from, each once, nearest first."""
        return list(self._walk(digest, parents.c.child, parents.c.parent))

    def descendants(self, digest: str, *, but: str | None = None) -> list[Artifact]:
        """The artifact and everything made from it, each once, nearest first; `but`: a role that is not followed."""
        return list(self._walk(digest, parents.c.parent, parents.c.child, but))

    def _walk(
        self, digest: str, here: sa.Column, there: sa.Column, but: str | None = None
    ) -> Iterator[Artifact]:
        with self._database.reading() as connection:
            seen, queue = {digest}, [digest]
            while queue:
                current = queue.pop(0)
                row = connection.execute(sa.select(artifacts).where(artifacts.c.digest == current)).one()
                yield self._whole(connection, row)
                followed = sa.select(there).where(here == current).order_by(there)
                if but is not None:
                    followed = followed.where(parents.c.role != but)
                for (other,) in connection.execute(followed).all():
                    if other not in seen:
                        seen.add(other)
                        queue.append(other)

    # -- names ------------------------------------------------------------------------------------------------------

    def name(self, name: str, digest: str, act: Act | None = None) -> Version:
        """Give the artifact a name: the next version, or the newest one when it already points there. `act` is entered with a new
        version, as its subject."""
        check_name(name)
        for last_try in (False, False, False, False, True):
            try:
                return self._name(name, digest, act)
            except IntegrityError:  # another process took that version at the same moment
                if last_try:
                    raise
        raise AssertionError("not reached")

    def _name(self, name: str, digest: str, act: Act | None) -> Version:
        with self._database.transaction() as connection:
            newest = self._version(connection, name, None)
            if newest and newest.digest == digest:
                return newest
            version = Version(name, newest.version + 1 if newest else 1, digest, time.time())
            connection.execute(
                names.insert().values(
                    name=name, version=version.version, digest=digest, created_s=version.created_s
                )
            )
            if act is not None:
                told = replace(act, subject=str(version), data={**act.data, "digest": digest})
                self._audit.enter(connection, told)
        return version

    def history(self, name: str | None = None) -> list[Version]:
        """Every version of a name (or of all), oldest first."""
        with self._database.reading() as connection:
            return self._history(connection, name)

    def names_of(self, digest: str) -> list[Version]:
        """The versions that point at this digest."""
        return [v for v in self.history() if v.digest == digest]

    def _history(self, connection: sa.Connection, name: str | None) -> list[Version]:
        query = sa.select(names).order_by(names.c.name, names.c.version)
        if name is not None:
            query = query.where(names.c.name == name)
        return [Version(r.name, r.version, r.digest, r.created_s) for r in connection.execute(query).all()]

    def _version(self, connection: sa.Connection, name: str, number: str | None) -> Version | None:
        history = self._history(connection, name)
        if number is None:
            return history[-1] if history else None
        return next((v for v in history if str(v.version) == number), None)

    def _versions_hint(self, connection: sa.Connection, name: str) -> str | None:
        history = self._history(connection, name)
        return f"{name} has the versions {', '.join(str(v.version) for v in history)}" if history else None
