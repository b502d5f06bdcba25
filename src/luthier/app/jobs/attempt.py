"""What a job of a kind is given when it runs: a process of its own, which may be stopped, and die, at any moment.

A kind is a function `run(at: Attempt) -> Mapping` in a module of its own, and its line in the plugin table (kind `job`). What it returns
becomes the job's `result`: plain JSON, no secret. A LuthierError that it raises becomes the job's `error`; Interrupted after `stop` was
set means: stopped as asked, go on from here later.

It may be called again for the same job after a crash, a pause or an upgrade, so whatever it makes must be found again, not made twice;
the line (app/line) is so by itself, and `folder` outlives attempts for what is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from luthier.store.jobs import Job

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.context import Watch
    from luthier.app.site import Site


class Attempt(Protocol):
    """`app`: of the job's project, acting for who submitted it. `watch`: hand it to App's verbs, so that their progress and figures are
    told as the job's. `stop`: set when the job shall save what it has and end."""

    @property
    def job(self) -> Job: ...

    @property
    def site(self) -> Site: ...

    @property
    def app(self) -> App: ...

    @property
    def folder(self) -> Path: ...

    @property
    def stop(self) -> threading.Event: ...

    @property
    def watch(self) -> Watch: ...

    def tell(
        self, message: str, *, level: Literal["info", "warn", "error"] = "info", type: Literal["message", "metrics"] = "message",
        data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A line of the job's story. Raises Stale where this attempt was taken for dead and another runs."""
        ...

    def step(
        self, name: str, work: Callable[[], Mapping[str, Any]], *, message: str | None = None
    ) -> Mapping[str, Any]:
        """What `work` gives (plain JSON), done once for the job: where an earlier attempt has finished the step, what it gave then.
        `message` is told with the entry, in one transaction. Raises Stale, and Interrupted where the job shall stop."""
        ...
