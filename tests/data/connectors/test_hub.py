"""Datasets in the hub's forms: folders that the package datasets 5.2.0 saved (`saved/`), clones, and a small server that speaks as
much of the hub as reading asks for. Nothing here reaches a network."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.connectors import connect
from luthier.data.connectors.protocol import Part
from luthier.data.spec import SourceSpec

SAVED = Path(__file__).parent / "saved"


def clone(folder: Path, files: dict[str, Any], readme: str = "") -> Path:
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif name.endswith(".parquet"):
            pq.write_table(pa.table(rows), path)
        else:
            lines = [dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if readme:
        (folder / "README.md").write_text(f"---\n{readme}\n---\n# A dataset\n")
    return folder


def test_a_saved_dataset_is_read_with_the_names_of_its_labels(
    source: Any, rows_of: Any, tmp_path: Path
) -> None:
    shutil.copytree(SAVED / "one", tmp_path / "one")
    connector = source({"hub": {"path": "one"}})
    want = [{"text": f"Message {i}", "label": ["billing", "login"][i % 2]} for i in range(5)]
    assert rows_of(connector, "text", "label") == want
    assert connector.head(2).rows == want[:2] and connector.pinned() == {}
    assert [part.at["place"] for part in connector.parts()] == [
        f"one/data-0000{n}-of-00002.arrow" for n in (0, 1)
    ]
    assert connector.estimate().rows == 5
    assert next(connector.blocks(["text"])).origins()[0] == "one/data-00000-of-00002.arrow:1"
    part = connector.parts()[1]
    again = source({"hub": {"path": "one"}}).read(
        Part(json.loads(json.dumps(part.at)), part.size_bytes), ["label"]
    )
    assert [cell for block in again for cell in block.columns["label"]] == ["login", "billing"]
    mark = connector.fingerprint()
    info = tmp_path / "one" / "dataset_info.json"
    info.write_text(info.read_text().replace("billing", "bills"))
    assert source({"hub": {"path": "one"}}).fingerprint() != mark


def test_a_saved_dictionary_is_read_by_split(source: Any, rows_of: Any, tmp_path: Path) -> None:
    shutil.copytree(SAVED / "several", tmp_path / "several")
    assert len(rows_of(source({"hub": {"path": "several"}}), "text")) == 4
    test = rows_of(source({"hub": {"path": "several", "split": "test"}}), "text", "label")
    assert test == [{"text": "Message 100", "label": "billing"}, {"text": "Message 101", "label": "login"}]
    assert len(rows_of(source({"hub": {"path": "several", "split": ["train", "test"]}}), "text")) == 6
    with pytest.raises(DataError, match=r"there is no split 'validation'(.|\n)*It has train, test"):
        source({"hub": {"path": "several", "split": "validation"}}).parts()


CONFIGS = """\
configs:
- config_name: plain
  data_files: [{split: train, path: "plain/a-*.jsonl"}, {split: test, path: [plain/b.jsonl]}]
