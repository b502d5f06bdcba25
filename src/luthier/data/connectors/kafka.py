"""A Kafka topic between two offsets of each partition. A topic never ends: where each partition begins and ends is asked once, when
the fingerprint is taken, stands in the identity, and is what is read, however far the topic has gone on by then.

    part       a partition; a row's place is "tickets/0?offset=17"
    values     JSON objects, strictly read as in files, or text. What is neither is a bad row, and so is a message without a value
    safety     no group is joined and nothing is committed; transactions that were aborted are not read

The identity is the cluster, the topic and the offsets: what a broker holds between two offsets does not change but by compaction or
retention. Rows that retention has taken away since are told; rows that compaction has taken away are not there, and cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.artifact import digest_of
from luthier.core.errors import DataError, did_you_mean, missing_part
from luthier.core.spec import Spec, references

from .faults import Fault
from .found import shown
from .json_rows import decode
from .protocol import BadRow, Block, Estimate, Head, Part, Secret

if TYPE_CHECKING:
    from luthier.data.spec import SourceSpec

MOST_ROWS = 500
BLOCK_BYTES = 2_000_000
QUEUED_KB = 16_384
SAMPLE = 20
POLL_S = 0.1
KEY, TIME = "kafka_key", "kafka_time"
Offsets = dict[int, int]

_OPTIONS = {
    "security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password", "ssl.ca.location", "ssl.ca.pem",
    "ssl.certificate.location", "ssl.certificate.pem", "ssl.key.location", "ssl.key.pem", "ssl.key.password",
    "ssl.endpoint.identification.algorithm", "client.id", "client.rack", "socket.timeout.ms", "fetch.message.max.bytes",
}  # fmt: skip
"""What may be said to the client: nothing that runs a command or loads a library, as some of its settings do."""
_SECRET_OPTIONS = {"sasl.password", "ssl.key.password", "ssl.key.pem"}


class KafkaSpec(Spec):
    brokers: str
    """Where the cluster is: host:port, several by commas. ${VAR} is filled in when it is read."""
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    """The topic to read."""
    from_: Literal["earliest"] | str | Offsets = Field(default="earliest", alias="from")
    """Where to begin: earliest, a time such as 2026-01-31T12:00:00Z, or an offset for each partition, {0: 1500, 1: 0}."""
    to: Literal["latest"] | str | Offsets = "latest"
    """Where to end, this offset left out: latest (as it is when the run begins), a time, or an offset for each partition."""
    value: Literal["json", "text"] = "json"
    """What a message's value is: a JSON object, whose keys are columns, or text, in the column `value`. The columns kafka_key and kafka_time are there beside it."""
    options: dict[str, str] = Field(default_factory=dict)
    """Settings of the client for logging in and encryption, as librdkafka names them: {security.protocol: SASL_SSL, sasl.password: "${PASSWORD}"}."""
    timeout_s: float = Field(default=30.0, gt=0, exclude=True)
    """How long the cluster may take to answer, or to give the next message."""

    @field_validator("from_", "to")
    @classmethod
    def _is_a_place(cls, told: Any) -> Any:
        if isinstance(told, dict):
            if not told or min(*told, *told.values(), 0) < 0:
                raise ValueError("offsets stand by partition, and neither is negative: {0: 1500, 1: 0}")
        elif told not in ("earliest", "latest"):
            _milliseconds(told)
        return told

    @model_validator(mode="after")
    def _can_be(self) -> KafkaSpec:
        if odd := next((name for name in self.options if name not in _OPTIONS), None):
            raise ValueError(
                f"options has {odd!r}, which is not taken; {did_you_mean(odd, sorted(_OPTIONS))}"
            )
        for name, value in self.options.items():
            if name in _SECRET_OPTIONS and not references(value):
                raise ValueError(
                    f"a secret is written in {name}; put it in an environment variable and write ${{NAME}}"
                )
        if isinstance(self.from_, dict) and isinstance(self.to, dict) and self.from_.keys() != self.to.keys():
            raise ValueError("from and to name different partitions")
        return self

    @property
    def default_name(self) -> str:
        return self.topic


