"""App: every verb, once. Command line, HTTP and pages call these methods and add nothing of their own.

    app = App.open()                               # reads the environment, once
    plan = app.recipes.plan(Path("recipe.yaml"))   # what would run, before anything is spent
    done = app.recipes.run(Path("recipe.yaml"))    # does it
    app.records.show("ticket-router@1"); app.records.lineage("row:4be1…")
    app.models.engine("ticket-router")             # the model, ready to answer

Verbs stand with their noun, one file each: recipes, models, records, data, traffic, rollouts, monitor, audit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.store import Store

from .acting import Actor, local
from .data import Data

if TYPE_CHECKING:
    from .auditing import Audit
    from .doctor import Finding
    from .models import Models
    from .monitoring import Monitor
    from .recipes import Recipes
    from .records import Records
    from .rollouts import Rollouts
    from .traffic import Traffic
    from .uploaded import Uploaded


class App:
    """Open with `App.open`. Thread-safe for reading; one run at a time per recipe."""

    def __init__(
        self, home: Path, environ: Mapping[str, str], actor: Actor | None = None, store: Store | None = None,
        consent: Callable[[str, str], None] | None = None,
    ) -> None:  # fmt: skip
        """`consent`: raises NotAllowed where another person must agree first to (what, of what) and has not; a home of one person
        knows nobody else."""
        self.home = home
        self.actor = actor or local()
        self.consent = consent or (lambda _kind, _subject: None)
        self._environ = environ
        self._store = store

    @classmethod
    def open(cls, environ: Mapping[str, str] | None = None) -> App:
        """LUTHIER_HOME (default ~/.luthier), LUTHIER_DATABASE and LUTHIER_BLOBS say where things are kept."""
        environ = dict(os.environ if environ is None else environ)
        home = Path(
            environ.get("LUTHIER_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".luthier"
        ).expanduser()
        return cls(home.absolute(), environ)

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store.open(
                self.home,
                database_url=self._environ.get("LUTHIER_DATABASE"),
                blobs_url=self._environ.get("LUTHIER_BLOBS"),
                environ=self._environ,
            )
        return self._store

    @property
    def recipes(self) -> Recipes:
        """What would run, and running it."""
        from .recipes import Recipes as Verbs

        return Verbs(self)

    @property
    def models(self) -> Models:
        """What was trained: choosing, comparing, writing out, asking."""
        from .models import Models as Verbs

        return Verbs(self)

    @property
    def records(self) -> Records:
        """What is kept, and where it came from."""
        from .records import Records as Verbs

        return Verbs(self)

    @property
    def data(self) -> Data:
        """What can be asked of datasets."""
        return Data(self)

    @property
    def traffic(self) -> Traffic:
        """What served models were asked and answered, where that is kept."""
        from .traffic import Traffic as Verbs

        return Verbs(self)

    @property
    def uploaded(self) -> Uploaded:
        """Files that people put in."""
        from .uploaded import Uploaded as Verbs

        return Verbs(self)

    @property
    def audit(self) -> Audit:
        """Who did, or was denied, what; and whether that is what was written."""
        from .auditing import Audit as Verbs

        return Verbs(self)

    @property
    def rollouts(self) -> Rollouts:
        """Which version of a name answers, and how the next one takes over."""
        from .rollouts import Rollouts as Verbs

        return Verbs(self)

    @property
    def monitor(self) -> Monitor:
        """How released models fare: drift, alerts, new runs."""
        from .monitoring import Monitor as Verbs

        return Verbs(self)

    def doctor(self) -> list[Finding]:
        """What this machine has, what is missing, and how to get it."""
        from .doctor import examine

        return examine(
            self.home,
            self._environ.get("LUTHIER_DATABASE"),
            self._environ.get("LUTHIER_BLOBS"),
            self._environ,
        )
