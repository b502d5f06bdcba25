"""A source names its connector by a key of the plug-in table, and today's written forms keep their identity."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.core import plugin
from luthier.core.artifact import digest_of
from luthier.core.errors import SpecError
from luthier.core.spec import Spec, Tree, parse, read_yaml
from luthier.core.testing import FakeContext
from luthier.data.connectors import fingerprints
from luthier.data.connectors.protocol import Block, Estimate, Head, Part
from luthier.data.prepare import source_names
from luthier.data.spec import DataSpec, SourceSpec


class CountSpec(Spec):
    upto: int
    """How many rows there are."""
    word: str = "row"
    """What every row says."""


class Count:
    """Rows made up from a number: the smallest connector there can be."""

    spec = CountSpec

    def __init__(self, source: SourceSpec, base: Path, secret: Any) -> None:
        self.wish: Any = source.settings

    def head(self, n: int) -> Head:
        return Head(
            ["text"], [{"text": f"{self.wish.word} {i}"} for i in range(min(n, self.wish.upto))], "count"
        )

    def parts(self) -> list[Part]:
        return [Part({}, self.wish.upto)]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Block]:
        return self.blocks(columns)

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        numbers = range(self.wish.upto)
        yield Block({"text": [f"{self.wish.word} {i}" for i in numbers]}, "count", range(1, len(numbers) + 1))

    def done_bytes(self) -> int:
        return 0

    def estimate(self) -> Estimate:
        return Estimate(1, 0, self.wish.upto, True)

    def fingerprint(self, cache: MutableMapping[str, str] | None = None) -> str:
        return digest_of(self.wish.plain())


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "count_connector_of_a_test"
    import sys
    import types

    made = types.ModuleType(module)
    made.Count = Count  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, made)
    monkeypatch.setitem(plugin.BUILT_IN["connector"], "count", f"{module}:Count")


def test_the_plain_form_and_the_digest_of_files_are_what_they_have_always_been() -> None:
    # Digests of the plain forms as the release before connectors had settings of their own gave them.
    simple = [{"files": "tickets.jsonl"}]
    task = {"instruction": "Do it."}
    mapped = {"user": "text", "label": "l", "on_bad_row": "set_aside"}
    full = [
        {"files": ["a.csv", "s3://${B}/x/*.tsv.gz"], "format": "csv", "map": mapped, "name": "n", "weight": 0.5, "task": task},
        {"files": "b.parquet"},
    ]  # fmt: skip
    for written, digest in (
        (simple, "107edebfd478996ff97912240685ec387446164c44cd4c56a1fe5373da63058d"),
        (full, "84cfe8fab3e78e4862f1aded279cc8a48f5b2347cddd93359e7665fe6fe823a0"),
    ):
        data = DataSpec.model_validate({"sources": written})
        assert digest_of([source.plain() for source in data.sources]) == digest
        assert DataSpec.model_validate(data.plain()) == data
    assert DataSpec.model_validate({"sources": simple}).sources[0].plain() == {
        "files": "tickets.jsonl", "format": "auto", "map": None, "name": None, "weight": 1.0, "task": None,
    }  # fmt: skip


def test_another_connector_brings_its_own_settings_and_rows(
    count: None, prepare: Any, tmp_path: Path
) -> None:
    wish = {"count": {"upto": 40, "word": "line"}, "weight": 2.0}
    source = SourceSpec.model_validate(wish)
    assert source.plain() == {"count": {"upto": 40, "word": "line"}, "map": None, "name": None, "weight": 2.0, "task": None}  # fmt: skip
    assert SourceSpec.model_validate(source.plain()) == source
    assert SourceSpec.model_validate({"count": 40, "word": "line", "weight": 2.0}) == source
    assert source_names([source, source]) == ["count", "count#2"]
    data = DataSpec.model_validate({"sources": [wish]})
    [(written, mark)] = fingerprints(data, tmp_path, FakeContext(tmp_path))
    assert (written, mark) == (source.plain(), digest_of({"upto": 40, "word": "line"}))
    done = prepare({"sources": [wish]})
    assert sorted(row["text"] for row in done.rows()) == sorted(f"line {i}" for i in range(40))
    assert {row["source"] for row in done.rows()} == {"count"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file: a.jsonl", "data.yaml:2: sources.0.file: there is no key 'file' here; did you mean 'files'?"),
        ("files: a.jsonl\n    formt: csv", "data.yaml:3: sources.0.formt: there is no key 'formt' here; did you mean 'format'?"),
        ("files: a.jsonl\n    format: cvs", "data.yaml:3: sources.0.format: Input should be"),
        ("files: {files: a.jsonl, format: cvs}", "data.yaml:2: sources.0.files.format: Input should be"),
        ("count: {upto: many}", "data.yaml:2: sources.0.count.upto: Input should be a valid integer"),
        ("count: {upto: 3, wrod: x}", "sources.0.count.wrod: there is no key 'wrod' here; did you mean 'word'?"),
        ("count: {upto: 3}\n    word: x", "data.yaml:3: sources.0.word: there is no key 'word' here"),
        ("count: {upto: 3}\n    files: x", "files and count both say where rows come from"),
        ("map: {text: a}", "nothing says where the rows come from; write one of files,"),
    ],
)  # fmt: skip
def test_a_fault_in_a_source_is_told_with_its_line(count: None, text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(DataSpec, read_yaml(f"sources:\n  - {text}\n", "data.yaml"))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "written",
    [
        {"files": ["a.jsonl", "b.csv"], "format": "auto"},
        {"sql": {"url": "sqlite:///a", "table": "t"}},
        {"delta": {"url": "s3://${B}/t", "since_version": 3, "watermark": "day", "since": "2026-01-01"}},
        {"delta": "t"},
        {
            "iceberg": {
                "table": "a.b",
                "catalog": {"type": "rest", "uri": "${U}", "token": "${T}"},
                "snapshot": 2**62,
            }
        },
        {"iceberg": "lake/t"},
        {"hub": {"dataset": "a/b", "split": ["train", "test"]}},
        {"hub": {"path": "saved"}},
        {"kafka": {"brokers": "${B}", "topic": "t", "from": {0: 5, 1: 0}, "to": "2026-01-01T00:00:00Z"}},
    ],
)
def test_what_is_recorded_of_a_source_is_the_same_source(written: dict[str, Any]) -> None:
    """It goes to workers as JSON, and its identity must survive that."""
    source = SourceSpec.model_validate(written)
    told = json.loads(json.dumps(source.plain()))
    assert SourceSpec.model_validate(told) == source and SourceSpec.model_validate(told).plain() == told


@pytest.mark.parametrize(
    "files", ["sftp://me:hunter2@host/a.jsonl", ["a.jsonl", "https://host/a.jsonl?token=hunter2"]]
)
def test_a_password_in_a_url_of_files_is_refused(files: Any) -> None:
    with pytest.raises(SpecError, match="a secret is written in the URL") as caught:
        parse(DataSpec, Tree({"sources": [{"files": files}]}))
    assert "hunter2" not in str(caught.value)
    for fine in (
        "sftp://me:${PASSWORD}@host/a.jsonl",
        "https://host:9000/bucket/data@2024.csv",
        "webhdfs://nn:9870/u/a@b.jsonl",
    ):
        DataSpec.model_validate({"sources": [{"files": fine}]})


def test_parameters_of_a_query_come_back_in_no_error(tmp_path: Path) -> None:
    from luthier.data.connectors.database import Database

    database = Database(
        "sqlite:///x.db",
        "place",
        tmp_path,
        lambda text: text.replace("${TOKEN}", "hunter2"),
        None,
        '{"c": "${TOKEN}"}',
    )
    assert database._told('invalid input for integer: "hunter2"') == 'invalid input for integer: "${TOKEN}"'


def test_a_secret_in_a_path_of_the_hub_comes_back_in_no_error(source: Any) -> None:
    hub = source({"hub": {"path": "https://host/t?token=${TOKEN}"}}, TOKEN="hunter 2")
    for told in ("401 for https://host/t?token=hunter 2", "401 for https://host/t?token=hunter%202"):
        assert "hunter" not in str(hub._unreachable(OSError(told)))
