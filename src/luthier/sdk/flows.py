"""What a client asks and in which order, as generators: they yield what is to be done and are sent what came of it (drive). No network here.

Ask      one request; comes back as Answer. `sends`: a file to stream out; `saves`: a file to stream in
Follow   open a stream of events; then each Next brings one Said, or None at its end
Pause    wait so many seconds
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from luthier.core import errors
from luthier.core.errors import (
    Busy,
    DataError,
    GateFailed,
    Interrupted,
    LuthierError,
    ModelError,
    NotFound,
    SpecError,
    StoreError,
    did_you_mean,
)
from luthier.core.event import Event
from luthier.core.verbs import VERBS, Sent, Verb, Wish, Written

from .files import beside, sha256_of

MOST_TRIES = 6
LONGEST_PAUSE_S = 60.0
KINDS: Mapping[str, type[LuthierError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LuthierError)
}
_CODES: Mapping[str, type[LuthierError]] = {
    "invalid_value": SpecError, "invalid_data": DataError, "invalid_model": ModelError, "missing_part": errors.MissingPart,
    "gate_failed": GateFailed, "not_found": NotFound,
}  # fmt: skip
"""What the code of a job's error stands for."""


@dataclass(frozen=True)
class Ask:
    """`again`: it may be sent once more where nobody knows whether it arrived."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sends: Path | None = None
    saves: Path | None = None
    again: bool = True


@dataclass(frozen=True)
class Answer:
    """`status` 0: nothing came back, `body` is then the reason."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Follow:
    path: str


@dataclass(frozen=True)
class Next:
    pass


@dataclass(frozen=True)
class Said:
    event: str
    data: Any
    id: int | None


class Watch(Protocol):
    """As app.context.Watch: whoever looks on."""

    def event(self, event: Event) -> None: ...

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None: ...


class Stop(Protocol):
    def is_set(self) -> bool: ...


Flow = Generator[Any, Any, Any]


def asked(ask: Ask) -> Flow:
    """One request, sent again where the server asks for it (429, 503) or did not answer. Gives the body; raises what the server says."""
    for tried in range(1, MOST_TRIES + 1):
        answer: Answer = yield ask
        waits = answer.status in (429, 503) or (answer.status == 0 and ask.again)
        if not waits or answer.headers.get("x-should-retry") == "false" or tried == MOST_TRIES:
            break
        yield Pause(_pause_s(answer, tried))
    if answer.status == 0:
        raise StoreError(
            f"the server cannot be reached: {answer.body}.",
            remedy="Look at its address, and whether it runs.",
        )
    if not 200 <= answer.status < 300:
        raise error_of(answer)
    return answer.body


def _pause_s(answer: Answer, tried: int) -> float:
    """What the server asks for, else twice as long each time; never all clients at once."""
    told = answer.headers.get("retry-after", "")
    wait_s = float(told) if told.isdecimal() else 0.5 * 2 ** (tried - 1)
    return min(LONGEST_PAUSE_S, wait_s) * (1.0 + secrets.randbelow(250) / 1000)


def error_of(answer: Answer) -> LuthierError:
    """What App raised where the server says so; else the nearest of ours."""
    told = answer.body.get("error") if isinstance(answer.body, dict) else None
    if not isinstance(told, dict):
        return StoreError(f"the server answered {answer.status}, and not as a server of Luthier does.")
    if isinstance(cause := told.get("luthier"), dict):
        kind = KINDS.get(str(cause.get("kind")), LuthierError)
        return kind(str(cause.get("message")), remedy=cause.get("remedy"))
    kinds = {401: SpecError, 403: SpecError, 404: NotFound, 409: errors.Conflict, 429: Busy, 503: Busy}
    remedies = {
        401: "`luthier remote login URL` takes another key.",
        403: "Ask an admin of the project for it.",
    }
    kind = kinds.get(answer.status, SpecError if answer.status < 500 else StoreError)
    return kind(str(told.get("message")), remedy=remedies.get(answer.status))