class KafkaConnector:
    """Messages of a topic, up to where it stood when the run began."""

    spec = KafkaSpec

    def __init__(self, source: SourceSpec, base: Path, secret: Secret) -> None:
        assert isinstance(source.settings, KafkaSpec)
        self._wish, self._secret = source.settings, secret
        self._place = source.name or source.settings.topic
        self._aside = source.map is not None and source.map.on_bad_row == "set_aside"
        self._pin: Mapping[str, Any] | None = None
        self._average: int | None = None
        self._done_bytes = self._passed_bytes = 0

    # what moves

    def pinned(self) -> dict[str, Any]:
        """{"cluster", "offsets": {partition: [begin, end]}}"""
        if self._pin is None:
            with self._client() as client:
                self._pin = self._standing(client)
        return dict(self._pin)

    def pin(self, what: Mapping[str, Any]) -> None:
        self._pin = what

    def _standing(self, client: Any) -> dict[str, Any]:
        wish = self._wish
        told = client.list_topics(wish.topic, timeout=wish.timeout_s)
        topic = told.topics.get(wish.topic)
        if topic is None or topic.error is not None or not topic.partitions:
            names = [
                name
                for name in client.list_topics(timeout=wish.timeout_s).topics
                if not name.startswith("__")
            ]
            raise DataError(
                f"{self._place}: there is no topic {wish.topic!r}, or it may not be read.",
                remedy=did_you_mean(wish.topic, names) if names else "The cluster shows no topics.",
            )
        wanted = [place for place in (wish.from_, wish.to) if isinstance(place, dict)]
        if odd := next((n for place in wanted for n in place if n not in topic.partitions), None):
            raise DataError(
                f"{self._place}: the topic has no partition {odd}.",
                remedy=f"It has 0 to {len(topic.partitions) - 1}.",
            )
        offsets = {}
        # those that from and to name alike are meant alone
        if len(wanted) == 1 and (new := sorted(topic.partitions.keys() - wanted[0].keys())):
            raise DataError(
                f"{self._place}: the topic has a partition {new[0]}, which the offsets do not name: what is in it would not be read.",
                remedy=f"Name every partition: {new[0]}: 0 begins with its first message; or name in from: and to: alike those that are meant alone.",
            )
        for number in sorted(wanted[0] if wanted else topic.partitions):
            low, high = self._ends(client, number)
            begin, end = (
                self._at(client, wish.from_, number, low, high),
                self._at(client, wish.to, number, low, high),
            )
            if not low <= begin <= high or end > high:
                raise DataError(
                    f"{self._place}: partition {number} holds the offsets {low} to {high}, and {begin if not low <= begin <= high else end} is not among them.",
                    remedy="Write from: and to: within these, or earliest and latest.",
                )
            offsets[str(number)] = [begin, max(begin, end)]
        return {"cluster": told.cluster_id, "offsets": offsets}

    def _at(self, client: Any, told: Any, partition: int, low: int, high: int) -> int:
        from confluent_kafka import TopicPartition

        if told == "earliest":
            return low
        if told == "latest":
            return high
        if isinstance(told, dict):
            return int(told[partition])
        asked = [TopicPartition(self._wish.topic, partition, _milliseconds(told))]
        [found] = client.offsets_for_times(asked, timeout=self._wish.timeout_s)
        return int(found.offset) if found.offset >= 0 else high

    def _ends(self, client: Any, partition: int) -> tuple[int, int]:
        from confluent_kafka import TopicPartition

        asked = TopicPartition(self._wish.topic, partition)
        low, high = client.get_watermark_offsets(asked, timeout=self._wish.timeout_s)
        return int(low), int(high)

    # protocol.Connector

    def head(self, n: int) -> Head:
        rows: list[dict[str, Any]] = []
        names: dict[str, None] = {}
        for part in self._parts(1):
            for block in self._blocks(part, None):
                names |= dict.fromkeys(block.columns)
                rows += [
                    {k: c[i] for k, c in block.columns.items()} for i in range(min(len(block), n - len(rows)))
                ]
                if len(rows) >= n:
                    return Head(list(names), rows, "kafka")
        if not rows:
            raise self._empty()
        return Head(list(names), rows, "kafka")

    def parts(self) -> list[Part]:
        if self._average is None:
            self._average = self._sample()
        return self._parts(self._average)

    def _parts(self, average: int) -> list[Part]:
        return [
            Part({"partition": int(number), "begin": begin, "end": end}, (end - begin) * average)
            for number, (begin, end) in self.pinned()["offsets"].items()
            if end > begin
        ]

    def _sample(self) -> int:
        """Bytes of a message, by the first ones."""
        for part in self._parts(1):
            sizes = [len(m.value() or b"") for _, m in zip(range(SAMPLE), self._messages(part), strict=False)]
            if sizes:
                return max(1, sum(sizes) // len(sizes))
        return 1

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        self._done_bytes = 0
        checked = False
        for block in self._blocks(part, columns):
            if not checked and len(block):
                self._need(block, columns)
                checked = True
            told = len(block) + len(block.bad)
            self._done_bytes += part.size_bytes * told // max(1, part.at["end"] - part.at["begin"])
            cells = {name: block.columns.get(name, [None] * len(block)) for name in columns}
            yield Block(cells, block.place, block.lines, block.names, block.bad)
        self._done_bytes = part.size_bytes

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        any_rows, self._passed_bytes = False, 0
        for part in self.parts():
            for block in self.read(part, columns):
                any_rows = True
                yield block
            self._passed_bytes += part.size_bytes
            self._done_bytes = 0
        if not any_rows:
            raise self._empty()

    def done_bytes(self) -> int:
        return self._passed_bytes + self._done_bytes

    def estimate(self) -> Estimate:
        """Offsets, which a compacted or transactional topic does not fill one by one."""
        parts = self.parts()
        rows = sum(part.at["end"] - part.at["begin"] for part in parts)
        return Estimate(len(parts), sum(part.size_bytes for part in parts), rows, False)

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        return digest_of(["kafka", self.pinned(), self._wish.topic, self._wish.value])

    # messages

    def _blocks(self, part: Part, columns: Sequence[str] | None) -> Iterator[Block]:
        """Every column that occurs in the block."""
        place = f"{self._place}/{part.at['partition']}"
        rows: list[dict[str, Any]] = []
        offsets: list[int] = []
        bad: list[BadRow] = []
        size = 0
        for message in self._messages(part):
            offset, value = message.offset(), message.value()
            try:
                rows.append(self._row(value, message, columns))
                offsets.append(offset)
            except Fault as fault:
                if not self._aside:
                    raise fault.stop(f"{place}?offset={offset}") from None
                found = fault.aside(offset + 1, (value or b"")[:1000].decode("utf-8", "replace"))
                bad.append(BadRow(found.line, found.reason, found.preview, f"offset={offset}"))
            size += len(value or b"")
            if size >= BLOCK_BYTES or len(rows) + len(bad) >= MOST_ROWS:
                yield _block(rows, place, offsets, bad)
                rows, offsets, bad, size = [], [], [], 0
        if rows or bad:
            yield _block(rows, place, offsets, bad)

    def _row(self, value: bytes | None, message: Any, columns: Sequence[str] | None) -> dict[str, Any]:
        if value is None:
            raise Fault(
                "the message has no value, as one that deletes has not", "", "Read up to before it with to:"
            )
        row: dict[str, Any] = decode(value) if self._wish.value == "json" else {"value": _text(value)}
        if columns is None or KEY in columns:
            row[KEY] = None if message.key() is None else _text(message.key())
        if columns is None or TIME in columns:
            kind, ms = message.timestamp()
            row[TIME] = (
                datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "milliseconds") if kind else None
            )
        return row

    def _messages(self, part: Part) -> Iterator[Any]:
        """Of one partition, from where the part begins up to, and without, where it ends."""
        from confluent_kafka import KafkaError, TopicPartition

        wish, number, begin, end = self._wish, part.at["partition"], part.at["begin"], part.at["end"]
        with self._client() as client:
            low, high = self._ends(client, number)
            if begin < low or end > high:
                raise self._lost(number, begin if begin < low else end, low, high)
            client.assign([TopicPartition(wish.topic, number, begin)])
            waited = 0.0
            while True:
                found = client.consume(MOST_ROWS, timeout=POLL_S)
                waited = 0.0 if found else waited + POLL_S
                if waited > wish.timeout_s:
                    raise DataError(
                        f"{self._place}: no message came of partition {number} within {wish.timeout_s:g} s.",
                        remedy="Is the cluster well? Raise timeout_s if it is slow.",
                    )
                for message in found:
                    error = message.error()
                    if error is None and message.offset() >= end:
                        return
                    if error is None:
                        yield message
                        if message.offset() == end - 1:
                            return
                    elif error.code() == KafkaError._PARTITION_EOF:
                        if message.offset() < end:  # a transaction that is still open hides what is behind it
                            raise self._lost(number, end, low, message.offset())
                        return
                    elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                        raise self._lost(number, begin, *self._ends(client, number))
                    elif not error.retriable():
                        raise self._failed(error.str())

    def _lost(self, number: int, offset: int, low: int, high: int) -> DataError:
        return DataError(
            f"{self._place}: partition {number} no longer reaches from where it stood: it holds the offsets {low} to {high}, and {offset} is wanted.",
            remedy="Messages were deleted by retention, the topic was made anew, or a transaction is open. Run again, and the topic is taken as it stands.",
        )

    @contextmanager
    def _client(self) -> Iterator[Any]:
        try:
            from confluent_kafka import Consumer, KafkaException
        except ImportError:
            raise missing_part("confluent-kafka", "kafka", f"reading {self._place}") from None
        settings = {
            "bootstrap.servers": self._secret(self._wish.brokers),
            "group.id": "luthier",  # the client wants a name; a group is neither joined nor told anything
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "queued.max.messages.kbytes": QUEUED_KB,
            "log_level": 0,
            "error_cb": lambda _: None,  # what matters comes as an answer
            **{name: self._secret(value) for name, value in self._wish.options.items()},
        }
        client = None
        try:
            client = Consumer(settings)
            yield client
        except KafkaException as error:
            raise self._failed(error.args[0].str() if hasattr(error.args[0], "str") else str(error)) from None
        finally:
            if client is not None:
                client.close()

    def _failed(self, reason: str) -> DataError:
        written = " ".join([self._wish.brokers, *self._wish.options.values()])
        for name in references(written):
            if value := self._secret(f"${{{name}}}"):
                reason = reason.replace(value, f"${{{name}}}")
        return DataError(
            f"{self._place}: the cluster cannot be read: {shown(reason)[:300].rstrip('.')}.",
            remedy="Check brokers:, the network, and options: (security.protocol, sasl.*, ssl.*).",
        )

    def _need(self, block: Block, columns: Sequence[str]) -> None:
        if absent := next(
            (name for name in columns if name not in block.columns and name not in (KEY, TIME)), None
        ):
            raise DataError(
                f"{block.place}: there is no column {absent!r}.",
                remedy=did_you_mean(absent, list(block.columns)) + " (see `map:`)",
            )

    def _empty(self) -> DataError:
        return DataError(
            f"{self._place}: there are no messages between from: and to:.",
            remedy="Is the topic the right one?",
        )


def _block(rows: list[dict[str, Any]], place: str, offsets: list[int], bad: list[BadRow]) -> Block:
    names = dict.fromkeys(name for row in rows for name in row)
    cells = {name: [row.get(name) for row in rows] for name in names}
    return Block(
        cells, place, [offset + 1 for offset in offsets], [f"offset={offset}" for offset in offsets], bad
    )


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
        raise Fault(f"not UTF-8: {byte}", ascii(raw[:40]), "Write text as UTF-8") from None


def _milliseconds(told: str) -> int:
    if not re.match(r"\d{4}-\d\d-\d\d", told):
        raise ValueError(
            "write earliest or latest, a time such as 2026-01-31T12:00:00Z, or an offset for each partition"
        )
    found = datetime.fromisoformat(told)
    if found.tzinfo is None:
        raise ValueError("write the time with its zone, such as 2026-01-31T12:00:00Z")
    return int(found.timestamp() * 1000)
