"""What a served model was asked and answered, and what people said of it: `luthier serve --capture` keeps it, `POST /v1/feedback` and
`luthier traffic feedback` judge it, and this makes rows of it again.

    answers    a conversation with its answer: the correction where there is one, else what was said; `rating` says whether it is
               a good one, so that a bad one is not taken for an example
    pairs      a conversation, the correction as the better answer and what was said as the worse

Where functions had a part in it they stand in `tools`, and calls are part of the conversation, of a correction too; pairs are of texts
alone.

Traffic goes on while it is read, so how far it had come, and how old it may be, is fixed with the fingerprint and stands in the
identity. A row's place is "ticket-router?id=chatcmpl-...". An exchange without an answer to learn (it was declined, and nobody
corrected it) is no row.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.artifact import canonical, digest_of
from luthier.core.errors import DataError, SpecError, did_you_mean
from luthier.core.spec import Spec
from luthier.core.units import seconds

from .protocol import Block, Estimate, Head, Part, Secret

if TYPE_CHECKING:
    from luthier.data.spec import SourceSpec
    from luthier.store.traffic import Judged, Traffic

BLOCK_ROWS = 500
ENVIRONMENT = ("LUTHIER_DATABASE", "LUTHIER_HOME", "HOME")
"""What says where the records are, in the order that App.open looks."""
ANSWERS = ("id", "time", "release", "messages", "tools", "rating", "corrected", "probability")
UNJUDGED = tuple(name for name in ANSWERS if name != "rating")
PAIRS = ("id", "time", "release", "prompt", "chosen", "rejected", "tools")


class ThroughSpec(Spec):
    """How far the records had come at one moment."""

    exchanges: int = Field(ge=0)
    """The last line of what was asked and answered."""
    judgements: int = Field(ge=0)
    """The last line of what people said of it."""


class TrafficSpec(Spec):
    name: str = Field(min_length=1)
    """What the model is called where it is served."""
    releases: list[str] | None = Field(default=None, min_length=1)
    """Only what these releases answered, as in [ticket-router@3]; without it all of them."""
    only: Literal["judged", "rated", "corrected", "all"] = "judged"
    """Which exchanges: those with a rating or a correction, with a rating, with a correction, or all that nobody disliked."""
    as_: Literal["answers", "pairs"] = Field(default="answers", alias="as")
    """What a row is: a conversation with its answer, or one with a better and a worse answer (of corrected exchanges alone)."""
    since: str | None = None
    """Only what was asked from then on: a time such as 2026-01-31 or 2026-01-31T12:00:00Z, or how long ago, such as 30 days."""
    until: str | None = None
    """Only what was asked before then."""
    through: ThroughSpec | None = None
    """Only what stood in the records up to these lines, so that a later run has the same rows; new runs of `monitor.retrain` write it."""

    @field_validator("since", "until")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            moment(value, 0.0)
        return value

    @model_validator(mode="after")
    def _pairs_need_corrections(self) -> TrafficSpec:
        if self.as_ == "pairs" and self.only in ("rated", "all"):
            raise ValueError(
                f"pairs are made of corrected exchanges, and only is {self.only}; leave `only` out or write only: corrected"
            )
        return self

    @property
    def default_name(self) -> str:
        return self.name


def moment(text: str, now_s: float) -> float:
    """Seconds since 1970 of a time or of how long ago. Raises ValueError.

    >>> moment("1970-01-02", 0), moment("1 h", 10_000.0), moment("1970-01-01T01:00:00+01:00", 0)
    (86400.0, 6400.0, 0.0)
    """
    with suppress(ValueError):
        told = datetime.fromisoformat(text)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    with suppress(ValueError):
        return now_s - seconds(text)
    raise ValueError(
        f"{text!r} is neither a time, such as 2026-01-31T12:00:00Z, nor a time ago, such as '30 days'"
    )


class TrafficConnector:
    """Exchanges of a served name, with their feedback, up to where both had come when the run began."""

    spec = TrafficSpec
    environment = ENVIRONMENT

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        assert isinstance(source.settings, TrafficSpec)
        self._wish, self._secret = source.settings, secret
        self._place = source.name or source.settings.name
        self._pin: Mapping[str, Any] | None = None
        self._store: Traffic | None = None
        self._done_bytes = 0

    # what moves

    def pinned(self) -> dict[str, Any]:
        """{"exchanges", "judgements": the last line of each, "since_s", "until_s", "rows", "bytes", "sha256": of the rows}"""
        if self._pin is None:
            wish, now_s = self._wish, time.time()
            through: Any = wish.through or self._traffic.through()
            self._pin = {
                "exchanges": through.exchanges,
                "judgements": through.judgements,
                "since_s": None if wish.since is None else moment(wish.since, now_s),
                "until_s": None if wish.until is None else moment(wish.until, now_s),
            }
            digest, rows, size = hashlib.sha256(), 0, 0
            for row in self._rows():
                told = canonical(row)
                digest.update(told)
                rows, size = rows + 1, size + len(told)
            self._pin = {**self._pin, "rows": rows, "bytes": size, "sha256": digest.hexdigest()}
        return dict(self._pin)

    def pin(self, what: Mapping[str, Any]) -> None:
        self._pin = what

    # protocol.Connector

    def head(self, n: int) -> Head:
        rows = list(islice(self._rows(), n))
        if not rows:
            raise self._empty()
        if not any("tools" in row for row in rows):  # the shape of the rows is seen in these alone
            rows[-1:] = next(([row] for row in self._rows() if "tools" in row), rows[-1:])
        return Head(list(self._columns), rows, "traffic")

    def parts(self) -> list[Part]:
        pinned = self.pinned()
        return [Part({"rows": pinned["rows"]}, pinned["bytes"])] if pinned["rows"] else []

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        """Raises DataError at its end where the rows are no longer those of the fingerprint."""
        if odd := next((name for name in columns if name not in self._columns), None):
            raise DataError(
                f"{self._place}: traffic has no column {odd!r}.",
                remedy=did_you_mean(odd, list(self._columns)),
            )
        self._done_bytes, digest, count = 0, hashlib.sha256(), 0
        held: list[dict[str, Any]] = []
        for row in self._rows():
            told = canonical(row)
            digest.update(told)
            self._done_bytes += len(told)
            held.append(row)
            count += 1
            if len(held) == BLOCK_ROWS:
                yield self._block(held, columns, count)
                held = []
        if held:
            yield self._block(held, columns, count)
        if digest.hexdigest() != self.pinned()["sha256"]:
            raise DataError(
                f"{self._place}: exchanges that were counted when the run began are no longer there, or have changed.",
                remedy="Somebody removed some of them (`luthier traffic remove`, or they became too old). Run it again.",
            )

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        parts = self.parts()
        if not parts:
            raise self._empty()
        for part in parts:
            yield from self.read(part, columns)

    def done_bytes(self) -> int:
        return self._done_bytes

    def estimate(self) -> Estimate:
        pinned = self.pinned()
        return Estimate(1, pinned["bytes"], pinned["rows"], True)

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        """Of the rows themselves: an exchange more that is no row here (not judged yet) changes nothing."""
        return digest_of(["traffic", self._wish.plain(), self.pinned()["sha256"]])

    # rows

    @property
    def _columns(self) -> tuple[str, ...]:
        if self._wish.as_ == "pairs":
            return PAIRS
        return UNJUDGED if self._wish.only == "all" else ANSWERS

    @property
    def _traffic(self) -> Traffic:
        if self._store is None:
            from luthier.store.database import Database
            from luthier.store.traffic import Traffic

            url, environ = _records(self._secret)
            self._store = Traffic(Database(url, environ))
        return self._store

    def _rows(self) -> Iterator[dict[str, Any]]:
        from luthier.store.traffic import Through

        pin = self.pinned() if self._pin is None else self._pin
        found = self._traffic.read(
            self._wish.name,
            since_s=pin["since_s"],
            until_s=pin["until_s"],
            through=Through(pin["exchanges"], pin["judgements"]),
        )
        for judged in found:
            row = self._row(judged) if self._wanted(judged) else None
            if row is not None:
                yield row

    def _wanted(self, judged: Judged) -> bool:
        wish, rated, corrected = self._wish, judged.rating is not None, judged.corrected
        if wish.releases is not None and judged.exchange.release not in wish.releases:
            return False
        if wish.as_ == "pairs":
            return corrected
        return {"judged": rated or corrected, "rated": rated, "corrected": corrected, "all": True}[wish.only]

    def _row(self, judged: Judged) -> dict[str, Any] | None:
        from luthier.data.private.masking import strange

        if judged.corrected and strange([judged.correction, judged.calls], judged.exchange.said):
            return None  # a mask that stands for nothing in the conversation is nothing to be learnt
        exchange = judged.exchange
        given = exchange.answers[judged.choice] if judged.choice < len(exchange.answers) else {"text": None}
        said, calls = given["text"], given.get("tool_calls")
        prompt = [dict(one) for one in exchange.messages]
        told: dict[str, Any] = {
            "id": exchange.id,
            "time": datetime.fromtimestamp(exchange.time_s, UTC).isoformat(" ", "milliseconds"),
            "release": exchange.release,
        }
        if exchange.tools:
            told["tools"] = exchange.tools
        if self._wish.as_ == "pairs":
            if said is None or said == judged.correction or calls or judged.calls:
                return None
            chosen, rejected = (
                [{"role": "assistant", "content": text}] for text in (judged.correction, said)
            )
            return {**told, "prompt": prompt, "chosen": chosen, "rejected": rejected}
        if judged.corrected:
            said = judged.correction or ""
            calls = [{"id": f"call_{n}", **one} for n, one in enumerate(judged.calls or ())]
        if said is None:
            return None
        # a rating is of what was said: a better answer that somebody wrote is a good one
        good = judged.corrected or judged.rating is None or judged.rating > 0
        if self._wish.only == "all":
            if not good:
                return None
        else:
            told["rating"] = good
        last: dict[str, Any] = {"role": "assistant", "content": said}
        if calls:
            last["tool_calls"] = calls
        return {
            **told,
            "messages": [*prompt, last],
            "corrected": judged.corrected,
            "probability": exchange.probability,
        }

    def _block(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], last: int) -> Block:
        cells = {name: [row.get(name) for row in rows] for name in columns}
        names = [f"id={row['id']}" for row in rows]
        return Block(cells, self._place, range(last - len(rows) + 1, last + 1), names)

    def _empty(self) -> DataError:
        served = [one["name"] for one in self._traffic.counts()]
        what = {"judged": "judged exchange", "all": "exchange"}.get(
            self._wish.only, f"{self._wish.only} exchange"
        )
        told = f"{self._place}: there is no {what} of {self._wish.name!r}"
        if not served:
            return DataError(
                f"{told}: no traffic is kept here.", remedy="Serve with `luthier serve NAME --capture 100%`."
            )
        if self._wish.name not in served:
            return DataError(f"{told}.", remedy=did_you_mean(self._wish.name, served))
        return DataError(
            f"{told} in that time and of those releases.",
            remedy="`luthier traffic list` shows what there is; `only: all` takes what nobody has judged, too.",
        )


def _records(secret: Secret) -> tuple[str, Mapping[str, str]]:
    """Where this home's records are, as App.open finds it; the second holds what the first refers to."""
    from luthier.store.store import default_url

    for name in ENVIRONMENT:
        with suppress(SpecError):
            if value := secret(f"${{{name}}}"):
                if name == "LUTHIER_DATABASE":
                    return f"${{{name}}}", {name: secret(value)}
                home = Path(value).expanduser()
                return default_url(home if name == "LUTHIER_HOME" else home / ".luthier"), {}
    return default_url(Path("~/.luthier").expanduser()), {}
