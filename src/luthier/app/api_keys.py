"""API keys of users and service accounts: made, shown once, rotated, ended.

A key is one's own, or a service account's that one administers; nobody gets a key in another person's name. What a new key may do, its
maker may do there too, and with a key that was made for less, or expires, none is made for more, or for longer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core import keys
from luthier.core.errors import Conflict, NotAllowed, NotFound, SpecError
from luthier.core.names import clean
from luthier.governance.access import SITE, check_permissions, permissions_of
from luthier.store.accounts import KeyRow, User

from .rights import Rights

if TYPE_CHECKING:
    from .site import Caller, Site

LONGEST_GRACE_S = 7 * 86_400.0
MOST_KEYS = 50
"""That live, of one user."""


@dataclass(frozen=True)
class Made:
    """A new key. `text` is shown once and kept nowhere."""

    key: KeyRow
    text: str


class Keys:
    """`site.accounts.keys`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows = site.store.accounts

    def create(
        self,
        caller: Caller,
        *,
        scope: str,
        title: str,
        user: str | None = None,
        permissions: Iterable[str] | None = None,
        expires_s: float | None = None,
    ) -> Made:
        """`user` None: the caller himself. `permissions` None: all that its user may do in `scope`."""
        whose = self._whose(caller, user)
        least = None if permissions is None else check_permissions(permissions)
        now = time.time()
        self._may_hand_out(caller, whose, scope, least)
        if expires_s is not None and expires_s <= now:
            raise SpecError("the key would have expired already.", remedy="Name a time that is to come.")
        _no_later(caller, expires_s)
        return self._make(caller, "key.created", whose, scope, clean(title, "title"), least, expires_s)

    def list(self, caller: Caller, scope: str | None = None) -> list[KeyRow]:
        """One's own, as far as the key that is used reaches; with `scope`, all of that scope."""
        rights = Rights(self._rows, caller)
        if scope is not None:
            rights.need("keys.read", scope)
            return self._rows.keys(scopes=[scope])
        if caller.operator:
            return self._rows.keys()
        return [one for one in self._rows.keys(user=caller.user) if self._reaches(rights, caller, one.scope)]

    def get(self, caller: Caller, key_id: str) -> KeyRow:
        """Raises NotFound for a key that is neither one's own nor of a scope whose keys one may read."""
        found = self._rows.key(key_id)
        rights = Rights(self._rows, caller)
        if found is not None:
            row = found[0]
            own = row.user == caller.user and self._reaches(rights, caller, row.scope)
            if own or caller.operator or "keys.read" in rights.held(row.scope):
                return row
        raise NotFound(f"there is no key {key_id!r}.", remedy="`luthier key list` shows them.")

    def rotate(
        self, caller: Caller, key_id: str, *, grace_s: float = 0.0, expires_s: float | None = None
    ) -> Made:
        """A new key in place of one, for the same; the old one works for `grace_s` more. `expires_s` None: it lives as long as the old one
        was to live, but no longer than the key that asks for it."""
        if not 0 <= grace_s <= LONGEST_GRACE_S:
            raise SpecError("the old key works on for 0 s to 7 days.", remedy="Give a grace between those.")
        old = self.get(caller, key_id)
        whose = self._whose(caller, old.user)
        least = None if old.permissions is None else list(old.permissions)
        self._may_hand_out(caller, whose, old.scope, least)
        now, asked_s = time.time(), expires_s
        if expires_s is None and old.expires_s is not None:
            expires_s = now + (old.expires_s - old.created_s)
        if asked_s is None and caller.expires_s is not None:
            expires_s = min(expires_s or caller.expires_s, caller.expires_s)
        _no_later(caller, expires_s)
        if expires_s is not None and expires_s <= now:
            raise SpecError("the key would have expired already.", remedy="Name a time that is to come.")
        return self._make(
            caller, "key.rotated", whose, old.scope, old.title, least, expires_s, old, now + grace_s
        )

    def end(self, caller: Caller, key_id: str) -> None:
        """The key that is used, another of one's own, or any of a scope in which one may write keys; but for the first, none that may do
        more than the caller, so that a key made for little does not end those made for more."""
        row = self.get(caller, key_id)
        rights = Rights(self._rows, caller)
        if row.user != caller.user or caller.operator:
            rights.need("keys.write", row.scope)
        elif row.id != caller.key_id:
            rights.need("keys.own", row.scope)
        if row.id != caller.key_id and not caller.operator:
            for within, permissions in self._may(rights, row.user, row.scope, row.permissions):
                if more := sorted(permissions - rights.held(within)):
                    raise NotAllowed(
                        f"the key {row.id} holds the permission {more[0]!r} in {within}, which you do not hold there.",
                        remedy="Use a key that may do as much, or ask an admin there.",
                    )
        self._rows.end_key(key_id, caller.actor.act("key.ended", key_id, _facts(row.scope, row.user)))

    # -- what a key may be made for -----------------------------------------------------------------------------------

    def _whose(self, caller: Caller, user: str | None) -> User:
        """Raises NotFound for somebody who is nothing where the caller may see members."""
        if caller.operator:
            if user is None:
                raise SpecError("it is not said whose key that is.", remedy="Name a user.")
            return self._rows.user(user)
        return self._site.accounts.user(caller, user or caller.user)

    def _may_hand_out(self, caller: Caller, whose: User, scope: str, least: Sequence[str] | None) -> None:
        rights = Rights(self._rows, caller)
        own = whose.id == caller.user
        rights.need("keys.own" if own else "keys.write", scope)
        if caller.operator:
            return
        if not own and whose.kind != "service":
            raise NotAllowed(
                f"{whose.id} is a person, who makes keys himself.",
                remedy="Make a service account for programs.",
            )
        if own and caller.least is not None and least is None:
            raise NotAllowed(
                "the key that you use was made for less than all, so what it makes must be too.",
                remedy="Name the permissions of the new key.",
            )
        for within, permissions in self._may(rights, whose.id, scope, least):
            rights.at_most(permissions, within)
        if least is not None:
            rights.at_most(least, scope)

    def _may(
        self, rights: Rights, user: str, scope: str, least: Sequence[str] | None
    ) -> Iterator[tuple[str, frozenset[str]]]:
        """What a key of that user may do now, in its scope and in each that lies in it."""
        for within in self._within(scope):
            yield within, permissions_of(self._rows.roles(user, rights.above(within)), least)

    def _within(self, scope: str) -> Sequence[str]:
        if scope.startswith("proj_"):
            return [scope]
        inner = self._rows.projects(None if scope == SITE else scope)
        organisations = [one.id for one in self._rows.organisations()] if scope == SITE else []
        return [scope, *organisations, *(one.id for one in inner)]

    @staticmethod
    def _reaches(rights: Rights, caller: Caller, scope: str) -> bool:
        try:
            return caller.scope in rights.above(scope)
        except NotFound:
            return False

    def _make(
        self, caller: Caller, action: str, whose: User, scope: str, title: str, least: Sequence[str] | None,
        expires_s: float | None, old: KeyRow | None = None, old_until_s: float = 0.0,
    ) -> Made:  # fmt: skip
        now = time.time()
        living = [
            one for one in self._rows.keys(user=whose.id) if one.expires_s is None or one.expires_s > now
        ]
        if len([one for one in living if old is None or one.id != old.id]) >= MOST_KEYS:
            raise Conflict(f"{whose.id} has {MOST_KEYS} keys already.", remedy="End those that are not used.")
        text, key_id, sha256 = keys.generate()
        row = KeyRow(
            key_id, sha256, whose.id, scope, title, time.time(), least, expires_s,
            replaces=None if old is None else old.id,
        )  # fmt: skip
        facts = {**_facts(scope, whose.id), "permissions": least, "expires_s": expires_s}
        if old is None:
            self._rows.add(row, act=caller.actor.act(action, key_id, facts))
        else:
            act = caller.actor.act(action, key_id, {**facts, "replaces": old.id})
            self._rows.replace_key(row, old_until_s, act)
        return Made(row, text)


def _facts(scope: str, user: str) -> dict[str, str]:
    return {"scope": scope, "user": user, **({"project": scope} if scope.startswith("proj_") else {})}


def _no_later(caller: Caller, expires_s: float | None) -> None:
    """A key that expires makes none that outlives it. Raises NotAllowed."""
    if caller.expires_s is not None and (expires_s is None or expires_s > caller.expires_s):
        raise NotAllowed(
            "the key that you use expires, so what it makes must expire no later.",
            remedy=f"Ask for expires_at {int(caller.expires_s)} or earlier, or use another key.",
        )
