"""The audit trail: read, verified, signed, exported, and persons taken out of it."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import NotFound, SpecError
from luthier.governance.trail import (
    ERASED,
    Checkpoint,
    Examined,
    examine,
    new_key,
    sign,
    trusted,
    whole_lines,
)
from luthier.store.audit import Entry, Person

from .acting import Actor

if TYPE_CHECKING:
    from .app import App

Form = Literal["jsonl", "otlp"]
AT_ONCE = 500


@dataclass(frozen=True)
class Known:
    """An entry, and who stands behind it where that is still known."""

    entry: Entry
    person: Mapping[str, Any] | None

    def plain(self) -> dict[str, Any]:
        return {
            **vars(self.entry),
            "data": dict(self.entry.data),
            "person": self.person and dict(self.person),
        }


class Audit:
    """`app.audit`."""

    def __init__(self, app: App) -> None:
        self._trail = app.store.audit
        self._actor = app.actor

    def read(
        self,
        *,
        after: int = 0,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        since_s: float | None = None,
        mentions: str | None = None,
    ) -> Iterator[Known]:
        """Oldest first. `action` may be a beginning that ends with a dot, as in `rollout.`; `mentions`: a project of a server."""
        since_us = None if since_s is None else int(since_s * 1e6)
        block: list[Entry] = []
        for entry in self._trail.read(
            after=after, action=action, actor=actor, subject=subject, since_us=since_us, mentions=mentions
        ):
            block.append(entry)
            if len(block) == AT_ONCE:
                yield from self._known(block)
                block = []
        yield from self._known(block)

    def newest(
        self,
        *,
        after: int = 0,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        newest: int = 50,
    ) -> list[Known]:
        """The newest of what `read` finds, oldest of them first."""
        return list(deque(self.read(after=after, action=action, actor=actor, subject=subject), maxlen=newest))

    def _known(self, block: Sequence[Entry]) -> Iterator[Known]:
        people: Mapping[int, Person] = self._trail.people([one.seq for one in block]) if block else {}
        for entry in block:
            person = people.get(entry.seq)
            yield Known(entry, person.person if person else None)

    def verify(self, checkpoints: Sequence[Path] = (), keys: Sequence[Path] = ()) -> Examined:
        """The whole trail against its own hashes, and against signed checkpoints: files of them, and folders of such files. Raises DataError for
        a checkpoint that is not what was signed; one that was cut off while it was written is counted."""
        known: list[Checkpoint] = []
        cut = 0
        for path in (one for given in checkpoints for one in _files(given)):
            lines, n_cut = whole_lines(_text(path))
            known += trusted(lines, keys, str(path))
            cut += n_cut
        return replace(examine(self._trail.read(), self._trail.people, known), cut=cut)

    def new_key(self, path: Path) -> str:
        """A key to sign checkpoints with: PATH, and PATH.pub for who verifies. Its id."""
        return new_key(path)

    def checkpoint(self, key: Path, to: Path) -> Checkpoint:
        """Sign the trail as it stands and add that to a file. Raises as `signed`, and SpecError for a file that cannot be written."""
        made = self.signed(key)
        try:
            with to.open("ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # whoever died in the middle of a line spoils no other
                file.write(f"{made.line()}\n".encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpecError(
                f"{to} cannot be written ({error.strerror}).", remedy="Name a file of yours."
            ) from None
        return made

    def signed(self, key: Path, after: Checkpoint | None = None) -> Checkpoint:
        """The trail as it stands. `after`: a checkpoint that was made of it before; then what came since is looked at, which must go on from
        it, and not the whole. Raises NotFound for an empty trail, SpecError for one that is not sound: what is wrong is not signed."""
        head = self._trail.head()
        if head is None and after is None:
            raise NotFound("the audit trail has no entry yet.", remedy="Sign it once something was done.")
        if head is None or (after is not None and head.seq < after.seq):
            raise _unsound("truncated", head.seq + 1 if head else 1)
        entries = self._trail.read(after=after.seq if after else 0)
        found = examine((one for one in entries if one.seq <= head.seq), self._trail.people, after=after)
        if not found.sound:
            raise _unsound(found.faults[0].kind, found.faults[0].seq)
        if found.head != head.sha256:
            raise _unsound("restamped", head.seq)
        return sign(head, key, time.time_ns() // 1000)

    def unsigned(self, last: Checkpoint | None) -> bool:
        """Whether the trail is another than at its last checkpoint, as far as its newest entry says."""
        head = self._trail.head()
        return (head and (head.seq, head.sha256)) != (last and (last.seq, last.sha256))

    def export(self, to: Path, form: Form = "jsonl", *, after: int = 0) -> int:
        """Write entries to a file that is not there yet, one JSON object a line; how many. `otlp`: as logs of OpenTelemetry's JSON file
        format, which its collectors read."""
        count = 0
        try:
            made = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it names persons
        except FileExistsError:
            raise SpecError(
                f"{to} is there already.", remedy="Name a new file; none is overwritten."
            ) from None
        except OSError as error:
            raise SpecError(
                f"{to} cannot be written ({error.strerror}).", remedy="Name a file of yours."
            ) from None
        try:
            with os.fdopen(made, "w", encoding="utf-8") as file:
                for one in self.read(after=after):
                    told = one.plain() if form == "jsonl" else otlp(one)
                    file.write(json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n")
                    count += 1
            self._trail.append(self._actor.act("audit.exported", "audit", {"entries": count, "after": after}))
        except BaseException:
            to.unlink(missing_ok=True)  # half of it would stand in the way of the next try
            raise
        return count

    def served(self, action: Literal["started", "stopped"], names: Sequence[str], where: str) -> None:
        """That releases are served from here, or no longer."""
        self._trail.append(self._actor.act(f"serving.{action}", ", ".join(names), {"at": where}))

    def denied(self, times: Iterable[tuple[tuple[str, str, str, str | None, str | None], int]]) -> None:
        """Requests that were refused for want of a right: (code, method, route, key or None, project or None) and how often. Where there
        are projects, their site tells of it (site.denied)."""
        acts = []
        for (code, method, route, key_id, _), count in times:
            who = Actor("nobody" if key_id is None else f"key:{key_id}")
            facts = {"code": code, "times": count}
            acts.append(who.act("request", f"{method} {route}", facts, outcome="denied"))
        self._trail.append_all(acts)

    def erase(self, *, person: str, because: str) -> int:
        """Take out who somebody is wherever the trail names that person; the entries stay. How many named that person."""
        if not because.strip() or not because.isprintable():
            raise SpecError(
                "it is not said why, or not in plain words.",
                remedy="Give --because; the reason stays in the trail, so name nobody in it.",
            )
        seqs = [one.entry.seq for one in self.read() if one.person and person in one.person.values()]
        if not seqs:
            raise NotFound(
                "the trail names no such person.", remedy="`luthier audit list` shows whom it names."
            )
        return self._trail.erase(seqs, self._actor.act(ERASED, "audit", {"because": because}))


SEVERITY = {"done": ("INFO", 9), "denied": ("WARN", 13), "failed": ("ERROR", 17)}


def otlp(one: Known) -> dict[str, Any]:
    """One line of an OTLP JSON file: LogsData with one record (OpenTelemetry protocol 1.x, opentelemetry/proto/logs/v1)."""
    entry = one.entry
    text, number = SEVERITY.get(entry.outcome, ("INFO", 9))
    told: dict[str, str | int] = {
        "audit.seq": entry.seq, "audit.action": entry.action, "audit.subject": entry.subject, "audit.outcome": entry.outcome,
        "audit.data": json.dumps(dict(entry.data), ensure_ascii=False, sort_keys=True), "audit.sha256": entry.sha256,
        "enduser.id": entry.actor,
    }  # fmt: skip
    if one.person:
        told["audit.person"] = json.dumps(dict(one.person), ensure_ascii=False, sort_keys=True)
    record = {
        "timeUnixNano": str(entry.time_us * 1000), "observedTimeUnixNano": str(entry.time_us * 1000),
        "severityNumber": number, "severityText": text, "eventName": f"luthier.audit.{entry.action}",
        "body": {"stringValue": f"{entry.actor} {entry.action} {entry.subject}: {entry.outcome}"},
        "attributes": [_attribute(name, value) for name, value in told.items()],
    }  # fmt: skip
    resource = {"attributes": [_attribute("service.name", "luthier")]}
    return {
        "resourceLogs": [
            {
                "resource": resource,
                "scopeLogs": [{"scope": {"name": "luthier.audit"}, "logRecords": [record]}],
            }
        ]
    }


def _attribute(name: str, value: str | int) -> dict[str, Any]:
    return {
        "key": name,
        "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
    }


def _unsound(kind: str, seq: int) -> SpecError:
    return SpecError(
        f"the trail is not sound ({kind} at entry {seq}), so it is not signed.",
        remedy="`luthier audit verify` says more.",
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.jsonl"))
    if not found:
        raise SpecError(
            f"{path} holds no checkpoints (*.jsonl).",
            remedy="Of a server, name the folder of one trail: site, or projects/ID.",
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read ({type(error).__name__}).",
            remedy="Give a file that `luthier audit checkpoint` wrote.",
        ) from None
