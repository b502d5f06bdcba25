"""Accounts as they look on the wire: what is sent in, strictly read, and what is sent back. No hash of a key is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luthier.server.parts import Wire
from luthier.store.accounts import Grant, KeyRow, Organisation, Project, User

if TYPE_CHECKING:
    from luthier.app.api_keys import Made

LARGEST_BODY_BYTES = 20_000
Id = Annotated[str, Field(min_length=1, max_length=64)]
Title = Annotated[str, Field(min_length=1, max_length=400)]
Text = Annotated[str, Field(min_length=1, max_length=255)]
Time = Annotated[int, Field(gt=0, lt=2**40)]


class NewTitle(Wire):
    title: Title
    """What people call it."""


class NewProject(NewTitle):
    organisation: Id
    """In which it is."""


class NewService(Wire):
    name: Title
    """What people call it."""
    scope: Id
    """Where the role is held: a project, an organisation or `site`."""
    role: Id
    """viewer, annotator, trainer, deployer, auditor or admin."""


class NewUser(NewService):
    issuer: Text | None = None
    """Through which provider the person logs in."""
    subject: Text | None = None
    """Who that is to the provider (`sub`)."""
    email: Text | None = None
    """Or a verified address, for the first login alone."""


class NewName(Wire):
    name: Title
    """What people call them from now on."""


class Erasure(Wire):
    because: Title
    """Why; it stays in the trail."""


class NewGrant(Wire):
    scope: Id
    """Where: a project, an organisation or `site`."""
    user: Id
    """Who."""
    role: Id
    """As what."""


class NewKey(Wire):
    title: Title
    """What it is for."""
    scope: Id | None = None
    """What it reaches; without one, the project that the request is made in."""
    user: Id | None = None
    """A service account whose key it is; without one, the caller."""
    permissions: Annotated[list[Id], Field(max_length=100)] | None = None
    """What it may do, where it is to be less than all that its user may."""
    expires_at: Time | None = None
    """Unix time."""


class Rotation(Wire):
    grace_seconds: Annotated[int, Field(ge=0, le=7 * 86_400)] = 0
    """How long the old key works on."""
    expires_at: Time | None = None
    """Unix time; without one, the new key lives as long as the old one was to live."""


def organisation_plain(one: Organisation) -> dict[str, Any]:
    return {
        "object": "luthier.organisation",
        "id": one.id,
        "title": one.title,
        "created_at": int(one.created_s),
    }


def project_plain(one: Project) -> dict[str, Any]:
    return {
        "object": "luthier.project", "id": one.id, "organisation": one.organisation, "title": one.title,
        "created_at": int(one.created_s),
    }  # fmt: skip


def user_plain(one: User) -> dict[str, Any]:
    return {
        "object": "luthier.user", "id": one.id, "kind": one.kind, "name": one.name, "issuer": one.issuer, "subject": one.subject,
        "created_at": int(one.created_s),
    }  # fmt: skip


def grant_plain(one: Grant) -> dict[str, Any]:
    return {
        "object": "luthier.grant", "id": f"{one.scope}/{one.user}/{one.role}", "scope": one.scope, "user": one.user, "role": one.role,
        "created_at": int(one.created_s),
    }  # fmt: skip


def key_plain(one: KeyRow) -> dict[str, Any]:
    return {
        "object": "luthier.key", "id": one.id, "title": one.title, "user": one.user, "scope": one.scope,
        "permissions": None if one.permissions is None else list(one.permissions), "created_at": int(one.created_s),
        "expires_at": _seconds(one.expires_s), "last_used_at": _seconds(one.last_used_s), "replaces": one.replaces,
    }  # fmt: skip


def made_plain(made: Made) -> dict[str, Any]:
    """With the key's text: this once."""
    return {**key_plain(made.key), "key": made.text}


def _seconds(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s)
