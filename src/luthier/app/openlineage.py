"""Lineage for other tools: OpenLineage events of every step, where LUTHIER_OPENLINEAGE names a file or an HTTP collector.

    stage begins ──▶ START        stage ends ──▶ COMPLETE        it fails ──▶ FAIL        the user stops it ──▶ ABORT

Off by default. A run never waits for a collector and never fails by it: events go out from a thread of their own, each with
a timeout; what could not be sent is counted and told at the end. No text of a row, no message of an error (it may quote a
row), no part of an address that may be a secret leaves here.

The format: https://openlineage.io/spec/2-0-2/OpenLineage.json, written by hand; the test holds it against the client's types.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from luthier import __version__
from luthier.core.artifact import Artifact
from luthier.core.errors import Interrupted
from luthier.core.spec import resolve

if TYPE_CHECKING:
    from .context import RunContext

PRODUCER = f"https://pypi.org/project/luthier/{__version__}"
EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = {
    "parent": "1-2-0/ParentRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "ownership": "1-0-1/OwnershipDatasetFacet",
    "documentation": "1-1-0/DocumentationDatasetFacet",
    "tags": "1-0-0/TagsDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
}
NAMESPACE = "luthier"
TIMEOUT_S = 3.0
LAST_WAIT_S = 5.0
MOST_WAITING = 1_000
TRIES = 3  # in a row without success: then the rest of the run sends nothing

Event = dict[str, Any]
OWN = ("map", "task", "contract")  # of a source, whatever its connector


class Sender:
    """Where events go. `send` returns at once; `close` waits a little for the last ones."""

    def __init__(self, where: str, key: str | None = None) -> None:
        self._where, self._key = where, key
        self._waiting: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._lost, self._reason, self._in_a_row = 0, "", 0

    def send(self, event: Event) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="openlineage", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._lost += 1
            self._reason = "the collector is too slow"

    def close(self) -> str | None:
        """What was lost, in words, or None."""
        if self._thread is not None:
            before = time.monotonic()
            with suppress(queue.Full):  # told below as not sent
                self._waiting.put(None, timeout=LAST_WAIT_S)
            self._thread.join(max(0.0, LAST_WAIT_S - (time.monotonic() - before)))
            left = self._waiting.qsize() if self._thread.is_alive() else 0
            self._lost += left
            self._reason = self._reason or ("the collector did not answer in time" if left else "")
            if self._thread.is_alive() and not left:
                self._lost, self._reason = (
                    self._lost + 1,
                    self._reason or "the collector did not answer in time",
                )
            self._thread = None
        if not self._lost:
            return None
        return f"{self._lost} OpenLineage event{'s were' if self._lost > 1 else ' was'} not delivered: {self._reason}"

    def _work(self) -> None:
        while (event := self._waiting.get()) is not None:
            if self._in_a_row >= TRIES:
                self._lost += 1
                continue
            try:
                self._deliver(json.dumps(event, ensure_ascii=False).encode())
                self._in_a_row = 0
            except Exception as error:  # whatever a network may raise: a run must not feel it
                self._lost, self._in_a_row = self._lost + 1, self._in_a_row + 1
                self._reason = f"{type(error).__name__}{_status(error)}"  # its message may hold the address

    def _deliver(self, body: bytes) -> None:
        if not self._where.startswith(("http://", "https://")):
            with open(self._where, "ab") as file:
                file.write(body + b"\n")
            return
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class Stay(HTTPRedirectHandler):
            """A redirect would take the key to another host."""

            def redirect_request(self, *_: Any) -> None:
                return None

        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self._where, body, headers, method="POST")  # noqa: S310 (http or https, see above)
        with build_opener(Stay).open(request, timeout=TIMEOUT_S):
            pass


def _status(error: Exception) -> str:
    code = getattr(error, "code", None)
    return f" {code}" if isinstance(code, int) else ""


def sender(environ: Mapping[str, str]) -> Sender | None:
    """LUTHIER_OPENLINEAGE: a file's path, or the full URL of a collector; it may hold ${VAR}. LUTHIER_OPENLINEAGE_KEY is sent
    to a collector as a bearer token. Raises SpecError for a ${VAR} that is not set."""
    where = environ.get("LUTHIER_OPENLINEAGE", "").strip()
    return Sender(resolve(where, environ), environ.get("LUTHIER_OPENLINEAGE_KEY")) if where else None


@contextmanager
def told(
    at: RunContext, step: str, key: str, inputs: Mapping[str, Artifact]
) -> Iterator[Callable[[Artifact], None]]:
    """Around a stage at work; call what it gives with what was made."""
    if at.lineage is None:
        yield lambda artifact: None
        return
    made: list[Artifact] = []
    _send(at, "START", step, key, inputs, None)
    try:
        yield made.append
    except BaseException as error:
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        _send(at, "ABORT" if stopped else "FAIL", step, key, inputs, None, error)
        raise
    _send(at, "COMPLETE", step, key, inputs, made[0] if made else None)


def _send(
    at: RunContext, kind: str, step: str, key: str, inputs: Mapping[str, Artifact], made: Artifact | None,
    error: BaseException | None = None,
) -> None:  # fmt: skip
    assert at.lineage is not None
    at.lineage.send(event(at, kind, step, key, inputs, made, error))


def event(
    at: RunContext, kind: str, step: str, key: str, inputs: Mapping[str, Artifact], made: Artifact | None,
    error: BaseException | None = None,
) -> Event:  # fmt: skip
    """One RunEvent."""
    recipe = at.name or "luthier"
    run: dict[str, Any] = {
        "processing_engine": _facet("processing_engine", name="luthier", version=__version__),
        "parent": _facet(
            "parent", run={"runId": _uuid(at.run)}, job={"namespace": NAMESPACE, "name": recipe}
        ),
    }
    if error is not None and kind == "FAIL":
        run["errorMessage"] = _facet(
            "errorMessage", message=type(error).__name__, programmingLanguage="PYTHON"
        )
    job_type = _facet("jobType", processingType="BATCH", integration="LUTHIER", jobType=step.upper())
    return {
        "eventType": kind,
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "producer": PRODUCER,
        "schemaURL": EVENT,
        "run": {"runId": _uuid(f"{at.run}/{step}/{key}"), "facets": run},
        "job": {"namespace": NAMESPACE, "name": f"{recipe}.{step}", "facets": {"jobType": job_type}},
        "inputs": [one for role, artifact in inputs.items() for one in _inputs(recipe, role, artifact)],
        "outputs": [_output(at, recipe, step, made)] if made else [],
    }


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"luthier:{name}"))


def _facet(kind: str, /, **values: Any) -> dict[str, Any]:
    path = FACETS[kind]
    definition = path.rpartition("/")[2]
    url = f"https://openlineage.io/spec/facets/{path}.json#/$defs/{definition}"
    return {"_producer": PRODUCER, "_schemaURL": url, **values}


def _inputs(recipe: str, role: str, artifact: Artifact) -> Iterator[Event]:
    version = {
        "version": _facet("version", datasetVersion=artifact.spec.get("fingerprint") or artifact.digest)
    }
    if artifact.kind != "source":
        yield {"namespace": NAMESPACE, "name": _name(recipe, role, artifact), "facets": version}
    elif "forgotten" not in artifact.spec:  # which rows are left out is nobody else's business
        for place in _places(artifact.spec):
            namespace, name = _address(place)
            yield {"namespace": namespace, "name": name, "facets": version}


def _name(recipe: str, role: str, artifact: Artifact) -> str:
    """What a step makes is called as the step is, and as the role under which the next steps take it."""
    if artifact.kind == "model" and "base" in artifact.spec:
        return f"base/{_address(str(artifact.spec['base']))[1]}"
    return f"{recipe}/{role}"


def _places(written: Mapping[str, Any]) -> list[str]:
    """Where a source is, as far as its wish says so in an address; otherwise what it is called."""
    for name in ("files", "base"):
        if value := written.get(name):
            return [value] if isinstance(value, str) else list(value)
    kind, settings = next(
        ((k, v) for k, v in written.items() if isinstance(v, dict) and k not in OWN), ("", {})
    )
    named = written.get("name") or settings.get("table") or settings.get("topic") or "rows"
    return [f"{kind}/{named}" if kind else str(named)]


def _address(place: str) -> tuple[str, str]:
    """(namespace, name) without user, password and query.

    >>> _address("s3://key:secret@bucket/a/*.parquet?x=1"), _address("data/rows.jsonl")
    (('s3://bucket', 'a/*.parquet'), ('file', 'data/rows.jsonl'))
    """
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:.*@)?([^/]*)/?([^?#]*).*", place, re.DOTALL)
    if not found:
        return "file", place
    if found[1] == "file":
        return "file", "/" + found[3]
    return f"{found[1]}://{found[2].partition('?')[0]}", found[3] or "/"


def _output(at: RunContext, recipe: str, step: str, made: Artifact) -> Event:
    facets: dict[str, Any] = {"version": _facet("version", datasetVersion=made.digest)}
    statistics: dict[str, int] = {
        "fileCount": len(made.files), "size": sum(file.size_bytes for file in made.files),
    }  # fmt: skip
    if made.kind == "dataset":
        from luthier.data.records import RECORD

        fields = [{"name": one.name, "type": str(one.type)} for one in RECORD]
        facets["schema"] = _facet("schema", fields=fields)
        statistics["rowCount"] = sum(
            int(made.summary.get(side) or 0) for side in ("train", "validation", "test")
        )
        about = at.about
        if owner := about.get("owner"):
            facets["ownership"] = _facet("ownership", owners=[{"name": owner, "type": "OWNER"}])
        if purpose := about.get("purpose"):
            facets["documentation"] = _facet("documentation", description=purpose)
        if tags := about.get("tags"):
            told_tags = [{"key": tag, "value": "true", "source": "USER"} for tag in tags]
            facets["tags"] = _facet("tags", tags=told_tags)
    return {
        "namespace": NAMESPACE, "name": _name(recipe, step, made), "facets": facets,
        "outputFacets": {"outputStatistics": _facet("outputStatistics", **statistics)},
    }  # fmt: skip
