"""A served name: an engine, what it was made of, and the queue in front of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from luthier.core.units import Money
from luthier.server.admission import Admission
from luthier.serving.engine import Engine


class ServedModel:
    """`engine` is loaded and closed by whoever made it; one ServedModel belongs to one running app.

    package_digest       the whole digest of what answers; its short form is the response's system_fingerprint
    release              the name and version under which it was published, for the x-luthier-release header
    waiting              how many requests may wait for a slot; one more gets 429
    hourly               what an hour of the machine costs, where that is known
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        package_digest: str,
        release: str | None = None,
        created_s: float = 0.0,
        waiting: int = 32,
        hourly: Money | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.package_digest = package_digest
        self.release = release
        self.created_s = created_s
        self.hourly = hourly
        self.admission = Admission(engine.slots, waiting)
        self.threads = ThreadPoolExecutor(engine.slots, thread_name_prefix=f"engine-{name}")

    def cost(self, held_s: float) -> tuple[float, str] | None:
        """What holding one slot for so long cost: the hour's price, shared evenly by the slots; nothing for a machine that idles."""
        if self.hourly is None:
            return None
        return self.hourly.amount * held_s / 3600 / self.engine.slots, self.hourly.currency

    @property
    def by(self) -> str:
        """The engine's name in the plugin table; empty where it says none."""
        return str(getattr(getattr(self.engine, "backend", None), "name", ""))

    @property
    def version(self) -> str:
        """The release, or the short digest of what was never released."""
        return self.release or self.package_digest[:12]

    def plain(self) -> dict[str, object]:
        """As `GET /v1/models` shows it."""
        return {"id": self.name, "object": "model", "created": int(self.created_s), "owned_by": "luthier"}