- config_name: large
  default: true
  data_files: {train: large/*.parquet}
dataset_info:
- config_name: plain
  features: [{name: text, dtype: string}, {name: y, dtype: {class_label: {names: {'0': no, '1': "yes", '10': maybe}}}}]"""


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    rows = {"text": ["a", "b", "c"], "y": [1, 0, -1]}
    return clone(
        tmp_path / "repo",
        {
            "plain/a-1.jsonl": rows,
            "plain/a-2.jsonl": rows,
            "plain/b.jsonl": rows,
            "large/x.parquet": {"text": ["L"]},
        },
        CONFIGS,
    )


def test_a_clone_is_read_as_its_readme_says(source: Any, rows_of: Any, configured: Path) -> None:
    assert rows_of(source({"hub": {"path": "repo"}}), "text") == [{"text": "L"}]
    plain = rows_of(source({"hub": {"path": "repo", "config": "plain"}}), "text", "y")
    want = [{"text": "a", "y": "yes"}, {"text": "b", "y": "no"}, {"text": "c", "y": None}]
    assert plain == want * 2
    test = source({"hub": {"path": "repo", "config": "plain", "split": "test"}})
    assert [part.at["place"] for part in test.parts()] == ["repo/plain/b.jsonl"]
    with pytest.raises(DataError, match=r"no configuration 'plan'(.|\n)*did you mean 'plain'"):
        source({"hub": {"path": "repo", "config": "plan"}}).parts()
    named = source({"hub": {"path": "repo", "files": "plain/*.jsonl"}})
    assert len(named.parts()) == 3


@pytest.mark.parametrize(
    ("files", "split", "want"),
    [
        (
            ["data/train-00000-of-00001.parquet", "data/test-0.parquet"],
            "train",
            ["data/train-00000-of-00001.parquet"],
        ),
        (["train/a.jsonl", "train/b.jsonl", "valid/a.jsonl"], "validation", ["valid/a.jsonl"]),
        (["dev.jsonl", "eval.jsonl", "training.jsonl"], "test", ["eval.jsonl"]),
        (
            ["b.jsonl", "a.jsonl", "croissant.json"],
            "train",
            ["a.jsonl", "b.jsonl"],
        ),  # nothing says which: all of them
    ],
)
def test_names_of_files_tell_the_split_where_nothing_else_does(
    source: Any, tmp_path: Path, files: list[str], split: str, want: list[str]
) -> None:
    clone(tmp_path / "repo", {name: {"text": ["a"]} for name in files})
    parts = source({"hub": {"path": "repo", "split": split}}).parts()
    assert [part.at["place"] for part in parts] == [f"repo/{name}" for name in want]


def to_script(folder: Path) -> None:
    (folder / "repo.py").write_text("open('/tmp/luthier-was-here', 'w')")


@pytest.mark.parametrize(
    ("harm", "told", "remedy"),
    [
        (to_script, "this dataset is a script (repo.py), and code of a dataset is never run", "name them with files:"),
        (lambda f: (f / "train.jsonl").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "without its large files", "git lfs pull"),
        (lambda f: (f / "README.md").write_text("---\nconfigs: [{data_files: ../../etc/passwd}]\n---\n"), "outside of it", "files:"),
        (lambda f: (f / "README.md").write_text("---\nconfigs: [{data_files: 'https://elsewhere/x.parquet'}]\n---\n"), "outside of it", "files:"),
        (lambda f: (f / "README.md").write_text("---\nconfigs: &a [*a]\n---\n"), "the head of README.md is not readable", "files:"),
        (lambda f: (f / "README.md").write_text("---\nconfigs: [{data_files: none/*.jsonl}]\n---\n"), "no file of it is meant", "files:"),
        (lambda f: os.symlink("/etc/passwd", f / "more.jsonl"), "a link that leads outside", "put the file itself there"),
        (lambda f: (f / "${HOME}.jsonl").write_text("{}"), "would be read as a pattern", "Rename"),
        (lambda f: (f / "other.csv").write_text("a\n1\n"), "several formats (csv, jsonl)", "files:"),
        (lambda f: (f / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}'), "which is not beside it", "Save it again"),
        (lambda f: (f / "state.json").write_text('{"_data_files": [], "_indices_files": [1]}'), "a selection of rows", "flatten_indices"),
        (lambda f: (f / "state.json").write_text("[" * 100_000), "state.json is not readable", "Save the dataset again"),
        (lambda f: (f / "train.jsonl").unlink(), "there are no data files in it", "files:"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_safely_is_refused(
    source: Any, tmp_path: Path, harm: Callable[[Path], Any], told: str, remedy: str
) -> None:
    folder = clone(tmp_path / "repo", {"train.jsonl": {"text": ["a"]}, ".git/config.jsonl": {"a": [1]}})
    if "several" in told or "pattern" in told:
        (folder / "train.jsonl").rename(folder / "rows.jsonl")
    harm(folder)
    with pytest.raises(DataError) as caught:
        source({"hub": {"path": "repo"}}).parts()
    assert (
        told in str(caught.value) and remedy in (caught.value.remedy or "") and len(str(caught.value)) < 500
    )
    assert not Path("/tmp/luthier-was-here").exists()


def test_data_beside_a_script_is_read_where_it_is_named(source: Any, rows_of: Any, tmp_path: Path) -> None:
    to_script(clone(tmp_path / "repo", {"train.jsonl": {"text": ["a"]}}))
    assert rows_of(source({"hub": {"path": "repo", "files": "*.jsonl"}}), "text") == [{"text": "a"}]


def test_links_of_the_hubs_own_cache_are_followed(source: Any, rows_of: Any, tmp_path: Path) -> None:
    cache = tmp_path / "datasets--me--tickets"
    clone(cache, {"blobs/abc": {"text": ["a"]}})
    snapshot = cache / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to("../../blobs/abc")
    assert rows_of(source({"hub": {"path": str(snapshot)}}), "text") == [{"text": "a"}]


def test_a_label_without_a_name_is_told(source: Any, rows_of: Any, configured: Path) -> None:
    (configured / "plain" / "a-2.jsonl").write_text('{"text": "d", "y": 7}\n')
    with pytest.raises(
        DataError, match=r"repo/plain/a-2\.jsonl: 'y' holds 7, and the dataset names 3 labels"
    ):
        rows_of(source({"hub": {"path": "repo", "config": "plain"}}), "y")


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({}, "write either dataset: .* or path:"),
        ({"dataset": "a/b", "path": "c"}, "write either dataset: .* or path:"),
        ({"dataset": "../etc"}, "is no id of the hub"),
        ({"dataset": "a/b/c"}, "is no id of the hub"),
        ({"path": "a", "revision": "x"}, "revision belongs to dataset:"),
        ({"path": "a", "split": []}, "split names none"),
        ({"path": "a", "files": "x", "config": "y"}, "leave config: out"),
        ({"path": "s3://me:hunter2@b/x"}, "a secret is written"),
        ({"dataset": "a/b", "trust_remote_code": True}, "there is no key 'trust_remote_code'"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SourceSpec.model_validate({"hub": wish})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A hub with one dataset me/tickets, whose branch main can be moved. The real client library talks to it."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    from huggingface_hub import constants

    there: dict[str, Any] = {"main": "a" * 40, "commits": {}, "asked": []}
    for sha, n in (("a" * 40, 3), ("b" * 40, 5)):
        lines = "".join(json.dumps({"text": f"{sha[0]}{i}"}) + "\n" for i in range(n))
        there["commits"][sha] = {"data/train.jsonl": lines.encode(), "README.md": b"# tickets\n"}

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            there["asked"].append(self.path)
            words = self.path.partition("?")[0].strip("/").split("/")
            if self.headers.get("Authorization") not in (None, "Bearer hunter2"):
                return self.give(401, b"{}")
            if words[:4] == ["api", "datasets", "me", "tickets"]:
                sha = there["main"] if words[5:6] == ["main"] or len(words) == 4 else words[5]
                if sha not in there["commits"]:
                    return self.give(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                if words[4:5] == ["tree"]:
                    under = "/".join(words[6:])
                    files = [
                        {"type": "file", "path": name, "size": len(told), "oid": "0" * 40}
                        for name, told in there["commits"][sha].items()
                        if name.startswith(under)
                    ]
                    folders = [{"type": "directory", "path": "data", "oid": "1" * 40}] if not under else []
                    return self.give(200, json.dumps(files + folders).encode())
                return self.give(200, json.dumps({"id": "me/tickets", "sha": sha, "private": False}).encode())
            if words[:3] == ["datasets", "me", "tickets"] and words[3] == "resolve":
                told = there["commits"][words[4]]["/".join(words[5:])]
                start, _, end = (
                    (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
                )
                part = told[int(start) : int(end) + 1 if end else None]
                more = {
                    "X-Repo-Commit": words[4],
                    "ETag": '"x"',
                    "Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(told)}",
                }
                return self.give(206 if self.headers.get("Range") else 200, part, more)
            return self.give(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def give(self, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **(more or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    huggingface_hub.HfFileSystem.clear_instance_cache()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        huggingface_hub.HfFileSystem.clear_instance_cache()


def test_an_id_of_the_hub_is_read_at_the_commit_that_was_pinned(
    source: Any, rows_of: Any, tmp_path: Path, hub: dict[str, Any]
) -> None:
    wish = {"hub": {"dataset": "me/tickets"}}
    first = source(wish)
    assert [row["text"] for row in rows_of(first, "text")] == ["a0", "a1", "a2"]
    assert first.pinned() == {"revision": "a" * 40}
    assert first.parts()[0].at["place"] == "me/tickets/data/train.jsonl"
    mark = first.fingerprint()
    hub["main"] = "b" * 40
    again = connect(SourceSpec.model_validate(wish), tmp_path, lambda text: text, first.pinned())
    assert len(rows_of(again, "text")) == 3 and again.fingerprint() == mark
    newer = source(wish)
    assert len(rows_of(newer, "text")) == 5 and newer.fingerprint() != mark
    old = source({"hub": {"dataset": "me/tickets", "revision": "a" * 40}})
    assert len(rows_of(old, "text")) == 3 and old.fingerprint() == mark
    with pytest.raises(DataError, match="there is no revision 'nothing'"):
        source({"hub": {"dataset": "me/tickets", "revision": "nothing"}}).parts()
    with pytest.raises(DataError, match=r"no such dataset(.|\n)*path: FOLDER") as caught:
        source({"hub": {"dataset": "me/nothing"}}).parts()
    assert "hunter2" not in str(caught.value)
    hub["commits"]["b" * 40]["tickets.py"] = b"import os\n"
    import huggingface_hub

    huggingface_hub.HfFileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"this dataset is a script \(tickets\.py\)"):
        source(wish).parts()
    assert not any("tickets.py" in path for path in hub["asked"])


def test_without_a_network_an_id_is_told_how_to_be_read(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"me/tickets: cannot be read(.|\n)*clone it and write path: FOLDER"):
        source({"hub": {"dataset": "me/tickets"}}).parts()
