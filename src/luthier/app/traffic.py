"""What can be done with what is asked and answered: keep it, judge it, look at it, take it out again.

Nothing is kept that nobody asked for: a server's `--capture` says which share, and app/retention for how long. What is kept has lost its
private values before it touches a disk, for all that `data.private` finds; names of people need a model and stay. Removing is told in
the ledger, by numbers and never by words.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import canonical
from luthier.core.errors import DataError, NotFound, SpecError
from luthier.core.event import Event
from luthier.store.traffic import Exchange, Judged, Judgement
from luthier.store.traffic import Traffic as Kept

if TYPE_CHECKING:
    from .acting import Actor
    from .app import App

MOST_TEXTS = 5_000
"""Different ones in one exchange: messages, and each text and number in the arguments of calls."""
COLUMNS = ("id", "choice", "rating", "correction", "tool_calls", "comment")


class Capture:
    """Keeps a share of the exchanges of one home. Called from several threads."""

    def __init__(self, app: App, share: float) -> None:
        self._app, self._share = app, share

    def keep(
        self,
        *,
        id: str,
        name: str,
        release: str | None,
        digest: str,
        key_id: str,
        user_sha256: str | None,
        messages: Sequence[Mapping[str, Any]],
        answers: Sequence[Mapping[str, Any]],
        probability: float | None,
        asked_to: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """Whether it was kept. `messages`, `answers` and `tools` as store.traffic.Exchange has them. Raises DataError for more texts
        than are looked through for private data."""
        if not asked_to and _draw(id) >= self._share:
            return False
        kept, count = _without_private({"messages": messages, "answers": answers, "tools": tools})
        exchange = Exchange(
            id=id, name=name, release=release, digest=digest, key_id=key_id, user_sha256=user_sha256,
            probability=probability, masked=count, time_s=time.time(), **kept,
        )  # fmt: skip
        self._app.store.traffic.keep(exchange)
        return True


def _without_private(said: Mapping[str, Any], beside: Sequence[str] = ()) -> tuple[dict[str, Any], int]:
    """A copy with masks in the place of private values, the same for the same value in all of it, none that stands in `beside`, and how
    many those were. What calls were made with is JSON as text: each text and number in it is looked at by itself, and it stays JSON."""
    from luthier.data.private.masking import masked

    texts: dict[str, str] = {}
    _changed(said, lambda text: texts.setdefault(text, text))
    if len(texts) > MOST_TEXTS:
        raise DataError(f"it has {len(texts):,} texts.", remedy=f"At most {MOST_TEXTS:,} are kept.")
    told, count = masked(list(texts), beside)
    masks = dict(zip(texts, told, strict=True))
    return _changed(said, masks.__getitem__), count


def _changed(value: Any, change: Callable[[str], str], *, numbers: bool = False) -> Any:
    """A copy in which each text is what `change` makes of it; with `numbers` these too, and one that changes becomes a text."""
    match value:
        case str():
            return change(value)
        case Mapping():
            return {
                change(key): _arguments(inner, change)
                if key == "arguments"
                and isinstance(inner, str)
                and not numbers  # what stands inside them is text
                else _changed(inner, change, numbers=numbers)
                for key, inner in value.items()
            }
        case Sequence():
            return [_changed(inner, change, numbers=numbers) for inner in value]
        case int() | float() if numbers and not isinstance(value, bool):
            told = change(written := json.dumps(value))
            return value if told == written else told
    return value


def _arguments(text: str, change: Callable[[str], str]) -> str:
    """As they were written, where nothing in them changes."""
    from luthier.data.json_text import dumps, loads

    try:
        before = loads(text)
    except ValueError:  # a model may write what is no JSON
        return change(text)
    after = _changed(before, change, numbers=True)
    return text if after == before else dumps(after)


def _draw(exchange_id: str) -> float:
    """A number in [0, 1) that follows from the id, so that several servers agree.

    >>> 0 <= _draw("chatcmpl-1") < 1
    True
    """
    return int.from_bytes(hashlib.sha256(exchange_id.encode()).digest()[:8], "big") / 2**64


class Traffic:
    """`app.traffic`."""

    def __init__(self, app: App) -> None:
        self._app = app

    @property
    def _kept(self) -> Kept:
        return self._app.store.traffic

    def capture(self, share: float) -> Capture:
        """What a server gives its exchanges to. `share`: 0 to 1, of those whose client does not say."""
        return Capture(self._app, share)

    def names(self) -> list[dict[str, Any]]:
        """Of each served name: {"name", "exchanges", "judged", "first_s", "last_s"}."""
        return self._kept.counts()

    def listing(self, name: str, newest: int = 50) -> list[Judged]:
        """The newest of a name, oldest first. Raises NotFound for a name without traffic."""
        from collections import deque

        found = deque(self._kept.read(name), maxlen=newest)
        if not found:
            raise NotFound(
                f"no traffic of {name!r} is kept here.",
                remedy="`luthier traffic list` shows the names; a server's --capture 100% keeps it.",
            )
        return list(found)

    def show(self, exchange_id: str) -> Judged:
        """One exchange. Raises NotFound."""
        found = self._kept.find([exchange_id]).get(exchange_id)
        if found is None:
            raise NotFound(
                f"no exchange {exchange_id!r} is kept here.",
                remedy="It was not captured, or was removed; `luthier lineage ID` tells which release answered.",
            )
        return next(
            one for one in self._kept.read(found.name, since_s=found.time_s) if one.exchange.id == exchange_id
        )

    def judge(
        self,
        exchange_id: str,
        *,
        by: str,
        key_id: str | None = None,
        choice: int = 0,
        rating: float | None = None,
        correction: str | None = None,
        comment: str | None = None,
        calls: Sequence[Mapping[str, Any]] | None = None,
    ) -> bool:
        """Whether there is such an exchange (of that key, if one is given) with such an answer; then it is judged. Private values
        are taken out of what is said of it, too. Raises DataError for `calls` of what was not offered."""
        found = self._kept.find([exchange_id]).get(exchange_id)
        if found is None or choice >= len(found.answers) or key_id not in (None, found.key_id):
            return False
        better = None if calls is None else _calls(calls, found, exchange_id)
        self._kept.judge([_judgement(found, choice, rating, correction, comment, by, better)])
        return True

    def feedback(self, path: str | Path, by: str, most_rows: int | None = None) -> dict[str, int]:
        """Judgements of a file (JSONL, CSV, Parquet, ...) with `id` and at least one of rating, correction, tool_calls, comment; all or none.
        {"judged", "unknown"}: ids that are not kept here are counted. Raises DataError (for more than `most_rows` too), SpecError."""
        rows = _judgements(str(path), self._app._environ, most_rows)
        known = self._kept.find([str(row["id"]) for _, row in rows])
        new, unknown = [], 0
        for place, row in rows:
            exchange = known.get(str(row["id"]))
            if exchange is None:
                unknown += 1
                continue
            new.append(_checked(place, row, exchange, by))
        if rows and not new:
            raise DataError(
                f"{path}: none of its {len(rows):,} ids is kept here, such as {rows[0][1]['id']!r}.",
                remedy="The ids are those of the answers (chatcmpl-...), as clients and `luthier traffic list NAME` have them.",
            )
        return {"judged": self._kept.judge(new), "unknown": unknown}

    def remove(
        self,
        *,
        ids: Sequence[str] = (),
        older_s: float | None = None,
        user: str | None = None,
        name: str | None = None,
        why: str | None = None,
        by: str | None = None,
        actor: Actor | None = None,
    ) -> int:
        """Take exchanges out with all that was said of them; how many. `user` as clients wrote it; `name`: only what was asked of
        that one; `actor`: who does it, where that is not whom the App works for. Raises SpecError without ids, an age or a user."""
        if not ids and older_s is None and user is None:
            raise SpecError("nothing says which exchanges to remove.", remedy="Give --id, --older or --user.")
        asked: dict[str, Any] = {"ids": len(ids), "older_s": older_s, "of_a_user": user is not None}
        if name is not None:
            asked["name"] = name
        gone = self._kept.remove(
            ids=ids,
            before_s=None if older_s is None else time.time() - older_s,
            user_sha256=None if user is None else hashlib.sha256(user.encode()).hexdigest(),
            name=name,
            act=(actor or self._app.actor).act("traffic.removed", "traffic", asked, named=by),
        )
        if gone:
            self._app.store.ledger.append(
                Event("traffic.removed", "traffic", {"exchanges": gone, **asked, "why": why, "by": by})
            )
        return gone


def _judgement(
    exchange: Exchange,
    choice: int,
    rating: float | None,
    correction: str | None,
    comment: str | None,
    by: str,
    calls: list[dict[str, Any]] | None = None,
) -> Judgement:
    said = {"correction": correction or None, "comment": comment or None, "calls": calls}
    told, _ = _without_private(said, [canonical(exchange.said).decode()])
    return Judgement(
        exchange.id, choice, rating, told["correction"], told["comment"], by, time.time(), calls=told["calls"]
    )


def _calls(written: Any, exchange: Exchange, place: str) -> list[dict[str, Any]]:
    """What should have been called, in the form in which answers are kept, without ids. Raises DataError."""
    from luthier.data.json_text import dumps, loads
    from luthier.data.tools import call_of
    from luthier.evaluation.calls import valid

    offered = {one["function"]["name"]: one["function"] for one in exchange.tools or ()}
    try:
        told = loads(written) if isinstance(written, str) else written
        if not isinstance(told, Sequence) or not told:
            raise ValueError("they are no list of calls")
        found = [call_of(one)[1] for one in told]
        texts = [dumps(one["arguments"]) for one in found]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{place}: tool_calls: {error}.",
            remedy='Write them as the answer has them: [{"function": {"name": ..., "arguments": ...}}].',
        ) from None
    if unknown := [one["name"] for one in found if one["name"] not in offered]:
        raise DataError(
            f"{place}: tool_calls: {unknown[0]!r} is no function that was offered.",
            remedy=f"Those are: {', '.join(offered)}." if offered else "There were none: give a correction.",
        )
    if wrong := [one["name"] for one in found if not valid(one, offered)]:
        raise DataError(
            f"{place}: tool_calls: the arguments of {wrong[0]!r} are not what its parameters say.",
            remedy="Write them as the function was offered.",
        )
    return [
        {"type": "function", "function": {"name": one["name"], "arguments": text}}
        for one, text in zip(found, texts, strict=True)
    ]


def _judgements(path: str, environ: Any, most_rows: int | None) -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of every row; empty cells are left out."""
    from luthier.core.spec import resolve
    from luthier.data.connectors import connect
    from luthier.data.spec import SourceSpec

    source = SourceSpec.model_validate({"files": path})
    connector = connect(source, Path.cwd(), lambda text: resolve(text, environ))
    there = [name for name in COLUMNS if name in connector.head(1).columns]
    if "id" not in there or len(there) < 2:
        raise DataError(
            f"{path}: it has {', '.join(there) or 'none'} of the columns id, rating, correction, tool_calls, comment.",
            remedy="Give each row the id of an answer, and a rating (-1 to 1), a correction, tool_calls or a comment.",
        )
    found = []
    for block in connector.blocks(there):
        columns = {
            name: cells if isinstance(cells, list) else cells.to_pylist()
            for name, cells in block.columns.items()
        }
        for n, place in enumerate(block.origins()):
            row = {name: cells[n] for name, cells in columns.items() if cells[n] not in (None, "", [])}
            found.append((place, {"id": "", **row}))
        if most_rows is not None and len(found) > most_rows:
            raise DataError(
                f"{path}: it has more than {most_rows:,} rows.",
                remedy="Divide the file and send one part after the other.",
            )
    return found


