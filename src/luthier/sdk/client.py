"""Client and AsyncClient: the same nouns and verbs as App (core/verbs), at a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from luthier.core.errors import did_you_mean
from luthier.core.verbs import VERBS

from . import flows
from .drive import AsyncDriver, Driver, headers_of, httpx, origin_of
from .flows import Flow, Stop, Watch

_NOUNS = sorted({verb.noun for verb in VERBS.values()})


class _Noun:
    """`client.records`: each verb as a method, with App's arguments."""

    def __init__(self, noun: str, call: Callable[..., Any]) -> None:
        self._noun, self._call = noun, call

    def __getattr__(self, method: str) -> Callable[..., Any]:
        name = f"{self._noun}.{method}"
        if name not in VERBS:
            known = [verb.method for verb in VERBS.values() if verb.noun == self._noun]
            raise AttributeError(f"{self._noun} has no {method!r} at a server; {did_you_mean(method, known)}")

        def call(*given: Any, **named: Any) -> Any:
            return self._call(name, *given, **named)

        call.__name__, call.__doc__ = method, VERBS[name].about
        return call

    def __dir__(self) -> list[str]:
        return [verb.method for verb in VERBS.values() if verb.noun == self._noun]


class _Either:
    def __init__(
        self, base_url: str, api_key: str, *, project: str | None = None, timeout_s: float = 300.0, insecure: bool = False
    ) -> None:  # fmt: skip
        """`timeout_s`: how long nothing may come. `project`: for a key of an organisation. `insecure`: http beyond this machine."""
        self.base_url = origin_of(base_url, insecure)
        self._settings = {
            "base_url": self.base_url, "headers": headers_of(api_key, project), "timeout": timeout_s, "follow_redirects": False,
            "trust_env": not self.base_url.startswith("http://"),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    def _drive(self, flow: Flow) -> Any:
        raise NotImplementedError

    def __getattr__(self, noun: str) -> _Noun:
        if noun not in _NOUNS:
            raise AttributeError(f"there is no {noun!r} here; {did_you_mean(noun, _NOUNS)}")
        return _Noun(noun, self.call)

    def call(self, verb: str, *given: Any, **named: Any) -> Any:
        """A verb by its name, as `records.show`. What becomes a job is waited for; `watch` and `stop` as App takes them."""
        return self._drive(flows.called(verb, given, named))

    def submit(self, verb: str, *given: Any, **named: Any) -> Any:
        """Enter a job and do not wait: the job."""
        return self._drive(flows.submitted(verb, given, named))

    def wait(
        self, job: Mapping[str, Any] | str, *, into: Path | None = None, watch: Watch | None = None, stop: Stop | None = None
    ) -> Any:  # fmt: skip
        """A job's plain result, when it has ended. Raises what it failed with."""
        job_id = job if isinstance(job, str) else job["id"]
        return self._drive(flows.waited(job_id, into, watch, stop))

    def job(self, job_id: str) -> Any:
        return self._ask_queue("GET", f"/{quote(job_id, safe='')}")

    def jobs(self, **wanted: Any) -> Any:
        """The newest jobs of the project: a page. `state`, `kind`, `after` (older than this one), `limit`."""
        return self._ask_queue("GET", "", wanted)

    def events(self, job_id: str, **wanted: Any) -> Any:
        """What a job has told, oldest first: a page. `after` (its number), `limit`."""
        return self._ask_queue("GET", f"/{quote(job_id, safe='')}/events", wanted)

    def logs(self, job_id: str, **wanted: Any) -> Any:
        """What an attempt has printed. `attempt`, `lines`, `containing`."""
        return self._ask_queue("GET", f"/{quote(job_id, safe='')}/logs", wanted)

    def download(self, file: Mapping[str, Any], to: Path) -> Any:
        """A file of a result ({"name", "sha256", "size_bytes"}), held against its hash. Never overwrites."""
        return self._drive(flows.fetched(file, to))

    def upload(self, path: Path) -> Any:
        """Send a file ahead; its SHA-256."""
        return self._drive(flows.sent(path))

    def cancel(self, job_id: str) -> Any:
        """Ask a job to stop for good: the job."""
        return self._ask_queue("POST", f"/{quote(job_id, safe='')}/cancel")

    def pause(self, job_id: str) -> Any:
        """Ask a job to save what it has and stop, until it is resumed: the job."""
        return self._ask_queue("POST", f"/{quote(job_id, safe='')}/pause")

    def resume(self, job_id: str) -> Any:
        return self._ask_queue("POST", f"/{quote(job_id, safe='')}/resume")

    def prioritise(self, job_id: str, priority: int) -> Any:
        """Have a job start sooner (or later) than others: the job."""
        return self._ask_queue("POST", f"/{quote(job_id, safe='')}/priority", body={"priority": priority})

    def _ask_queue(
        self, method: str, path: str, wanted: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        query = f"?{urlencode(wanted)}" if wanted else ""
        return self._drive(flows.asked(flows.Ask(method, f"/luthier/v1/jobs{path}{query}", body)))

    def me(self) -> Any:
        """Who the server takes this key for. Raises SpecError where it takes it for nobody."""
        return self._drive(flows.me())


class Client(_Either):
    """Thread-safe. Close it, or use it in a `with`."""

    def __init__(self, base_url: str, api_key: str, **settings: Any) -> None:
        super().__init__(base_url, api_key, **settings)
        self._http = httpx().Client(**self._settings)

    def _drive(self, flow: Flow) -> Any:
        return Driver(self._http).drive(flow)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Either):
    """The same; every call is awaited."""

    def __init__(self, base_url: str, api_key: str, **settings: Any) -> None:
        super().__init__(base_url, api_key, **settings)
        self._http = httpx().AsyncClient(**self._settings)

    def _drive(self, flow: Flow) -> Awaitable[Any]:
        return AsyncDriver(self._http).drive(flow)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