def submitted(name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> Flow:
    """Send a verb that becomes a job; gives the job."""
    verb = verb_of(name)
    if not verb.long:
        raise SpecError(
            f"{name} is answered at once and makes no job.", remedy=f"Call it: client.{name}(...)."
        )
    wish, into = yield from _wish(verb, given, named)
    if into is not None:
        raise SpecError(
            f"{name} fills a folder when its job has ended.", remedy="Leave it out, and give it to `wait`."
        )
    return (yield from _submit(verb, wish))


def _submit(verb: Verb, wish: Wish) -> Flow:
    key = {"idempotency-key": uuid.uuid4().hex}
    return (yield from asked(Ask("POST", verb.path, wish.plain(), key)))


def called(name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> Flow:
    """App's verb with App's arguments: its plain result."""
    verb = verb_of(name)
    watch, stop = named.get("watch"), named.get("stop")
    wish, into = yield from _wish(verb, given, {k: v for k, v in named.items() if k not in ("watch", "stop")})
    if verb.into is not None and into is None:
        raise SpecError(
            f"{name} needs {verb.into}: the folder to fill.", remedy="Name one that is not there yet."
        )
    if into is not None and into.exists():
        raise SpecError(f"{into} is already there.", remedy="Name a folder that does not exist yet.")
    if not verb.long:
        ask = Ask("POST", verb.path, wish.plain(), again=verb.permission.endswith(".read"))
        return (yield from _taken(verb, (yield from asked(ask)), into))
    job = yield from _submit(verb, wish)
    return (yield from waited(job["id"], into, watch, stop))


def waited(
    job_id: str, into: Path | None = None, watch: Watch | None = None, stop: Stop | None = None
) -> Flow:
    """Until a job has ended: its plain result. Raises what it failed with, and Interrupted where `stop` is set; it goes on then."""
    after, tried, quiet = 0, 0, 0
    while True:
        answer = yield Follow(f"/luthier/v1/jobs/{job_id}/events?after={after}")
        if answer.status != 200:
            waits = answer.status in (0, 429, 503) and (tried := tried + 1) < MOST_TRIES
            if not waits:
                raise (
                    error_of(answer)
                    if answer.status
                    else StoreError(f"the server cannot be reached: {answer.body}.")
                )
            yield Pause(_pause_s(answer, tried))
            continue
        heard = False
        while (said := (yield Next())) is not None:
            heard, tried, quiet = True, 0, 0
            if stop is not None and stop.is_set():
                raise Interrupted(
                    f"no longer looking; the job {job_id} goes on at the server.",
                    remedy=f"luthier remote follow {job_id}   ·   luthier remote cancel {job_id}",
                )
            after = said.id or after
            if said.event == "job.ended":
                job = yield from asked(Ask("GET", f"/luthier/v1/jobs/{job_id}"))
                return (yield from _ended(job, into))
            if watch is not None and said.event == "job.told":
                _tell(watch, job_id, said)
        if not heard:  # cut before anything was said: whoever cuts it is not asked again at once
            quiet = min(quiet + 1, MOST_TRIES)
            yield Pause(_pause_s(answer, quiet))


def _tell(watch: Watch, job_id: str, said: Said) -> None:
    data = dict(said.data)
    about = dict(data.get("data") or {})
    kind = about.pop("kind", None)
    if kind is None or data.get("type") == "metrics":
        kind, about = "job.told", {"message": data.get("message"), "level": data.get("level"), **about}
    watch.event(Event(str(kind), job_id, about, float(data.get("time_s") or 0.0)))


def _ended(job: Mapping[str, Any], into: Path | None) -> Flow:
    if job["state"] == "cancelled":
        raise Interrupted(
            f"the job {job['id']} was cancelled.", remedy="Submit it again to go on from what is done."
        )
    if job["state"] != "succeeded":
        told = job.get("error") or {}
        message, _, remedy = str(told.get("message") or "the job failed.").partition("\n")
        raise _CODES.get(str(told.get("code")), LuthierError)(message, remedy=remedy or None)
    verb = VERBS.get(str(job["shown"].get("verb")))
    result = job["result"] or {}
    return result if verb is None else (yield from _taken(verb, result, into))


def _taken(verb: Verb, told: Mapping[str, Any], into: Path | None) -> Flow:
    """The result; files that belong to it are fetched where they are wanted."""
    result = told["result"]
    if into is not None:
        for one in told["files"]:
            yield from fetched(one, _inside(into, one["name"]))
        if isinstance(result, dict):
            result |= {key: str(into) for key in verb.here if key in result}
        elif isinstance(result, list):
            result = [str(_inside(into, one)) for one in result]
    return result


def _inside(folder: Path, name: str) -> Path:
    """A server is a stranger, too: what it calls a file leads nowhere else."""
    target = (folder / name).absolute()
    if not target.is_relative_to(folder.absolute()) or ".." in Path(name).parts:
        raise DataError(f"the server calls a file {name[:100]!r}, which leads out of the folder.")
    return target


def fetched(one: Mapping[str, Any], target: Path) -> Flow:
    """A file of a result ({"name", "sha256", "size_bytes"}), written to `target` and held against its hash. Never overwrites."""
    if target.exists():
        raise SpecError(f"{target} is already there.", remedy="Choose another name, or remove it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        found = yield from asked(Ask("GET", f"/luthier/v1/passing/{one['sha256']}", saves=partial))
        if found != one["sha256"]:
            raise DataError(
                f"{one['name']} arrived with other bytes than the server names.", remedy="Fetch it again."
            )
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def sent(path: Path) -> Flow:
    """A file on its way to the server, which is asked first whether it has it: its SHA-256."""
    sha256 = sha256_of(path)
    answer: Answer = yield Ask("HEAD", f"/luthier/v1/passing/{sha256}")
    if answer.status != 200:
        told = yield from asked(Ask("POST", "/luthier/v1/passing", sends=path))
        if told["sha256"] != sha256:
            raise DataError(
                f"{path} was changed while it was sent.", remedy="Send it again when it is finished."
            )
    return sha256


def me() -> Flow:
    """A server without accounts only says what it serves, to whoever has a key."""
    try:
        return (yield from asked(Ask("GET", "/luthier/v1/me")))
    except NotFound:
        served = yield from asked(Ask("GET", "/v1/models"))
        return {"models": len(served["data"])}


def verb_of(name: str) -> Verb:
    if name not in VERBS:
        raise SpecError(f"there is no verb {name!r}.", remedy=did_you_mean(name, list(VERBS)))
    return VERBS[name]


def _wish(verb: Verb, given: tuple[Any, ...], named: Mapping[str, Any]) -> Flow:
    """From App's arguments. Gives the wish and the folder that is to be filled."""
    names = list(verb.wish.model_fields)
    if verb.into is not None:  # stands where App has it: after what it is of
        names.insert(2 if verb.name == "models.render" else 1, verb.into)
    if len(given) > len(names):
        raise SpecError(f"{verb.name} takes {', '.join(names) or 'nothing'}.", remedy="Leave the rest out.")
    values = dict(zip(names, given, strict=False))
    for name, value in named.items():
        if name not in names:
            raise SpecError(f"{verb.name} takes no {name!r} at a server.", remedy=did_you_mean(name, names))
        values[name] = value
    into = values.pop(verb.into, None) if verb.into is not None else None
    for name, field_ in verb.wish.model_fields.items():
        if name not in values:
            continue
        if field_.annotation is Written:
            values[name] = yield from _written(Path(values[name]))
        elif field_.annotation is Sent:
            path = Path(values[name])
            values[name] = Sent(name=path.name, sha256=(yield from sent(path)))
        elif isinstance(values[name], tuple):
            values[name] = list(values[name])
    try:
        return verb.wish(**values), None if into is None else Path(into)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or verb.name
        raise SpecError(f"{verb.name}: {where}: {fault['msg']}.") from None


def _written(path: Path) -> Flow:
    files = {}
    text, there = beside(path)
    for name, found in there.items():
        files[name] = yield from sent(found)
    return Written(text=text, name=path.name, files=files)


def as_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