def _checked(place: str, row: dict[str, Any], exchange: Exchange, by: str) -> Judgement:
    told: dict[str, float | None] = {"choice": None, "rating": None}
    for name in told:
        if name in row:
            try:
                told[name] = float(row[name])
            except (TypeError, ValueError):
                raise DataError(
                    f"{place}: {name} {row[name]!r} is not a number.", remedy="A rating is -1 to 1."
                ) from None
    rating, choice = told["rating"], told["choice"] or 0.0
    if rating is not None and not -1 <= rating <= 1:
        raise DataError(
            f"{place}: the rating {rating:g} is not between -1 and 1.", remedy="1 is good, -1 is bad."
        )
    if choice != int(choice) or not 0 <= choice < len(exchange.answers):
        raise DataError(
            f"{place}: {exchange.id} has no answer {choice:g}.",
            remedy=f"It has {len(exchange.answers)}, counted from 0.",
        )
    if not set(row) & {"rating", "correction", "tool_calls", "comment"}:
        raise DataError(
            f"{place}: nothing is said of {exchange.id}.",
            remedy="Give a rating, a correction, tool_calls or a comment.",
        )
    said = [None if row.get(name) is None else str(row[name]) for name in ("correction", "comment")]
    calls = _calls(row["tool_calls"], exchange, place) if "tool_calls" in row else None
    return _judgement(exchange, int(choice), rating, said[0], said[1], by, calls)
